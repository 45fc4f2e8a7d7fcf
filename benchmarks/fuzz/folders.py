"""Cases of run folders that are damaged, changed or moved before a command uses them.

A finished run is copied into the folder of the case, the copy is changed, and a command is run on it.
"""

import itertools
import json
import os
import random
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from benchmarks.fuzz.cases import FOLDER, Case, Expect, check_results
from benchmarks.fuzz.runs import BASE, Runs
from benchmarks.fuzz.settings import RUN, interleaved

# A change of a copy: a function of its folder.
Change = Callable[[Path], Any]

COPY = f"{FOLDER}/copy"


@dataclass(frozen=True)
class Use:
    """A command that uses a run folder.

    Attributes:
        run: name of the finished run that is copied.
        files: files of the run that the command needs.
        other: folder of a run of another model.
    """

    name: str
    command: str
    run: str
    arguments: tuple[str, ...]
    files: tuple[str, ...]
    check: Callable[[Path], str | None] | None = None
    other: Path = Path()


CONFIG, RESULTS, BEST, LAST = "config.yaml", "results.json", "checkpoints/best.ckpt", "checkpoints/last.ckpt"


def uses(runs: Runs) -> list[Use]:
    """All commands that use a run folder."""
    compare, people, given = (
        _without(("candidates=", "run="), runs[name]) for name in ("evaluate", "people", "personalise")
    )
    candidates = f"candidates={{a: '{COPY}'}}"
    router = (*BASE[:-1], "model=router", "data.criteria=given", f"stage1={COPY}", RUN)
    return [
        Use("report", "report", "vectors", (f"runs={COPY}", RUN), (CONFIG, RESULTS)),
        Use("evaluate", "evaluate", "vectors", (*compare, candidates, RUN), (CONFIG, BEST)),
        Use("people", "people", "vectors", (*people, candidates, RUN), (CONFIG, BEST)),
        Use(
            "stage1", "train", "vectors", router, (CONFIG, BEST),
            check=lambda folder: check_results(folder / "run" / "results.json", None),
        ),
        Use("personalise", "personalise", "text", (*given, f"run={COPY}", RUN), (CONFIG, BEST, "tokenizer.json")),
        Use("resume", "train", "plain", (*BASE, f"ckpt_path={COPY}/{LAST}"), (LAST,)),
    ]  # fmt: skip


