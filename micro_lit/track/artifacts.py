"""W&B artifacts, without secrets: the model of a run, and the features it was trained on."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from micro_lit.config.redaction import redact
from micro_lit.track.record import Artifact

RUN_ID = Path("wandb", "run_id")  # in a run folder; a resumed run reuses the id


def run_id(folder: Path) -> str | None:
    """W&B id stored in a run folder; None if there is none."""
    path = folder / RUN_ID
    return path.read_text().strip() if path.is_file() else None


def _results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


def _artifact(name: str, kind: str, metadata: Mapping[str, Any], texts: Mapping[str, str]) -> Any:
    """Creates an artifact with redacted metadata. texts: content of its files, by name."""
    import wandb

    artifact = wandb.Artifact(name, type=kind, metadata=redact(metadata))
    for path, text in texts.items():
        with artifact.new_file(path) as file:
            file.write(text)
    return artifact


def model(source: Artifact) -> Any:
    """Creates the artifact of a run's model. Its content is deterministic, so that W&B stores one version only."""
    folder = source.folder
    results, settings = _results(folder), yaml.safe_load((folder / "config.yaml").read_text())
    facts = {f"test_{name}": results["test"][name]["value"] for name in ("nll", "accuracy")}
    facts |= {name: results[name] for name in ("experiment", "model", "num_heads", "seed")}
    texts = {
        "config.yaml": yaml.safe_dump(redact(settings), sort_keys=False),
        "results.json": json.dumps(redact(results), indent=2) + "\n",
    }
    artifact = _artifact(f"model-{run_id(folder)}", "model", facts, texts)
    for each in (folder / "tokenizer.json", source.checkpoint):
        if each is not None and each.is_file():
            artifact.add_file(str(each), policy="immutable")  # no copy is made
    return artifact


def features(source: Artifact) -> Any:
    """Creates the artifact of a feature store: its manifest, without the features."""
    folder = source.folder
    manifest = json.loads((folder / "manifest.json").read_text())
    rows = sum(facts["rows"] for facts in manifest["shards"].values())
    facts = {"fingerprint": folder.name, "spec": manifest["spec"], "rows": rows}
    text = json.dumps(redact(manifest), indent=1)
    return _artifact(f"features-{folder.name}", "features", facts, {"manifest.json": text})
