"""What a paper needs beside its numbers: from what classes declare, read by others' tools."""

import json
import re
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest
from published import published_board
from typer.testing import CliRunner

from datamodules.mfeat import Mfeat
from mmbench import __version__
from mmbench.bench import every_eval
from mmbench.bench.spec import load_suite
from mmbench.cards import about, citation, croissant, markdown
from mmbench.cli.app import app
from mmbench.data.masks import PresenceTable
from mmbench.data.missingness.fixed import Natural
from mmbench.data.samples import SPLITS
from mmbench.data.scenario import Scenario
from mmbench.datamodule import Source
from mmbench.method import Paper
from mmbench.methods.zero_fill import ZeroFill
from mmbench.registry import DATASETS, METHODS

# what mlcroissant reads JSON-LD with
pytestmark = pytest.mark.filterwarnings("ignore:ConjunctiveGraph is deprecated")
SHIPPED = ["gaussian", "mfeat", "openmoji", "synthetic", "tabler"]
ENTRY = re.compile(r"@misc\{([A-Za-z0-9_.:-]+),\n((?:  \w+ = \{.*\},\n)+)\}\n")


def ran(*words, code=0):
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == code, done.output
    return done.output


def refused(*words):
    with pytest.raises(ValueError, match=r".") as error:
        CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert "\n" not in str(error.value)
    return str(error.value)


def data(name, **args):
    laid = Scenario("nothing", Natural(), Natural(), (Natural(),))
    return DATASETS.get(name)(Path("no-data"), laid, **args)


# --- citations ----------------------------------------------------------------------------------


def test_every_method_is_cited_as_its_file_says_or_says_that_there_is_nothing_to_cite():
    for name in METHODS.names():
        cls = METHODS.get(name)
        found = citation.of_method(name, cls)
        assert found.exists == ("(baseline)" not in cls.paper.title), name
        if not found.exists:
            assert found.bibtex() == f"% {name}: {cls.paper.title}\n"
            continue
        key, fields = ENTRY.fullmatch(found.bibtex()).groups()
        assert key == name
        assert "author = {" in fields, name  # each file names them
        assert f"year = {{{cls.paper.year}}}" in fields
        assert cls.paper.title in found.text()


def test_authors_are_those_of_the_file_and_et_al_is_others():
    entry = citation.of_method("moe_retriever", METHODS.get("moe_retriever")).bibtex()
    assert "author = {Yun and Xin and others}," in entry
    assert (
        "author = {Breiman},"
        in citation.of_method("random_forest", METHODS.get("random_forest")).bibtex()
    )
    assert citation._authors("Greene, Cope and Orwell") == ("Greene", "Cope", "Orwell")


class Odd(ZeroFill):
    """Odd names.

    Paper: O'Neil et al., "Sets {of} 100 % & more", X 2020.
    """

    paper = Paper("Sets {of} 100 % & more_", "X #1", 2020, "https://a.b/c_d")


class OddData(Mfeat):
    """Odd terms."""

    source = Source(citation="A & B, 50 % off", url="see https://a.b/c; and https://d.e")


def test_what_bibtex_would_obey_is_escaped():
    found = citation.of_method("my-package/odd name", Odd).bibtex()
    key, fields = ENTRY.fullmatch(found).groups()
    assert key == "my-package:odd:name"
    assert r"title = {{Sets \{of\} 100 \% \& more\_}}," in fields
    assert r"howpublished = {X \#1}," in fields
    assert "url = {https://a.b/c_d}," in fields
    found = citation.of_data("odd", OddData).bibtex()
    assert r"note = {A \& B, 50 \% off}," in found
    assert "url = {https://a.b/c}," in found


def test_a_suite_cites_the_program_and_each_work_once(tmp_path):
    text = ran("card", "quickstart", "--format", "bibtex")
    suite = load_suite("quickstart")
    keys = [key for key, _ in ENTRY.findall(text)]
    assert keys[0] == "mmbench"
    assert len(keys) == len(set(keys))
    names = {one.name for one in (*suite.methods, *suite.data)}
    commented = set(re.findall(r"^% (\S+): ", text, flags=re.MULTILINE))
    assert {*keys[1:], *commented} == names
    assert "synthetic" in commented
    ran("card", "quickstart", "--format", "bibtex", "--out", str(tmp_path / "new" / "r.bib"))
    assert (tmp_path / "new" / "r.bib").read_text() == text


