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
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SequentialSampler

from mmbench.data.batch import Batch, LeakError, opaque_ids, zero_absent
from mmbench.data.digest import digest
from mmbench.data.embeddings import Embeddings
from mmbench.data.files import content_of, locate
from mmbench.data.missingness.composed import within_of
from mmbench.data.missingness.fixed import natural
from mmbench.data.missingness.protocol import Missingness
from mmbench.data.missingness.stream import Stream
from mmbench.data.missingness.within import Gap, fitting, gaps
from mmbench.data.samples import SPLITS, PresenceArray, Samples, Split
from mmbench.data.scale import Scale, TargetScale
from mmbench.data.scenario import Scenario
from mmbench.data.stored import Inputs, Stored, as_tensor
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

    Raises:
        ValueError: If the fold does not exist, a size is below 1, a modality is unknown, or the
            scenario cannot be laid over the modalities.
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
            ValueError: If one of them is unknown.
        """
        task = self.describe()
        task = replace(
            task,
            modalities=tuple(replace(m, pixels=self._pixels.get(m.name)) for m in task.modalities),
        )
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

    def setup(self, stage: str | None = None) -> None:
        """Draw the masks of all splits and fit the scales; asked for twice, done once."""
        if hasattr(self, "conditions"):
            return
        task = self.task
        self.require_scenario()
        self.conditions: dict[str, Missingness] = self.scenario.conditions(task.names)
        drawn = {"train": self.scenario.train, "val": self.scenario.val, "test": natural()}
        self._splits: dict[Split, _Split] = {}
        scales: dict[str, Scale | None] = {}
        self.target_scale: TargetScale | None = None
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
                self.target_scale = TargetScale.fit(task, samples.target)
            self._scales = scales
            teach = split != "test" and self.scenario.regime == "full_access"
            self._splits[split] = _Split(
                split, task, samples, presence, scales, self.target_scale, gap, teach=teach
            )

    def in_units(self, output: NDArray[Any]) -> NDArray[Any]:
        """Outputs of a method as they are scored: a regression's in the units of its targets.

        Methods learn and predict outcomes that are standardised by the training targets
        (`target_scale`), so that one learning rate serves ages and prices; other outputs stay.
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

    def _loader(self, split: Split, sampler: Any) -> DataLoader[Batch]:
        # one index list a batch: a batch is gathered at once, never sample by sample
        batches = BatchSampler(sampler, self.batch_size, drop_last=False)
        blind: Any = None if split == "train" else Batch.blind
        # a loader draws a number when it begins: one of its own, so that a training that goes on
        # from a checkpoint finds the global generator where it was
        generator = torch.Generator()
        data = self.split(split)
        return DataLoader(
            data, sampler=batches, batch_size=None, collate_fn=blind, generator=generator
        )

    def train_dataloader(self, order: torch.Generator | None = None) -> DataLoader[Batch]:
        """Training batches in an order that depends on `order_seed` alone.

        Args:
            order: A generator that began with that seed, to go on with; None = a new one.
        """
        order = order or torch.Generator().manual_seed(self.order_seed)
        return self._loader("train", RandomSampler(self.split("train"), generator=order))

    def val_dataloader(self) -> DataLoader[Batch]:
        """Validation batches in order of sample, without their targets (`Batch.blind`)."""
        return self._loader("val", SequentialSampler(self.split("val")))

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
    """

    def __init__(self, data: DataModule) -> None:
        super().__init__()
        self._order = torch.Generator().manual_seed(data.order_seed)
        self._train, self._val = data.train_dataloader, data.val_dataloader

    def train_dataloader(self) -> DataLoader[Batch]:
        """See `DataModule`; the order goes on where a checkpoint says."""
        return self._train(self._order)

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


class _Split(Dataset[Batch]):
    """The samples of one split behind a presence table; indexed by lists of positions."""

    def __init__(
        self,
        split: Split,
        task: Task,
        samples: Samples,
        presence: PresenceArray,
        scales: Mapping[str, Scale | None],
        target_scale: TargetScale | None,
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
            name: Stored(
                as_tensor(samples.inputs[name]), scales[name], lengths.get(name), gap.get(name)
            )
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

    def __getitem__(self, rows: list[int]) -> Batch:
        index = torch.as_tensor(rows)
        batch = self._batch(index, self._presence[index])
        if self._embeddings is None:
            return batch
        if not self._teach:
            return batch.with_embeddings(self._embeddings, index)
        teacher = self._batch(index, self._natural[index])
        if self._whole_embeddings is None:
            teacher = teacher.with_embeddings(self._embeddings, index)
            return replace(batch, embeddings=teacher.embeddings, teacher=teacher)
        teacher = teacher.with_embeddings(self._whole_embeddings, index)
        return replace(batch.with_embeddings(self._embeddings, index), teacher=teacher)

    def rows_of(self, opaque: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
        """Positions of samples whose ids `Batch.blind` took."""
        known, order = opaque_ids(self._sample_id).sort()
        return order[torch.searchsorted(known, opaque.cpu())]

    def target_of(self, opaque: Int[Tensor, " batch"]) -> Tensor:
        """Targets of such samples, as batches of training have them."""
        return self._target[self.rows_of(opaque)]

    def _computed_once(self, visible: Tensor) -> Embeddings:
        return Embeddings(len(self), partial(self._parts, visible), self._stored)

    def _parts(self, visible: Tensor, name: str) -> Iterator[tuple[Tensor, Tensor | None]]:
        """One modality of the whole split, as much of it as is visible."""
        for index in torch.split(torch.arange(len(self)), PART):
            yield self._modality(name, index, visible[index])

    def _modality(self, name: str, index: Tensor, presence: Tensor) -> tuple[Tensor, Tensor | None]:
        """Scaled inputs and lengths of one modality, zero where absent or past the end."""
        present = presence[:, self.task.names.index(name)]
        x, steps = self._stored[name].read(index)
        return zero_absent(x, present), None if steps is None else zero_absent(steps, present)

    def _batch(self, index: Tensor, presence: Tensor) -> Batch:
        def reader(name: str) -> Callable[[], Tensor]:
            return lambda: self._modality(name, index, presence)[0]

        inputs = Inputs({name: reader(name) for name in self.task.names})
        lengths = {
            name: zero_absent(stored.lengths[index], presence[:, column])
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
            target=self._target[index],
            sample_id=self._sample_id[index],
            lengths=lengths,
            observed=observed,
        )
