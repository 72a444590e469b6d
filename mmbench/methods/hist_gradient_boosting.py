"""Gradient-boosted trees on the features of all modalities side by side.

Paper: Ke et al., "LightGBM: A Highly Efficient Gradient Boosting Decision Tree", NeurIPS 2017.
Idea: trees that each correct those before them, grown on histograms of the features. A split sends
samples without the feature to the side where they fit better, so nothing has to be imputed.
Notation: a row = features of all modalities, NaN where absent, then presence (B, M); rounds =
number of trees an output, chosen on validation.
Differences from the paper: scikit-learn's implementation, which bundles no features and draws no
samples by gradient.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from mmbench.data.task import Task
from mmbench.estimator import Estimator, Impute
from mmbench.method import Paper


class HistGradientBoosting(Estimator):
    """Boosted trees on one row a sample; see `Estimator`.

    Args:
        task: What goes in and what is predicted.
        impute: What stands for features of absent modalities.
    """

    paper = Paper(
        "LightGBM: A Highly Efficient Gradient Boosting Decision Tree",
        "NeurIPS",
        2017,
        "https://proceedings.neurips.cc/paper/2017/hash/6449f44a102fde848669bdd9eb6b76fa-Abstract.html",
    )
    settings: ClassVar[tuple[Mapping[str, Any], ...]] = ({"rounds": 20}, {"rounds": 100})

    def __init__(self, task: Task, *, impute: Impute = "none") -> None:
        super().__init__(task, impute=impute)

    def estimator(self, seed: int, **setting: Any) -> Any:
        """Boosted trees; validation decides when to stop, no part of training is held out."""
        settings = {"max_iter": setting["rounds"], "early_stopping": False, "random_state": seed}
        if self.task.kind == "regression":
            return HistGradientBoostingRegressor(**settings)
        return HistGradientBoostingClassifier(**settings)
