"""A data set with a scenario laid over it: what is withheld never reaches a loader."""

import copy
import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from lightning.pytorch import LightningDataModule
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
)

from mmbench.data.augment import Augmentation
from mmbench.data.bags import Bags
from mmbench.data.batch import Batch, LeakError, opaque_ids, zero_absent
from mmbench.data.digest import digest
from mmbench.data.embeddings import AugmentedEmbeddings, BatchEmbeddings, Embeddings
from mmbench.data.files import content_of, locate
from mmbench.data.loader import SHARE, Loader, free_bytes
from mmbench.data.mapped import is_mapped
from mmbench.data.missingness.composed import within_of
from mmbench.data.missingness.fixed import natural
from mmbench.data.missingness.protocol import Missingness
from mmbench.data.missingness.stream import Stream
from mmbench.data.missingness.within import Gap, fitting, gaps
from mmbench.data.samples import SPLITS, PresenceArray, Samples, Split
from mmbench.data.scale import Scale, TargetScale
from mmbench.data.scenario import Scenario
from mmbench.data.stored import Inputs, Stored, as_tensor
from mmbench.data.survival import SurvivalScale
from mmbench.data.task import Pixels, Task
from mmbench.sources import distributions, sources

PART = 256  # samples encoded at a time for embeddings that runs share


@dataclass(frozen=True, slots=True)
class Source:
    """Where a data set comes from.

    Args:
        citation: How to cite it.
        url: Where a user gets it; empty if it is generated.
        licence: Its terms.
        checksum: SHA-256 of the file that ships, empty if the user brings the files.
        superseded_by: Name of the data set that replaces this one; a published one is never
            edited.
        papers: What each paper did with it, a line each: split, counts, what was left out.
    """

    citation: str
    url: str = ""
    licence: str = ""
    checksum: str = ""
    superseded_by: str = ""
    papers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Counts:
    """What a publication says that a split holds; the files of a user are compared with it.

    Args:
        origin: Who says it, "Table S1 of CP-IMoE".
        split: Of which split; None = of all together.
        samples: Their number; None = it is not said.
        classes: Samples of a class, or with a label, by its name in the task; those that are not
            named are not compared.
    """

    origin: str
    split: Split | None
    samples: int | None = None
    classes: Mapping[str, int] = field(default_factory=dict)


