"""Suites: strict keys, overrides, keys of runs."""

import json
from dataclasses import replace

import pytest

from mmbench.bench.plan import plan
from mmbench.bench.spec import RunSpec, Suite, bind, labels, load_suite, parse, suites
from mmbench.method import Method

SUITE = """
name: tiny
data: [mfeat]
methods: [zero_fill, {name: shaspec, args: {dim: 8}}]
scenarios:
  - name: s
    train: {mechanism: mcar, missing_rate: 0.3}
    test: {mechanism: mcar, missing_rate: [0.0, 0.3]}
seeds: 2
select: {metric: accuracy, on: val}
"""


@pytest.fixture
def suite_file(tmp_path):
    file = tmp_path / "tiny.yaml"
    file.write_text(SUITE)
    return file


def test_a_suite_is_read_with_its_overrides(suite_file):
    suite = load_suite(str(suite_file), ["seeds=[4,5]", "trainer.max_epochs=3", "trainer.lr=1e-3"])
    assert suite.seeds == [4, 5]
    assert suite.trainer.max_epochs == 3
    assert suite.trainer.model_dump()["lr"] == 0.001  # a number, not the word "1e-3"
    assert suite.select.on == "val"


def test_an_override_may_replace_a_list(suite_file):
    assert [m.name for m in load_suite(str(suite_file), ["methods=[majority]"]).methods] == [
        "majority"
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("seedz=3", "unknown key 'seedz'; did you mean 'seeds'"),
        ("select.metrik=f1", "unknown key 'select.metrik'; did you mean 'metric'"),
        ("seeds=[]", "seeds is empty"),
        ("seeds=0", "seeds: N asks for N of them, at least 1, found 0"),
        ("seeds=1111", r"write seeds=\[N\]"),
        (f"seeds={10**400}", "a number beyond"),
        ("folds=101", r"write folds=\[N\]"),
        ("data=[{name: mfeat, folds: 1000000000}]", r"write folds=\[N\]"),
        ("seeds=[-1]", "seeds.0: input should be greater than or equal to 0"),
        (f"seeds=[{2**32}]", "seeds.0: input should be less than 4294967296"),
        ("folds=[-1]", "folds.0: input should be greater than or equal to 0"),
        (f"trainer.max_epochs={10**400}", "trainer.max_epochs is a number beyond"),
        ("trainer.batch_size=0", "trainer.batch_size: input should be greater than or equal to 1"),
        ("trainer.threads=0", "trainer.threads: input should be greater than or equal to 1"),
        ("seeds=abc", "seeds: "),
        ("trainer.max_epochs=0", "trainer.max_epochs: "),
        ("data=[]", "data is empty"),
        ("costs={image: 0}", "costs.image: input should be greater than 0, found 0"),
        ("costs={image: yes}", "costs.image: input should be a valid number, found True"),
        ("name=a/b", "name: "),
        ("select.on=test", "select.on: "),
        ("--workers", "is no override"),
    ],
)
def test_a_wrong_suite_is_refused_in_one_line(suite_file, change, message):
    with pytest.raises(ValueError, match=message) as error:
        load_suite(str(suite_file), [change])
    assert "\n" not in str(error.value)


