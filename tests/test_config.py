import inspect
import itertools
import json
import subprocess
import sys
from pathlib import Path

import hydra
import numpy as np
import pytest
import yaml
from omegaconf import OmegaConf

from micro_lit import config, train
from micro_lit.config.annotations import as_json, frozen
from micro_lit.config.rules import FROZEN, frozen_signature
from micro_lit.errors import UserError

CONF = config.config_dir()
GROUPS = (
    "data", "backbone", "model", "model/head", "model/gate", "model/optimizer", "trainer", "logger", "callbacks",
    "report",
)  # fmt: skip
# Experiments of micro_lit.compare.
COMPARISONS = (
    "micro", "protocol_dsp", "protocol_sparse", "protocol_rpr", "protocol_helpsteer2", "people_planted", "people_polis",
    "people_ukp",
)  # fmt: skip
ADDED = ("study", "variant")  # +group=option: no default
# What only the code can pass: data, backbones and sizes are made of other settings.
PASSED = {"row", "rows", "backbone", "names", "references", "params", "width", "num_heads", "stage1", "sources"}


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def choices() -> list[str]:
    added = [f"+{group}={option}" for group in ADDED for option in options(group)]
    return [f"{group}={option}" for group in GROUPS for option in options(group)] + added


def test_every_group_has_options():
    assert len(choices()) > 25


@pytest.mark.parametrize("choice", choices())
def test_every_option_composes_and_fits_the_signatures(choice, settings):
    model = ["model=mixture"] if choice.startswith("model/") else []
    required = {
        "data=pairs": ["data.train=x.parquet"],
        "backbone=hf": ["backbone.model=some/model"],
        "+variant=single_bt_conditional": ["data=planted_features"],
        **{f"+variant={option}": ["model=sparse_moe"] for option in options("variant") if option.startswith("no_")},
    }
    composed = settings(*model, choice, *required.get(choice, []))
    nodes = list(targets(composed))
    assert nodes
    for node in nodes:
        check_signature(node)


@pytest.mark.parametrize("option", options("adaptation"))
def test_every_adaptation_is_a_method_of_the_comparison(option, settings):
    """Called as all are, with margins, users and a prior, it gives weights."""
    given = ["candidates={a: runs/a}", "baseline=a", f"+adaptation@adaptation.mine={option}"]
    method = config.build(settings(*given, config="evaluate")["adaptation"]["mine"])
    weights_UK = method(np.array([[0.5, -0.5, 0.0]]), np.array([0]), np.full((2, 3), 1 / 3))
    np.testing.assert_allclose(weights_UK.sum(axis=1), 1.0)
    np.testing.assert_allclose(weights_UK[1], 1 / 3)


def targets(node):
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else []
    if isinstance(node, dict) and "_target_" in node:
        yield node
    for child in children:
        yield from targets(child)


def check_signature(node: dict) -> None:
    target = hydra.utils.get_object(node["_target_"])
    given = {name for name in node if not name.startswith("_")}
    parameters = {} if inspect.isclass(target) else dict(inspect.signature(target).parameters)
    # The planted sources and SingleBT hand settings on to the class they extend.
    for owner in inspect.getmro(target) if inspect.isclass(target) else ():
        if "__init__" in vars(owner):
            parameters |= inspect.signature(owner.__init__).parameters
            if "settings" not in inspect.signature(owner.__init__).parameters:
                break
    unknown = given - set(parameters)
    assert not unknown, f"{node['_target_']} does not take {unknown}"
    needed = {
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    }
    assert needed - given - PASSED - {"self"} == set()


@pytest.mark.parametrize("experiment", options("experiment"))
def test_every_experiment_says_how_to_run_it(experiment):
    lines = (CONF / "experiment" / f"{experiment}.yaml").read_text().splitlines()
    assert lines[0] == "# @package _global_"
    command = "compare" if experiment in COMPARISONS else "train"
    assert lines[1].startswith(f"# python -m micro_lit.{command} +experiment={experiment}")


@pytest.mark.parametrize("study", options("study"))
def test_every_study_says_how_to_run_it(study):
    lines = (CONF / "study" / f"{study}.yaml").read_text().splitlines()
    assert lines[0] == "# @package _global_"
    comment = list(itertools.takewhile(lambda line: line.startswith("#"), lines))
    assert any(f"python -m micro_lit.train -m +study={study} " in f"{line} " for line in comment)
    assert len(comment) > 2


@pytest.mark.parametrize("variant", options("variant"))
def test_every_variant_says_what_it_is(variant):
    first, second = (CONF / "variant" / f"{variant}.yaml").read_text().splitlines()[:2]
    assert first in ("# @package _global_", "# @package model")
    assert second.startswith("# ")


