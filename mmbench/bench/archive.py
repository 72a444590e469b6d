"""One small file of a suite's results, from which all tables can be made again.

A zip file of plain JSON and parquet, no pickle:

manifest.json        format, version of mmbench, name of the suite, checksum of every other member
suite.json, content.json, search.json    as they lie in the folder of results
runs.parquet         a row a run: how it ended, and its specification, record and environment
samples.parquet      what runs have in common: targets, masks and ids of a test condition, as npz
predictions.parquet  a row a run and condition: outputs in float16, or in float32 where those of
                     a regression or of survival, or larger ones, would lose by it; none of trials
                     that others outdid
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmbench.bench.content import FILE as CONTENT
from mmbench.bench.home import FILE as SUITE
from mmbench.bench.record import (
    ENDS,
    RECORD_ALONE,
    STATES,
    Run,
    find_run,
    finish,
    read_predictions,
)
from mmbench.bench.result import FILE as RECORD
from mmbench.bench.result import read_result
from mmbench.bench.spec import PLACEMENT, RunSpec
from mmbench.bench.tuning import FILE as SEARCH
from mmbench.bench.tuning import joined
from mmbench.config import JSON
from mmbench.store import (
    attempt,
    damage,
    identity,
    publish,
    write_arrays,
    write_file,
    write_json,
    write_text,
)  # fmt: skip

FORMAT = 1
FILE = "archive.zip"
MANIFEST = "manifest.json"
SAME_TIME = (1980, 1, 1, 0, 0, 0)  # the same runs give the same bytes
TOGETHER = 200  # runs whose predictions are held in memory at a time
PARQUET = ("runs.parquet", "samples.parquet", "predictions.parquet")
OUTPUTS = ["half.list.element", "single.list.element"]
BESIDE = (SUITE, CONTENT, SEARCH)


def write_archive(
    runs: Sequence[Run],
    trials: Sequence[Run],
    beaten: Sequence[Run],
    beside: Mapping[str, JSON],
    file: Path,
    *,
    code: str,
) -> int:
    """Write the runs that have ended into one file, by rename.

    Args:
        runs: Planned runs; those that are waiting or damaged are left out.
        trials: Trials of searches that are or may become the best of theirs; those that are planned
            runs, too, are held once.
        beaten: Trials that never will be. No table needs more of them than their records, so that
            predictions, nine tenths of a file, are kept of the others alone.
        beside: Name of a file beside the runs (`BESIDE`) -> what it holds.
        file: To write.
        code: Version of mmbench.

    Returns:
        How many runs it holds.

    Raises:
        ValueError: If no run has ended, or pyarrow is not installed.
    """
    ended = [run for run in runs if run.state in STATES.values()]
    planned = {run.folder for run in ended}  # while a search goes on, its first trial is not
    tried, others = (
        [run for run in some if run.state in STATES.values() and run.folder not in planned]
        for some in (trials, beaten)
    )
    if not (ended or tried or others):
        raise ValueError("no run of the suite has ended, so there is nothing to keep")
    _pyarrow()
    write_file(file, lambda part: _write(ended, tried, others, beside, part, code))
    return len(ended) + len(tried) + len(others)


def _write(
    planned: Sequence[Run],
    trials: Sequence[Run],
    beaten: Sequence[Run],
    beside: Mapping[str, JSON],
    part: Path,
    code: str,
) -> None:
    pa, pq = _pyarrow()
    whole = [*planned, *trials]
    runs = [*whole, *beaten]
    members = {name: json.dumps(held, indent=1).encode() for name, held in beside.items()}
    rows = [{**_row(run), "trial": place >= len(planned)} for place, run in enumerate(runs)]
    members["runs.parquet"] = _parquet(pa.Table.from_pylist(rows))
    samples: dict[str, bytes] = {}
    buffer = io.BytesIO()
    schema = pa.schema(
        [
            ("run", pa.int32()), ("condition", pa.string()), ("samples", pa.string()),
            ("outputs", pa.int32()), ("half", pa.list_(pa.float16())),
            ("single", pa.list_(pa.float32())),
        ]
    )  # fmt: skip
    # outputs are compressed best with their first bytes, signs and sizes, side by side
    split = {"use_dictionary": ["condition", "samples"], "use_byte_stream_split": OUTPUTS}
    with pq.ParquetWriter(buffer, schema, compression="zstd", **split) as writer:
        for start in range(0, len(whole), TOGETHER):
            chunk = enumerate(whole[start : start + TOGETHER], start)
            lines = [row for place, run in chunk for row in _predictions(place, run, samples)]
            if lines:
                writer.write_table(_table(lines, schema))
    members["predictions.parquet"] = buffer.getvalue()
    held = [{"samples": key, "npz": blob} for key, blob in samples.items()]
    kinds = pa.schema([("samples", pa.string()), ("npz", pa.binary())])
    members["samples.parquet"] = _parquet(pa.Table.from_pylist(held, schema=kinds))
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in members.items()}
    manifest = {"format": FORMAT, "code": code, "runs": len(runs), "files": sums}
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {MANIFEST: json.dumps(manifest, indent=1).encode(), **members}.items():
            archive.writestr(zipfile.ZipInfo(name, SAME_TIME), content, zipfile.ZIP_DEFLATED)


def _table(rows: Sequence[dict[str, Any]], schema: Any) -> Any:
    pa, _ = _pyarrow()

    def column(field: Any) -> Any:
        values = [row[field.name] for row in rows]
        if not pa.types.is_list(field.type):
            return pa.array(values, field.type)
        lengths = [0 if value is None else len(value) for value in values]
        whole = [value for value in values if value is not None]
        flat = (
            np.concatenate(whole) if whole else np.empty(0, field.type.value_type.to_pandas_dtype())
        )
        offsets = pa.array(np.cumsum([0, *lengths]).astype(np.int32))
        empty = pa.array([value is None for value in values])
        return pa.ListArray.from_arrays(offsets, pa.array(flat), mask=empty).cast(field.type)

    return pa.Table.from_arrays([column(field) for field in schema], schema=schema)


def _row(run: Run) -> dict[str, JSON]:
    def text(name: str) -> str | None:
        file = run.folder / name
        return file.read_text(encoding="utf-8") if file.is_file() else None

    end = next(end for end in ENDS if (run.folder / end).is_file())
    spec = json.dumps(asdict(run.spec), sort_keys=True)
    return {
        "end": end, "why": run.why, "spec": spec, "record": text(RECORD), "env": text("env.json"),
    }  # fmt: skip


def _predictions(place: int, run: Run, samples: dict[str, bytes]) -> Iterator[dict[str, Any]]:
    if run.state != "done":
        return
    result = read_result(run.folder)
    for condition in result.conditions:
        arrays = read_predictions(run, condition)
        output = arrays.pop("logits")
        rounded = result.task.kind in ("single_label", "multi_label")
        half = output.astype(np.float16) if rounded else None
        fits = half is not None and bool(np.isfinite(half).all())
        yield {
            "run": place,
            "condition": condition,
            "samples": _hold(arrays, samples),
            "outputs": output.shape[1],
            "half": half.ravel() if half is not None and fits else None,
            "single": None if fits else output.astype(np.float32).ravel(),
        }


def _hold(arrays: dict[str, NDArray[Any]], samples: dict[str, bytes]) -> str:
    """Keep what runs have in common once; returns its name."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    key = digest.hexdigest()[:16]
    if key not in samples:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **arrays)
        samples[key] = buffer.getvalue()
    return key


