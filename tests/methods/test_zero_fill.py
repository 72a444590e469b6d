import torch
import torch.nn.functional as F

from mmbench.checks.tasks import TASKS, all_patterns, make_batch
from mmbench.methods.zero_fill import ZeroFill

TASK = TASKS[0]  # a vector, tokens and an image


def build():
    torch.manual_seed(0)
    return ZeroFill(TASK, dim=8).eval()


def test_the_head_reads_embeddings_side_by_side_and_zeros_for_gaps():
    method, batch = build(), make_batch(TASK, all_patterns(TASK))
    rows = []
    for i in range(len(batch)):
        parts = []
        for m, name in enumerate(TASK.names):
            steps = batch.lengths[name][i : i + 1] if name in batch.lengths else None
            z = method.fuse.encode.encoders[name](batch.inputs[name][i : i + 1], steps)[0]
            parts.append(z if batch.presence[i, m] else torch.zeros(8))
        rows.append(method.fuse.head(torch.cat(parts)))
    torch.testing.assert_close(method(batch), torch.stack(rows), atol=1e-5, rtol=0)


def test_incomplete_samples_count_in_the_loss_like_any_other():
    method, batch = build(), make_batch(TASK, all_patterns(TASK))
    losses = [
        F.cross_entropy(output, target)
        for output, target in zip(method(batch), batch.target, strict=True)
    ]
    found = method.loss(batch)
    assert list(found) == ["task"]
    torch.testing.assert_close(found["task"], sum(losses) / len(losses))
