"""Cases of damaged feature stores: the result must be the right features, or a one-line error."""

import json
import random
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.fuzz.cases import Case, Expect
from benchmarks.fuzz.runs import Runs
from micro_lit.data.pairs import Text
from micro_lit.data.records import Message
from micro_lit.features.store import PARTS, FeatureStore, text_digests

SPEC, OTHER = {"model": "fuzzed"}, {"model": "another"}
TEXTS, SHARD, WIDTH = 24, 6, 5


def texts() -> list[Text]:
    """All texts of a store."""
    return [Text((Message("user", f"prompt {number}"),), f"reply {number}") for number in range(TEXTS)]


def features(numbers: np.ndarray) -> torch.Tensor:
    """Features of texts, by their numbers."""
    return torch.from_numpy(numbers).float()[:, None] + torch.arange(WIDTH) / 10


def fill(root: Path) -> Path:
    """Encodes missing texts as `Pretrained.encode` does, in shards of a few texts. Returns the folder of the store."""
    store = FeatureStore(root, SPEC)
    digests_M2 = text_digests(texts())
    for _ in range(3):  # a damaged manifest is rebuilt in the first round; its texts count only afterwards
        if store.table(digests_M2) is not None:
            break
        with store.claim(digests_M2, np.arange(TEXTS) % PARTS) as rows:
            for start in range(0, len(rows), SHARD):
                some = rows[start : start + SHARD]
                store.add([texts()[row] for row in some], features(some), torch.zeros(len(some), dtype=torch.bool))
    return store.folder


def use(folder: Path) -> None:
    """Opens the store of a case, encodes missing texts, and compares its features with the right ones."""
    fill(folder / "store")
    table = FeatureStore(folder / "store", SPEC).table(text_digests(texts()))
    order = np.random.default_rng(0).permutation(TEXTS)
    assert table is not None, "texts are still missing"
    assert torch.equal(table.gather(torch.from_numpy(order)), features(order)), "other features than were stored"


def cases(seed: int, shared: Path, runs: Runs) -> list[Case]:
    """All cases of a seed, in random order."""
    chance = random.Random(f"stores {seed}")
    whole = shared / "store"
    fill(whole)
    found = [
        *(_case(whole, *each, Expect.PASS) for each in _healed(chance)),
        *(_case(whole, *each, Expect.FAIL) for each in REFUSED.items()),
        *(_case(whole, what, change, Expect.WARN, note) for what, (change, note) in SAID.items()),
    ]
    found += [_case(whole, *_together(chance), Expect.PASS) for _ in range(40)]
    chance.shuffle(found)
    return found


Change = Callable[[Path], Any]


def _case(whole: Path, what: str, change: Change, expect: Expect, note: str = "") -> Case:
    def prepare(folder: Path) -> None:
        shutil.copytree(whole, folder / "store")
        change(FeatureStore(folder / "store", SPEC).folder)

    return Case(f"a store with {what}", expect, act=use, prepare=prepare, note=note)


