"""Logistic: one logistic regression on the features of all modalities side by side.

Paper: none; what a table of numbers is first given to.
Notation: a row = features of all modalities, imputed, then presence (B, M); C = strength of
regularisation of that name, chosen on validation.
Differences from the paper: none. For a regression it is ridge regression.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mmbench.estimator import Estimator
from mmbench.method import Paper


class Logistic(Estimator):
    """Logistic or ridge regression on one imputed row a sample; see `Estimator`."""

    paper = Paper("Logistic regression on all features (baseline)")
    settings: ClassVar[tuple[Mapping[str, Any], ...]] = tuple(
        {"strength": 10.0**power} for power in range(-4, 4)
    )

    def estimator(self, seed: int, **setting: Any) -> Any:
        """Features of variance 1, then the regression; nothing in it is random."""
        strength = setting["strength"]
        if self.task.kind == "regression":
            return make_pipeline(StandardScaler(), Ridge(alpha=1 / strength))
        return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000))
