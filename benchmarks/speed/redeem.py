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
5. Memory at the shapes of MM-IMDb: 15,552 pictures of 384 x 384 pixels, 8-bit, in a file that is
   mapped, 70 % of the samples incomplete, with all of them in the bank. The most that the process
   holds (without pages of mapped files, which the system takes back at will, and with them) while
   the data are set up, the bank is filled, what a frozen embedder makes of all pictures is written
   to its file, and batches are trained on. At most 6 GiB. Runs in a process of its own:

    python benchmarks/speed/redeem.py --memory [pictures]
"""

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from threading import Event, Thread
from time import perf_counter
from typing import ClassVar
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool1d

from datamodules.openmoji import Openmoji
from mmbench.data.batch import Batch
from mmbench.data.missingness.incomplete import Incomplete
from mmbench.data.samples import Samples, Split
from mmbench.data.scenario import Scenario
from mmbench.data.task import Modality, Task
from mmbench.datamodule import DataModule, Source
from mmbench.layers.memory import BLOCK, SCORES, nearest
from mmbench.methods.redeem import NeighbourAttention, Redeem

BANK, QUERIES, FEATURES, K = 68_000, 22_716, 512, 5
WORDS, PATCHES, DIM, PROMPT, BATCH = 128, 145, 768, 2, 8
STORED, LOADED, CHECKED = 64, 16, 1_000
REPEATS = 3
PICTURES, SIDE, VOCABULARY, LABELS = 15_552, 384, 30_522, 23  # the training split of MM-IMDb
MOST_GIB, STEPS, OTHERS = 6.0, 5, 64


def main() -> None:
    """Print one line for each question."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    retrieval()
    prompter()
    data_path()
    epoch()
    subprocess.run([sys.executable, __file__, "--memory"], check=True)


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
    retrieved = {id(b): method.retrieve(b) for b in batches}
    seen = [part for b in batches for part in (b, b.teacher) if part is not None]
    tokens = {id(b): method.backbone.tokens(b) for b in seen}
    keys = {id(b): method.backbone.keys(b) for b in seen}

    def inner() -> None:
        """All that an epoch does beyond what is at hand."""
        with (
            mock.patch.object(method, "retrieve", lambda b: retrieved[id(b)]),
            mock.patch.object(method.backbone, "tokens", lambda b: dict(tokens[id(b)])),
            mock.patch.object(method.backbone, "keys", lambda b: dict(keys[id(b)])),
        ):
            train(batches)

    whole_s, inner_s = timed(lambda: train(data.train_dataloader()), inner)
    print(
        f"epoch        {whole_s:6.2f} s   transformer and trainable parts {inner_s:6.2f} s, "
        f"{1 - inner_s / whole_s:.1%} outside them"
    )


class Movies(DataModule):
    """Pictures, texts and labels at the shapes of MM-IMDb, the pictures in a mapped file."""

    source: ClassVar[Source] = Source(citation="made up")
    file: Path
    count = PICTURES

    def describe(self) -> Task:
        """One picture and one text, several labels."""
        image = Modality("image", "image", (3, SIDE, SIDE))
        text = Modality("text", "tokens", (WORDS,), vocab_size=VOCABULARY)
        return Task("multi_label", (image, text), tuple(f"genre{i}" for i in range(LABELS)))

    def load(self, split: Split) -> Samples:
        """Random texts; pictures as they lie in the file."""
        first = {"train": 0, "val": self.count, "test": self.count + OTHERS}[split]
        n = self.count if split == "train" else OTHERS
        rng = np.random.default_rng(first)
        pictures = np.load(self.file, mmap_mode="c")[first : first + n]
        lengths = rng.integers(20, WORDS + 1, n)
        text = rng.integers(1, VOCABULARY, (n, WORDS))
        return Samples(
            modalities=("image", "text"),
            inputs={
                "image": pictures,
                "text": np.where(np.arange(WORDS) < lengths[:, None], text, 0),
            },
            target=rng.integers(0, 2, (n, LABELS)).astype(np.float32),
            sample_id=np.arange(first, first + n),
            presence=np.ones((n, 2), bool),
            lengths={"text": lengths},
        )


def memory(count: int) -> None:
    """Host memory of a run at the shapes of MM-IMDb."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MMBENCH_CACHE"] = folder
        Movies.file, Movies.count = Path(folder) / "pictures.npy", count
        pictures = np.lib.format.open_memmap(
            Movies.file, mode="w+", dtype=np.uint8, shape=(count + 2 * OTHERS, 3, SIDE, SIDE)
        )
        rng = np.random.default_rng(0)
        for start in range(0, len(pictures), 64):  # the rest of the file is a hole
            part = pictures[start : start + 64, :, :8]
            part[:] = rng.integers(0, 256, part.shape, dtype=np.uint8)
        pictures.flush()
        del pictures
        with Watched() as watched:
            began = perf_counter()
            _train_on_movies()
            spent_s = perf_counter() - began
    held, mapped = watched.most
    size = count * 3 * SIDE * SIDE / 2**30
    print(
        f"memory       {count} pictures of {SIDE} x {SIDE}, {size:.2f} GiB in 8 bits: "
        f"{held:.2f} GiB held, {mapped:.2f} GiB of mapped files beside it   {spent_s:.0f} s"
    )
    assert held <= MOST_GIB, f"{held:.2f} GiB are more than {MOST_GIB}"


def _train_on_movies() -> None:
    hide = Incomplete(incomplete_rate=0.7, missing="any")
    scenario = Scenario(name="both", train=hide, val=hide, test=(hide,), regime="full_access")
    data = Movies(Path(), scenario)
    data.setup()
    method = Redeem(data.task, dim=32, depth=2)
    method.prepare(data.batches("train"))
    method.begin(method.stages[-1])
    method.train()
    for step, batch in enumerate(data.train_dataloader()):
        torch.stack(list(method.loss(batch).values())).sum().backward()  # type: ignore[no-untyped-call]
        if step == STEPS:
            break
    state = method.learned_state()  # what each better epoch copies
    assert sum(x.numel() for x in state.values()) < 10**7, "a better epoch copies the bank"


class Watched:
    """The most GiB that this process holds, without pages of mapped files and of those alone."""

    def __init__(self) -> None:
        self.most = (0.0, 0.0)
        self._over = Event()
        self._watch = Thread(target=self._look)

    def __enter__(self) -> "Watched":
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._watch.join()

    def _look(self) -> None:
        while not self._over.wait(0.05):
            lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
            said = dict(line.split(":", 1) for line in lines)
            held, mapped = (int(said[name].split()[0]) / 2**20 for name in ("RssAnon", "RssFile"))
            self.most = max(self.most[0], held), max(self.most[1], mapped)


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
    if sys.argv[1:2] == ["--memory"]:
        memory(int(sys.argv[2]) if len(sys.argv) > 2 else PICTURES)
    else:
        main()
