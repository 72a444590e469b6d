"""Random forest on the features of all modalities side by side.

Paper: Breiman, "Random Forests", Machine Learning 2001.
Idea: many trees, each on a bootstrap sample, each split among a few random features; their mean.
Notation: a row = features of all modalities, imputed, then presence (B, M); leaf = fewest samples
of a leaf, chosen on validation.
Differences from the paper: trees vote by the class frequencies of their leaves.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

from mmbench.bounds import Count
from mmbench.data.task import Task
from mmbench.estimator import Estimator, Impute
from mmbench.method import Paper


class RandomForest(Estimator):
    """Random forest on one imputed row a sample; see `Estimator`.

    Args:
        task: What goes in and what is predicted.
        impute: What stands for features of absent modalities.
        trees: How many, >= 1.

    Raises:
        ValueError: If there is no tree.
    """

    paper = Paper(
        "Random Forests", "Machine Learning", 2001, "https://doi.org/10.1023/A:1010933404324"
    )
    settings: ClassVar[tuple[Mapping[str, Any], ...]] = ({"leaf": 1}, {"leaf": 5})

    def __init__(self, task: Task, *, impute: Impute = "mean", trees: Count = 200) -> None:
        super().__init__(task, impute=impute)
        if trees < 1:
            raise ValueError(f"a forest needs trees >= 1, found {trees}")
        self.trees = trees

    def estimator(self, seed: int, **setting: Any) -> Any:
        """A forest; √F features compete for a split, a third of them for regression."""
        settings = {
            "n_estimators": self.trees,
            "min_samples_leaf": setting["leaf"],
            "random_state": seed,
        }
        if self.task.kind == "regression":
            return RandomForestRegressor(max_features=1 / 3, **settings)
        return RandomForestClassifier(**settings)
