"""What nobody named does not run, and nothing is written outside its folder. Payloads only leave a marker file."""

import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from micro_lit import config, train
from micro_lit.config import hydra_nodes
from micro_lit.errors import UserError
from micro_lit.run.restored import Trust, read_settings, restore

OLD = Path(__file__).parent / "old_runs"
MARKER = "ran"
SMALL = ("+experiment=planted_floors_k8", "model=single_bt", "data.train=64", "data.validation=16", "data.test=16")


@pytest.fixture
def marker(tmp_path, monkeypatch) -> Path:
    """A file that a payload would leave; the working folder holds a module that leaves it when it is imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / MARKER
    (tmp_path / "payload.py").write_text(f"open({str(path)!r}, 'w').close()\n\n\nclass Anything:\n    pass\n")
    yield path
    sys.modules.pop("payload", None)


@pytest.fixture
def theirs(tmp_path) -> Callable[..., Path]:
    """Makes the folder of a run of somebody else, whose config.yaml says something of its own at a dotted key."""

    def make(key: str, value: Any) -> Path:
        shutil.copytree(OLD / "mixture", tmp_path / "theirs")
        settings = yaml.safe_load((OLD / "mixture" / "config.yaml").read_text())
        *outer, last = key.split(".")
        node = settings
        for name in outer:
            node = node[name]
        node[last] = value
        (tmp_path / "theirs" / "config.yaml").write_text(yaml.safe_dump(settings))
        return tmp_path / "theirs"

    return make


def restored(folder: Path, trust: Trust = Trust()) -> torch.nn.Module:  # noqa: B008
    settings = read_settings(OLD / "mixture")
    data = config.build(settings["data"]).load(settings["seed"])
    return restore(folder, data, folder / "features", trust)


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", *arguments], cwd=cwd, capture_output=True, text=True, check=False)


def only_line(answer: subprocess.CompletedProcess) -> str:
    assert answer.returncode == 1
    [line] = [each for each in answer.stderr.splitlines() if not each.startswith("note: ")]
    assert line.startswith("error: ")
    return line


def refused(act: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as caught:
        act()
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- run folders of somebody else


@pytest.mark.parametrize(
    ("place", "node"),
    [
        ("model.head", {"_target_": "pandas.read_pickle", "filepath_or_buffer": "payload.pickle"}),
        ("backbone", {"_target_": "shutil.copyfile", "src": "payload.py", "dst": MARKER}),
        ("data", {"_target_": "payload.Anything"}),
        ("model.gate", {"_target_": "pytorch_lightning.core.saving._load_from_checkpoint"}),
        ("model.gate", {"_target_": "micro_lit.models.MixtureBT.load_from_checkpoint", "checkpoint_path": "x"}),
        ("model.gate", {"_target_": "micro_lit.host.files.write_text", "path": MARKER, "text": ""}),
        ("model.gate", {"_target_": "micro_lit.models.UniformGate", "x": "${oc.create:{_target_:payload.Anything}}"}),
        ("model.gate", {"_target_": "micro_lit.models.UniformGate", "_args_": [{"_target_": "payload.Anything"}]}),
    ],
)
def test_a_restored_folder_runs_nothing_that_it_names(place, node, theirs, marker, tmp_path):
    class Payload:
        def __reduce__(self) -> tuple:
            return open, (str(marker), "w")

    (tmp_path / "payload.pickle").write_bytes(pickle.dumps(Payload()))
    folder = theirs(place, node)
    assert str(folder) in (message := refused(lambda: restored(folder))) or "UniformGate" in message
    assert "payload" not in sys.modules
    assert not marker.exists()


def test_packages_of_a_folder_do_not_count(theirs, marker):
    folder = theirs("model.gate", {"_target_": "payload.Anything", "_partial_": True})
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump({**settings, "packages": ["payload"]}))
    assert "packages=[mine,payload]" in refused(lambda: restored(folder, Trust(packages=("mine",))))
    assert not marker.exists()
    resave(folder, lambda found: found.pop("settings"))
    with pytest.raises((UserError, TypeError)):  # it is no gate
        restored(folder, Trust(packages=("payload",)))
    assert marker.exists()


@pytest.mark.full
def test_the_error_prints_the_command_with_packages(theirs, marker, tmp_path):
    theirs("model.head", {"_target_": "payload.Anything", "_partial_": True})
    (tmp_path / "me.jsonl").write_text('{"prompt": "a", "response": "b"}\n')
    typed = ["run=theirs", "profile=me.json", "user=ada", "responses=me.jsonl"]
    line = only_line(command("micro_lit.personalise", *typed, cwd=tmp_path))
    assert line.endswith(f"python -m micro_lit.personalise {' '.join(typed)} 'packages=[payload]'")
    assert not marker.exists()


@pytest.fixture
def remote_model(tmp_path, marker) -> Path:
    """A local model whose code would be run through `auto_map`."""
    folder = tmp_path / "model"
    folder.mkdir()
    auto_map = {"AutoConfig": "payload.Anything", "AutoModel": "payload.Anything"}
    (folder / "config.json").write_text(
        yaml.safe_dump({"model_type": "theirs", "auto_map": auto_map}, default_flow_style=True)
    )
    shutil.copy(tmp_path / "payload.py", folder / "payload.py")
    return folder


def test_remote_code_never_comes_from_a_folder(remote_model, theirs, marker):
    backbone = {
        "_target_": "micro_lit.features.Pretrained", "model": str(remote_model), "trust_remote_code": True,
    }  # fmt: skip
    folder = theirs("backbone", backbone)
    message = refused(lambda: read_settings(folder))
    assert "backbone.trust_remote_code=True" in message
    assert "trust_remote_code=true" in message
    assert "backbone" in read_settings(folder, Trust(remote_code=True))
    assert not marker.exists()


def test_code_beside_the_weights_is_not_run_without_trust(remote_model, marker):
    from micro_lit.features.pretrained import Pretrained

    assert str(remote_model) in refused(lambda: Pretrained(str(remote_model)).tokenizer())
    assert not marker.exists()


def test_who_may_say_that_remote_code_is_trusted(settings):
    assert Trust.of(settings("backbone=hf", "backbone.model=x")) == Trust((), False, "backbone.trust_remote_code")
    told = settings("backbone=hf", "backbone.model=x", "backbone.trust_remote_code=true", "packages=[mine]")
    assert Trust.of(told) == Trust(("mine",), True, "backbone.trust_remote_code")
    for name, needed in {
        "compare": ["candidates={a: runs/a}", "baseline=a"],
        "evaluate": ["candidates={a: runs/a}", "baseline=a"],
        "people": ["candidates={a: runs/a}", "baseline=a"],
        "personalise": ["run=runs/a", "profile=me.json"],
    }.items():
        assert not Trust.of(settings(*needed, config=name)).remote_code
        assert Trust.of(settings(*needed, "trust_remote_code=true", config=name)).remote_code


@pytest.mark.parametrize(
    "content",
    ["", "- a\n- b\n", "just text", "a: [", "name: x\n", "seed: 0\nstage1: null\nloader: 3\n", "\x00", "a: &a [*a]"],
)
def test_a_config_that_is_none_is_named_with_its_folder(content, tmp_path):
    (tmp_path / "config.yaml").write_text(content)
    assert str(tmp_path) in refused(lambda: read_settings(tmp_path))


def test_a_config_that_contains_itself_is_named_with_its_folder(theirs):
    node: dict[str, Any] = {"_target_": "micro_lit.models.UniformGate"}
    node["again"] = node
    folder = theirs("model.gate", node)
    assert str(folder) in refused(lambda: read_settings(folder))


@pytest.mark.parametrize(
    ("key", "value"),
    [("model.num_heads", "three"), ("data", 5), ("seed", "x"), ("stage1", ["a"]), ("model", None)],
)
def test_wrong_types_in_a_config_are_named_with_its_folder(key, value, theirs):
    folder = theirs(key, value)
    assert str(folder) in refused(lambda: restored(folder))


# --- config.yaml against its checkpoint


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.link", "reward"),
        ("model.num_heads", 2),
        ("model.head", {"_target_": "micro_lit.models.MLPHeads", "_partial_": True, "hidden": 8}),
        ("model.gate", {"_target_": "micro_lit.models.SourceGate", "_partial_": True}),
        ("model.gate", {"_target_": "micro_lit.models.UniformGate"}),
        ("backbone.standardise", True),
    ],
)
def test_a_config_that_judges_otherwise_than_its_checkpoint_is_refused(key, value, theirs):
    message = refused(lambda: restored(theirs(key, value)))
    assert f"config.yaml says {key}" in message
    assert "the checkpoint was trained with" in message


def resave(folder: Path, change: Callable[[dict], Any]) -> None:
    for path in (folder / "checkpoints").glob("*.ckpt"):
        found = torch.load(path, weights_only=True)
        change(found)
        torch.save(found, path)


def test_costs_and_what_is_not_shown_may_differ(theirs):
    folder = theirs("model.optimizer.lr", 5.0)
    restored(folder)
    resave(folder, lambda found: found["settings"]["model"].update(link="***", head="***"))
    restored(folder)
    resave(folder, lambda found: found["settings"].update(backbone={**found["settings"]["backbone"], "resident_gb": 9}))
    resave(folder, lambda found: found.pop("settings"))
    restored(folder)


def test_a_run_is_no_stage_1_of_itself(tmp_path, monkeypatch):
    for name in ("mixture", "router"):
        shutil.copytree(OLD / name, tmp_path / "runs" / name)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "runs" / "router" / "config.yaml"
    path.write_text(path.read_text().replace("stage1: runs/mixture", "stage1: runs/router"))
    assert "stage 1 of itself" in refused(lambda: restored(tmp_path / "runs" / "router"))
    path.write_text(path.read_text().replace("stage1: runs/router", "stage1: runs/second"))
    shutil.copytree(tmp_path / "runs" / "router", tmp_path / "runs" / "second")
    second = tmp_path / "runs" / "second" / "config.yaml"
    second.write_text(second.read_text().replace("stage1: runs/second", "stage1: runs/router"))
    assert "stage 1 of itself" in refused(lambda: restored(tmp_path / "runs" / "router"))


# --- what a _target_ may name


@pytest.mark.parametrize(
    "target",
    [
        "pytorch_lightning.core.saving._load_from_checkpoint",
        "torch.nn.modules.module._global_backward_hooks",
        "micro_lit.config._private",
        "micro_lit..x",
        "micro_lit.models.",
        "os.system",
        "hydra.utils.get_method",
        "",
        5,
        None,
        ["micro_lit.models.LinearHeads"],
    ],
)
def test_a_target_that_is_no_public_name_is_refused_before_any_import(target, settings):
    written = "null" if target is None else f"'{target}'" if isinstance(target, str) else str(target)
    message = refused(lambda: settings(f"+callbacks.x._target_={written}"))
    assert message.startswith("callbacks.x._target_=")


@pytest.mark.parametrize(
    "target",
    [
        "micro_lit.train.run",
        "micro_lit.host.files.write_text",
        "micro_lit.run.workers.start",
        "micro_lit.run.run.Run",
        "micro_lit.compare.comparison.Comparison",
        "micro_lit.adapt.Profiles.load",
        "micro_lit.adapt.profiles.Profiles.save",
        "micro_lit.models.MixtureBT.load_from_checkpoint",
        "micro_lit.features.store.FeatureStore",
        "pytorch_lightning.cli.LightningCLI",
        "pytorch_lightning.loggers.WandbLogger",
        "pytorch_lightning.LightningModule.load_from_checkpoint",
        "pytorch_lightning.core.saving.load_hparams_from_yaml",
        "pytorch_lightning.seed_everything",
        "torch.nn.Module.load_state_dict",
        "torch.nn.utils.clip_grad_norm_",
        "torch.nn.functional.relu",
    ],
)
def test_classes_of_other_kinds_and_functions_are_refused(target):
    assert "is not allowed" in refused(lambda: config.check_objects({"_target_": target}))


@pytest.mark.parametrize("key", ["_args_=[1]", "_recursive_=false", "_convert_=all", "_partial_=1"])
def test_keys_of_hydra_in_a_node_are_refused(key, settings):
    assert refused(lambda: settings(f"+callbacks.best.{key}")).startswith(f"callbacks.best.{key.partition('=')[0]}")


def test_resolved_text_is_not_interpolated_again(marker):
    payload = "${oc.create:{_target_:payload.Anything}}"
    made = config.build({"_target_": "micro_lit.features.Tiny", "tokenizer": payload, "hidden": 8})
    assert made.__dict__.get("tokenizer", payload) == payload
    assert not marker.exists()


# --- what Hydra builds itself


def experiment(folder: Path, content: Mapping[str, Any], name: str = "theirs") -> tuple[str, str]:
    (folder / "conf" / "experiment").mkdir(parents=True, exist_ok=True)
    text = "# @package _global_\n" + yaml.safe_dump(dict(content))
    (folder / "conf" / "experiment" / f"{name}.yaml").write_text(text)
    return "--config-dir", "conf"


CALLBACK = {"hydra": {"callbacks": {"x": {"_target_": "payload.Anything"}}}}
LOGGING = {"hydra": {"job_logging": {"formatters": {"simple": {"()": "payload.Anything"}}}}}


@pytest.mark.parametrize(
    ("content", "key"),
    [(CALLBACK, "hydra.callbacks.x._target_="), (LOGGING, "hydra.job_logging.formatters.simple.()=")],
    ids=["callback", "logging"],
)
def test_a_yaml_of_somebody_else_runs_nothing_through_hydra(content, key, marker, tmp_path):
    given = experiment(tmp_path, content)
    assert key in only_line(command("micro_lit.train", *given, "+experiment=theirs", cwd=tmp_path))
    assert not marker.exists()


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_nor_does_a_job_of_a_sweep(launcher, marker, tmp_path):
    given = experiment(tmp_path, LOGGING)
    experiment(tmp_path, {"name": "mine"}, "mine")
    found = command(
        "micro_lit.train", "-m", *given, "+experiment=theirs,mine", f"hydra/launcher={launcher}", cwd=tmp_path
    )
    assert found.returncode != 0
    assert "error: hydra.job_logging.formatters.simple.()='payload.Anything' is not allowed" in found.stderr
    assert not marker.exists()


def test_a_search_path_imports_no_module(marker, tmp_path):
    (tmp_path / "conf").mkdir()
    primary = "defaults:\n  - train\n  - _self_\nhydra:\n  searchpath: [pkg://payload]\n"
    (tmp_path / "conf" / "theirs.yaml").write_text(primary)
    answer = command("micro_lit.train", "--config-dir", "conf", "--config-name", "theirs", cwd=tmp_path)
    assert "hydra.searchpath=pkg://payload is not allowed" in only_line(answer)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("+hydra.callbacks.x._target_=hydra.utils.get_method", "hydra.callbacks.x._target_"),
        ("+hydra.callbacks.x._target_=hydra._internal.utils._locate", "hydra.callbacks.x._target_"),
        ("+hydra.callbacks.x._target_=micro_lit.models.LinearHeads", "hydra.callbacks.x._target_"),
        ("+hydra.callbacks.x={_target_: micro_lit.run.Sweep, y: {_target_: payload.Anything}}", "callbacks.x.y"),
        (
            "+hydra.callbacks.x={_target_: micro_lit.run.Sweep, y: '${oc.create:{_target_:payload.Anything}}'}",
            "x.y",
        ),
        ("+hydra.callbacks.x={_target_: micro_lit.run.Sweep, y: '${oc.decode:a}'}", "hydra.callbacks.x.y"),
        ("+hydra.callbacks.x='${model}'", "hydra.callbacks.x"),
        ("hydra.launcher._target_=payload.Anything", "hydra.launcher._target_"),
        ("+hydra.launcher.y={_target_: payload.Anything}", "hydra.launcher.y._target_"),
        ("+hydra.launcher.y='${model}'", "hydra.launcher.y"),
        ("hydra.sweeper._target_=hydra._internal.core_plugins.basic_launcher.BasicLauncher", "hydra.sweeper._target_"),
        ("+hydra.job.env_set.PYTHONPATH=theirs", "hydra.job.env_set.PYTHONPATH"),
        ("hydra.job_logging.handlers.console.stream='ext://payload.Anything'", "handlers.console.stream"),
        ("hydra.job_logging.handlers.console.stream='cfg://x'", "hydra.job_logging.handlers.console.stream"),
        ("hydra.job_logging.handlers.console.stream='${name}'", "hydra.job_logging.handlers.console.stream"),
        ("hydra.job_logging.handlers.console.class=payload.Anything", "hydra.job_logging.handlers.console.class"),
        ("hydra.job_logging.handlers.console.class=logging.config.dictConfig", "handlers.console.class"),
        ("hydra.job_logging.handlers.console.class=logging.handlers.QueueHandler", "handlers.console.class"),
        ("+hydra.job_logging.handlers.console.filters=[{x: 'ext://payload'}]", "handlers.console.filters.0.x"),
        ("+hydra.job_logging.handlers.console.'.'={emit: x}", "hydra.job_logging"),
        ("+hydra.hydra_logging.handlers.f={class: logging.FileHandler, filename: /x}", "handlers.f.filename"),
        ("+hydra.job_logging.handlers.f={filename: '${hydra.runtime.output_dir}/../x'}", "handlers.f.filename"),
        ("hydra.searchpath=[pkg://payload]", "hydra.searchpath"),
        ("hydra.searchpath=['${x}']", "hydra.searchpath"),
        ("hydra.output_subdir=../x", "hydra.output_subdir"),
        ("hydra.job.name=../x", "hydra.job.name"),
        ("hydra.sweep.subdir='../${hydra.job.num}'", "hydra.sweep.subdir"),
    ],
)
def test_nodes_of_hydra_are_checked_before_they_are_built(override, key, marker, settings):
    if "'.'" in override:
        message = refused(
            lambda: hydra_nodes.check_logging("hydra.job_logging", {"handlers": {"c": {".": {"emit": 1}}}})
        )
    else:
        message = refused(lambda: settings(override))
    assert key in message
    assert "payload" not in sys.modules
    assert not marker.exists()


def test_a_callback_of_ones_own_package_may_be_named(settings, tmp_path, monkeypatch):
    module = "from hydra.experimental.callback import Callback\n\n\nclass Mine(Callback):\n    pass\n"
    (tmp_path / "named_callback.py").write_text(module)
    monkeypatch.syspath_prepend(str(tmp_path))
    settings("packages=[named_callback]", "+hydra.callbacks.x._target_=named_callback.Mine")


@pytest.mark.parametrize("launcher", ["basic", "joblib", "slurm", "local"])
@pytest.mark.parametrize("sweeper", ["basic", "optuna"])
def test_launchers_and_sweepers_that_are_installed_pass(launcher, sweeper, settings):
    settings(f"hydra/launcher={launcher}", f"hydra/sweeper={sweeper}", "+study=resumable", "name=mine")


@pytest.mark.parametrize("kind", ["job_logging", "hydra_logging"])
@pytest.mark.parametrize("option", ["default", "disabled", "none", "stdout", "hydra_debug"])
def test_logging_configs_of_hydra_pass(kind, option, settings):
    if (kind == "job_logging") == (option == "hydra_debug"):
        pytest.skip("no such option")
    if kind == "job_logging" or option in ("default", "disabled", "none", "hydra_debug"):
        settings(f"hydra/{kind}={option}")


def test_colorlog_passes():
    """The config that the plug-in hydra_colorlog ships."""
    shipped = {
        "version": 1,
        "formatters": {
            "simple": {"format": "[%(asctime)s][%(name)s][%(levelname)s] - %(message)s"},
            "colorlog": {
                "()": "colorlog.ColoredFormatter",
                "format": "[%(cyan)s%(asctime)s%(reset)s] - %(message)s",
                "log_colors": {"DEBUG": "purple", "INFO": "green", "WARNING": "yellow", "ERROR": "red"},
            },
        },
        "handlers": {
            "console": {"class": "logging.StreamHandler", "formatter": "colorlog", "stream": "ext://sys.stdout"},
            "file": {
                "class": "logging.FileHandler",
                "formatter": "simple",
                "filename": "${hydra.runtime.output_dir}/${hydra.job.name}.log",
            },
        },
        "root": {"level": "INFO", "handlers": ["console", "file"]},
        "disable_existing_loggers": False,
    }
    hydra_nodes.check_logging("hydra.job_logging", shipped)


def test_hydra_without_the_method_is_refused(monkeypatch):
    monkeypatch.delattr(hydra_nodes.ConfigLoaderImpl, "load_configuration")
    monkeypatch.setattr(hydra_nodes.ConfigLoaderImpl.__bases__[0], "load_configuration", None)
    with pytest.raises(ImportError, match="load_configuration"):
        hydra_nodes.install()


# --- names that become part of a path


@pytest.mark.parametrize("name", ["../../x", "/x", "a/../../x", "..", "a\0b", "a\nb", "", ".", "x" * 300])
def test_a_name_that_leads_out_of_its_folder_is_refused(name, settings):
    written = OmegaConf.create({"name": name})
    with pytest.raises(UserError, match=r"a name that stays inside its folder|text that is not empty"):
        config.to_settings(OmegaConf.merge(OmegaConf.create(settings()), written), "train")


def test_no_folder_is_made_for_such_a_name(tmp_path):
    inner = tmp_path / "a" / "b" / "c"
    inner.mkdir(parents=True)
    assert "name='../../x'" in only_line(command("micro_lit.train", "name=../../x", cwd=inner))
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["callbacks.best.filename='../../x'"], "callbacks.best.filename='../../x' is not allowed"),
        (["callbacks.best.filename=/x"], "callbacks.best.filename='/x' is not allowed"),
        (["callbacks.last.dirpath=elsewhere"], "give a folder inside paths.run_dir="),
        (["callbacks.last.dirpath='${paths.run_dir}/../x'"], "give a folder inside paths.run_dir="),
        (["callbacks.preemption.dirpath=/x"], "callbacks.preemption.dirpath='/x' is not allowed"),
        (["logger.csv.version=../x"], "logger.csv.version='../x' is not allowed"),
        (
            ["trainer.profiler={_target_: pytorch_lightning.profilers.SimpleProfiler, filename: ../x}"],
            "profiler.filename",
        ),
    ],
)
def test_files_of_a_run_stay_in_its_folder(overrides, message, settings):
    assert message in refused(lambda: settings(*overrides))


def test_checkpoints_may_have_other_names_inside_the_folder(settings):
    settings("callbacks.best.filename='{epoch}-{val/nll:.3f}'", "callbacks.last.dirpath='${paths.run_dir}/mine'")


def test_candidates_have_names_that_stay_in_their_folder():
    message = refused(lambda: config.validate({"candidates": {"mine": "runs/a", "../x": "runs/b"}}))
    assert message.startswith("candidates: '../x' is not allowed")


def test_a_run_goes_on_as_before(settings):
    assert train.run(settings(*SMALL, "trainer.max_epochs=1")) > 0