# --- cards --------------------------------------------------------------------------------------


def test_a_card_of_a_method_has_its_differences_its_bounds_and_what_is_searched():
    text = ran("card", "shaspec")
    cls = METHODS.get("shaspec")
    assert "Both auxiliary losses leave missing entries out" in text
    for name, draw in cls.search.items():
        (row,) = [line for line in text.splitlines() if line.startswith(f"| {name} ")]
        assert str(draw.low) in row
    assert "2 to any number" in text or "1 to any number" in text
    assert "Wang et al." in text


def test_every_method_has_a_card():
    for name in METHODS.names():
        text = markdown.of_a_method(name, METHODS.get(name))
        assert text.startswith(f"# {name}\n"), name
        assert "## Where it applies" in text


def test_a_card_of_data_says_what_is_missing_and_the_doubts():
    text = markdown.of_a_data_set("tabler", data("tabler"))
    share = 1 - data("tabler").samples("test").presence[:, 1].mean()
    row = next(line for line in text.splitlines() if line.startswith("| filled"))
    assert row.split("|")[-2].strip() == f"{share:.3f}"
    assert "## Split" in text


def test_a_card_of_a_suite_says_how_it_was_trained_and_what_ran(tmp_path):
    text = ran("card", "quickstart", "seeds=2", "--results", str(tmp_path))
    suite = load_suite("quickstart")
    assert all(one.name in text for one in (*suite.methods, *suite.data))
    assert "trainings are planned" in text
    assert f"by {suite.select.metric} on val" in text


def test_paragraphs_are_found_by_their_labels():
    said = about.paragraphs(DATASETS.get("mfeat"))
    assert said["Classes"] == "the digits 0 to 9, 200 samples each."
    assert said["Split"].startswith("ours, 140 / 30 / 30 of each digit")
    assert said["Sanity"].startswith("Sanity, accuracy of a logistic regression")
    assert about.arguments(METHODS.get("shaspec"))["dim"] == "D, width of features."


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["shapsec"], "no method, data set or suite is named 'shapsec'; did you mean 'shaspec'"),
        (["shaspec", "dim=3"], "'dim=3' is an argument of data"),
        (["shaspec", "--format", "croissant"], "shaspec is a method; Croissant describes data"),
        (["quickstart", "--format", "croissant"], "name one of its data sets, openmoji"),
        (["none.csv"], "one form: --format croissant"),
        (["none.csv", "--format", "croissant"], "cannot be read as a presence table"),
        (["none.yaml"], "no suite named 'none.yaml'"),
    ],
)
def test_mistakes_are_one_line_that_says_what_to_do(words, message):
    assert message in refused("card", *words)


# --- Croissant ----------------------------------------------------------------------------------


def read_by_mlcroissant(text, folder):
    """What the format's own reader makes of a description; it refuses what is not valid."""
    import mlcroissant

    path = folder / "croissant.json"
    path.write_text(text, encoding="utf-8")
    found = mlcroissant.Dataset(jsonld=path)
    assert not found.metadata.ctx.issues.errors
    return found


@pytest.mark.parametrize("name", SHIPPED)
def test_a_description_of_data_is_valid_and_says_what_there_is(name, tmp_path):
    given = {"n_train": 30, "n_val": 20, "n_test": 20} if name in ("gaussian", "synthetic") else {}
    made = data(name, **given)
    found = read_by_mlcroissant(croissant.of_data_set(name, made), tmp_path)
    meta = found.metadata
    assert meta.name == name
    assert meta.license == [made.source.licence]
    assert meta.cite_as == made.source.citation
    modalities = [*found.records("modalities")]
    assert [row["modalities/name"] for row in modalities] == [*made.task.names]
    sizes = {row["splits/name"]: row["splits/samples"] for row in found.records("splits")}
    assert sizes == {split: len(made.samples(split)) for split in SPLITS}
    missing = meta.data_collection_missing_data
    assert all(f"{split}: {len(made.samples(split))} samples" in missing for split in SPLITS)
    assert [one.sha256 for one in meta.file_objects] == [made.source.checksum][
        : bool(made.source.checksum)
    ]


