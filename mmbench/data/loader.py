"""Batches of a split, read by a thread while the batches before them are trained on."""

from collections.abc import Callable, Collection, Iterator
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from mmbench.data.ahead import ahead
from mmbench.data.batch import Batch
from mmbench.data.stored import Inputs

DEPTH = 3  # batches that are read before they are asked for
SHARE = 0.25  # of an accelerator's free memory that a split may take


class Loader(DataLoader[Batch]):
    """Batches in the order of a sampler.

    Args:
        data: Indexed by lists of positions.
        batches: Gives such lists.
        finish: What becomes of a batch at last.
        names: Modalities whose inputs a thread reads ahead, as long as somebody asks for them;
            none = all is read when it is asked for, as is best for what lies in memory.
        pin: Whether what is read ahead goes to memory that an accelerator copies by itself.
    """

    def __init__(
        self,
        data: Dataset[Batch],
        batches: Any,
        *,
        finish: Callable[[Batch], Batch] | None = None,
        names: Collection[str] = (),
        pin: bool = False,
    ) -> None:
        # a loader draws a number when it begins: one of its own, so that a training that goes on
        # from a checkpoint finds the global generator where it was
        generator = torch.Generator()
        collate: Any = finish
        super().__init__(
            data, sampler=batches, batch_size=None, collate_fn=collate, generator=generator
        )
        self._finish = finish
        self.names = frozenset(names)
        self._wanted = self.names
        self._pin = pin

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # torch names its own class
        """The batches; the order is drawn by the thread of who asks for them."""
        if not self.names:
            yield from super().__iter__()
            return
        batches = iter(self.sampler)
        for batch in ahead(self._read, islice(batches, len(self)), depth=DEPTH):
            yield batch
            # a frozen encoder that knows the samples asks for nothing
            self._wanted = self.names & {name for one in _inputs(batch) for name in one.uses}
        next(batches, None)  # as who iterates to the end draws from the order without a thread

    def _read(self, rows: list[int]) -> Batch:
        batch: Batch = self.dataset[rows]
        for inputs in _inputs(batch):
            inputs.read(self._wanted, pin=self._pin)
        return batch if self._finish is None else self._finish(batch)


def _inputs(batch: Batch) -> list[Inputs]:
    """Where the inputs of a batch, and of its teacher, come from."""
    both = (batch.inputs, None if batch.teacher is None else batch.teacher.inputs)
    return [one for one in both if isinstance(one, Inputs)]


def free_bytes(device: torch.device) -> int:
    """Free memory of an accelerator; 0 where nothing tells it, and for the CPU."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return 0