def read_manifest(file: Path) -> dict[str, JSON]:
    """What an archive says of itself, after every member was compared with its checksum.

    Raises:
        ValueError: If it is no archive, of another format, or damaged.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            manifest: dict[str, JSON] = json.loads(archive.read(MANIFEST))
            if manifest["format"] != FORMAT:
                raise ValueError(
                    f"{file} is an archive of format {manifest['format']}, written by mmbench "
                    f"{manifest['code']}; this version reads format {FORMAT}"
                )
            sums = manifest["files"]
            for name in (*sums, *PARQUET):
                if hashlib.sha256(archive.read(name)).hexdigest() != sums[name]:
                    raise ValueError(f"{file} is damaged: {name} holds other bytes")
    except (OSError, zipfile.BadZipFile, KeyError, TypeError, AttributeError, json.JSONDecodeError,
            UnicodeDecodeError, NotImplementedError, EOFError) as error:  # fmt: skip
        raise ValueError(f"{file} is no whole archive of mmbench: {error}") from error
    return manifest


def unpack(
    file: Path, folder: Path, *, scratch: bool = False, only: Sequence[RunSpec] | None = None
) -> list[Run]:
    """Lay an archive's runs out as a folder of results, each whole or not at all.

    Args:
        file: From `write_archive`.
        folder: Of results, such as `results/main`; what lies there stays.
        scratch: Whether none of these runs lies there, and the folder goes away after use, so that
            nothing has to be on the disk before it is read.
        only: Runs to lay out; None = all.

    Returns:
        Its planned runs, where they lie now if they were laid out; trials of searches lie beside.

    Raises:
        ValueError: As `read_manifest`, or if a run that is there has another content.
    """
    manifest = read_manifest(file)
    _, pq = _pyarrow()
    runs = folder / "runs"
    with zipfile.ZipFile(file) as archive:
        tables = {name: pq.ParquetFile(io.BytesIO(archive.read(name))) for name in PARQUET}
        beside = {name: archive.read(name) for name in BESIDE if name in manifest["files"]}
    rows = tables["runs.parquet"].read().to_pylist()
    specs = [RunSpec.from_json(json.loads(row["spec"])) for row in rows]
    samples = {
        row["samples"]: _arrays(row["npz"]) for row in tables["samples.parquet"].read().to_pylist()
    }
    _require_same(specs, rows, runs)
    wanted = {spec.folder for spec in (specs if only is None else only)}
    waiting = {
        place: (spec, row)
        for place, (spec, row) in enumerate(zip(specs, rows, strict=True))
        if spec.folder in wanted
    }
    group: list[dict[str, Any]] = []
    for row in _rows(tables["predictions.parquet"], set(waiting)):
        if group and row["run"] != group[0]["run"]:
            _lay_out(*waiting.pop(group[0]["run"]), group, samples, runs, file, scratch)
            group = []
        group.append(row)
    if group:
        _lay_out(*waiting.pop(group[0]["run"]), group, samples, runs, file, scratch)
    for spec, row in waiting.values():  # failed, or they do not apply
        _lay_out(spec, row, [], samples, runs, file, scratch)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in beside.items():
        _join_file(folder / name, json.loads(content))
    return [find_run(s, runs) for s, row in zip(specs, rows, strict=True) if not row["trial"]]


def _rows(predictions: Any, runs: Set[int]) -> Iterator[dict[str, Any]]:
    for batch in predictions.iter_batches(batch_size=1024):
        columns = {name: batch.column(name) for name in batch.schema.names}
        for i, run in enumerate(batch.column("run").to_pylist()):
            if run not in runs:
                continue
            values = columns["half"][i].values or columns["single"][i].values
            shape = (-1, columns["outputs"][i].as_py())
            yield {
                "run": run,
                "condition": columns["condition"][i].as_py(),
                "samples": columns["samples"][i].as_py(),
                "logits": values.to_numpy(zero_copy_only=False).astype(np.float32).reshape(shape),
            }


def _lay_out(
    spec: RunSpec,
    row: dict[str, Any],
    predictions: Sequence[dict[str, Any]],
    samples: dict[str, dict[str, NDArray[Any]]],
    runs: Path,
    file: Path,
    scratch: bool,
) -> None:
    """Publish one run; what is there and of the same content stays."""
    target = runs / spec.folder
    if row["end"] not in ENDS:
        raise ValueError(f"{file} is damaged: a run cannot end by {row['end']!r}")
    if scratch:
        target.mkdir(parents=True)
        _fill(target, spec, row, predictions, samples, file)
        return
    replaced = identity(target)
    if replaced is not None and (row["end"] != "done" or find_run(spec, runs).state == "done"):
        return
    with attempt(target) as part:
        _fill(part, spec, row, predictions, samples, file)
        publish(part, target, instead_of=replaced)


def _fill(
    part: Path,
    spec: RunSpec,
    row: dict[str, Any],
    predictions: Sequence[dict[str, Any]],
    samples: dict[str, dict[str, NDArray[Any]]],
    file: Path,
) -> None:
    write_json(part / "spec.json", spec.to_json())
    for name, text in ((RECORD, row["record"]), ("env.json", row["env"])):
        if text is not None:
            write_text(part / name, text)
    for each in predictions:
        name = each["condition"]
        if Path(name).name != name or name.startswith("."):
            raise ValueError(f"{file} is damaged: {name!r} is no name of a condition")
        (part / "predictions").mkdir(exist_ok=True)
        arrays = {"logits": each["logits"], **samples[each["samples"]]}
        write_arrays(part / "predictions" / f"{name}.npz", arrays)
    if row["end"] == "done" and not predictions:
        write_text(part / RECORD_ALONE, "")
    why = {"why": row["why"]} if row["why"] else {}
    finish(part, row["end"], {**why, "archived": file.name})


def _arrays(content: bytes) -> dict[str, NDArray[Any]]:
    """Arrays of an npz file in memory; no pickles."""
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _require_same(specs: Sequence[RunSpec], rows: Sequence[dict[str, Any]], runs: Path) -> None:
    """Refuse an archive of which a run lies here with another content."""
    for spec, row in zip(specs, rows, strict=True):
        if row["end"] != "done" or find_run(spec, runs).state != "done":
            continue
        here = json.loads((runs / spec.folder / RECORD).read_text(encoding="utf-8"))
        if _content(here) != _content(json.loads(row["record"])):
            raise _differ(spec)


# --- folders of results -----------------------------------------------------------------------


def merge(into: Path, other: Path) -> int:
    """Join the runs of another folder of results, or of an archive, to a folder.

    Nothing is copied if any run of both has another content.

    Args:
        into: Folder of one suite's results.
        other: Another one of the same suite, or a file from `write_archive`.

    Returns:
        How many runs were added.

    Raises:
        ValueError: If a run is in both with different scores or another epoch, one is damaged, or
            there is nothing to join.
    """
    runs = into / "runs"
    before = set(_ended(runs))
    if other.is_file():
        unpack(other, into)
        return len(set(_ended(runs)) - before)
    ends = _ended(other / "runs")
    if not ends:
        raise ValueError(f"no run has ended in {other / 'runs'}")
    added: list[tuple[Path, Path]] = []
    for where, end in ends.items():
        source, target = other / "runs" / where, runs / where
        if why := damage(source, end, read_up_to=None):
            raise ValueError(f"{source} is damaged: {why}")
        if (target / "done").is_file():
            if end == "done" and _read_content(source) != _read_content(target):
                spec = json.loads((source / "spec.json").read_text(encoding="utf-8"))
                raise _differ(RunSpec.from_json(spec))
        elif end == "done" or not target.exists():
            added.append((source, target))
    for source, target in added:
        replaced = identity(target)
        with attempt(target) as part:
            _copy(source, part)
            publish(part, target, instead_of=replaced)
    for name in BESIDE:
        if (other / name).is_file():
            _join_file(into / name, json.loads((other / name).read_text(encoding="utf-8")))
    return len(added)


def take_up(folder: Path) -> int:
    """Lay out the runs of the archive that a folder of results holds, if no run lies there yet.

    That is how a part of a suite that is published goes on elsewhere. All runs are laid out, or
    none; joining some to others is `merge`.

    Args:
        folder: Of one suite's results.

    Returns:
        How many runs; 0 if there was nothing to do.

    Raises:
        ValueError: As `read_manifest`.
    """
    file, runs = folder / FILE, folder / "runs"
    if runs.exists() or not file.is_file():
        return 0
    with attempt(runs) as part:
        unpack(file, part, scratch=True)
        for name in BESIDE:
            if (part / name).is_file():
                _join_file(folder / name, json.loads((part / name).read_text(encoding="utf-8")))
        taken = len(_ended(part / "runs"))
        return taken if publish(part / "runs", runs) else 0


def _ended(runs: Path) -> dict[Path, str]:
    """Place of each run that has ended -> name of its end mark."""
    return {
        folder.relative_to(runs): end
        for folder in sorted(runs.glob("[!.]*/[!.]*/[!.]*/[!.]*"))
        for end in ENDS
        if (folder / end).is_file()
    }


def _copy(source: Path, part: Path) -> None:
    for file in sorted(source.rglob("*")):
        if file.is_file() and not file.is_symlink() and not file.name.startswith("."):
            copy = part / file.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())


def _read_content(folder: Path) -> JSON:
    return _content(json.loads((folder / RECORD).read_text(encoding="utf-8")))


def _content(record: dict[str, JSON]) -> JSON:
    """What two runs of one key have in common wherever they were made: no time, no machine."""
    return [record["conditions"], record["selected"], record["sources"], record["distributions"]]


def _differ(spec: RunSpec) -> ValueError:
    return ValueError(
        f"{spec.title} (key {spec.key}) is in both with different scores or sources; delete one of "
        "them, or repeat it with --overwrite"
    )


def _join_file(file: Path, other: JSON) -> None:
    """Add what the other folder knows of data and searches; a suite that is here stays."""
    here = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    if here is None:
        write_json(file, other)
    elif file.name == CONTENT:
        write_json(file, {**other, **here})
    elif file.name == SEARCH:
        write_json(file, joined(here, other))


# --- a new method against the rows of an archive ----------------------------------------------


def comparable(mine: Sequence[RunSpec], archived: Sequence[Run]) -> list[Run]:
    """Archived runs to stand beside new ones: on the same data, masks, trainings and seeds.

    Args:
        mine: The new runs.
        archived: From `unpack`.

    Raises:
        ValueError: If there are none, or data, scenario, encoders, training, selection or seeds
            differ, so that a comparison would say nothing of the method.
    """
    names = {spec.method_label for spec in mine}
    tables = {(spec.data_label, spec.scenario_name): spec for spec in mine}
    matches = [
        run
        for run in archived
        if (run.spec.data_label, run.spec.scenario_name) in tables
        and run.spec.method_label not in names
    ]
    if not matches:
        raise ValueError(
            "the archive has no other method on the data and scenarios of these runs; it has "
            + ", ".join(sorted({f"{r.spec.data_label}/{r.spec.scenario_name}" for r in archived}))
        )
    for run in matches:
        spec = tables[run.spec.data_label, run.spec.scenario_name]
        for name in ("data", "content", "scenario", "data_args", "encoders", "select", "limit"):
            _require_equal(name, getattr(spec, name), getattr(run.spec, name), run.spec)
        ours, theirs = (
            {k: v for k, v in one.trainer_args.items() if k not in PLACEMENT}
            for one in (spec, run.spec)
        )
        _require_equal("trainer", ours, theirs, run.spec)
    for name, of in (("seeds", "seed"), ("folds", "fold")):
        ours_of, theirs_of = (
            {getattr(s, of) for s in specs} for specs in (mine, [r.spec for r in matches])
        )
        if ours_of != theirs_of:
            raise ValueError(
                f"the archive has the {name} {sorted(theirs_of)}, these runs {sorted(ours_of)}; "
                f"give {name}={sorted(theirs_of)}"
            )
    return matches


def _require_equal(name: str, mine: JSON, archived: JSON, spec: RunSpec) -> None:
    if mine != archived:
        raise ValueError(
            f"{name} of {spec.data_label} differs from that of the archive: {json.dumps(mine)} "
            f"instead of {json.dumps(archived)}"
        )


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ValueError("an archive needs pyarrow: install the extra `data`") from error
    return pa, pq


def _parquet(table: Any) -> bytes:
    _, pq = _pyarrow()
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()
