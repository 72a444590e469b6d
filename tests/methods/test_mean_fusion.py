import torch

from mmbench.checks.tasks import TASKS, all_patterns, make_batch
from mmbench.methods.mean_fusion import MeanFusion

TASK = TASKS[1]  # a sequence and a bag


def build():
    torch.manual_seed(0)
    return MeanFusion(TASK, dim=8).eval()


def test_the_head_reads_the_mean_of_what_is_there_undiluted_by_gaps():
    method, batch = build(), make_batch(TASK, all_patterns(TASK))
    for i, output in enumerate(method(batch)):
        parts = [
            method.encode.encoders[name](
                batch.inputs[name][i : i + 1], batch.lengths[name][i : i + 1]
            )[0]
            for m, name in enumerate(TASK.names)
            if batch.presence[i, m]
        ]
        wanted = method.head(sum(parts) / len(parts))
        torch.testing.assert_close(output, wanted, atol=1e-5, rtol=0)


def test_one_head_serves_any_number_of_modalities():
    assert build().head[0].in_features == 8