class DataModule(LightningDataModule, ABC):
    """Splits of a data set under a scenario.

    A subclass describes the task and loads the samples of a split. Masks, scaling and loaders
    are made here, the same for all: masks are drawn once a split, keyed by sample id, before
    any limit; scales are those of the entries that training shows.

    Args:
        root: Folder of the user's data; data sets that ship with mmbench do not read it.
        scenario: What is missing in training, validation and each test condition.
        fold: Which partition, 0 <= fold < `folds`.
        modalities: Keep only these, in this order; None = all.
        batch_size: Samples a batch, >= 1.
        order_seed: Decides the order of training samples and nothing else.
        limit: At most this many samples a split, >= 1, the same for every seed; None = all.
        augment: Modality -> augmentations of its training samples (`mmbench.data.augment`), such
            as `{photo: [flip, crop, colour], audio: [time_shift, noise]}`; None = none.
        views: How many versions of each sample augmentation makes; None = new ones every epoch.

    Raises:
        ValueError: If the fold does not exist, a size is below 1, a modality is unknown, an
            augmentation does not fit it, or the scenario cannot be laid over the modalities.
    """

    source: ClassVar[Source]
    files: ClassVar[tuple[str, ...]] = ()  # what a user brings, relative to `root`
    folds: ClassVar[int] = 1
    published: ClassVar[tuple[Counts, ...]] = ()  # of the whole set; `mmbench data check` compares

    def __init__(
        self,
        root: Path,
        scenario: Scenario,
        *,
        fold: int = 0,
        modalities: Sequence[str] | None = None,
        batch_size: int = 64,
        order_seed: int = 0,
        limit: int | None = None,
        augment: Mapping[str, Sequence[str]] | None = None,
        views: int | None = None,
    ) -> None:
        super().__init__()
        self.root = root
        self.scenario = scenario
        self.fold = fold
        self.batch_size = batch_size
        self.order_seed = order_seed
        self.limit = limit
        self.loaded: dict[Split, Samples] = {}  # shared with all that `under` gives
        if not 0 <= fold < self.folds:
            raise ValueError(
                f"fold {fold} was asked for, but {type(self).__name__} has the folds "
                f"0..{self.folds - 1}"
            )
        _require_positive(batch_size=batch_size, limit=limit)
        self._drawn: dict[str, PresenceArray] = {}
        self._pixels: dict[str, Pixels] = {}
        self._restriction = None if modalities is None else tuple(modalities)
        self._augment, self._views = augment or {}, views

    def under(
        self, scenario: Scenario, *, batch_size: int, order_seed: int, limit: int | None
    ) -> "DataModule":
        """The same data under another scenario; what this one has read is not read again.

        Args:
            scenario: See the class, as all that follow.
            batch_size: Samples a batch.
            order_seed: Decides the order of training samples.
            limit: At most this many samples a split.

        Raises:
            ValueError: If a size is below 1.
        """
        assert not hasattr(self, "conditions"), "its masks are drawn already"
        _require_positive(batch_size=batch_size, limit=limit)
        other = copy.copy(self)
        other.scenario, other._drawn = scenario, {}
        other.batch_size, other.order_seed, other.limit = batch_size, order_seed, limit
        return other

    @abstractmethod
    def describe(self) -> Task:
        """Say what goes in and what is predicted; cheap, may be called before any loading."""

    @abstractmethod
    def load(self, split: Split) -> Samples:
        """Read one split with its natural presence; values raw, images may be uint8."""

    def ingredients(self) -> dict[str, dict[str, str]]:
        """What its samples are made of, for the key of a run: hashes of files and of code.

        Returns:
            `files`: the user's, by the names in `files`; `code`: the modules of the data set's own
            package, which name the checksums of what is shipped; `distributions`: a plugin's
            version.

        Raises:
            ValueError: If a file is not there.
        """
        code = sources(type(self))
        return {
            "files": {name: content_of(locate(self.root, name)) for name in self.files},
            "code": {name: one for name, one in code.items() if not name.startswith("mmbench")},
            "distributions": distributions(type(self).__module__),
        }

    @classmethod
    def write_twin(cls, root: Path, *, seed: int = 0) -> None:
        """Write a small generated set in the layout of this one, with `TWIN.txt` beside its files.

        It is written by the function `write` of a module of the data set's name in a package
        `twins` beside it; that module is no part of what makes a number.

        Args:
            root: Folder that the set's own folder is made in.
            seed: Decides every byte.

        Raises:
            ValueError: If the set has no twin.
        """
        package, _, name = cls.__module__.rpartition(".")
        home = f"{package}.twins".removeprefix(".")
        try:
            twin = importlib.import_module(f"{home}.{name}")
        except ModuleNotFoundError as error:
            if error.name not in (home, f"{home}.{name}"):  # else the twin misses something
                raise
            raise ValueError(f"{name} has no twin") from None
        twin.write(root, seed=seed)

    def content(self) -> str:
        """Hash of `ingredients`."""
        return digest(self.ingredients())

    def names_of_ids(self) -> Mapping[int, str]:
        """The data set's own names of its sample ids; empty where the ids are names enough."""
        return {}

    def subject_of(self, split: Split) -> Shaped[np.ndarray, " person"] | None:
        """Names of the people of a split, in any order; None if samples belong to nobody.

        `mmbench data check` refuses a set in which somebody is in two splits.
        """
        return None

    def unlabelled_samples(self) -> Samples | None:
        """Samples that are predicted and never scored, with any target; None if there are none."""
        return None

    def notes(self) -> tuple[str, ...]:
        """What a reader of the table should know of the data, a line each; read after loading."""
        return ()

    def bayes_posterior(
        self, samples: Samples, presence: PresenceArray, missingness: Missingness
    ) -> Float[np.ndarray, "sample output"] | None:
        """Best possible class probabilities given what is present; None where unknown."""
        return None

    @property
    def task(self) -> Task:
        """The task, restricted to the modalities that were asked for.

        Once it is set up, images say how their 8-bit pixels were standardised.

        Raises:
            ValueError: If one of them is unknown, or an augmentation does not fit.
        """
        task = self.describe()
        task = replace(
            task,
            modalities=tuple(replace(m, pixels=self._pixels.get(m.name)) for m in task.modalities),
        )
        self._augmentation.check(task)
        if self._restriction is None:
            return task
        by_name = {modality.name: modality for modality in task.modalities}
        if unknown := [name for name in self._restriction if name not in by_name]:
            raise ValueError(
                f"no modality named {unknown[0]!r} in {type(self).__name__}; "
                f"it has {', '.join(by_name)}"
            )
        return replace(task, modalities=tuple(by_name[name] for name in self._restriction))

    def samples(self, split: Split) -> Samples:
        """The samples of a split with natural missingness of the modalities asked for."""
        if split not in self.loaded:
            samples = self.load(split)
            self.loaded[split] = (
                samples if self._restriction is None else samples.only(self._restriction)
            )
        return self.loaded[split]

    def require_scenario(self) -> None:
        """Refuse a scenario that cannot be laid over the modalities; reads no sample.

        Raises:
            ValueError: If so, one line.
        """
        task = self.task
        self.scenario.check(task.names)
        tested = self.scenario.conditions(task.names).values()
        for missingness in (self.scenario.train, self.scenario.val, *tested):
            for one in within_of(missingness):
                fitting(one, task.modalities)
        for one in within_of(self.scenario.train):
            for modality in fitting(one, task.modalities):
                if self._augment.get(modality.name):
                    raise ValueError(
                        f"{one.mechanism} hides entries inside {modality.name} in training, which "
                        f"augment.{modality.name} would move; leave one of them out"
                    )

    def require_reach(self) -> None:
        """Refuse a rate that natural gaps forbid; draws masks of the splits that have some.

        Raises:
            ValueError: If so; one line with the split or test condition and the highest rate.
        """
        tested = self.scenario.conditions(self.task.names)
        parts: list[tuple[str, Split, Missingness]] = [
            ("train", "train", self.scenario.train),
            ("val", "val", self.scenario.val),
            *((f"test {label}", "test", missingness) for label, missingness in tested.items()),
        ]
        for where, split, missingness in parts:
            samples = self.samples(split)
            if samples.presence.all():
                continue
            try:
                missingness.draw(samples, Stream(self.scenario.mask_seed, split))
            except ValueError as error:
                raise ValueError(f"scenario {self.scenario.name!r}: {where}: {error}") from None

    @property
    def _augmentation(self) -> Augmentation:
        return Augmentation(self._augment, self.order_seed, self._views)

    def setup(self, stage: str | None = None) -> None:
        """Draw the masks of all splits and fit the scales; asked for twice, done once."""
        if hasattr(self, "conditions"):
            return
        task = self.task
        self.require_scenario()
        self.conditions: dict[str, Missingness] = self.scenario.conditions(task.names)
        drawn = {"train": self.scenario.train, "val": self.scenario.val, "test": natural()}
        self._splits: dict[Split, _Split] = {}
        self._resident: dict[tuple[Split, torch.device], _Split] = {}
        scales: dict[str, Scale | None] = {}
        self.target_scale: TargetScale | SurvivalScale | None = None
        for split in SPLITS:
            samples = self.samples(split)
            presence = drawn[split].draw(samples, Stream(self.scenario.mask_seed, split))
            if self.limit is not None and self.limit < len(samples):  # else nothing is copied
                rows = self._limited(samples, split)
                samples, presence = samples.take(rows), presence[rows]
            gap = self._gaps(drawn[split], samples, split)
            if split == "train":
                scales = {
                    modality.name: Scale.fit(
                        modality, samples, presence[:, column], gap.get(modality.name)
                    )
                    for column, modality in enumerate(task.modalities)
                }
                self._pixels = {
                    m.name: scale.of_pixels()
                    for m in task.modalities
                    if m.kind == "image" and samples.inputs[m.name].dtype == np.uint8
                    if (scale := scales[m.name])
                }
                target = samples.target
                self.target_scale = TargetScale.fit(task, target) or SurvivalScale.fit(task, target)
            self._scales = scales
            teach = split != "test" and self.scenario.regime == "full_access"
            self._splits[split] = _Split(
                split, task, samples, presence, scales, self.target_scale, gap, teach=teach
            )

    def in_units(self, output: NDArray[Any]) -> NDArray[Any]:
        """Outputs of a method as they are scored: a regression's in the units of its targets.

        Methods learn and predict outcomes that are standardised by the training targets
        (`target_scale`), so that one learning rate serves ages and prices. Those of survival become
        log cumulative hazards at `target_scale.times`; other outputs stay.
        """
        self.setup()
        return output if self.target_scale is None else self.target_scale.undo(output)

    def condition_presence(self, condition: str) -> PresenceArray:
        """Which test entries a condition shows, (sample, modality), in order of the test split."""
        if condition not in self._drawn:
            samples = self.samples("test")
            stream = Stream(self.scenario.mask_seed, "test")
            presence = self.conditions[condition].draw(samples, stream)
            self._drawn[condition] = presence[self._limited(samples, "test")]
        return self._drawn[condition]

    def condition_gaps(self, condition: str) -> dict[str, Gap]:
        """What a test condition hides inside modalities, in order of the test split."""
        samples = self.samples("test").take(self._limited(self.samples("test"), "test"))
        return self._gaps(self.conditions[condition], samples, "test")

    def gaps_inside(self, split: Split) -> dict[str, Gap]:
        """What the scenario hides inside modalities of a split, in its order (test: nothing)."""
        missing = {"train": self.scenario.train, "val": self.scenario.val, "test": natural()}
        samples = self.samples(split).take(self._limited(self.samples(split), split))
        return self._gaps(missing[split], samples, split)

    def _gaps(self, missingness: Missingness, samples: Samples, split: Split) -> dict[str, Gap]:
        stream = Stream(self.scenario.mask_seed, split)
        return gaps(within_of(missingness), self.task.modalities, samples, stream)

    def _limited(self, samples: Samples, split: Split) -> NDArray[np.int_]:
        """Positions that a limit keeps: a random subset that depends on the sample ids alone."""
        if self.limit is None or self.limit >= len(samples):
            return np.arange(len(samples))
        u = Stream(0, split).uniform(samples.sample_id, ["limit"], purpose="limit")[:, 0]
        return np.sort(np.argsort(u, kind="stable")[: self.limit])

    def on_validation(self, most: int) -> "DataModule":
        """The same, with validation samples in the place of the test split, as nature left them.

        So a condition shows of them what it shows of test samples: predictions to calibrate by.

        Args:
            most: At most this many samples, a random subset that depends on the ids alone.
        """
        self.setup()
        other, samples = copy.copy(self), self.samples("val")
        other.limit = most if self.limit is None else min(most, self.limit)
        samples = samples.take(other._limited(samples, "val"))
        held = _Split(
            "test", self.task, samples, samples.presence, self._scales, self.target_scale, {},
            teach=False,
        )  # fmt: skip
        other.loaded = self.loaded | {"test": samples}
        other._splits, other._drawn = self._splits | {"test": held}, {}
        return other

    def raw_target(self, split: Split) -> NDArray[Any]:
        """Targets of a split as its file has them, in order of sample; no mask is drawn."""
        samples = self.samples(split)
        target: NDArray[Any] = samples.target[self._limited(samples, split)]
        return target

    def split(self, split: Split) -> "_Split":
        """One split as the scenario shows it (test: with natural gaps alone)."""
        self.setup()
        return self._splits[split]

    def batches(self, split: Split) -> Iterator[Batch]:
        """Whole split in order of sample, on the CPU."""
        data = self.split(split)
        for start in range(0, len(data), self.batch_size):
            yield data[list(range(start, min(start + self.batch_size, len(data))))]

    def unlabelled_batches(self) -> Iterator[Batch]:
        """Samples without a label in order, on the CPU, as nature left them."""
        self.setup()
        samples = self.unlabelled_samples()
        if samples is None:
            return
        if self._restriction is not None:
            samples = samples.only(self._restriction)
        data = _Split(
            "test", self.task, samples, samples.presence, self._scales, None, {}, teach=False
        )
        for start in range(0, len(data), self.batch_size):
            yield data[list(range(start, min(start + self.batch_size, len(data))))]

    def _loader(
        self,
        split: Split,
        sampler: Any,
        device: torch.device | None = None,
        epoch: Callable[[], int] | None = None,
        share: tuple[int, int] = (0, 1),
    ) -> Loader:
        # one index list a batch: a batch is gathered at once, never sample by sample
        batches: Any = BatchSampler(sampler, self.batch_size, drop_last=False)
        if share != (0, 1):
            batches = _Shared(batches, *share)
        data = self._near(split, device)
        copied = device is not None and device.type == "cuda" and data is self.split(split)
        source: Dataset[Batch] = data
        if split == "train" and (any(self._augment.values()) or data.redrawn):
            source = _Augmented(data, self._augmentation, epoch or (lambda: 0))
        return Loader(
            source,
            batches,
            finish=None if split == "train" else Batch.blind,
            names=self.task.names if copied else data.mapped,
            pin=copied,
        )

    def _near(self, split: Split, device: torch.device | None) -> "_Split":
        """A split, on a device if it fits into `SHARE` of what is free there."""
        data = self.split(split)
        if device is None or (split == "train" and data.redrawn):
            return data
        if (split, device) not in self._resident:
            if data.nbytes > SHARE * free_bytes(device):
                return data
            self._resident[split, device] = data.on(device)
        return self._resident[split, device]

    def train_dataloader(
        self,
        order: torch.Generator | None = None,
        *,
        device: torch.device | None = None,
        epoch: Callable[[], int] | None = None,
        share: tuple[int, int] = (0, 1),
    ) -> DataLoader[Batch]:
        """Training batches in an order that depends on `order_seed` alone.

        Args:
            order: A generator that began with that seed, to go on with; None = a new one.
            device: Where they are trained on: a split that fits is kept and gathered there.
            epoch: Tells which epoch it is, for augmentation; None = always the first.
            share: Which of how many processes, that train together, takes its part of each batch.
        """
        order = order or torch.Generator().manual_seed(self.order_seed)
        sampler = RandomSampler(self.split("train"), generator=order)
        return self._loader("train", sampler, device, epoch, share)

    def val_dataloader(self, device: torch.device | None = None) -> DataLoader[Batch]:
        """Validation batches in order of sample, without their targets (`Batch.blind`)."""
        return self._loader("val", SequentialSampler(self.split("val")), device)

    def test_dataloader(self) -> DataLoader[Batch]:
        """Test batches with natural gaps alone, in order of sample, without their targets."""
        return self._loader("test", SequentialSampler(self.split("test")))


