"""Words that no suite may hold: each kind is refused in one line, by a plan as by a run."""

import json
import sys

import pytest
import yaml
from sweeps import suite

from mmbench.cli import main
from mmbench.config import load_config

WORDS = suite().model_dump(exclude={"limit", "keep_weights"})
HUGE = 10**400
RATE = (
    "scenarios=[{name: s, train: {mechanism: mcar, missing_rate: %s}, "
    "test: {mechanism: mcar, missing_rate: 0.1}}]"
)


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """Whether a plan and a run of these words end in exit code 2 with a line that holds a text."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(WORDS))

    def check(message, *words):
        before = sorted(tmp_path.rglob("*"))
        for verb in ("plan", "run"):
            monkeypatch.setattr(sys, "argv", ["mmbench", verb, *words])
            with pytest.raises(SystemExit) as end:
                main()
            said = capsys.readouterr()
            assert end.value.code == 2, said.out
            assert message in said.err
            assert said.err.startswith("error: ")
            assert said.err.count("\n") == 1
            assert len(said.err) < 600
            assert sorted(tmp_path.rglob("*")) == before

    return check


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("select=5", "select: input should be a valid dictionary"),
        ("select=0", "select: input should be a valid dictionary"),
        ("select=macro_f1", "select: input should be a valid dictionary"),
        ("select=null", "select: input should be a valid dictionary"),
        ("trainer=5", "trainer: input should be a valid dictionary"),
        ("encoders=efficientnet_lite0", "encoders: input should be a valid dictionary"),
        ("methods=[{name: zero_fill, args: 5}]", "methods.0.args: input should be a valid dict"),
        ("methods=[[zero_fill]]", "methods.0: input should be a valid dictionary"),
        ("methods=[{class_path: zero_fill, init_args: 3}]", "methods.0.args: input should be"),
        ("scenarios=[{name: s, train: 5, test: 5}]", "train: must be a mapping such as"),
        ("encoders={image: 5}", "encoders.image must be the name of a backbone, or a mapping"),
    ],
)
def test_a_word_where_a_mapping_is_wanted_is_refused(refused, word, message):
    refused(message, "tiny.yaml", word)


def method(name, **args):
    return "methods=" + json.dumps([{"name": name, "args": args}])


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (method("zero_fill", dim=0), "ZeroFill: dim: input should be greater than or equal to 1"),
        (method("zero_fill", dim=-1), "dim: input should be greater"),
        (method("zero_fill", dim=10**12), "dim: input should be less than or equal to 16384"),
        (method("zero_fill", dropout=1.5), "dropout: input should be less than 1"),
        (method("zero_fill", dropout=-0.1), "dropout: input should be greater"),
        (method("zero_fill", lr=0), "lr: input should be greater than 0"),
        (method("zero_fill", lr=1e9), "lr: input should be less"),
        (method("fuse_moe", experts=0), "experts: input should be greater"),
        (method("momke", depth=10**9), "depth: input should be less than or equal to 256"),
        (method("mmformer", tokens=-3), "tokens: input should be greater"),
        (method("corr_kd", contrast=-1), "contrast: input should be greater"),
        (method("redeem", warm_epochs=10**9), "warm_epochs: input should be less"),
        (method("random_forest", trees=0), "trees: input should be greater"),
        ("encoders={vector: {layers: 1000000000}}", "layers of an encoder must be in 0..256"),
        ("encoders={vector: {layers: -1}}", "layers of an encoder must be in 0..256"),
        ("encoders={vector: {dropout: 1.5}}", "dropout of an encoder must be in [0, 1)"),
        ("encoders={vector: {dropout: '0.1'}}", "dropout of an encoder must be a number"),
        ("encoders={dropout: x}", "dropout of an encoder must be a number"),
        ("encoders={vector: {layers: true}}", "layers of an encoder must be a whole number"),
        ("encoders={vector: {layers: 1.5}}", "layers of an encoder must be a whole number"),
        ("encoders={vector: {frozen: 1}}", "frozen of an encoder must be true or false"),
        (method("zero_fill", dim=True), "dim: input should be a valid integer"),
        (method("zero_fill", dim="8"), "dim: input should be a valid integer"),
        (method("zero_fill", lr="1e-3"), "lr: input should be a valid number"),
        ("seeds=[true]", "seeds.0: input should be a valid integer"),
        ("seeds=-3", "seeds: N asks for N of them, at least 1, found -3"),
        ("data=[{name: synthetic, args: {n_val: 1000000000}}]", "n_val: input should be less"),
        ("data=[{name: synthetic, args: {data_seed: -1}}]", "data_seed: input should be greater"),
        ("data=[{name: synthetic, args: {width: 1000000000000}}]", "width"),
    ],
)
def test_a_size_that_cannot_be_meant_is_refused(refused, word, message):
    refused(message, "tiny.yaml", word)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (method("mmformer", heads=3), "mmformer on mfeat: 3 heads cannot share a width of 128"),
        (method("momke", dim=9, heads=2), "momke on mfeat: 2 heads cannot share"),
        (method("cp_imoe", drop="redundand"), "there is no expert 'redundand' to drop"),
        (method("moe_retriever", use_intra=False, use_inter=False), "nothing to fill a gap with"),
        (method("ragpt", insert_at=9), "prompts cannot enter at layer 9"),
        (method("mmformer", dim=16384, depth=256), "weights would be trained, more than 4,000,"),
        (method("fuse_moe", experts=20_000, dim=4096, hidden=4096), "weights would be trained"),
    ],
)
def test_what_a_constructor_refuses_is_refused_before_any_run(refused, word, message):
    refused(message, "tiny.yaml", word)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("gradient_clip_val=-1", "gradient_clip_val must be above 0"),
        ("gradient_clip_val=x", "gradient_clip_val"),
        ("accumulate_grad_batches=0", "accumulate_grad_batches must be above 0"),
        ("check_val_every_n_epoch=0", "check_val_every_n_epoch must be above 0"),
        ("devices=0", "trainer.devices: input should be greater than or equal to 1"),
        ("devices=auto", "trainer.devices: input should be a valid integer"),
        ("num_nodes=2", "num_nodes cannot be set: a run stays on one machine"),
        ("limit_train_batches=0", "leaves nothing to train"),
        ("limit_train_batches=-1", "limit_train_batches"),
        ("max_steps=0", "leaves nothing to train"),
        ("max_steps=-7", "max_steps"),
        ("max_time=x", "not a valid duration"),
        ("max_time='00:00:00:00'", "leaves nothing to train"),
        ("max_time={seconds: -5}", "leaves nothing to train"),
        ("max_time={}", "leaves nothing to train"),
        ("min_epochs=-1", "min_epochs must be above 0"),
        ("min_epochs=2", "min_epochs: 2 is more than trainer.max_epochs, 1"),
        ("gradient_clip_algorithm=norm", "needs trainer.gradient_clip_val"),
        ("precision=7", "no precision 7 for trainer.precision; choose from 32,"),
        ("precision=32.0", "no precision 32.0"),
        ("precision=64-true", "no precision '64-true'"),
        ("precision=bf16-true", "no precision 'bf16-true'"),
        ("accelerator=[cpu]", "no accelerator ['cpu']"),
        ("accelerator=gpuu", "did you mean 'gpu'?"),
        ("strategy=fsdp", "trainer.strategy: input should be 'auto' or 'ddp'"),
        ("log_every_n_steps=x", "trainer.log_every_n_steps: input should be a valid integer"),
        ("deterministic=maybe", "trainer.deterministic"),
        ("overfit_batches=3", "overfit_batches cannot be set"),
    ],
)
def test_a_trainer_that_cannot_be_had_is_refused(refused, word, message):
    refused(message, "tiny.yaml", f"trainer.{word}")


@pytest.mark.parametrize(
    "word",
    [
        "accumulate_grad_batches='2'",
        "accumulate_grad_batches=true",
        "check_val_every_n_epoch=true",
        "gradient_clip_val=true",
        "limit_train_batches='1'",
        "limit_train_batches=true",
        "limit_val_batches=true",
        "max_steps=true",
        "max_steps='3'",
        "val_check_interval=true",
        "deterministic=1",
        "detect_anomaly='yes'",
    ],
)
def test_a_text_or_a_truth_in_the_place_of_a_number_is_not_guessed_at(refused, word):
    name = word.partition("=")[0]
    refused(f"trainer.{name}", "tiny.yaml", f"trainer.{word}")


def test_a_training_cannot_have_both_fewer_and_more_steps(refused):
    words = ("trainer.min_steps=40", "trainer.max_steps=30", "trainer.batch_size=64")
    refused("min_steps: 40 is more than trainer.max_steps, 30", "tiny.yaml", *words)


def test_half_precision_that_a_cpu_would_compute_in_another_is_refused(refused):
    words = ("trainer.precision=16-mixed", "trainer.accelerator=cpu")
    refused("a CPU computes 16-mixed in bfloat16", "tiny.yaml", *words)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("limit_val_batches=0", "leaves nothing to select an epoch by"),
        ("limit_val_batches=0.0", "leaves nothing to select an epoch by"),
        ("limit_val_batches=false", "limit_val_batches"),
        ("limit_val_batches=1e-9", "limit_val_batches: 1e-09 of "),
        ("limit_val_batches=-1", "limit_val_batches"),
        ("limit_val_batches=2.5", "limit_val_batches"),
        ("limit_val_batches=[0]", "limit_val_batches"),
        ("callbacks=[]", "callbacks cannot be set: one of ours selects the epoch"),
        ("callbacks={}", "callbacks cannot be set"),
        ("callbacks=lightning.pytorch.callbacks.Timer", "callbacks cannot be set"),
        ("callbacks=[{class_path: a.B}]", "callbacks cannot be set"),
        ("callbacks=false", "callbacks cannot be set"),
        ("logger=false", "trainer.logger"),
        ("logger=true", "trainer.logger"),
        ("logger=[]", "trainer.logger"),
        ("logger=[csv, wandb]", "trainer.logger"),
        ("logger={class_path: a.B}", "trainer.logger"),
        ("plugins=[]", "plugins cannot be set"),
        ("limit_test_batches=0", "limit_test_batches cannot be set"),
        ("limit_predict_batches=1", "limit_predict_batches cannot be set"),
    ],
)
def test_a_trainer_without_what_every_run_rests_on_is_refused(refused, word, message):
    refused(message, "tiny.yaml", f"trainer.{word}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["check_val_every_n_epoch=2"], "(1 epochs of 22), before the first validation after 44"),
        (["check_val_every_n_epoch=1000000000"], "look at trainer.check_val_every_n_epoch"),
        (["check_val_every_n_epoch=4", "max_epochs=3"], "after 66 batches (3 epochs of 22)"),
        (["check_val_every_n_epoch=3", "min_steps=34"], "after 44 batches (2 epochs of 22)"),
        (["max_steps=21"], "after 21 batches (1 epochs of 22), before the first validation"),
        (["max_steps=8", "accumulate_grad_batches=2"], "training would end after 16 batches"),
        (["val_check_interval=23"], "23 is more than the 22 batches of an epoch"),
        (["check_val_every_n_epoch=2", "val_check_interval=0.5"], "first validation after 33"),
        (["limit_train_batches=5", "val_check_interval=6"], "6 is more than the 5 batches"),
        (["limit_train_batches=0.01"], "limit_train_batches: 0.01 of 22 batches leaves none"),
        (["max_steps=6", "limit_train_batches=7"], "look at trainer.limit_train_batches, trainer"),
    ],
)
def test_a_training_that_would_end_before_an_epoch_is_validated_is_refused(refused, words, message):
    refused(message, "tiny.yaml", "trainer.batch_size=64", *(f"trainer.{word}" for word in words))


def test_the_epochs_of_a_stage_count_where_it_has_its_own(refused):
    warm = method("flex_moe", dim=8, general_epochs=1)
    words = ("trainer.max_epochs=4", "trainer.check_val_every_n_epoch=2", "trainer.batch_size=64")
    refused("training would end after 22 batches", "tiny.yaml", warm, *words)


@pytest.mark.parametrize(
    "words",
    [
        ["check_val_every_n_epoch=2", "max_epochs=2"],
        ["check_val_every_n_epoch=3", "min_steps=45"],
        ["max_steps=22"],
        ["val_check_interval=22"],
        ["val_check_interval=0.5", "max_steps=11"],
        ["check_val_every_n_epoch=2", "val_check_interval=0.5", "max_epochs=2"],
        ["limit_val_batches=1"],
    ],
)
def test_a_training_with_one_validation_is_planned(tmp_path, monkeypatch, capsys, words):
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(WORDS))
    monkeypatch.chdir(tmp_path)
    words = [f"trainer.{word}" for word in ("batch_size=64", *words)]
    monkeypatch.setattr(sys, "argv", ["mmbench", "plan", "tiny.yaml", *words])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code, capsys.readouterr().err


def test_a_trainer_of_another_machine_is_planned(tmp_path, monkeypatch, capsys):
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(WORDS))
    monkeypatch.chdir(tmp_path)
    placed = ("accelerator=gpu", "precision=bf16-mixed", "strategy=ddp")
    words = [f"trainer.{word}" for word in placed]
    monkeypatch.setattr(sys, "argv", ["mmbench", "plan", "tiny.yaml", *words])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    assert capsys.readouterr().err == ""


def test_more_devices_than_this_machine_has_are_refused_before_any_run(refused, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    more = "trainer.devices=3"
    refused("a run asks for 3, and this machine has 2 GPUs", "tiny.yaml", more)
    monkeypatch.setattr("mmbench.bench.executors.local.cores", lambda: 2)
    here = "this machine has 2 cores"
    refused(here, "tiny.yaml", more, "trainer.accelerator=cpu")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("methods=[mmbench.method.Method]", "Method in "),
        ("methods=[mmbench.prompting.PromptMethod]", "leaves forward to classes that derive"),
        ("methods=[mmbench.estimator.Estimator]", "cannot be built"),
        ("data=[mmbench.datamodule.DataModule]", "leaves describe, load to classes that derive"),
        ("methods=[mmbench.single_modality.SingleModality]", "SingleModality"),
    ],
)
def test_a_class_that_is_no_more_than_a_base_is_refused(refused, word, message):
    refused(message, "tiny.yaml", word)


@pytest.mark.parametrize("number", [-1, 2**32, 10**15, 2**63, 10**400])
@pytest.mark.parametrize("place", ["seeds", "mask_seed", "folds"])
def test_a_seed_beyond_what_generators_take_is_refused(refused, place, number):
    if place == "mask_seed":
        natural = '{"mechanism": "natural"}'
        word = f"scenarios=[{{name: s, mask_seed: {number}, train: {natural}, test: {natural}}}]"
    else:
        word = f"{place}=[{number}]"
    refused(place if abs(number) < 2**63 else "number beyond", "tiny.yaml", word)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("methods=[{name: zero_fill, class_path: a.B}]", "methods.0.class_path and name say the"),
        ("methods=[{class_path: a.B, args: {}, init_args: {}}]", "init_args and args say the same"),
        ("methods=[{class_path: a.B, name: a.B}]", "class_path and name"),
        ("methods=[{class_path: a.B, args: {dim: 3}}]", "init_args and args"),
        ("data=[{name: mfeat, class_path: a.B}]", "data.0.class_path and name"),
    ],
)
def test_two_names_of_one_entry_are_refused(refused, word, message):
    refused(message, "tiny.yaml", word)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("methods.0=zero_fill", "write the whole list"),
        ("methods.0.name=zero_fill", "write the whole list"),
        ("data={name: mfeat}", "write the whole list"),
        ("data.name=mfeat", "write the whole list"),
        ("scenarios={train: 5}", "write the whole list"),
        ("seeds={a: 1}", "write the whole list"),
        ("select=[a]", "write the whole list"),
        ("name={a: b}", "name: input should be a valid string"),
        ("methods=[{name: {a: b}}]", "methods.0.name: input should be a valid string"),
        ("trainer.max_epochs={a: 1}", "trainer.max_epochs: input should be a valid integer"),
        ("select.metric.a=5", "select.metric: input should be a valid string"),
        ("data=[{name: mfeat, args: {modalities: {a: b}}}]", "modalities: input should be"),
    ],
)
def test_a_mapping_where_a_word_or_a_list_is_wanted_is_refused(refused, word, message):
    refused(message, "tiny.yaml", word)


@pytest.mark.parametrize(
    ("args", "where"),
    [
        ("files: {on: a.csv}", "data.0.args.files has the key True"),
        ("yes: x", "data.0.args has the key True"),
        ("files: {a: {b: [{no: 1}]}}", "data.0.args.files.a.b.0 has the key False"),
        ("1: x", "data.0.args has the key 1"),
        ("1.5: x", "data.0.args has the key 1.5"),
        ("null: x", "key type 'NoneType'"),
        ("[a]: x", "found unhashable key"),
    ],
)
def test_a_key_that_is_no_text_is_refused_at_any_depth(refused, tmp_path, args, where):
    rest = yaml.safe_dump({key: value for key, value in WORDS.items() if key != "data"})
    (tmp_path / "keys.yaml").write_text(f"{rest}data: [{{name: mfeat, args: {{{args}}}}}]\n")
    refused(where, "keys.yaml")
    if "key True" in where:
        refused("YAML reads on, off, yes and no as true and false", "keys.yaml")


def test_the_key_on_of_a_selection_needs_no_quotes(tmp_path):
    (tmp_path / "on.yaml").write_text("select: {metric: accuracy, on: last}\n")
    found = load_config(tmp_path / "on.yaml", kind="suite")["select"]
    assert suite(select=found).select.on == "last"


@pytest.mark.parametrize(
    ("word", "secret"),
    [
        ("name=${oc.env:SECRET_OF_MINE}", True),
        ("about=${oc.env:SECRET_OF_MINE,none}", True),
        ("about=a${oc.decode:${oc.env:SECRET_OF_MINE}}b", True),
        ("about=${${name}:SECRET_OF_MINE}", True),
        ("about=${oc.${name}:SECRET_OF_MINE}", True),
        ("methods=[{name: zero_fill, label: '${oc.env:SECRET_OF_MINE}'}]", True),
        ("data=[{name: mfeat, args: {modalities: ['${oc.env:SECRET_OF_MINE}']}}]", True),
        ("about=${nothing}", False),
        ("about=${about}", False),
        ("about=${", False),
    ],
)
def test_what_would_copy_the_environment_into_a_record_is_refused(
    refused, monkeypatch, word, secret
):
    monkeypatch.setenv("SECRET_OF_MINE", "hunter2")
    refused("a value of your environment" if secret else "cannot be read", "tiny.yaml", word)


def test_a_reference_to_another_key_is_followed():
    words = load_config({"a": {"b": 3}, "c": "${a.b}", "d": "${a.${e}}", "e": "b"}, kind="suite")
    assert (words["c"], words["d"]) == (3, 3)


@pytest.mark.parametrize(
    "word",
    [
        "about=" + "[" * 2000 + "]" * 2000,
        "encoders=" + "{a: " * 40 + "1" + "}" * 40,
        "trainer=" + "[{a: " * 20 + "1" + "}]" * 20,
        ".".join("a" * 500) + "=1",
        "methods=[{name: zero_fill, args: " + "{a: " * 200 + "1" + "}" * 200 + "}]",
    ],
)
def test_words_that_are_nested_too_deeply_are_refused(refused, word):
    refused("nested deeper than 32 levels", "tiny.yaml", word)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 3000 + "]" * 3000, "nested deeper than 32 levels"),
        ("{a: " * 100_000, "nested deeper than 32 levels"),
        ("&x [*x]", "recursive aliases"),
        ("&x {a: [*x]}", "recursive aliases"),
        # nine to the power of twelve words in a few lines
        (
            "\n  - &a0 [x,x,x,x,x,x,x,x,x]\n"
            + "".join(f"  - &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)),
            "more than 1000000 values",
        ),
    ],
)  # fmt: skip
def test_a_file_that_is_nested_too_deeply_or_expands_without_end_is_refused(
    refused, tmp_path, text, message
):
    (tmp_path / "deep.yaml").write_text(f"{yaml.safe_dump(WORDS)}more: {text}\n")
    refused(message, "deep.yaml")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (RATE % HUGE, "scenarios.0.train.missing_rate is a number beyond"),
        (RATE % "1e400", "missing_rate is inf, no finite number"),
        (RATE % ".nan", "missing_rate is nan, no finite number"),
        (RATE % "-.inf", "missing_rate is -inf, no finite number"),
        (RATE % ("9" * 5000), "holds a number of 5000 digits"),
        (RATE % "-1", "must be a share from 0 to 1"),
        ("seeds=1000000000", "above 100"),
        ("seeds=[-1]", "seeds.0: input should be greater than or equal to 0"),
        (f"trainer.max_epochs=-{HUGE}", "trainer.max_epochs is a number beyond"),
        ("trainer.max_epochs=0x" + "f" * 5000, "trainer.max_epochs is a number beyond"),
        ("methods=[{name: zero_fill, args: {lr: .inf}}]", "methods.0.args.lr is inf"),
        (f"methods=[{{name: zero_fill, args: {{dim: {HUGE}}}}}]", "args.dim is a number beyond"),
        (f"limit={HUGE}", "limit is a number beyond"),
    ],
)
def test_a_number_that_is_too_large_or_none_is_refused(refused, word, message):
    refused(message, "tiny.yaml", word)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x00", "is no YAML"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"- a", "is no suite"),
        (b"5", "cannot be read"),
        (b"", "the key 'name' is missing"),
        (b"name: x\nname: y\n", "found duplicate key name"),
        (b"!!python/object/apply:os.system [x]", "is no YAML (line 1)"),
        (b"--- a\n--- b", "is no YAML (line 2)"),
    ],
)
def test_a_file_that_holds_no_suite_is_refused(refused, tmp_path, content, message):
    (tmp_path / "odd.yaml").write_bytes(content)
    refused(message, "odd.yaml")


@pytest.mark.parametrize("name", ["x" * 300, "x/" * 3000, "a\nb.yaml", ".", "", "tiny.yaml/x"])
def test_a_name_that_no_suite_can_have_is_refused(refused, name):
    refused("no suite", name)


def test_a_rate_that_the_gaps_of_the_data_forbid_is_refused_before_any_training(refused):
    grid = "{mechanism: mcar, missing_rate: [0.0, 0.6]}"
    words = ("data=[tabler]", "methods=[majority]")
    refused(
        "test mcar_0.6: missing rate 0.6 cannot be reached on these samples",
        "tiny.yaml",
        *words,
        f"scenarios=[{{name: s, train: {{mechanism: mcar, missing_rate: 0.3}}, test: {grid}}}]",
    )


@pytest.mark.parametrize(
    ("rate", "message"),
    [
        ("0.3, capped: 1", "capped must be true or false, found 1"),
        ("{text: 0.3}, capped: true", "capped goes with one missing_rate for all modalities"),
    ],
)
def test_whether_a_rate_is_capped_is_a_truth_and_of_one_rate(refused, rate, message):
    mcar = f"{{mechanism: mcar, missing_rate: {rate}}}"
    refused(message, "tiny.yaml", f"scenarios=[{{name: s, train: {mcar}, test: {mcar}}}]")
