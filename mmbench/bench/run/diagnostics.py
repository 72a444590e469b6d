"""What a method shows of itself, with what it was not told itself."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from mmbench.datamodule import DataModule
from mmbench.diagnostics import Diagnostic, Recovery, Retrieval
from mmbench.method import Method

PROBED = 100  # samples whose recovered embeddings are compared with the true ones


def diagnostics(method: Method, data: DataModule, device: torch.device) -> dict[str, Diagnostic]:
    """All that a method shows after evaluation.

    Args:
        method: Evaluated just now.
        data: Its data.
        device: Where it lies.

    Returns:
        What `Method.diagnostics` gives, with names and labels put to the queries of a retrieval;
        under the regime `full_access`, `recovery` of those that say what they recover.
    """
    parts = {name: with_truth(one, data) for name, one in method.diagnostics().items()}
    recovered = recovery(method, data, device)
    return parts if recovered is None else {**parts, "recovery": recovered}


def with_truth(diagnostic: Diagnostic, data: DataModule) -> Diagnostic:
    """Put names and labels to the queries of a retrieval, which a method knows by opaque ids."""
    if not isinstance(diagnostic, Retrieval):
        return diagnostic
    test, train = data.split("test"), data.split("train").samples
    rows = test.rows_of(torch.from_numpy(diagnostic.query)).numpy()
    label = None
    if data.task.kind in ("single_label", "multi_label"):
        order = np.argsort(train.sample_id)
        known = diagnostic.neighbour >= 0
        ids = np.where(known, diagnostic.neighbour, train.sample_id[0])
        place = np.searchsorted(train.sample_id, ids, sorter=order)
        theirs = train.target[order[place]]
        label = label_agreement(test.samples.target[rows], theirs)
        label = np.where(known, label, np.nan).astype(np.float32)
    return replace(diagnostic, query=test.samples.sample_id[rows], label=label)


@torch.no_grad()
def recovery(method: Method, data: DataModule, device: torch.device) -> Recovery | None:
    """What is put in the place of hidden modalities of training samples, beside what is true.

    None where nothing is known to be true (any regime but `full_access`), or nothing recovered.
    """
    method.eval()
    parts: dict[str, list[Tensor]] = {}
    left = PROBED
    for batch in data.batches("train"):
        if batch.teacher is None or left <= 0:
            break
        rows = (batch.teacher.presence & ~batch.presence).any(1).nonzero().squeeze(1)[:left]
        if not len(rows):
            continue
        some = batch.take(rows).to(device)
        teacher = some.teacher
        assert teacher is not None
        made, true = method.completed(replace(some, teacher=None)), method.completed(teacher)
        for name, x in made.items():
            lacks = teacher.has(name) & ~some.has(name)
            parts.setdefault(name, []).append(torch.stack([x[lacks], true[name][lacks]]))
        left -= len(rows)
    if not parts:
        return None
    widest = max(part.shape[2] for each in parts.values() for part in each)
    both = {name: torch.cat(each, 1) for name, each in parts.items()}
    # narrower modalities end in zeros
    flat = torch.cat(
        [torch.nn.functional.pad(x, (0, widest - x.shape[2])) for x in both.values()], 1
    )
    recovered, true_ones = flat.float().cpu().numpy()
    names = np.repeat(np.array(list(both)), [x.shape[1] for x in both.values()])
    return Recovery(modality=names, recovered=recovered, true=true_ones)


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