def _require_positive(**numbers: int | None) -> None:
    for word, number in numbers.items():
        if number is not None and number < 1:
            raise ValueError(f"{word} must be at least 1, found {number}")


class Fitting(LightningDataModule):
    """What a trainer, and so a method, may reach of its data while it is fitted.

    Args:
        data: Gives the batches of training, and blind ones of validation. Nothing else is passed
            on: a test split that cannot be reached cannot be learned from.
        device: Where the trainer fits it; None = batches come from the CPU.
    """

    def __init__(self, data: DataModule, device: torch.device | None = None) -> None:
        super().__init__()
        self._order = torch.Generator().manual_seed(data.order_seed)
        self._train = partial(data.train_dataloader, device=device, epoch=self._epoch)
        self._val = partial(data.val_dataloader, device)

    def _epoch(self) -> int:
        return 0 if self.trainer is None else self.trainer.current_epoch

    def train_dataloader(self) -> DataLoader[Batch]:
        """See `DataModule`; the order goes on where a checkpoint says."""
        if self.trainer is None or self.trainer.world_size == 1:
            return self._train(self._order)
        share = (self.trainer.global_rank, self.trainer.world_size)
        return self._train(self._order, share=share)

    def val_dataloader(self) -> DataLoader[Batch]:
        """See `DataModule`."""
        return self._val()

    def state_dict(self) -> dict[str, Tensor]:
        """Place in the order of training samples, for a checkpoint."""
        return {"order": self._order.get_state()}

    def load_state_dict(self, state_dict: dict[str, Tensor]) -> None:
        """Go on from there."""
        self._order.set_state(state_dict["order"])

    def test_dataloader(self) -> NoReturn:
        """Refuse.

        Raises:
            LeakError: Always.
        """
        raise LeakError("the test split was asked for while the method was fitted")

    def __getattr__(self, name: str) -> NoReturn:
        """Refuse what a `DataModule` has beside its training and validation batches.

        Raises:
            LeakError: If it has the attribute.
        """
        if name in ("loaded", "conditions") or hasattr(DataModule, name):
            raise LeakError(
                f"the data module's {name} was asked for while the method was fitted; it is given "
                "training batches, and validation batches without their targets"
            )
        raise AttributeError(name)