def _healed(chance: random.Random) -> list[tuple[str, Change]]:
    """Damage after which all features are restored."""
    shard = partial(_shard, chance.randrange(TEXTS // SHARD))
    found: list[tuple[str, Change]] = [
        ("nothing done to it", lambda folder: None),
        ("no manifest", lambda folder: (folder / "manifest.json").unlink()),
        ("no locks", lambda folder: shutil.rmtree(folder / "locks")),
        ("nothing in it", lambda folder: [shutil.rmtree(folder), folder.mkdir()]),
        ("no folder", shutil.rmtree),
        ("a manifest of another content", lambda folder: (folder / "manifest.json").write_bytes(b"[]")),
        ("a shard missing", lambda folder: shard(folder).unlink()),
        ("a shard empty", lambda folder: shard(folder).write_bytes(b"")),
        ("two shards swapped", _swap),
        ("a foreign shard", lambda folder: (folder / "shard-0.safetensors").write_bytes(b"no shard")),
        ("a foreign file", lambda folder: (folder / "notes.txt").write_text("mine")),
        ("a partial file", lambda folder: (folder / "shard-1.safetensors.ab.partial").write_bytes(b"x")),
        ("a shard under another name", lambda folder: shard(folder).rename(folder / "shard-7.safetensors")),
        ("shards of another store", _foreign),
        ("a link to a shard elsewhere", lambda folder: _link(shard(folder), folder.parent / "moved")),
        ("a link to no shard", lambda folder: [shard(folder).unlink(), _dangling(folder)]),
        ("no shards at all", lambda folder: [each.unlink() for each in _shards(folder)]),
    ]
    for content in (b"", b"{", b"null", b"7", b"\xff\xfe", b"{}", b'{"format": 2}', b'{"shards": 7, "format": 1}'):
        found.append((f"the manifest {content!r}", partial(_manifest, content)))
    for _ in range(20):
        name, share, bit = chance.choice(("manifest", "shard")), chance.random(), chance.randrange(8)
        found.append((f"bit {bit} at {share:.3f} of a {name} changed", partial(_damage, name, "flip", share, bit)))
        found.append((f"a {name} cut at {share:.3f}", partial(_damage, name, "cut", share, bit)))
        found.append((f"a {name} longer", partial(_damage, name, "longer", share, bit)))
    return found


def _together(chance: random.Random) -> tuple[str, Change]:
    """Three kinds of damage at once."""
    alone = (
        "nothing in it",
        "no folder",
        "no manifest",
        "no locks",
        "no shards",
        "missing",
        "link",
        "other name",
        "swapped",
    )
    several = chance.sample([each for each in _healed(chance) if not any(word in each[0] for word in alone)], 3)

    def change(folder: Path) -> None:
        for _, each in several:
            each(folder)

    return " and ".join(what for what, _ in several), change


# Damage that only the user can repair: a one-line error is expected.
REFUSED: dict[str, Change] = {
    "a folder in place of the manifest": lambda folder: _as_folder(folder / "manifest.json"),
    "a folder in place of a shard": lambda folder: _as_folder(_shard(0, folder)),
    "a file in place of the locks": lambda folder: [
        shutil.rmtree(folder / "locks"), (folder / "locks").write_text(""), _shard(0, folder).unlink(),
    ],
    "a file in place of the store": lambda folder: [shutil.rmtree(folder), folder.write_text("")],
    "a folder in place of the lock": lambda folder: [
        (folder / ".lock").unlink(missing_ok=True), (folder / ".lock").mkdir(), _shard(0, folder).unlink(),
    ],
    "a manifest of another encoder": lambda folder: _other_manifest(folder),
}  # fmt: skip


# Damage that is repaired, with a note.
SAID: dict[str, tuple[Change, str]] = {
    "a shard gone": (lambda folder: _shard(1, folder).unlink(), "its 6 texts are to be encoded again"),
    "a shard cut in half": (
        lambda folder: _damage("shard", "cut", 0.5, 0, folder), "its size has changed; its 6 texts",
    ),
    "a bit of a vector changed": (lambda folder: _damage("shard", "flip", 0.9, 3, folder), "damaged; its 6 texts"),
    "a manifest cut in half": (lambda folder: _damage("manifest", "cut", 0.5, 0, folder), "it is rebuilt"),
}  # fmt: skip


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("shard-*.safetensors"))


def _shard(number: int, folder: Path) -> Path:
    found = _shards(folder)
    return found[number % len(found)]


def _dangling(folder: Path) -> None:
    (folder / "shard-dangling.safetensors").symlink_to(folder / "nowhere")


def _link(path: Path, elsewhere: Path) -> None:
    shutil.move(path, elsewhere)
    path.symlink_to(elsewhere)


def _as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _manifest(content: bytes, folder: Path) -> None:
    (folder / "manifest.json").write_bytes(content)


def _swap(folder: Path) -> None:
    first, second = _shards(folder)[:2]
    held = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(held)


def _foreign(folder: Path) -> None:
    """Replaces a shard by a shard of another encoder."""
    other = FeatureStore(folder.parent / "other", OTHER)
    with other.claim(text_digests(texts()), np.arange(TEXTS) % PARTS):
        other.add(texts(), features(np.arange(TEXTS)) + 1, torch.zeros(TEXTS, dtype=torch.bool))
    shutil.copy(_shards(other.folder)[0], _shard(0, folder))


def _other_manifest(folder: Path) -> None:
    other = FeatureStore(folder.parent / "other", OTHER)
    with other.claim(text_digests(texts()), np.arange(TEXTS) % PARTS):
        other.add(texts(), features(np.arange(TEXTS)), torch.zeros(TEXTS, dtype=torch.bool))
    assert json.loads(other.manifest_path.read_text())["spec"] == OTHER
    shutil.copy(other.manifest_path, folder / "manifest.json")


def _damage(name: str, how: str, share: float, bit: int, folder: Path) -> None:
    path = folder / "manifest.json" if name == "manifest" else _shard(int(share * 4), folder)
    content = bytearray(path.read_bytes())
    at = int(share * len(content))
    if not content:  # emptied by earlier damage
        return
    if how == "flip":
        content[at] ^= 1 << bit
    elif how == "cut":
        del content[at:]
    else:
        content += bytes(1 + at)
    path.write_bytes(content)