def _without(beginnings: tuple[str, ...], arguments: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(each for each in arguments if not each.startswith(beginnings))


def cases(seed: int, shared: Path, runs: Runs) -> list[Case]:
    """All cases of a seed; uses alternate."""
    chance = random.Random(f"folders {seed}")
    columns = []
    for use in uses(runs):
        use = replace(use, other=shared / "other")
        column = [_case(use, shared, *each) for each in itertools.chain(*(make(use, chance) for make in MAKERS))]
        chance.shuffle(column)
        columns.append(column)
    return interleaved([*columns, _warned(shared)])


def _warned(shared: Path) -> list[Case]:
    """Cases that succeed and must print a note."""

    def beside(folder: Path) -> None:
        for name, run in (("good", "vectors"), ("bad", "plain")):
            shutil.copytree(shared / run, folder / "copy" / name)
        (folder / "copy" / "bad" / RESULTS).write_text("{")

    def case(what: str, note: str, command: str, *arguments: str, prepare: Change) -> Case:
        return Case(what, Expect.WARN, command, arguments, prepare=prepare, note=note)

    resumed = (*BASE, f"ckpt_path={COPY}/{LAST}")
    copy, unfinished = (partial(_copied, shared / "plain", finished) for finished in (True, False))
    return [
        case("report of a run beside a damaged one", "left out", "report", f"runs={COPY}", RUN, prepare=beside),
        case("a finished run again", "finished before", "train", *resumed, prepare=copy),
        case("a longer training", "a warm restart", "train", *resumed, "trainer.max_epochs=2", prepare=copy),
        case("an unfinished run again", "going on from", "train", *resumed, prepare=unfinished),
        case(
            "a model of people without users", "the data name no users", "train", *BASE, "model=tied", RUN, prepare=copy
        ),
    ]


def _copied(run: Path, finished: bool, folder: Path) -> None:
    shutil.copytree(run, folder / "copy")
    if not finished:
        (folder / "copy" / RESULTS).unlink()


def _case(use: Use, shared: Path, what: str, expect: Expect, change: Change) -> Case:
    def prepare(folder: Path) -> None:
        shutil.copytree(shared / use.run, folder / "copy", symlinks=True)
        if use.name == "resume":  # a finished run is not trained again
            (folder / "copy" / RESULTS).unlink()
        change(folder / "copy")

    check = use.check if expect == Expect.PASS else None
    return Case(f"{use.name} of a run with {what}", expect, use.command, use.arguments, prepare=prepare, check=check)


Made = list[tuple[str, Expect, Change]]


def _broken_files(use: Use, chance: random.Random) -> Made:
    """Each required file, damaged in each way."""
    ways: dict[str, Callable[[Path], None]] = {
        "empty": lambda path: path.write_bytes(b""),
        "cut": partial(_cut, share=chance.uniform(0.05, 0.8)),
        "of zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
        "of random bytes": partial(_write, chance.randbytes(300)),
        "of nonsense": partial(_write, b"{nonsense: ["),
        "a list": partial(_write, b"[]"),
        "a number": partial(_write, b"7"),
        "null": partial(_write, b"null"),
        "a mapping of nothing": partial(_write, b"{}"),
        "missing": Path.unlink,
        "a folder": _as_folder,
        "a link to itself": _as_loop,
        "a link to nothing": _as_dangling,
        "a device": partial(_as_link, Path("/dev/null")),
    }
    made: Made = []
    for name in use.files:
        for way, change in ways.items():
            gone = ("missing", "a link to nothing", "a link to itself", "a folder", "a device")
            if name == BEST and way in gone:
                continue  # then the last checkpoint is used instead
            made.append((f"{name} {way}", Expect.FAIL, partial(_at, name, change)))
        if os.geteuid() != 0:
            made.append((f"{name} unreadable", Expect.FAIL, partial(_at, name, lambda path: path.chmod(0))))
    return made


def _checkpoints(use: Use, chance: random.Random) -> Made:
    """Flipped bits of weights, and checkpoints of other models."""
    name = next((each for each in use.files if each in (BEST, LAST)), None)
    if name is None:
        return [("no checkpoints", Expect.PASS, lambda folder: shutil.rmtree(folder / "checkpoints"))]
    flips: Made = [
        (
            f"a bit changed in {name}",
            Expect.FAIL,
            partial(_at, name, partial(_flip, chance.random(), chance.randrange(8))),
        )
        for _ in range(6)
    ]
    return [
        *flips,
        (f"{name} of another model", Expect.FAIL, partial(_swap, use.other, name)),
        (f"{name} a zip file of nothing", Expect.FAIL, partial(_at, name, _as_zip)),
    ]


def _wrong_settings(use: Use, chance: random.Random) -> Made:
    """config.yaml with an invalid value of a key that the command reads."""
    values: dict[str, tuple[Any, ...]] = {
        "data": (None, 7, [], "abc", {}),
        "data._target_": (None, 7, "os.system", "micro_lit.nix", "nix", "micro_lit.models.LinearHeads"),
        "data.population": (None, 7, [], "abc", {}, {"attributes": 7}),
        "data.train": ("abc", None, [], -1, 1.5),
        "data.nix": (7,),
        "seed": ("abc", [], -1, 1.5, None),
        "backbone": (None, 7, [], "abc", {}),
        "backbone._target_": (None, 7, "os.system", "micro_lit.nix"),
        "backbone.nix": (7,),
        "model": (None, 7, [], "abc", {}),
        "model._target_": (None, 7, "os.system", "micro_lit.nix", "pytorch_lightning.Trainer"),
        "model.num_heads": ("abc", None, [], 0, -1, 5, 1.5, True),
        "model.head": (None, 7, [], "abc", {}),
        "model.gate": (7, "abc"),
        "model.nix": (7,),
        "stage1": (7, [], {}, "nix", COPY),
    }
    if use.name == "report":
        values = {"paths": (None, 7, [], "abc", {}), "paths.run_dir": (None, 7, []), "paths.data_dir": ([], {"a": 1})}
    if use.name == "resume":  # it reads the settings of the command line instead
        return []
    if use.name == "people":
        del values["data.nix"]
    if use.name == "stage1":  # the data come from the command line
        values = {key: each for key, each in values.items() if not key.startswith(("data.", "seed"))}
    if use.name == "personalise":
        values = {key: each for key, each in values.items() if key.split(".")[0] not in ("data", "seed")}
        values["loader.eval_batch_size"] = ("abc", 0, None, [], -1)
        values["loader"] = (None, 7, [], {})
    return [
        (f"{key}: {value!r} in config.yaml", Expect.FAIL, partial(_set, key, value))
        for key, each in values.items()
        for value in each
    ]


def _wrong_results(use: Use, chance: random.Random) -> Made:
    """results.json and .hydra files with values of wrong types, for the command that reads them."""
    if use.name != "report":
        return []
    values: dict[str, tuple[Any, ...]] = {
        "test.nll.value": ("abc", [], {"a": 1}),
        "test.nll.se": ("abc", []),
        "test": (7, "abc", []),
        "seed": ("abc", [], {"a": 1}),
        "floors": (7, "abc"),
    }
    made: Made = [
        (f"{key}: {value!r} in results.json", Expect.FAIL, partial(_set, key, value, name=RESULTS))
        for key, each in values.items()
        for value in each
    ]
    hydra = ".hydra/hydra.yaml"
    broken = (b"[]", b"7", b"hydra: 7", b"{hydra: [", b"hydra: {runtime: {choices: {}}, overrides: {task: [7]}}")
    made += [(f"{hydra}: {each!r}", Expect.FAIL, partial(_at, hydra, partial(_write, each))) for each in broken]
    made.append(("no .hydra", Expect.PASS, lambda folder: shutil.rmtree(folder / ".hydra")))
    return made


def _harmless(use: Use, chance: random.Random) -> Made:
    """Changes without effect on the result."""
    if use.name == "resume":
        return []
    made: Made = [
        ("nothing done to it", Expect.PASS, lambda folder: None),
        ("a file of somebody else in it", Expect.PASS, lambda folder: _write(b"7", folder / "notes.txt")),
        ("metrics.csv empty", Expect.PASS, partial(_at, "metrics.csv", partial(_write, b""))),
        ("a link in its place", Expect.PASS, _as_linked_folder),
    ]
    made += [(f"a link to {name} elsewhere", Expect.PASS, partial(_at, name, _elsewhere)) for name in use.files]
    if use.name != "report":
        made.append(("results.json empty", Expect.PASS, partial(_at, RESULTS, partial(_write, b""))))
    return made


MAKERS = (_broken_files, _checkpoints, _wrong_settings, _wrong_results, _harmless)


def _at(name: str, change: Callable[[Path], Any], folder: Path) -> None:
    change(folder / name)


def _write(content: bytes, path: Path) -> None:
    path.write_bytes(content)


def _cut(path: Path, share: float) -> None:
    content = path.read_bytes()
    if path.suffix == ".yaml":  # an unclosed bracket: a YAML file cut between lines would be valid
        content = content.replace(b"\npaths:", b"\npaths: [").replace(b"\nmodel:", b"\nmodel: [")
    path.write_bytes(content[: int(len(content) * share)])


def _as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _as_link(target: Path, path: Path) -> None:
    path.unlink()
    path.symlink_to(target)


def _as_loop(path: Path) -> None:
    _as_link(path, path)


def _as_dangling(path: Path) -> None:
    _as_link(path.with_name("nowhere"), path)


def _as_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("nothing", "")


def _elsewhere(path: Path) -> None:
    place = (
        path.parents[1] / f"elsewhere-{path.name}"
        if path.parent.name == "copy"
        else path.with_name(f"real-{path.name}")
    )
    shutil.move(path, place)
    path.symlink_to(place)


def _as_linked_folder(folder: Path) -> None:
    real = folder.with_name("real")
    folder.rename(real)
    folder.symlink_to(real)


def _flip(share: float, bit: int, path: Path) -> None:
    """Flips a bit inside an entry of the zip file: bytes between entries have no effect."""
    with zipfile.ZipFile(path) as file:
        entries = [each for each in file.infolist() if each.file_size]
    content = bytearray(path.read_bytes())
    entry = entries[int(share * len(entries))]
    header = content[entry.header_offset : entry.header_offset + 30]
    start = entry.header_offset + 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    content[start + int(share * entry.file_size)] ^= 1 << bit
    path.write_bytes(content)


def _swap(other: Path, name: str, folder: Path) -> None:
    shutil.copy(other / name, folder / name)


def _set(key: str, value: Any, folder: Path, name: str = CONFIG) -> None:
    """Sets a dotted key of a YAML or JSON file; JSON is YAML too."""
    path = folder / name
    tree = yaml.safe_load(path.read_text())
    *outer, last = key.split(".")
    node = tree
    for each in outer:
        node = node[each]
    node[last] = value.replace(FOLDER, str(folder.parent)) if isinstance(value, str) else value
    path.write_text(yaml.safe_dump(tree) if path.suffix == ".yaml" else json.dumps(tree))
