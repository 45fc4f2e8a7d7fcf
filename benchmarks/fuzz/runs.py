"""Small runs used by the cases, trained once in this process."""

import json
from pathlib import Path

from benchmarks.fuzz.cases import Case, Expect
from benchmarks.fuzz.runner import call

SIZES = ("data.train=64", "data.validation=32", "data.test=48", "loader.batch_size=32", "trainer.max_epochs=1")
BASE = ("+experiment=planted_floors_k8", *SIZES, "model.num_heads=2")
TEST_ROWS = 48

# Valid arguments of each command except `train`.
Runs = dict[str, tuple[str, ...]]


def make_runs(shared: Path) -> Runs:
    """Trains small runs in `shared`; returns valid arguments of each command except `train`."""
    vectors = make(shared / "vectors", *BASE, "data.criteria=hidden", "data.users_per_group=2", "data.test=120")
    text = make(
        shared / "text",
        "+experiment=mixture_k8",
        *SIZES,
        "model.num_heads=2",
        "backbone.hidden=16",
        "backbone.layers=1",
    )
    make(shared / "plain", *BASE)
    make(shared / "other", *BASE, "model.num_heads=3")
    pairs = shared / "pairs.jsonl"
    rows = [{"prompt": f"What is {n}?", "chosen": f"It is {n}.", "rejected": "No idea."} for n in range(4)]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    compared = (f"candidates={{a: '{vectors}'}}", "baseline=a", "draws=2", "resamples=100")
    return {
        "floors": ("data=planted_features", *SIZES[:3], "data.raters_per_pair=2", "replicates=5"),
        "report": (f"runs={vectors}",),
        "evaluate": (*compared, "budget=2", "budgets=[0,2]", "elicitation.labels=2", "elicitation.pool=4"),
        "people": (*compared, "labels=[0,1]"),
        "personalise": (f"run={text}", "profile=me.json", "user=ada", f"pairs={pairs}"),
        "encode": (f"data.train={pairs}", "backbone.model=nix"),
    }


def make(folder: Path, *overrides: str) -> Path:
    """Trains a run in a folder with the train command."""
    call(Case("a run", Expect.PASS, "train", (*overrides, f"hydra.run.dir={folder}")), folder)
    return folder
