"""What a method shows of itself, with what it was not told itself."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray

from mmbench.datamodule import DataModule


def with_truth(
    shown: Mapping[str, NDArray[np.generic]], data: DataModule
) -> dict[str, NDArray[np.generic]]:
    """Put names and labels to the queries of a retrieval, which a method knows by opaque ids.

    Args:
        shown: Diagnostics of a method after evaluation.
        data: Its data.

    Returns:
        The same arrays. `retrieved_query_id` (n,) holds the ids of the test samples; beside
        `retrieved_train_id` (n, K) there is `retrieved_label_agreement` (n, K), 1 = the same
        class, for several labels the share of those of either that both have; not for regression.
    """
    found = dict(shown)
    if "retrieved_query_id" not in found:
        return found
    test, train = data.split("test"), data.split("train").samples
    rows = test.rows_of(torch.from_numpy(found["retrieved_query_id"])).numpy()
    found["retrieved_query_id"] = test.samples.sample_id[rows]
    if data.task.kind != "regression" and "retrieved_train_id" in found:
        order = np.argsort(train.sample_id)
        place = np.searchsorted(train.sample_id, found["retrieved_train_id"], sorter=order)
        theirs = train.target[order[place]]
        found["retrieved_label_agreement"] = label_agreement(test.samples.target[rows], theirs)
    return found


def label_agreement(
    target: NDArray[Any], theirs: NDArray[Any]
) -> Float[np.ndarray, "query neighbour"]:
    """1 = the same class; for several labels, those in common over those of either.

    Args:
        target: (query,) classes or (query, label) 0 / 1.
        theirs: The same of each query's neighbours, (query, neighbour) or with labels.
    """
    if target.ndim == 1:
        return np.asarray(theirs == target[:, None], np.float32)
    both = np.minimum(theirs, target[:, None]).sum(2)
    either = np.maximum(theirs, target[:, None]).sum(2)
    share = np.divide(both, either, out=np.ones(both.shape), where=either > 0)
    return np.asarray(share, np.float32)