def test_natural_gaps_stand_in_the_field_for_missing_data(tmp_path):
    made = data("tabler")
    found = read_by_mlcroissant(croissant.of_data_set("tabler", made), tmp_path)
    share = 1 - made.samples("train").presence[:, 1].mean()
    assert f"filled {share:.4f}" in found.metadata.data_collection_missing_data
    rows = {row["modalities/name"]: row for row in found.records("modalities")}
    assert rows["filled"]["modalities/missing_train"] == pytest.approx(share, abs=1e-6)
    counts = sum(row["single_label/train"] for row in found.records("single_label"))
    assert counts == len(made.samples("train"))


def test_a_presence_table_is_described_with_its_checksum_and_its_rows(tmp_path):
    table = PresenceTable(
        ("a", "b"), np.array([7, 1, 2, 3, 4]),
        np.array([[1, 1], [0, 1], [1, 0], [1, 1], [1, 1]], bool),
        {"mechanism": "mcar", "missing_rate": 0.2},
    )  # fmt: skip
    table.save(tmp_path / "masks.csv")
    text = ran("card", str(tmp_path / "masks.csv"), "--format", "croissant")
    described = read_by_mlcroissant(text, tmp_path)
    (file,) = described.metadata.file_objects
    assert file.content_url == "masks.csv"
    rows = pd.DataFrame([*described.records("presence")])
    written = pd.read_csv(tmp_path / "masks.csv", comment="#").add_prefix("presence/")
    pd.testing.assert_frame_equal(rows, written, check_like=True)
    assert "0.2000 of the entries are hidden" in described.metadata.data_collection_missing_data
    assert json.loads(text)["rai:dataManipulationProtocol"].endswith('"missing_rate": 0.2}')


def test_a_presence_table_without_samples_is_refused(tmp_path):
    empty = PresenceTable(("a", "b"), np.zeros(0, np.int64), np.zeros((0, 2), bool))
    empty.save(tmp_path / "masks.csv")
    message = refused("card", str(tmp_path / "masks.csv"), "--format", "croissant")
    assert "holds no sample to describe" in message


def test_a_description_of_no_known_kind_is_refused_by_the_reader(tmp_path):
    whole = json.loads(croissant.of_data_set("mfeat", data("mfeat")))
    del whole["@type"]
    with pytest.raises(Exception, match="Dataset"):
        read_by_mlcroissant(json.dumps(whole), tmp_path)


# --- results for collections --------------------------------------------------------------------

TEXT, NUMBER = {"type": "string"}, {"type": "number"}
DETAILS = {"type": "object", "additionalProperties": TEXT}


def fields(required, **others):
    """An object with these fields and no other."""
    return {
        "type": "object",
        "properties": required | others,
        "required": [*required],
        "additionalProperties": False,
    }