@pytest.mark.parametrize("variant", ["balance", "centring", "entropy", "label_smoothing", "none"])
def test_a_regulariser_changes_one_number_of_the_model(variant, settings):
    plain, regularised = settings("model=mixture"), settings("model=mixture", f"+variant={variant}")
    changed = {name for name, value in regularised["model"].items() if value != plain["model"][name]}
    assert len(changed) == (variant != "none")
    assert {name for name, value in plain.items() if regularised[name] != value} == ({"model"} if changed else set())


@pytest.mark.parametrize("data", options("data"))
def test_every_data_set_composes_for_floors(data, settings):
    required = {"pairs": ["data.train=x.parquet"]}
    composed = settings(f"data={data}", *required.get(data, []), config="floors")
    assert (composed["name"], composed["split"], composed["packages"]) == ("floors", "all", [])
    for node in targets(composed):
        check_signature(node)


def test_reports_take_the_settings_of_a_sweep(settings):
    composed = settings("runs=[a,b]", config="report")
    assert composed["runs"] == ["a", "b"]
    assert composed["report"] == settings()["report"]
    assert not composed["logger"]
    assert settings("runs=a", "logger=wandb", config="report")["logger"]["wandb"]["name"] == "report-seed0"


@pytest.mark.parametrize(
    ("command", "override", "message"),
    [
        ("floors", "split=some", r"split='some' is not allowed; give one of all, train, validation, test"),
        ("floors", "replicates=0", r"replicates=0 is not allowed; give a whole number of at least 1"),
        ("floors", "seed=-1", r"seed=-1"),
        ("floors", "data=pairs", r"data.train: no value given"),
        ("report", "report.log=1", r"runs: no value given"),
        ("report", "runs=x report.log=1", r"report.log=1 is not allowed; give true or false"),
        ("report", "runs=x report.y=test.nll", r"report.y='test.nll' .* give a list of paths into results.json"),
        ("report", "runs=x report.y=[]", r"report.y=\[\] is not allowed"),
        ("train", "report.y=null", r"report.y=None is not allowed"),
        ("train", "skip_finished=yes", r"skip_finished='yes' is not allowed; give true or false"),
    ],
)
def test_the_rules_of_every_command_hold(command, override, message, settings):
    with pytest.raises(UserError, match=message) as caught:
        settings(*override.split(), config=command)
    assert "\n" not in str(caught.value)


def test_the_frozen_rules_are_those_of_the_annotations():
    assert json.loads(FROZEN.read_text()) == json.loads(as_json(frozen())), "run python -m micro_lit.config.annotations"


def test_every_setting_of_our_objects_that_yaml_gives_has_a_rule():
    for path in CONF.rglob("*.yaml"):
        for node in targets(yaml.safe_load(path.read_text()) or {}):
            if (signature := frozen_signature(str(node["_target_"]))) is not None:
                given = {name for name in node if not name.startswith("_")} - {"defaults"}
                assert {name for name in given if signature.rules.get(name) is None} == set(), path


def dotted(node: dict, prefix: str):
    for name, child in node.items():
        key = f"{prefix}.{name}" if prefix else str(name)
        yield key
        if isinstance(child, dict):
            yield from dotted(child, key)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.num_heads=0", r"model.num_heads=0 is not allowed; give a whole number of at least 1"),
        ("model.num_heads=two", r"model.num_heads='two'"),
        ("model.num_heads=true", r"model.num_heads=True"),
        ("model.link=sum", r"model.link='sum' is not allowed; give one of probability, reward"),
        ("model.label_smoothing=0.5", r"model.label_smoothing=0.5 .* at least 0 and below 0.5"),
        ("seed=-1", r"seed=-1"),
        ("model._target_=os.system", r"model._target_='os.system' is not allowed; it must start with"),
        ("+callbacks.x._target_=builtins.eval", r"callbacks.x._target_"),
        ("data=pairs", r"data.train: no value given"),
        ("name=${nothing}", r"name: .*nothing"),
    ],
)
def test_a_wrong_value_names_key_value_and_what_is_allowed(override, message, settings):
    with pytest.raises(UserError, match=message) as caught:
        settings(override)
    assert "\n" not in str(caught.value)


def test_a_package_of_ones_own_may_be_named(settings):
    assert settings("packages=[mine]", "model.head._target_=mine.Heads")["packages"] == ["mine"]
    with pytest.raises(UserError, match="packages"):
        settings("model.head._target_=mine.Heads")


