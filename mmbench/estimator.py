"""What methods that are estimators of scikit-learn share: a table, its gaps, and their refit.

The features of all modalities stand side by side in one row a sample, and behind them one column
a modality that says whether it is there. Gaps are filled by an imputer that knows training alone.

What an estimator has learned is no tensor. Buffers hold the training table and which setting was
chosen, and the estimator is fitted again from them when it is first needed: fitting depends on
nothing else, its seed included. So saved weights contain the training features. `forward` asks the
estimator on the host; it is no method for gradients.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.experimental import enable_iterative_imputer  # noqa: F401 - makes the next line work
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer
from sklearn.preprocessing import FunctionTransformer
from torch import Tensor, nn

from mmbench.data.batch import Batch
from mmbench.data.task import Task, TaskKind
from mmbench.layers.encoders import untrained
from mmbench.layers.prior import output_prior
from mmbench.method import Applies, Method

Impute = Literal["none", "zero", "mean", "knn", "iterative"]
FLOOR = 1e-4  # of probabilities: what an estimator holds impossible has a finite logarithm
NEAREST = 20  # features by which `iterative` tells each missing one, drawn by correlation
ROUNDS = 3  # in which it does so


class Estimator(Method, ABC):
    """An estimator on the features of all modalities; a subclass says which one.

    A class is a class to it, each label a classifier and each regressed quantity a regressor of
    its own.

    Args:
        task: What goes in and what is predicted.
        impute: What stands for features of absent modalities: `zero`, the training `mean`, the
            mean of the five nearest training samples by what is there (`knn`), or what ridge
            regressions on 20 correlated features say in turn (`iterative`; slow for thousands of
            features). `none` leaves NaN to estimators that read it.
    """

    applies = Applies(trains=False)
    settings: ClassVar[tuple[Mapping[str, Any], ...]] = ({},)
    """What validation chooses from, by the task's loss."""
    features: Tensor
    target: Tensor
    chosen: Tensor
    seed: Tensor
    _imputer: Any  # fitted on the training table when first needed; None = not yet
    _fits: "dict[int, _Fit]"  # so are those of each setting

    def __init__(self, task: Task, *, impute: Impute = "mean") -> None:
        super().__init__(task)
        self.impute = impute
        readers = [untrained(modality) for modality in task.modalities]
        self.read = nn.ModuleList(module for module, _ in readers)
        self.requires_grad_(False)  # nothing learns by gradient
        self.widths = [width for _, width in readers]
        width = sum(self.widths) + len(readers)
        shape = () if task.kind == "single_label" else (task.num_outputs,)
        kind = torch.long if task.kind == "single_label" else torch.float
        self.register_buffer("features", torch.zeros(0, width))
        self.register_buffer("target", torch.zeros(0, *shape, dtype=kind))
        self.register_buffer("chosen", torch.zeros((), dtype=torch.long))
        self.register_buffer("seed", torch.randint(2**31, ()))
        self._forget()

    @abstractmethod
    def estimator(self, seed: int, **setting: Any) -> Any:
        """An unfitted classifier, or regressor if that is the task.

        Args:
            seed: All that may be random in it.
            setting: One of `settings`.
        """

    def prepare(self, train: Iterable[Batch]) -> None:
        """Keep the training table."""
        self.eval()  # frozen backbones
        rows, targets = zip(*((self.table(batch), batch.target) for batch in train), strict=True)
        self.features, self.target = torch.cat(rows), torch.cat(targets)
        self._forget()

    @torch.no_grad()
    def table(self, batch: Batch) -> Float[Tensor, "batch feature"]:
        """Features side by side, zeros where absent, then presence."""
        pairs = zip(self.task.names, self.read, strict=True)
        parts = [batch.embed(name, module) for name, module in pairs]
        return torch.cat([*parts, batch.presence.float()], dim=1)

    def forward(self, batch: Batch) -> Float[Tensor, "batch output"]:
        """Ask the estimator of the chosen setting."""
        return self._ask([int(self.chosen)], batch)[:, 0]

    def candidates(self, batch: Batch) -> Float[Tensor, "batch setting output"] | None:
        """Predictions with each of the settings."""
        if len(self.settings) == 1:
            return None
        return self._ask(range(len(self.settings)), batch)

    def choose(self, losses: Float[Tensor, " setting"]) -> None:
        """Keep the setting of the lowest validation loss."""
        self.chosen.copy_(losses.argmin())
        self._fits = {k: fit for k, fit in self._fits.items() if k == int(self.chosen)}

    def _ask(self, settings: Iterable[int], batch: Batch) -> Float[Tensor, "batch setting output"]:
        table = self.table(batch)
        filled = self._filled(table)
        answers = [self._fitted(k)(filled) for k in settings]
        return torch.from_numpy(np.stack(answers, axis=1)).to(table)

    def _fitted(self, k: int) -> "_Fit":
        if k not in self._fits:
            target, prior = self.target.cpu(), output_prior(self.task, self.target.cpu())
            make = partial(self.estimator, int(self.seed), **self.settings[k])
            filled = self._filled(self.features)
            self._fits[k] = _Fit(self.task.kind, make, filled, target.numpy(), prior.numpy())
        return self._fits[k]

    def _filled(self, table: Float[Tensor, "sample feature"]) -> NDArray[Any]:
        """The table, on the host, with what the imputer says of gaps."""
        if self._imputer is None:
            train, _ = self._gaps(self.features)
            self._never = np.isnan(train).all(0)
            self._imputer = imputer(self.impute, int(self.seed))
            with warnings.catch_warnings():  # of rounds that did not converge: so many are wanted
                warnings.simplefilter("ignore", ConvergenceWarning)
                self._imputer.fit(np.where(self._never, np.float32(0), train))
        features, presence = self._gaps(table)
        # no imputer knows features that training never shows, and not every estimator takes them
        visible = np.where(self._never, np.float32(0), features)
        return np.hstack([self._imputer.transform(visible), presence])

    def _gaps(self, table: Float[Tensor, "sample feature"]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Features, NaN where absent, and presence."""
        features, presence = np.split(table.cpu().numpy(), [-len(self.widths)], axis=1)
        present = np.repeat(presence > 0, self.widths, axis=1)
        return np.where(present, features, np.float32(np.nan)), presence

    def _forget(self) -> None:
        self._imputer, self._fits = None, {}

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        for name in ("features", "target"):  # a fresh table is empty: make room
            saved, buffer = state_dict.get(prefix + name), self._buffers[name]
            if saved is not None and buffer is not None and saved.shape[1:] == buffer.shape[1:]:
                self._buffers[name] = torch.empty_like(saved, device=buffer.device)
        self._forget()
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class _Fit:
    """The estimators of one setting: one for a class, one for each label or quantity.

    Args:
        kind: Of the task.
        make: Gives an unfitted estimator.
        table: Training rows without gaps.
        target: Of these rows.
        prior: Best constant output, for what has but one value in training.
    """

    def __init__(
        self,
        kind: TaskKind,
        make: Callable[[], Any],
        table: NDArray[Any],
        target: NDArray[Any],
        prior: NDArray[np.float32],
    ) -> None:
        self.kind, self.prior = kind, prior
        columns = [target] if kind == "single_label" else list(target.T)
        self.parts = [
            make().fit(table, column) if kind == "regression" or np.ptp(column) else None
            for column in columns
        ]

    def __call__(self, table: NDArray[Any]) -> NDArray[np.float32]:
        """Predict (sample, output): log-probabilities, log-odds or values."""
        scores = np.tile(self.prior, (len(table), 1))
        for column, part in enumerate(self.parts):
            if part is None:
                continue
            if self.kind == "regression":
                scores[:, column] = part.predict(table)
                continue
            p = part.predict_proba(table).clip(FLOOR)
            if self.kind == "multi_label":
                scores[:, column] = np.log(p[:, 1] / p[:, 0])
            else:
                scores[:] = np.log(FLOOR)
                scores[:, part.classes_] = np.log(p)
        return scores


def imputer(name: Impute, seed: int) -> Any:
    """An unfitted imputer.

    Args:
        name: See `Estimator`.
        seed: Of `iterative`.
    """
    if name == "none":
        return FunctionTransformer()
    if name == "zero":
        return SimpleImputer(strategy="constant", fill_value=0.0)
    if name == "mean":
        return SimpleImputer()
    if name == "knn":
        return KNNImputer()
    assert name == "iterative"
    return IterativeImputer(n_nearest_features=NEAREST, max_iter=ROUNDS, random_state=seed)