class _Shared(Sampler[list[int]]):
    """What one of several processes takes of every batch: all samples once, in equal parts.

    Where a batch has fewer samples than there are processes, some take its first one, too.
    """

    def __init__(self, batches: BatchSampler, rank: int, count: int) -> None:
        self._batches, self._rank, self._count = batches, rank, count

    def __iter__(self) -> Iterator[list[int]]:
        for rows in self._batches:
            yield rows[self._rank :: self._count] or rows[:1]

    def __len__(self) -> int:
        return len(self._batches)


class _Split(Dataset[Batch]):
    """The samples of one split behind a presence table; indexed by lists of positions."""

    def __init__(
        self,
        split: Split,
        task: Task,
        samples: Samples,
        presence: PresenceArray,
        scales: Mapping[str, Scale | None],
        target_scale: TargetScale | SurvivalScale | None,
        gap: Mapping[str, Gap],
        *,
        teach: bool,
    ) -> None:
        self.task = task
        self.samples = samples
        self.presence = presence
        self._teach = teach
        lengths = {n: as_tensor(x).long() for n, x in samples.lengths.items()}
        self._stored = {
            name: Stored.of(samples.inputs[name], scales[name], lengths.get(name), gap.get(name))
            for name in task.names
        }
        self._presence = as_tensor(presence)
        self._natural = as_tensor(samples.presence)
        self._sample_id = as_tensor(samples.sample_id)
        target = samples.target if target_scale is None else target_scale.apply(samples.target)
        targets = as_tensor(target)
        self._target = targets.long() if task.kind == "single_label" else targets.float()
        # the test split is read once, and a condition's samples must not lead to whole ones
        self._embeddings: Embeddings | None = None
        if split != "test":
            visible = self._natural if teach and split == "train" else self._presence
            self._embeddings = self._computed_once(visible)
        # the last stage is selected on what validation shows, so whole samples are apart there
        self._whole_embeddings = (
            self._computed_once(self._natural) if teach and split == "val" else None
        )

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def mapped(self) -> list[str]:
        """Modalities that are read from mapped files."""
        on_cpu = self._presence.device.type == "cpu"
        return [n for n in self.task.names if on_cpu and is_mapped(self.samples.inputs[n])]

    @property
    def redrawn(self) -> list[str]:
        """Bags of which an epoch of training shows a part, another one each time."""
        inputs = self.samples.inputs
        return [n for n in self.task.names if isinstance(x := inputs[n], Bags) and x.cut]

    @property
    def nbytes(self) -> int:
        """What its inputs take."""
        return sum(self.samples.inputs[name].nbytes for name in self.task.names)

    def on(self, device: torch.device) -> "_Split":
        """The same with all that batches are gathered from on a device; embeddings are common."""
        other = copy.copy(self)
        other._stored = {n: one.on(device, len(self)) for n, one in self._stored.items()}
        for name in ("_presence", "_natural", "_sample_id", "_target"):
            setattr(other, name, getattr(self, name).to(device))
        return other

    def __getitem__(self, rows: list[int]) -> Batch:
        return self.batch(torch.as_tensor(rows))

    def batch(self, index: Tensor, view: "_View | None" = None) -> Batch:
        """Some samples.

        Args:
            index: Their positions, on the CPU.
            view: How they are augmented; None = not at all.
        """
        place = index.to(self._presence.device)
        batch = self._batch(index, self._presence[place], view)
        if self._embeddings is None:
            return batch
        if not self._teach:
            return self._with_embeddings(batch, self._embeddings, index, view)
        teacher = self._batch(index, self._natural[place], view)
        if self._whole_embeddings is None:
            teacher = self._with_embeddings(teacher, self._embeddings, index, view)
            return replace(batch, embeddings=teacher.embeddings, teacher=teacher)
        teacher = teacher.with_embeddings(self._whole_embeddings, index)
        return replace(batch.with_embeddings(self._embeddings, index), teacher=teacher)

    def ids(self, index: Tensor) -> Tensor:
        """Ids of some samples, where batches are gathered."""
        return self._sample_id[index.to(self._sample_id.device)]

    def _with_embeddings(
        self, batch: Batch, whole: Embeddings, index: Tensor, view: "_View | None"
    ) -> Batch:
        batch = batch.with_embeddings(whole, index)
        if view is None:
            return batch
        assert batch.embeddings is not None
        versions = None
        if view.embeddings is not None:
            assert view.by.views is not None
            rows = index * view.by.views + view.number.cpu()
            versions = BatchEmbeddings(view.embeddings, batch.inputs, batch.lengths, rows)
        names = [*self.redrawn, *(name for name, of in view.by.names.items() if of)]
        return replace(batch, embeddings=AugmentedEmbeddings(batch.embeddings, names, versions))

    def rows_of(self, opaque: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
        """Positions of samples whose ids `Batch.blind` took."""
        known, order = opaque_ids(self._sample_id).sort()
        return order[torch.searchsorted(known, opaque.cpu())]

    def target_of(self, opaque: Int[Tensor, " batch"]) -> Tensor:
        """Targets of such samples, as batches of training have them."""
        return self._target[self.rows_of(opaque)]

    def _computed_once(self, visible: Tensor) -> Embeddings:
        return Embeddings(len(self), partial(self._parts, visible), self._stored)

    def views(self, by: Augmentation) -> Embeddings | None:
        """What encoders make of the versions of all samples, version by version of each."""
        if by.views is None:
            return None
        visible = self._natural if self._teach else self._presence
        parts = partial(self._parts, visible, by=by)
        return Embeddings(len(self) * by.views, parts, at_once=True)

    def _parts(
        self, visible: Tensor, name: str, by: Augmentation | None = None
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """One modality of the whole split, as much of it as is visible, or all versions of it."""
        views = 1 if by is None or by.views is None else by.views
        for part in torch.split(torch.arange(len(self) * views), PART):
            index = part // views
            view = None if by is None else _View(by, part % views)
            yield self._modality(name, index, visible[index.to(visible.device)], view)

    def _modality(
        self, name: str, index: Tensor, presence: Tensor, view: "_View | None" = None
    ) -> tuple[Tensor, Tensor | None]:
        """Scaled inputs and lengths of one modality, zero where absent or past the end."""
        present = presence[:, self.task.names.index(name)]
        x, steps = self._stored[name].read(index, None if view is None else view.number)
        if view is not None:
            x = view.by.apply(name, x, steps, self.ids(index), view.number.to(x.device))
        return zero_absent(x, present), None if steps is None else zero_absent(steps, present)

    def _batch(self, index: Tensor, presence: Tensor, view: "_View | None") -> Batch:
        def reader(name: str) -> Callable[[], Tensor]:
            return lambda: self._modality(name, index, presence, view)[0]

        place = index.to(self._presence.device)
        inputs = Inputs({name: reader(name) for name in self.task.names})
        lengths = {
            name: zero_absent(stored.steps(index), presence[:, column])
            for column, (name, stored) in enumerate(self._stored.items())
            if stored.lengths is not None
        }
        observed = {
            name: zero_absent(stored.observed(index), presence[:, column])
            for column, (name, stored) in enumerate(self._stored.items())
            if stored.gap is not None
        }
        return Batch(
            modalities=self.task.names,
            inputs=inputs,
            presence=presence,
            target=self._target[place],
            sample_id=self._sample_id[place],
            lengths=lengths,
            observed=observed,
        )


@dataclass(frozen=True)
class _View:
    """Which versions of some samples are shown.

    Args:
        by: What makes them.
        number: (batch,) of each.
        embeddings: What encoders make of all versions; None = that is not kept.
    """

    by: Augmentation
    number: Tensor
    embeddings: Embeddings | None = None


class _Augmented(Dataset[Batch]):
    """Training samples in the versions of an epoch.

    Args:
        data: The split.
        by: What makes versions of them.
        epoch: Tells which epoch it is.
    """

    def __init__(self, data: _Split, by: Augmentation, epoch: Callable[[], int]) -> None:
        self._data, self._by, self._epoch = data, by, epoch
        self._embeddings = data.views(by)

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, rows: list[int]) -> Batch:
        index = torch.as_tensor(rows)
        number = self._by.view(self._data.ids(index), self._epoch())
        return self._data.batch(index, _View(self._by, number, self._embeddings))
