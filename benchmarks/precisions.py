"""Tests whether prior precisions transfer to less data: from all of Polis to a third of its training users.

A third of the users of each conversation is drawn. `tied_polis` is trained on their votes with the precisions tuned on
all of Polis, and with each of them multiplied by 1/3 and by 3. The best by validation NLL counts as tuned. The result
is the loss in NLL against the tuned precisions, on the test rows, which stay the same. MICRO_LIT_DATA must name the
folder of the real data sets. It takes about ten minutes on two cores.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

DRAWS = (0, 1)
WHOLE = {"base_precision": 0.35, "deviation_precision": 1.0}  # of +experiment=tied_polis
FACTORS = (1 / 3, 3.0)
BAR = 0.005  # nats


def write_third(source: Path, folder: Path, seed: int) -> None:
    """Writes a copy of Polis with the votes of only a third of the training users of each conversation."""
    folder.mkdir(parents=True)
    votes, generator = pd.read_parquet(source / "train.parquet"), np.random.default_rng(seed)
    users_by_source = votes.groupby("source")["user_id"].unique()
    kept = [generator.choice(np.sort(users), max(1, round(len(users) / 3)), False) for users in users_by_source]
    votes[votes["user_id"].isin(np.concatenate(kept))].to_parquet(folder / "train.parquet")
    shutil.copy(source / "test.parquet", folder / "test.parquet")


def train(data_dir: Path, folder: Path, features_dir: Path, precisions: dict[str, float]) -> tuple[float, float]:
    """Trains in a subprocess; returns the NLL of the validation rows and of the test rows."""
    own = [f"model.head.{name}={value}" for name, value in precisions.items()]
    paths = {"data_dir": data_dir, "run_dir": folder, "features_dir": features_dir}
    command = [sys.executable, "-m", "micro_lit.train", "+experiment=tied_polis", *own]
    command += [f"paths.{name}={path}" for name, path in paths.items()]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    results = json.loads((folder / "results.json").read_text())
    return results["validation"]["nll"], results["test"]["nll"]["value"]


def main() -> None:
    source, lost = Path(os.environ["MICRO_LIT_DATA"]) / "polis", []
    settings = [WHOLE, *({**WHOLE, name: WHOLE[name] * factor} for name in WHOLE for factor in FACTORS)]
    with tempfile.TemporaryDirectory() as name:
        for draw in DRAWS:
            root = Path(name) / str(draw)
            write_third(source, root / "data" / "polis", draw)
            found = [
                train(root / "data", root / str(number), Path(name) / "features", each)
                for number, each in enumerate(settings)
            ]
            _, tuned = min(found)
            lost.append(found[0][1] - tuned)
    measured = ", ".join(f"{each:+.4f}" for each in lost)
    print(
        json.dumps(
            {
                "what": "a third of Polis: NLL of the precisions of the whole less that of tuned ones",
                "measured": f"{measured} nats on {len(lost)} thirds",
                "bar": f"<= {BAR}",
                "met": statistics.mean(lost) <= BAR,
            }
        )
    )


if __name__ == "__main__":
    main()