@pytest.mark.parametrize(
    "target",
    [
        "micro_lit.config.command.sys.exit",
        "pytorch_lightning.trainer.trainer.os.getcwd",
        "torch.nn.functional.torch.load",
    ],
)
def test_a_path_through_an_allowed_package_does_not_lead_out_of_it(target):
    with pytest.raises(UserError, match="is not allowed"):
        config.build({"_target_": target})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.head=linear"], r"model.head='linear' .* write group=option, as in model/head=mlp"),
        (["packages=mine"], r"packages='mine' is not allowed; give a list of names"),
        (["data=mixture", "data.sets.polis.ties=maybe"], r"data.sets.polis.ties='maybe'"),
        (["trainer.max_epochs=-1"], r"trainer.max_epochs=-1"),
        (["trainer.devices=0"], r"trainer.devices=0 is not allowed; give a number of devices"),
    ],
)
def test_likely_mistakes_are_named(overrides, message, settings):
    with pytest.raises(UserError, match=message):
        settings(*overrides)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+model.optimizer.momentum=1"], r"model.optimizer.momentum is not a setting of torch.optim.AdamW"),
        (["+model.foo=1"], r"model.foo is not a setting of micro_lit.models.SingleBT"),
        (["+model.num_heads=4"], r"SingleBT: .*multiple values for keyword argument 'num_heads'"),
        (["+loader.num_workers=2"], r"loader.num_workers is not a setting of .*PreferenceDataModule"),
        (["trainer=gpu"], r"trainer: .*[Nn]o supported gpu"),
        (["callbacks.best.monitor=val/nlll"], r"val/nlll"),
        (["data.train=-5"], r"data.train=-5 is not allowed; give a whole number of at least 0"),
        (["data.population.group_weights=-1"], r"greater than 0"),
        (["data.population.groups=0"], r"at least one group"),
        (["backbone=tiny"], r"use backbone=identity"),
    ],
)
def test_mistakes_that_only_the_objects_can_see_are_one_line_too(overrides, message, settings):
    small = ["data.train=64", "data.validation=16", "data.test=16", "trainer.max_epochs=1"]
    with pytest.raises(UserError, match=message) as caught:
        train.run(settings("+experiment=planted_floors_k8", "model=single_bt", *small, *overrides))
    assert "\n" not in str(caught.value)


def test_loggers_and_callbacks_may_be_left_out(settings):
    small = ["data.train=64", "data.validation=16", "data.test=16", "trainer.max_epochs=1"]
    checkpointing = "+trainer.enable_checkpointing=false"
    run = settings("+experiment=planted_floors_k8", *small, "logger=none", "~callbacks", checkpointing)
    assert train.run(run) > 0


def test_an_argument_the_object_does_not_take_is_a_users_mistake():
    with pytest.raises(UserError, match="sharpness"):
        config.build({"_target_": "micro_lit.models.LinearHeads", "width": 2, "num_heads": 2, "sharpness": 1})


def test_settings_are_plain_and_hold_no_secret(settings):
    composed = settings("logger=wandb")
    assert composed == yaml.safe_load(yaml.safe_dump(composed))
    assert not OmegaConf.is_config(composed["logger"])
    assert not {"api_key", "token", "key"} & set(dotted_names(composed))


def dotted_names(node):
    return [key.rsplit(".", 1)[-1] for key in dotted(node, "")]


def run_command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-X", "importtime", "-m", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("entry", ["train", "encode", "floors", "report"])
def test_help_and_errors_answer_without_torch(entry, tmp_path):
    wrong = ["runs=x", "report.log=1"] if entry == "report" else ["data=polis", "seed=-1"]
    shown = run_command(f"micro_lit.{entry}", "--help", cwd=tmp_path)
    assert f"python -m micro_lit.{entry}" in shown.stdout
    composed = run_command(f"micro_lit.{entry}", "--cfg", "job", cwd=tmp_path)
    refused = run_command(f"micro_lit.{entry}", *wrong, cwd=tmp_path)
    assert [shown.returncode, composed.returncode, refused.returncode] == [0, 0, 1]
    for answer in (shown, composed, refused):
        imported = {line.rsplit("|", 1)[-1].strip() for line in answer.stderr.splitlines() if "import time:" in line}
        assert "hydra" in imported
        assert not {"torch", "transformers", "pytorch_lightning", "pyarrow"} & imported
    errors = [line for line in refused.stderr.splitlines() if "import time:" not in line]
    allowed = "true or false" if entry == "report" else "a whole number of at least 0 and at most 4294967295"
    assert errors == [f"error: {wrong[1]} is not allowed; give {allowed}"]
