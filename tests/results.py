"""Records of runs that never were: whole ones, of which a test says what it is about."""

from mmbench.bench.result import SCHEMA, Asked, ConditionResult, Cost, Result, Selection
from mmbench.data.missingness.measure import Dependence, Realised

NOTHING = Realised(0.0, 0.0, 0.0, 0.0, {})


def condition(*, missing=0.0, incomplete=0.0, **changes):
    """A test condition with realised rates."""
    said = {
        "mechanism": "mcar",
        "missing_rate_nominal": 0.0,
        "realised": Realised(missing, incomplete, 0.0, missing, {}),
        "dependence": Dependence(0.0, {}),
        "n": 10,
        "samples": "same",
        "effective_n": None,
        "scores": {},
        "bayes": {},
        "bayes_se": {},
    }
    return ConditionResult(**said | changes)


def result(kind, conditions, *, modalities=(), cost=None, rising=False, **changes):
    """A record of some test conditions; `cost` and the rest replace what it says otherwise."""
    costs = {
        "params_total": 7,
        "params_trainable": 6,
        "flops_per_sample": None,
        "train_s": 2.0,
        "eval_s": 1.0,
        "infer_ms_per_sample": 0.5,
        "infer_ms_std": 0.1,
        "peak_mib": 100.0,
        "energy_j": None,
        "flops_per_pattern": None,
    }
    said = {
        "schema": SCHEMA,
        "task": Asked(kind=kind, outputs=(), modalities=tuple(modalities)),
        "target_scale": None,
        "selected": Selection(
            epoch=0, score=0.5, epochs=1, rising=rising, metric="accuracy", on="val"
        ),
        "stages": (),
        "train": NOTHING,
        "notes": (),
        "conditions": conditions,
        "cost": Cost(**costs | (cost or {})),
        "code": "0.1",
        "sources": {"mmbench.method": "a"},
        "distributions": {},
        "machine": "one",
    }
    return Result(**said | changes)
