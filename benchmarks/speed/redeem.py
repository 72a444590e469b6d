"""How long REDEEM takes: retrieval, prompter, data path, and an epoch outside the transformer.

    python benchmarks/speed/redeem.py

One thread. Each line is one question:

1. Retrieval: 22,716 queries in a bank of 68,000 samples, 512 features, K = 5, against the bare
   matrix products in the same chunks, and the memory of the whole process.
2. Prompter at the sizes of ViLT (128 words, 145 patches, D = 768, K = 5, b = 2), forward and
   backward, against the same equations in the order in which they are written.
3. Data path: tokens of the K neighbours of a batch from one table, against one file for each
   sample and modality, loaded, turned into lists and made into tensors again.
4. A training epoch on openmoji with cached embeddings and neighbours: the share of its time in
   neither the transformer nor the trainable parts, forward and backward.
"""

import resource
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from time import perf_counter
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool1d

from datamodules.openmoji import Openmoji
from mmbench.data.batch import Batch
from mmbench.data.missingness import Incomplete
from mmbench.data.scenario import Scenario
from mmbench.layers.memory import BLOCK, SCORES, nearest
from mmbench.methods.redeem import NeighbourAttention, Redeem

BANK, QUERIES, FEATURES, K = 68_000, 22_716, 512, 5
WORDS, PATCHES, DIM, PROMPT, BATCH = 128, 145, 768, 2, 8
STORED, LOADED, CHECKED = 64, 16, 1_000
REPEATS = 3


def main() -> None:
    """Print one line for each question."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    retrieval()
    prompter()
    data_path()
    epoch()


def retrieval() -> None:
    """Search against its bare products."""
    keys = nn.functional.normalize(torch.randn(BANK, FEATURES), dim=1)
    query = nn.functional.normalize(torch.randn(QUERIES, FEATURES), dim=1)
    part = query[:CHECKED]
    expected = (part @ keys.T).topk(K).indices
    same = (nearest(part, keys, K)[0] == expected).float().mean()
    step = SCORES // (-(-BANK // BLOCK) * BLOCK)

    def bare() -> None:
        for chunk in query.split(step):
            chunk @ keys.T

    ours_s, bare_s = timed(lambda: nearest(query, keys, K), bare, repeats=1)
    print(
        f"retrieval    {ours_s:6.1f} s   bare products {bare_s:6.1f} s, "
        f"{ours_s / bare_s:.2f} times as long   {peak_mib():.0f} MiB with all inputs   "
        f"equal to a full sort: {same:.2%}"
    )


def prompter() -> None:
    """Rearranged attention against the order of the equations."""
    attend = NeighbourAttention(DIM, bias=True)
    words, patches = (torch.randn(BATCH, K, n, DIM) for n in (WORDS, PATCHES))
    read = torch.ones(BATCH, K, WORDS, dtype=torch.bool)
    pool = torch.zeros(BATCH, PROMPT, PATCHES)
    pool[:, 0, :73], pool[:, 1, 72:] = 1 / 73, 1 / 73

    def fast() -> Tensor:
        prompt: Tensor = attend(patches.mean(1), words, read, pool)
        return prompt

    def naive() -> Tensor:
        q = attend.q(patches.mean(1))[:, None]
        k, v = attend.k(words), attend.v(words)
        rows = (q @ k.transpose(2, 3) / DIM**0.5).softmax(3) @ v  # (B, K, 145, D)
        pooled = adaptive_avg_pool1d(rows.flatten(0, 1).transpose(1, 2), PROMPT).transpose(1, 2)
        prompt: Tensor = attend.out(pooled).unflatten(0, (BATCH, K)).mean(1)
        return prompt

    def train(run: Callable[[], Tensor]) -> None:
        attend.zero_grad()
        run().square().sum().backward()  # type: ignore[no-untyped-call]

    gap = (fast() - naive()).abs().max()
    fast_s, naive_s = timed(lambda: train(fast), lambda: train(naive))
    print(
        f"prompter     {1e3 * fast_s:6.1f} ms  as written {1e3 * naive_s:6.1f} ms, "
        f"{naive_s / fast_s:.1f} times as long   largest difference {gap:.1e}"
    )


def data_path() -> None:
    """Tokens of neighbours from a table, against a file for each sample."""
    table = torch.randn(STORED, WORDS + PATCHES, DIM)
    rows = torch.randint(STORED, (LOADED, K))
    with tempfile.TemporaryDirectory() as folder:
        for row, tokens in enumerate(table.numpy()):
            np.save(Path(folder) / f"text_{row}.npy", tokens[:WORDS])
            np.save(Path(folder) / f"image_{row}.npy", tokens[WORDS:])

        def files() -> Tensor:
            samples = []
            for near in rows.tolist():
                lists = [
                    [np.load(Path(folder) / f"{kind}_{row}.npy").tolist() for row in near]
                    for kind in ("text", "image")
                ]
                samples.append(torch.cat([torch.tensor(part) for part in lists], 1))
            return torch.stack(samples)

        assert torch.equal(files(), table[rows])
        table_s, files_s = timed(lambda: table[rows], files)
    print(
        f"data path    {1e3 * table_s / LOADED:6.2f} ms a sample   a file each "
        f"{1e3 * files_s / LOADED:6.1f} ms, {files_s / table_s:.0f} times as long"
    )


def epoch() -> None:
    """Share of a training epoch outside the transformer and the trainable parts."""
    hide = Incomplete(incomplete_rate=0.7, missing="both")
    scenario = Scenario(name="both", train=hide, val=hide, test=(hide,), regime="full_access")
    data = Openmoji(Path(), scenario, modalities=["image", "english"])
    data.setup()
    method = Redeem(data.task)
    method.prepare(data.batches("train"))
    method.begin(method.stages[-1])
    method.train()
    learner = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], fused=True)

    def train(batches: Iterable[Batch]) -> None:
        for batch in batches:
            learner.zero_grad()
            torch.stack(list(method.loss(batch).values())).sum().backward()  # type: ignore[no-untyped-call]
            learner.step()

    train(data.train_dataloader())  # fills the caches
    batches = list(data.train_dataloader())
    lent = {id(b): method.retrieve(b) for b in batches}
    seen = [part for b in batches for part in (b, b.teacher) if part is not None]
    tokens = {id(b): method.backbone.tokens(b) for b in seen}
    keys = {id(b): method.backbone.keys(b) for b in seen}

    def inner() -> None:
        """All that an epoch does beyond what is at hand."""
        with (
            mock.patch.object(method, "retrieve", lambda b: lent[id(b)]),
            mock.patch.object(method.backbone, "tokens", lambda b: dict(tokens[id(b)])),
            mock.patch.object(method.backbone, "keys", lambda b: dict(keys[id(b)])),
        ):
            train(batches)

    whole_s, inner_s = timed(lambda: train(data.train_dataloader()), inner)
    print(
        f"epoch        {whole_s:6.2f} s   transformer and trainable parts {inner_s:6.2f} s, "
        f"{1 - inner_s / whole_s:.1%} outside them"
    )


def timed(*runs: Callable[[], object], repeats: int = REPEATS) -> list[float]:
    """Shortest wall time of each in seconds; by turns, so that other work hits all alike."""
    best = [float("inf")] * len(runs)
    for _ in range(repeats):
        for at, run in enumerate(runs):
            start = perf_counter()
            run()
            best[at] = min(best[at], perf_counter() - start)
    return best


def peak_mib() -> float:
    """Most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
