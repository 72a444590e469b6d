"""TabPFN: a transformer that was trained on made-up tables reads the training set as its context.

Paper: Hollmann et al., "Accurate predictions on small data with a tabular foundation model",
Nature 2025.
Idea: a network that has seen millions of synthetic tables with their answers predicts the answers
of a new table's test rows from its training rows, in one pass and without fitting.
Notation: a row = features of all modalities, NaN where absent, then presence (B, M).
Differences from the paper: none; the network is that of the package `tabpfn`, and its weights are
a file of the user's. Nothing is ever downloaded: without the package or the file, it is a dash.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmbench.data.task import Task
from mmbench.estimator import Estimator, Impute
from mmbench.method import Paper


class TabPFN(Estimator):
    """TabPFN on one row a sample; see `Estimator`.

    Args:
        task: What goes in and what is predicted.
        weights: Local file with the weights: of the classifier, or for a regression of the
            regressor.
        impute: What stands for features of absent modalities.

    Raises:
        ValueError: If there is no such file.
    """

    paper = Paper(
        "Accurate predictions on small data with a tabular foundation model",
        "Nature",
        2025,
        "https://doi.org/10.1038/s41586-024-08328-6",
    )

    def __init__(self, task: Task, *, weights: str = "", impute: Impute = "none") -> None:
        super().__init__(task, impute=impute)
        # the package would fetch a file that is not there
        if not Path(weights).is_file():
            raise ValueError(f"there is no file of TabPFN's weights at {weights!r}")
        self.weights = weights

    @classmethod
    def reason_not(cls, task: Task, **args: Any) -> str | None:
        """Why it cannot be had: without the package, or without a file of its weights."""
        if find_spec("tabpfn") is None:
            return "needs the package tabpfn"
        if not args.get("weights"):
            return "needs weights=FILE, a local file of TabPFN's weights; none is downloaded"
        return super().reason_not(task, **args)

    def estimator(self, seed: int, **setting: Any) -> Any:
        """The package's estimator, on the CPU, whatever else is there."""
        from tabpfn import TabPFNClassifier, TabPFNRegressor

        make = TabPFNRegressor if self.task.kind == "regression" else TabPFNClassifier
        return make(
            model_path=self.weights,
            device="cpu",
            ignore_pretraining_limits=True,
            random_state=seed % 2**31,
        )
