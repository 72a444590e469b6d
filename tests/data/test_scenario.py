"""Scenarios: what their YAML form means and what is refused."""

import json
import re

import numpy as np
import pytest

from mmbench.data.masks import PresenceTable
from mmbench.data.missingness.dependent import Mar, MnarLabel
from mmbench.data.missingness.fixed import Natural, Pattern
from mmbench.data.missingness.incomplete import Incomplete
from mmbench.data.missingness.mcar import Mcar
from mmbench.data.missingness.protocol import every_pattern
from mmbench.data.missingness.stream import Stream
from mmbench.data.samples import Samples
from mmbench.data.scenario import Scenario, load_scenario, scenarios

MCAR = {"mechanism": "mcar", "missing_rate": 0.3}
THREE = ("audio", "image", "text")


def parse(**keys):
    return Scenario.parse({"name": "mine", "train": MCAR, "test": MCAR} | keys)


def names_of(**keys):
    return list(parse(**keys).conditions(THREE))


def test_what_is_not_written_is_the_documented_default():
    found = parse()
    assert found == Scenario("mine", Mcar(0.3), Mcar(0.3), (Mcar(0.3),), 0, "withheld")


def test_validation_lacks_what_training_lacks_unless_it_says_otherwise():
    assert parse(train={"mechanism": "natural"}).val == Natural()
    assert parse(val={"mechanism": "mcar", "missing_rate": 0.5}).val == Mcar(0.5)


def test_a_list_is_a_grid_of_conditions_in_its_order():
    test = {"mechanism": "mcar", "missing_rate": [0.5, 0.0, 0.1]}
    assert names_of(test=test) == ["mcar_0.5", "complete", "mcar_0.1"]


def test_two_lists_are_multiplied_out_the_last_fastest():
    test = {"mechanism": "incomplete", "incomplete_rate": [0.2, 1], "missing": ["text", "any"]}
    assert names_of(test=test) == [
        "incomplete_text_0.2", "incomplete_any_0.2", "incomplete_text_1", "incomplete_any_1",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "made", "label"),
    [
        ({"mechanism": "mcar", "missing_rate": 0}, Mcar(0.0), "complete"),
        (
            {"mechanism": "mcar", "missing_rate": {"text": 0.5, "audio": 0.25}},
            Mcar({"text": 0.5, "audio": 0.25}),
            "mcar_text_0.5_audio_0.25",
        ),
        (
            {"mechanism": "mar", "missing_rate": 0.3, "given": "text"},
            Mar(0.3, given="text"),
            "mar_text_0.3",
        ),
        (
            {"mechanism": "mnar_label", "missing_rate": 0.3, "strength": -2},
            MnarLabel(0.3, -2.0),
            "mnar_label_0.3_strength_-2",
        ),
        (
            {"mechanism": "incomplete", "incomplete_rate": 0.7, "missing": "text"},
            Incomplete(0.7, "text"),
            "incomplete_text_0.7",
        ),
        (
            {"mechanism": "pattern", "present": ["audio", "text"]},
            Pattern(("audio", "text")),
            "audio+text",
        ),
        ({"mechanism": "natural"}, Natural(), "natural"),
        (
            {"mechanism": "natural + mcar", "missing_rate": 0.3},
            Natural(Mcar(0.3)),
            "natural+mcar_0.3",
        ),
    ],
)
def test_a_mechanism_and_its_name_as_a_condition(spec, made, label):
    found = parse(train=spec, test=spec)
    assert found.train == made
    assert found.conditions(THREE) == {label: made}
    assert made.mechanism == spec["mechanism"]
    assert re.fullmatch(r"[\w.+-]+", label)


def test_every_pattern_is_every_set_of_modalities_once_the_complete_one_first():
    found = parse(test={"mechanism": "every_pattern"}).conditions(THREE)
    assert list(found) == [
        "complete", "audio+image", "audio+text", "image+text", "audio", "image", "text",
    ]  # fmt: skip
    samples = some_samples()
    drawn = [m.draw(samples, Stream(0, "test"))[0] for m in found.values()]
    assert sorted(map(tuple, drawn)) == sorted(map(tuple, every_pattern(3)[1:]))


