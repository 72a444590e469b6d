"""Results for collections of results: the schema of Every Eval Ever, version 0.3.0.

One file a method, `SUITE/DEVELOPER/METHOD/ID.json`, with an entry for each data set, scenario,
condition and metric that has a score. The schema was made for language models; what it asks about
prompts, judges and prices does not apply and is left out, as the schema allows. What it has no
field for (missing rates, ranks, trainings) stands in `score_details.details`, as text, as it asks.
"""

import json
import re
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from mmbench.bench.record import IPW
from mmbench.config import JSON
from mmbench.metrics.metric import higher_is_better
from mmbench.store import write_text

VERSION = "0.3.0"
DETAILS = (
    "mechanism", "missing_rate_nominal", "missing_rate_realised", "incomplete_rate_realised",
    "inside_rate_realised", "std_seeds", "n_seeds", "rank", "p_vs_best", "bayes", "sources",
)  # fmt: skip
LEVEL = 0.95  # of intervals in a leaderboard


def exported(
    board: pd.DataFrame,
    suite: str,
    *,
    version: str,
    sources: Mapping[str, str],
    retrieved: int,
    organization: str = "unknown",
) -> dict[Path, dict[str, JSON]]:
    """A leaderboard as records of that schema.

    Args:
        board: From `mmbench.bench.leaderboard.leaderboard`, or read back from its CSV file.
        suite: Name of the suite.
        version: Of mmbench.
        sources: Data set -> where it comes from; those without an address are called so.
        retrieved: When the records are made, in seconds since 1970.
        organization: Who ran it.

    Returns:
        Path below a folder -> record; the same results at the same time give the same.

    Raises:
        ValueError: If there is no score.
    """
    scored = board[board["mean"].notna()]
    if scored.empty:
        raise ValueError("no run of the suite has a score yet, so there is nothing to export")
    records = {}
    for (method, variant), part in scored.groupby(["method", "variant"], sort=False):
        developer, _, name = str(method).rpartition("/")
        name = name if variant == "paper" else f"{name}-{variant}"
        developer, model = _plain(developer or "mmbench"), _plain(name)
        rows: Any = part.itertuples(index=False)
        record: dict[str, JSON] = {
            "schema_version": VERSION,
            "evaluation_id": f"{suite}/{developer}_{model}/{retrieved}",
            "retrieved_timestamp": str(retrieved),
            "source_metadata": {
                "source_name": suite,
                "source_type": "evaluation_run",
                "source_organization_name": organization,
                "evaluator_relationship": "other",
            },
            "eval_library": {"name": "mmbench", "version": version},
            "model_info": {
                "name": str(method),
                "id": f"{developer}/{model}",
                "developer": developer,
                "additional_details": {
                    "deployment_type": "self_deployed",
                    "model_availability": "unknown",
                    "variant": str(variant),
                },
            },
            "evaluation_results": [_result(row, sources) for row in rows],
        }
        number = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(record, sort_keys=True))
        records[Path(_plain(suite), developer, model, f"{number}.json")] = record
    return records


def write_export(records: Mapping[Path, Mapping[str, JSON]], folder: Path) -> list[Path]:
    """Write the records into a folder; returns their paths."""
    for path, record in records.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        write_text(folder / path, json.dumps(record, indent=1, allow_nan=False) + "\n")
    return [folder / path for path in records]


def _result(row: Any, sources: Mapping[str, str]) -> dict[str, JSON]:
    address = sources.get(row.data, "")
    place = {"source_type": "url", "url": [address]} if address else {"source_type": "other"}
    uncertainty: dict[str, JSON] = {"num_samples": int(row.n_seeds)}
    if pd.notna(row.ci_low):
        uncertainty["confidence_interval"] = {
            "lower": float(row.ci_low),
            "upper": float(row.ci_high),
            "confidence_level": LEVEL,
            "method": "Student's t over trainings",
        }
    details = {
        name: str(getattr(row, name))
        for name in DETAILS
        if hasattr(row, name) and pd.notna(getattr(row, name)) and str(getattr(row, name))
    }
    name = f"{row.data} / {row.scenario} / {row.condition}"
    return {
        "evaluation_result_id": f"{name} / {row.metric}",
        "evaluation_name": name,
        "source_data": {"dataset_name": row.data, **place},
        "metric_config": {
            "metric_id": row.metric,
            "metric_name": row.metric,
            "lower_is_better": not higher_is_better(row.metric.removesuffix(IPW)),
            "score_type": "continuous",
            "min_score": None,
            "max_score": None,
        },
        "score_details": {
            "score": float(row.mean),
            "details": details,
            "uncertainty": uncertainty,
        },
    }


def _plain(text: str) -> str:
    return re.sub(r"[^\w.+-]+", "_", text)
