"""Small run folders as a run leaves them, for tests of what is made of many."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

FLOORS = {
    "oracle": 0.2, "marginal": 0.5, "marginal_static": 0.6, "single_bt_conditional": 0.53, "single_bt_linear": 0.65,
}  # fmt: skip


def nested(dotted: Mapping[str, Any]) -> dict[str, Any]:
    """{"a.b": 1} as {"a": {"b": 1}}."""
    tree: dict[str, Any] = {}
    for key, value in dotted.items():
        *outer, last = key.split(".")
        node = tree
        for name in outer:
            node = node.setdefault(name, {})
        node[last] = value
    return tree


def write_run(
    folder: Path,
    nll: float = 0.6,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    typed: Sequence[str] | None = (),
    options: Mapping[str, str] | None = None,
    floors: Mapping[str, float] | None = None,
    **measured: Any,
) -> Path:
    """Writes the folder of a finished run with the test NLL `nll`, and returns it.

    settings: what config.yaml says beyond the name, as dotted keys. typed: overrides of the command line; None: a
    folder without .hydra, as a run started from Python leaves it. options: of groups, typed or not; config.yaml then
    differs in what they hold. measured: further parts of results.json, as excess_risk={"value": 0.1}.
    """
    folder.mkdir(parents=True)
    config = {"name": "made", "seed": seed, "paths.run_dir": str(folder), "paths.data_dir": "data"}
    config |= {f"{group}.inside": option for group, option in (options or {}).items()} | dict(settings or {})
    (folder / "config.yaml").write_text(yaml.safe_dump(nested(config)))
    results = {
        "experiment": "made",
        "seed": seed,
        "seconds": 1.5,
        "test": {"nll": {"value": nll, "se": 0.01, "n": 100}},
        "floors": {name: {"value": value, "se": 0.0} for name, value in (floors or {}).items()},
        "excess": {},
        "excess_risk": {},
        "raters": {},
        **measured,
    }
    (folder / "results.json").write_text(json.dumps(results))
    if typed is not None:
        hydra = {"overrides": {"task": list(typed)}, "runtime": {"choices": dict(options or {})}}
        (folder / ".hydra").mkdir()
        (folder / ".hydra" / "hydra.yaml").write_text(yaml.safe_dump({"hydra": hydra}))
    return folder
