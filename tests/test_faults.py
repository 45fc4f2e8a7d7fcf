"""A run that is killed at any moment, again and again, and started again with the same command.

Every stage is real: texts are encoded by a transformer into the feature store, heads are trained, checkpoints and
results are written; each run is a process, and each kill is a SIGKILL.
"""

import json
import multiprocessing
import random
from pathlib import Path

import killable
import numpy as np
import pytest
from safetensors.torch import load_file
from small_models import save_llama

from micro_lit.data.planted import rendering
from micro_lit.run import checkpoints

# The server of the forks has imported everything, so that a run starts at once and a kill meets its work.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["killable", "micro_lit.run.run", "transformers.models.llama.modeling_llama"])

LIMIT = 100  # runs


def write_pairs(path: Path, number: int) -> None:
    """Pairs of planted English, of a few users."""
    chance = np.random.default_rng(0)
    rows = []
    for row in range(number):
        topic = int(chance.integers(len(rendering.TOPICS)))
        levels = [{name: int(chance.integers(-1, 2)) for name in rendering.ATTRIBUTES} for _ in range(2)]
        first, second = (rendering.render_response(topic, level, chance) for level in levels)
        prompt = rendering.render_prompt(topic, chance)
        rows.append({"prompt": prompt, "chosen": first, "rejected": f"{second} {row}", "user_id": row % 7})
    path.write_text("\n".join(map(json.dumps, rows)))


@pytest.fixture
def run(settings, tmp_path):
    """Settings of a run named by its folder; all share the pairs and the model, none the features."""
    write_pairs(tmp_path / "pairs.jsonl", 100)
    llama = save_llama(tmp_path / "llama")

    def make(name: str) -> dict:
        return settings(
            "data=pairs", f"data.train={tmp_path / 'pairs.jsonl'}", "backbone=hf", f"backbone.model={llama}",
            "backbone.max_length=128", "backbone.dtype=float32", "backbone.token_budget=2048",
            "model.num_heads=4", "loader.batch_size=16", "trainer.max_epochs=4", "trainer.val_check_interval=2",
            "callbacks.early_stopping=null", "ckpt_path=last", "name=faults",
            f"paths.run_dir={tmp_path / name / 'run'}", f"paths.features_dir={tmp_path / name / 'features'}",
        )  # fmt: skip

    return make


def end_of(run: dict, kill_at: int | None = None) -> int:
    """Starts a run and waits for its end: 0, or -9 of one that was killed."""
    folder = Path(run["paths"]["run_dir"]).parent
    folder.mkdir(exist_ok=True)
    process = processes.Process(target=killable.run, args=(run, folder / "printed.txt", kill_at))
    process.start()
    process.join()
    return process.exitcode


def outcome(run: dict) -> dict:
    """Everything a finished run has made that must not depend on its history."""
    folder = Path(run["paths"]["run_dir"])
    results = json.loads((folder / "results.json").read_text())
    results.pop("seconds")
    weights = {
        f"{name} {key}": weight.tolist()
        for name in (checkpoints.BEST, checkpoints.LAST)
        for key, weight in checkpoints.read_checkpoint(folder / name)["state_dict"].items()
    }
    return {"results": results, "weights": weights, "features": features(run)}


def features(run: dict) -> dict[tuple[int, int], list[float]]:
    """What the store holds, text by text; opening it verifies every shard."""
    [folder] = [path for path in Path(run["paths"]["features_dir"]).iterdir() if path.is_dir()]
    found: dict[tuple[int, int], list[float]] = {}
    for shard in sorted(folder.glob("*.safetensors")):
        tensors = load_file(shard)
        for digest, vector in zip(tensors["digests"].tolist(), tensors["features"].tolist(), strict=True):
            assert tuple(digest) not in found
            found[tuple(digest)] = vector
    return found


def check(run: dict, expected: dict, step: int) -> int:
    """Whatever is there after a kill is whole, and no work saved before is lost. The step that is saved."""
    folder = Path(run["paths"]["run_dir"])
    if (folder / "results.json").exists():
        results = json.loads((folder / "results.json").read_text())
        results.pop("seconds")
        assert results == expected["results"]
    if (folder / checkpoints.BEST).exists():
        checkpoints.read_checkpoint(folder / checkpoints.BEST)
    if not (folder / checkpoints.LAST).exists():
        assert step == 0
        return 0
    saved = checkpoints.read_checkpoint(folder / checkpoints.LAST)["global_step"]
    assert saved >= step
    return saved


def stage(run: dict) -> str:
    """How far a killed run had come."""
    folder = Path(run["paths"]["run_dir"])
    if (folder / "results.json").exists():
        return "reporting"
    if (folder / checkpoints.LAST).exists():
        return "training"
    return "encoding" if list(Path(run["paths"]["features_dir"]).glob("*/*.safetensors")) else "starting"


def finish(run: dict) -> int:
    """Lets a run come to its end. How often it came to a moment at which it could have been killed."""
    printed = Path(run["paths"]["run_dir"]).parent / "printed.txt"
    assert end_of(run) == 0, printed.read_text()
    return int(printed.with_suffix(".accesses").read_text())


@pytest.mark.parametrize("number", [8, pytest.param(50, marks=pytest.mark.full)])
def test_a_run_that_is_killed_anywhere_ends_where_the_whole_one_does(number, run, monkeypatch):
    """number: kills, over all runs together."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    finish(run("warm"))
    whole = run("whole")
    moments = finish(whole)
    expected = outcome(whole)
    chance = random.Random(0)
    kills: list[str] = []
    for turn in range(LIMIT):
        killed = run(f"killed{turn}")
        step = 0
        for _ in range(5):
            if end_of(killed, chance.randrange(moments)) == 0:  # of a resumed run there is less
                break
            kills.append(stage(killed))
            step = check(killed, expected, step)
        finish(killed)
        assert outcome(killed) == expected
        if len(kills) >= number:
            break
    assert len(kills) >= number
    assert len(kills) < 50 or {"starting", "encoding", "training"} <= set(kills)  # few may miss one of them