def test_conditions_that_hide_nothing_are_one_condition():
    test = [
        {"mechanism": "mcar", "missing_rate": [0.0, 0.3]},
        {"mechanism": "incomplete", "incomplete_rate": [0.0, 0.3], "missing": "text"},
        {"mechanism": "every_pattern"},
        {"mechanism": "mcar", "missing_rate": 0.3},
    ]
    assert names_of(test=test) == [
        "complete", "mcar_0.3", "incomplete_text_0.3",
        "audio+image", "audio+text", "image+text", "audio", "image", "text",
    ]  # fmt: skip


def test_two_different_conditions_of_one_name_are_refused():
    test = [{"mechanism": "mcar", "missing_rate": rate} for rate in (0.3, 0.3 + 1e-9)]
    with pytest.raises(ValueError, match=r"'mine': two test conditions are called 'mcar_0.3'"):
        parse(test=test).conditions(THREE)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"tets": MCAR}, "unknown key 'tets'; did you mean 'test'?; known are about, name, train"),
        ({"regime": "oracle"}, "regime must be one of withheld, full_access, found 'oracle'"),
        ({"mask_seed": "x"}, "mask_seed must be an integer, found 'x'"),
        ({"test": []}, "test is empty; give at least one condition"),
        ({"test": "mcar"}, "test: must be a mapping such as {mechanism: mcar, missing_rate: 0.3}"),
        ({"test": [[MCAR]]}, "test: must be a mapping"),
        ({"train": {"missing_rate": 0.3}}, "train: must be a mapping such as"),
        (
            {"train": {"mechanism": "mcra"}},
            "train: no mechanism named 'mcra'; did you mean 'mcar'?",
        ),
        ({"train": {"mechanism": "mcar"}}, "train: the key 'missing_rate' of mcar is missing"),
        (
            {"train": {"mechanism": "mcar", "missing_rte": 0.3}},
            "train: unknown key 'missing_rte'; did you mean 'missing_rate'?",
        ),
        ({"val": {"mechanism": "natural", "x": 1}}, "val: unknown key 'x'; natural takes no keys"),
        (
            {"train": {"mechanism": "mcar", "missing_rate": [0.1, 0.2]}},
            "train: takes one value, found a list; only test is a grid",
        ),
        ({"train": {"mechanism": "every_pattern"}}, "train: every_pattern is a list of test"),
        (
            {"train": {**MCAR, "mechanism": "mar + mcar"}},
            "at most one mechanism",
        ),
        (
            {"train": {**MCAR, "mechanism": "natural + mcar + mar"}},
            "at most one mechanism",
        ),
        ({"train": {"mechanism": "natural + natural"}}, "natural comes first"),
        ({"test": {"mechanism": "mcar", "missing_rate": 30}}, "test: missing_rate must be a share"),
        ({"test": {"mechanism": "mcar", "missing_rate": "0.3"}}, "missing_rate must be a number"),
        ({"test": {"mechanism": "mcar", "missing_rate": []}}, "missing_rate must be a number"),
        ({"test": {"mechanism": "mcar", "missing_rate": True}}, "missing_rate must be a number"),
        ({"test": {"mechanism": "pattern", "present": "audio"}}, r"present must be a list such as"),
        (
            {"test": {"mechanism": "incomplete", "incomplete_rate": 0.3, "missing": 3}},
            "missing must be a word, found 3",
        ),
    ],
)
def test_mistakes_are_named_in_one_line(keys, message):
    with pytest.raises(ValueError, match=f"^scenario 'mine': .*{re.escape(message)}") as caught:
        parse(**keys)
    assert "\n" not in str(caught.value)