def test_what_is_no_yaml_is_refused(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text("name: [unclosed\n")
    with pytest.raises(ValueError, match=r"is no YAML \(line") as error:
        load_suite(str(file))
    assert "\n" not in str(error.value)
    file.write_text("- a\n- b\n")
    with pytest.raises(ValueError, match="must be a mapping"):
        load_suite(str(file))


def test_an_unknown_suite_is_refused_with_a_suggestion():
    with pytest.raises(ValueError, match="did you mean 'quickstart'"):
        load_suite("quikstart")


def test_every_built_in_suite_can_be_planned():
    for name in suites():
        runs = plan(load_suite(name))
        assert runs, name
        assert len({spec.folder for spec in runs}) == len(runs)


def test_the_key_depends_on_what_can_change_a_result_and_on_nothing_else(suite_file):
    spec = plan(load_suite(str(suite_file)))[0]
    for change in ({"seed": 9}, {"fold": 1}, {"method_args": {"dim": 9}}, {"limit": 5}):
        assert replace(spec, **change).key != spec.key
    accelerator = {**spec.trainer_args, "accelerator": "gpu"}
    for change in (
        {"method_label": "x"},
        {"data_label": "y"},
        {"keep_weights": True},
        {"trainer_args": accelerator},
    ):
        assert replace(spec, **change).key == spec.key


def test_what_modalities_cost_belongs_to_no_run(suite_file):
    costly = load_suite(str(suite_file), ["costs={image: 5, text: 1.5}"])
    assert costly.costs == {"image": 5.0, "text": 1.5}
    assert plan(costly) == plan(load_suite(str(suite_file)))


def test_a_spec_survives_json(suite_file):
    for spec in plan(load_suite(str(suite_file))):
        again = RunSpec.from_json(json.loads(json.dumps(spec.to_json())))
        assert again.key == spec.key
        assert again.folder == spec.folder


def test_the_plan_is_ordered_and_complete(suite_file):
    runs = plan(load_suite(str(suite_file)))
    assert [(r.seed, r.method) for r in runs] == [
        (0, "zero_fill"),
        (0, "shaspec"),
        (1, "zero_fill"),
        (1, "shaspec"),
    ]


def test_labels_name_the_arguments_only_where_a_name_is_used_twice():
    suite = parse(
        Suite,
        {
            "name": "x",
            "data": "mfeat",
            "methods": ["shaspec", {"name": "shaspec", "args": {"alpha": 0}}, "zero_fill"],
            "scenarios": ["complete"],
            "seeds": 1,
        },
        "x",
    )
    assert labels(suite.methods) == ["shaspec", "shaspec(alpha=0)", "zero_fill"]
    with pytest.raises(ValueError, match="two entries of the suite are called"):
        labels([suite.methods[0], suite.methods[0]])


def test_a_data_set_may_have_other_folds_than_the_suite(suite_file):
    data = "data=[mfeat,{name: rosmap, folds: 3},{name: cmu_mosi, folds: [2, 4]}]"
    runs = plan(load_suite(str(suite_file), [data]))
    found = [(spec.data, spec.fold) for spec in runs[::4]]  # two methods, two seeds
    wanted = [("mfeat", 0), *(("rosmap", k) for k in range(3)), ("cmu_mosi", 2), ("cmu_mosi", 4)]
    assert found == wanted
    assert len(runs) == 4 * 6
    with pytest.raises(ValueError, match=r"data.0.folds: N asks for N of them, at least 1"):
        load_suite(str(suite_file), ["data=[{name: rosmap, folds: 0}]"])
    with pytest.raises(ValueError, match=r"unknown key 'data.0.fold'; did you mean 'folds'"):
        load_suite(str(suite_file), ["data=[{name: rosmap, fold: 2}]"])


def test_a_folder_name_is_safe_whatever_the_label():
    spec = RunSpec(
        method="m", data="d", scenario={"name": "s"}, method_label="<script>/../x", data_label="a b"
    )
    assert spec.folder.parts[:3] == ("a_b", "s", "_script_.._x")


class Parent(Method):
    def __init__(self, task, *, lr: float = 0.1):
        super().__init__(task, lr=lr)


class Child(Parent):
    def __init__(self, task, *, sizes: tuple[int, ...] = (1,), **common):
        super().__init__(task, **common)


def test_arguments_are_checked_against_the_constructor_and_the_bases_it_passes_them_to():
    assert bind(Child, {"sizes": [1, 2], "lr": 1}, given=("task",)) == {"sizes": (1, 2), "lr": 1.0}
    with pytest.raises(ValueError, match="Child: unknown key 'size'; did you mean 'sizes'"):
        bind(Child, {"size": 3}, given=("task",))
    with pytest.raises(ValueError, match="Child: lr: "):
        bind(Child, {"lr": "fast"}, given=("task",))
    with pytest.raises(ValueError, match="unknown key 'task'"):
        bind(Child, {"task": 1}, given=("task",))