BOUND = {"oneOf": [NUMBER, {"enum": ["Infinity", "-Infinity"]}, {"type": "null"}]}
RESULT = fields(
    {
        "evaluation_name": TEXT,
        "source_data": {
            "oneOf": [
                fields(
                    {
                        "dataset_name": TEXT,
                        "source_type": {"const": "url"},
                        "url": {"type": "array", "items": TEXT, "minItems": 1},
                    }
                ),
                fields({"dataset_name": TEXT, "source_type": {"const": "other"}}),
            ]
        },
        "metric_config": fields(
            {
                "lower_is_better": {"type": "boolean"},
                "score_type": {"const": "continuous"},
                "min_score": BOUND,
                "max_score": BOUND,
            },
            metric_id=TEXT,
            metric_name=TEXT,
        ),
        "score_details": fields(
            {"score": NUMBER},
            details=DETAILS,
            uncertainty=fields(
                {},
                num_samples={"type": "integer"},
                confidence_interval=fields(
                    {"lower": NUMBER, "upper": NUMBER},
                    confidence_level={"type": "number", "minimum": 0, "maximum": 1},
                    method=TEXT,
                ),
            ),
        ),
    },
    evaluation_result_id=TEXT,
)
# the fields of version 0.3.0 as documented, as far as they concern what is no language model
SCHEMA = fields(
    {
        "schema_version": {"const": "0.3.0"},
        "evaluation_id": TEXT,
        "retrieved_timestamp": {"type": "string", "pattern": r"^\d+$"},
        "source_metadata": fields(
            {
                "source_type": {"enum": ["documentation", "evaluation_run"]},
                "source_organization_name": TEXT,
                "evaluator_relationship": {
                    "enum": ["first_party", "third_party", "collaborative", "other"]
                },
            },
            source_name=TEXT,
        ),
        "eval_library": fields({"name": TEXT, "version": TEXT}),
        "model_info": fields(
            {
                "name": TEXT,
                "id": {"type": "string", "pattern": "^[^/]+/[^/]+$"},
                "additional_details": {
                    **DETAILS,
                    "properties": {
                        "deployment_type": {
                            "enum": ["self_deployed", "externally_managed", "unknown"]
                        },
                        "model_availability": {
                            "enum": ["open_weights", "closed_weights", "unknown"]
                        },
                    },
                    "required": ["deployment_type", "model_availability"],
                },
            },
            developer=TEXT,
        ),
        "evaluation_results": {"type": "array", "items": RESULT},
    }
)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return published_board("quickstart", tmp_path_factory.mktemp("board"))


def exported(board, **changes):
    given = {"version": __version__, "sources": {"mfeat": "https://a.b"}, "retrieved": 1000}
    return every_eval.exported(board, "quickstart", **given | changes)


def test_results_have_the_fields_of_the_schema_and_every_score(published, tmp_path):
    records = exported(published)
    for path in every_eval.write_export(records, tmp_path):
        record = json.loads(path.read_text())
        jsonschema.validate(record, SCHEMA)
    assert len(records) == published["method"].nunique()
    count = sum(len(record["evaluation_results"]) for record in records.values())
    assert count == published["mean"].notna().sum()
    (record,) = [r for r in records.values() if r["model_info"]["id"] == "mmbench/shaspec"]
    row = published[(published["method"] == "shaspec") & published["mean"].notna()].iloc[3]
    name = f"{row.data} / {row.scenario} / {row.condition} / {row.metric}"
    (found,) = [r for r in record["evaluation_results"] if r["evaluation_result_id"] == name]
    assert found["score_details"]["score"] == row["mean"]
    interval = found["score_details"]["uncertainty"]["confidence_interval"]
    assert (interval["lower"], interval["upper"]) == (row.ci_low, row.ci_high)
    kinds = {
        r["source_data"]["dataset_name"]: r["source_data"] for r in record["evaluation_results"]
    }
    assert kinds["mfeat"]["url"] == ["https://a.b"]
    assert kinds["synthetic"]["source_type"] == "other"


def test_the_schema_of_the_test_can_fail(published):
    record = next(iter(exported(published).values()))
    record["evaluation_results"][0]["score_details"]["details"]["n_seeds"] = 3
    with pytest.raises(jsonschema.ValidationError, match="3 is not of type 'string'"):
        jsonschema.validate(record, SCHEMA)


def test_a_loss_is_better_if_lower_and_the_same_results_have_the_same_name(published):
    records = exported(published)
    assert exported(published).keys() == records.keys()
    for record in records.values():
        for result in record["evaluation_results"]:
            config = result["metric_config"]
            if config["metric_id"] in ("accuracy", "log_loss"):
                assert config["lower_is_better"] == (config["metric_id"] == "log_loss")
    with pytest.raises(ValueError, match="nothing to export"):
        exported(published.assign(mean=np.nan))
