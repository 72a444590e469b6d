"""The library under the command line."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from sweeps import suite

import mmbench
from mmbench.bench.record import read_predictions
from mmbench.bench.spec import load_suite


@pytest.fixture
def words():
    """A suite of two methods as a mapping."""
    return suite().model_dump()


def test_importing_the_library_and_planning_imports_no_torch():
    code = (
        "import sys, mmbench\n"
        "assert 'pandas' not in sys.modules and 'pydantic' not in sys.modules\n"
        "assert mmbench.__version__ and {'Sweep', 'load'} <= set(dir(mmbench))\n"
        "sweep = mmbench.Sweep('quickstart', 'seeds=2')\n"
        "assert len(sweep.status()) == len(sweep.specs)\n"
        "print([m for m in ('torch', 'lightning', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_the_package_says_its_version_and_nothing_that_it_does_not_have():
    assert mmbench.__version__ == version("mmbench")
    with pytest.raises(AttributeError, match="no attribute 'Sweeep'"):
        mmbench.Sweeep  # noqa: B018


def test_a_suite_is_a_name_a_path_or_a_mapping(tmp_path, words):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(words))
    by_path = mmbench.Sweep(file, "seeds=3", results=tmp_path)
    by_mapping = mmbench.Sweep(words, "seeds=3", results=tmp_path)
    assert by_path.specs == by_mapping.specs
    assert by_path.folder == by_mapping.folder == tmp_path / "tiny-limit64"
    assert mmbench.Sweep("quickstart").suite == load_suite("quickstart")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": [{"name": "zero_fill", "args": {"dimm": 3}}]}, "did you mean 'dim'"),
        ({"data": [{"name": "mfeat", "args": {"modalities": ["fuo"]}}]}, "no modality named 'fuo'"),
        ({"data": [{"name": "mfeat", "folds": [0, 99]}]}, "fold 99 was asked for"),
        ({"select": {"metric": "r2"}}, "does not fit mfeat"),
        ({"trainer": {"max_epoch": 3}}, "did you mean 'max_epochs'"),
    ],
)
def test_a_plan_refuses_what_a_run_refuses(tmp_path, words, change, message):
    for verb in ("plan", "run"):
        with pytest.raises(ValueError, match=message):
            getattr(mmbench.Sweep(words | change, results=tmp_path), verb)()
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_sweep_gives_frames_and_its_method_predicts_what_its_run_predicted(tmp_path, words):
    sweep = mmbench.Sweep(words, "keep_weights=true", results=tmp_path)
    plan = sweep.plan()
    assert plan[["runs", "finished"]].sum().tolist() == [2, 0]
    with pytest.raises(ValueError, match="no finished run"):
        sweep.leaderboard()
    status = sweep.run(workers=1)
    assert set(status["state"]) == {"done"}
    assert (status["seconds"] > 0).all()
    assert sweep.plan()["finished"].sum() == 2
    assert set(sweep.records()["method"]) == {"majority", "zero_fill"}
    assert set(sweep.leaderboard("macro_f1")["method"]) >= {"majority", "zero_fill"}
    assert not sweep.robustness().empty
    assert sweep.report().is_file()
    with pytest.raises(ValueError, match="no metric 'acc'"):
        sweep.leaderboard("acc")

    for run in sweep.runs():
        trained = mmbench.load(run)
        for condition in ("complete", "mcar_0.3"):
            kept = read_predictions(run, condition)
            hidden = ~torch.from_numpy(kept["presence"])
            parts, start = [], 0
            for batch in trained.data.batches("test"):
                rows = slice(start, start := start + len(batch))
                parts.append(trained.predict(batch.hide(hidden[rows])))
            np.testing.assert_allclose(np.concatenate(parts), kept["logits"], rtol=1e-5, atol=1e-6)

    weights = run.folder / "weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match="holds other bytes"):
        mmbench.load(Path(run.folder))
    weights.unlink()
    with pytest.raises(ValueError, match="kept no weights"):
        mmbench.load(str(run.folder))


@pytest.mark.slow
def test_a_loaded_regression_predicts_in_the_units_of_its_targets(tmp_path, words):
    rng = np.random.default_rng(0)
    ids = [f"p{k}" for k in range(60)]
    for name in ("a", "b"):
        values = rng.normal(size=(60, 2))
        pd.DataFrame({"id": ids, "x": values[:, 0], "y": values[:, 1]}).to_csv(
            tmp_path / f"{name}.csv", index=False
        )
    pd.DataFrame({"id": ids, "price": 250_000 + 1000 * rng.normal(size=60)}).to_csv(
        tmp_path / "labels.csv", index=False
    )
    files = {"a": "a.csv", "b": "b.csv"}
    args = {"files": files, "labels": "labels.csv", "task": "regression", "target": "price"}
    change = {"data": [{"name": "table", "args": args}], "select": {"metric": "mae"}}
    more = {"methods": ["zero_fill"], "keep_weights": True}
    sweep = mmbench.Sweep(words | change | more, results=tmp_path / "r", data_root=tmp_path)
    assert set(sweep.run(workers=1)["state"]) == {"done"}
    [run] = sweep.runs()
    trained = mmbench.load(run, data_root=tmp_path)
    found = np.concatenate([trained.predict(one) for one in trained.data.batches("test")])
    assert found.dtype == np.float64
    assert (abs(found - 250_000) < 10_000).all()
    np.testing.assert_allclose(found, read_predictions(run, "complete")["logits"], rtol=1e-6)

    with (tmp_path / "a.csv").open("a") as file:
        file.write("p60,1,1\n")
    with pytest.raises(ValueError, match="is not what"):
        mmbench.load(run, data_root=tmp_path)
