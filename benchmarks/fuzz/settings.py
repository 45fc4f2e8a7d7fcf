"""Cases of settings: single values of `expectations`, combinations of values, and invalid command lines."""

import random
from pathlib import Path

from benchmarks.fuzz.cases import FOLDER, Case, Expect, check_results
from benchmarks.fuzz.expectations import OTHERS, TRAIN, Values
from benchmarks.fuzz.runs import BASE, TEST_ROWS, Runs

RUN = f"hydra.run.dir={FOLDER}/run"

# One in so many cases combines two or three keys, is of another command, or is an invalid command line.
COMBINED, OTHER, LINE = 6, 4, 25

# Invalid command lines, apart from invalid values.
LINES: tuple[tuple[str, ...], ...] = (
    ("--experiment", "x"), ("--seed=4",), ("x",), ("=",), ("seed=[1",), ("name=a b(",), ("+experiment=nix",), ("seed",),
    ("experiment=mixture_k8",), ("model=[mixture,single_bt]",), ("model/head=nix",), ("~nix",), ("seed.x=1",),
    ("seed=1,2",), ("--cfg", "nix"), ("--info", "nix"), ("-cn", "nix"), ("--config-dir", "nix"), ("-r", "--cfg", "job"),
    ("--experimental-rerun", "/dev/null"), ("name=${nix}",), ("name=${oc.env:NIX_NIX}",), ("seed=${name}",),
    ("name=${name}",), ("+a.b/c=3",), ("+seed=4",), ("'=3",), ("\x00=3",), ("seed=" + 5000 * "9",), ("+=3",),
    ("~seed",),
    ("+seed.nix=3",), ("data.train=${data.train}",), ("model._target_=os.system",), ("model._target_=micro_lit.nix",),
    ("model._target_=7",), ("~model._target_",), ("~trainer",), ("~data",), ("~backbone",), ("~loader",), ("~paths",),
    ("~loader.batch_size",), ("~trainer.devices",), ("~callbacks.best",), ("logger=nix",), ("+logger.x=7",),
    ("+callbacks.x=7",), ("+callbacks.x._target_=micro_lit.models.LinearHeads",), ("backbone=tiny",), ("model=router",),
    ("trainer=gpu",), ("trainer=fsdp",), ("model=sparse_moe", "model.top_k=9"), 
    ("model/head=mlp", "+model.head.layers=abc"),
)  # fmt: skip


def base_run(folder: Path) -> Case:
    """The base run; other cases differ from it in one or a few settings."""
    return Case("the base", Expect.PASS, "train", (*BASE, f"hydra.run.dir={folder}/run"))


def cases(seed: int, shared: Path, runs: Runs) -> list[Case]:
    """All cases of a seed, in the order in which they run; keys alternate."""
    chance = random.Random(f"settings {seed}")
    found: list[Case] = []
    singles = [_train({key: value}, right) for key, value, right in _turns(TRAIN, chance)]
    others = [
        _other(command, key, value, right, runs)
        for command, key, value, right in interleaved(
            [[(command, *each) for each in _turns(table, chance)] for command, table in OTHERS.items()]
        )
    ]
    lines = [Case(f"train {' '.join(line)!r}", Expect.FAIL, "train", (*BASE, RUN, *line)) for line in LINES]
    chance.shuffle(lines)
    while singles or others:
        number = len(found)
        if number % LINE == LINE - 1 and lines:
            found.append(lines.pop())
        elif number % COMBINED == COMBINED - 1:
            found.append(_combined(chance))
        elif (number % OTHER == 0 or not singles) and others:
            found.append(others.pop(0))
        elif singles:
            found.append(singles.pop(0))
        else:
            found.append(_combined(chance))
    return found + lines


def _turns(table: dict[str, Values], chance: random.Random) -> list[tuple[str, str, bool]]:
    """Every key with every value and whether the value must work; keys alternate."""
    columns = []
    for key, values in table.items():
        column = [(key, value, True) for value in values.right] + [(key, value, False) for value in values.wrong]
        chance.shuffle(column)
        columns.append(column)
    chance.shuffle(columns)
    return interleaved(columns)


def interleaved(columns: list[list]) -> list:
    """Concatenates the first items of all lists, then the second items, and so on."""
    longest = max(map(len, columns))
    return [column[row] for row in range(longest) for column in columns if row < len(column)]


def _train(settings: dict[str, str], right: bool) -> Case:
    typed = [f"{key}={value}" for key, value in settings.items()]
    changes_rows = any(
        key.startswith(("data.", "trainer.limit_test", "trainer.fast_dev", "+trainer.overfit")) for key in settings
    )
    rows = None if changes_rows else TEST_ROWS
    place = "elsewhere" if settings.get("paths.run_dir") == "elsewhere" else "run"
    return Case(
        f"train {' '.join(typed)}",
        Expect.PASS if right else Expect.FAIL,
        "train",
        (*BASE, RUN, *typed),
        check=lambda folder: check_results(folder / place / "results.json", rows),
    )


def _combined(chance: random.Random) -> Case:
    """Two or three settings, one of which is invalid."""
    keys = chance.sample([key for key in TRAIN if TRAIN[key].right], chance.choice([1, 2]))
    bad = chance.choice([key for key in TRAIN if key not in keys and TRAIN[key].wrong])
    settings = {key: chance.choice(TRAIN[key].right) for key in keys} | {bad: chance.choice(TRAIN[bad].wrong)}
    return _train(dict(chance.sample(list(settings.items()), len(settings))), right=False)


def _other(command: str, key: str, value: str, right: bool, runs: Runs) -> Case:
    arguments = (*runs[command], RUN, f"{key}={value}")
    module = "floors.__main__" if command == "floors" else command
    return Case(f"{command} {key}={value}", Expect.PASS if right else Expect.FAIL, module, arguments)
