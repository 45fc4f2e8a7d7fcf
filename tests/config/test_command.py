"""What a command prints and how it ends when it fails: real processes, none of which comes to import torch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from micro_lit.config import failures, text_setting
from micro_lit.errors import UserError

ASKED = "error: internal error: TypeError: half way (this is a fault of micro_lit; please report it. The traceback: "


def command(*arguments: str, cwd: Path, module: str = "micro_lit.train", **environment: str):
    line = [sys.executable, "-m", module, *arguments]
    own = {name: value for name, value in os.environ.items() if name != failures.TRACEBACK}
    return subprocess.run(line, cwd=cwd, capture_output=True, text=True, check=False, env=own | environment)


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--experiment", "x"], 2, "--experiment; settings are written without dashes: +experiment=x"),
        (["--seed=4"], 2, "--seed=4; settings are written without dashes: seed=4"),
        (["--data", "polis"], 2, "--data; settings are written without dashes: data=polis"),
        (["--experimental-rerun", "x"], 2, "--experimental-rerun is not allowed"),
        (["data=nix"], 1, "data=nix: there is no such option; give one of dsp, helpsteer2,"),
        (["model/head=nix"], 1, "model/head=nix: there is no such option; give one of kernel, linear,"),
        (
            ["trainr.max_epochs=3"],
            1,
            "there is no such setting; did you mean trainer.max_epochs? --cfg job lists all, or add it with +",
        ),
        (
            ["+model.num_head=4"],
            1,
            "model.num_head is not a setting of micro_lit.models.MixtureBT; did you mean num_heads?",
        ),
        (["experiment=mixture_k8"], 1, "or add it with +experiment=mixture_k8"),
        (["name=a(b"], 1, "name=a(b: cannot be read; quote a value with spaces or any of = ( )"),
        (["name"], 1, "name: no setting; one is written key=value"),
        (["+seed=4"], 1, "'++seed=4'"),
        (["hydra=3"], 1, "Hydra cannot compose these overrides"),
        (["hydra.run.dir=null"], 1, "hydra.run.dir=null; field 'hydra.run.dir' is not Optional"),
        (["hydra.run.dir=/dev/null/x"], 1, "error: /dev/null/x: Not a directory"),
        (["-m", "seed=0,1", "hydra.sweep.dir=/dev/null/x"], 1, "error: /dev/null/x: Not a directory"),
        (["seed=${oc.env:NOT_THERE}"], 1, "seed: KeyError raised while resolving interpolation"),
        (["~backbone"], 1, "backbone: cannot be removed"),
        (["~trainer.devices"], 1, "accelerator, devices and num_nodes"),
        (["trainer.max_time=0"], 1, "trainer.max_time=0 is not allowed; give a time above 0"),
        (["trainer.limit_test_batches=0"], 1, "trainer.limit_test_batches=0 is not allowed"),
        (["trainer.check_val_every_n_epoch=0"], 1, "trainer.check_val_every_n_epoch=0 is not allowed"),
        (["model.optimizer.weight_decay=-1"], 1, "model.optimizer.weight_decay=-1 is not allowed"),
        (["model.optimizer.lr=nan"], 1, "model.optimizer.lr=nan is not allowed; no setting is nan or infinite"),
        (["callbacks.best.monitor=7", "+callbacks.x=7"], 1, "a mapping from names to objects with a _target_"),
    ],
)
def test_a_mistake_is_one_line(arguments, status, said, tmp_path):
    ended = command(*arguments, cwd=tmp_path)
    assert ended.returncode == status
    [line] = ended.stderr.splitlines()
    assert line.startswith("error: ")
    assert said in line


FAULTY = """
from micro_lit.config import entry_point

def run(settings):
    raise {error}

main = entry_point("floors")(run)

if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        ("TypeError('half way')", 70, f"{ASKED}MICRO_LIT_TRACEBACK=1 <the command>)"),
        ("KeyboardInterrupt()", 130, "interrupted"),
        ("MemoryError()", 1, "error: out of memory; give smaller batches, models or data"),
        ("RuntimeError('CUDA out of memory.')", 1, "error: out of memory (CUDA out of memory.); give smaller"),
        ("OSError(28, 'No space left on device')", 1, "error: No space left on device"),
        ("PermissionError(13, 'Permission denied', 'x/y')", 1, "error: x/y: Permission denied"),
    ],
)
def test_whatever_is_raised_is_one_line_and_a_status(error, status, said, tmp_path):
    (tmp_path / "faulty.py").write_text(FAULTY.format(error=error))
    ended = command(cwd=tmp_path, module="faulty")
    assert (ended.returncode, ended.stdout) == (status, "")
    [line] = ended.stderr.splitlines()
    assert line.startswith(said)


def test_the_traceback_is_shown_to_whoever_asks_for_it(tmp_path):
    (tmp_path / "faulty.py").write_text(FAULTY.format(error="TypeError('half way')"))
    ended = command(cwd=tmp_path, module="faulty", MICRO_LIT_TRACEBACK="1")
    assert ended.returncode == 70
    first, *_, last = ended.stderr.splitlines()
    assert first == "Traceback (most recent call last):"
    assert last.startswith(ASKED)


@pytest.mark.parametrize("module", ["hydra", "torch"])
def test_an_interrupt_while_modules_are_imported_is_one_word(module, tmp_path):
    (tmp_path / f"{module}.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    ended = command("data=planted_features", cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (130, "interrupted\n")


def test_an_interrupt_that_an_extension_turns_into_another_error_is_one():
    error = ImportError("numpy failed")
    error.__cause__ = KeyboardInterrupt()
    assert failures.describe(error) == ("interrupted", 130)


def test_a_reader_that_has_gone_ends_the_command_without_a_word(tmp_path):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        line = [sys.executable, "-m", "micro_lit.train", "--help"]
        ended = subprocess.run(line, cwd=tmp_path, stdout=closed, stderr=subprocess.PIPE, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (141, "")


def test_errors_of_users_are_shown_as_they_are():
    assert failures.describe(UserError("seed=-1 is not allowed")) == ("error: seed=-1 is not allowed", 1)


def test_hydra_does_not_keep_the_setting_of_its_own_tracebacks(tmp_path):
    (tmp_path / "faulty.py").write_text(
        "from micro_lit.config import entry_point\nimport os\n"
        "entry_point('floors')(lambda settings: None)()\nassert 'HYDRA_FULL_ERROR' not in os.environ\n"
    )
    ended = subprocess.run([sys.executable, "faulty.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_worker_leaves_its_failure_for_the_process_that_waits(tmp_path):
    settings = tmp_path / "settings.yaml"
    settings.write_text(yaml.safe_dump({"paths": 7}))
    line = [sys.executable, "-m", "micro_lit.run.worker", str(settings), str(os.getpid())]
    ended = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 70
    assert (tmp_path / "error0.txt").read_text().startswith("internal error: TypeError")
    assert "Traceback" not in ended.stderr


def test_commands_to_type_are_read_back_as_they_were_meant(tmp_path):
    folder = tmp_path / "model=mixture,seed=1" / "it's (1)"
    key, _, value = text_setting("paths.run_dir", folder).partition("=")
    parsed = OverridesParser.create().parse_overrides([f"{key}={value}"])
    assert [(each.key_or_group, each.value()) for each in parsed] == [("paths.run_dir", str(folder))]
    assert text_setting("ckpt_path", "runs/a-b/last.ckpt") == "ckpt_path=runs/a-b/last.ckpt"
