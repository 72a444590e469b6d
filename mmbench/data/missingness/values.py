"""What a mechanism may look at: one number a modality, and one of the target."""

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from mmbench.data.mapped import chunks
from mmbench.data.samples import Samples


def modality_value(samples: Samples, modality: str) -> Float[np.ndarray, " sample"]:
    """Sum up the value of a modality in one raw number: the mean of all its values.

    Padding has no part in it. Token ids mean nothing as numbers; their value is the number of
    tokens (integer inputs with lengths are token ids). It is linear in the values, so a
    Gaussian modality has a Gaussian value.

    Returns:
        Any real number; NaN where the sample lacks the modality by nature.
    """
    values = samples.inputs[modality]
    present = samples.presence[:, samples.modalities.index(modality)]
    lengths = samples.lengths.get(modality)
    if lengths is not None and np.issubdtype(values.dtype, np.integer):
        return np.where(present, lengths, np.nan)
    mean = np.full(len(samples), np.nan)
    features = tuple(range(1, values.ndim))
    for part in chunks(values):
        rows = part.start + np.flatnonzero(present[part])
        x = values[rows]
        if lengths is None:
            mean[rows] = x.mean(axis=features, dtype=np.float64)
            continue
        valid = np.arange(x.shape[1]) < lengths[rows][:, None]
        valid = np.broadcast_to(valid.reshape(*valid.shape, *[1] * (x.ndim - 2)), x.shape)
        total = np.where(valid, x, 0).sum(axis=features, dtype=np.float64)
        mean[rows] = total / np.maximum(valid.sum(axis=features), 1)
    return mean


def modality_values(samples: Samples) -> Float[np.ndarray, "sample modality"]:
    """Value of every modality, NaN where absent by nature."""
    return np.stack([modality_value(samples, name) for name in samples.modalities], axis=1)


def label_value(samples: Samples) -> Float[np.ndarray, " sample"]:
    """Sum up the target in one raw number: the class number, or the mean over the outputs."""
    target: NDArray[np.float64] = samples.target.astype(np.float64)
    if target.ndim > 1:
        target = target.reshape(len(target), -1).mean(axis=1)
    return target