def test_a_scenario_without_name_or_test_is_refused():
    with pytest.raises(ValueError, match="a scenario needs a name, found the keys train"):
        Scenario.parse({"train": MCAR})
    with pytest.raises(ValueError, match="scenario 'mine': the key 'test' is missing"):
        Scenario.parse({"name": "mine", "train": MCAR})


def test_what_the_data_cannot_give_is_refused_by_split():
    with pytest.raises(
        ValueError, match=r"'mine': test mcar_0.6: missing rate 0.6 cannot be reach"
    ):
        parse(test={"mechanism": "mcar", "missing_rate": [0.1, 0.6]}).check(("audio", "text"))
    with pytest.raises(ValueError, match=r"'mine': val: no modality named 'tex'; did you mean"):
        parse(val={"mechanism": "pattern", "present": ["tex"]}).check(("audio", "text"))


# --- names ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(scenarios()))
def test_every_built_in_scenario_fits_two_modalities_and_survives_json(name):
    spec = load_scenario(name)
    assert spec["name"] == name
    assert load_scenario(json.loads(json.dumps(spec))) == spec
    found = Scenario.parse(spec)
    found.check(("image", "text"))
    for condition in found.conditions(("image", "text")):
        assert re.fullmatch(r"[\w.+-]+", condition)


def test_the_papers_scenarios_are_there():
    assert set(scenarios()) >= {
        "complete", "mcar", "every_pattern", "moe_retriever", "redeem_text", "redeem_image",
        "redeem_both", "redeem_rates", "redeem_severe_10", "redeem_severe_50", "mosare_30",
        "mosare_50", "mmformer", "mnar_stress", "cp_imoe_primary_20", "cp_imoe_secondary_80",
        "cp_imoe_random_60",
    }  # fmt: skip


def test_redeem_gives_half_of_the_incomplete_samples_to_each_modality():
    scenario = Scenario.parse(load_scenario("redeem_both"))
    samples = some_samples(1000, ("image", "text"))
    absent = ~scenario.train.draw(samples, Stream(scenario.mask_seed, "train"))
    assert absent.sum(axis=0).tolist() == [350, 350]
    assert scenario.regime == "full_access"


def test_an_unknown_name_suggests_a_close_one():
    with pytest.raises(ValueError, match="no scenario named 'redem_text'; did you mean 'redeem_te"):
        load_scenario("redem_text")


def test_words_that_change_no_mask_are_left_out_when_written_out():
    spec = {"name": "mine", "about": "a line", "train": MCAR, "test": MCAR}
    assert load_scenario(spec) == {"name": "mine", "train": MCAR, "test": [MCAR]}
    assert spec["about"] == "a line"


def test_a_presence_table_is_pinned_by_its_checksum(tmp_path):
    samples = some_samples()
    files = [tmp_path / "a.csv", tmp_path / "b.csv"]
    for file, shown in zip(files, (True, False), strict=True):
        presence = np.ones((4, 3), bool)
        presence[:, 0] = shown
        PresenceTable(THREE, samples.sample_id, presence).save(file)
    train = {"mechanism": "table", "path": str(files[0])}
    test = {"mechanism": "natural + table", "path": [str(file) for file in files]}
    spec = load_scenario({"name": "mine", "train": train, "test": test})
    scenario = Scenario.parse(spec)
    scenario.check(THREE)
    shown = {
        name: condition.draw(samples, Stream(0, "test"))[:, 0].tolist()
        for name, condition in scenario.conditions(THREE).items()
    }
    assert shown == {"natural+table_a": [True] * 4, "natural+table_b": [False] * 4}
    files[0].write_bytes(files[1].read_bytes())
    with pytest.raises(
        ValueError, match=r"train: .*a.csv is not the table that the scenario names"
    ):
        scenario.check(THREE)


def some_samples(n=4, names=THREE):
    return Samples(
        modalities=names,
        inputs={name: np.zeros((n, 2)) for name in names},
        target=np.zeros(n, np.int64),
        sample_id=np.arange(n) + 5,
        presence=np.ones((n, len(names)), bool),
    )
