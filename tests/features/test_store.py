import contextlib
import json
import os
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import xxhash
from filelock import FileLock, Timeout
from full_disk import full_disk
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from micro_lit.data.pairs import Text
from micro_lit.data.records import Message
from micro_lit.errors import UserError
from micro_lit.features import store as feature_store
from micro_lit.features.store import PARTS, FeatureStore, text_digests

SPEC = {"model": "m", "revision": None}
NOBODY = 65534


def texts(start: int, stop: int) -> list[Text]:
    return [Text((Message("user", f"prompt {number}"),), f"reply {number}") for number in range(start, stop)]


def features(start: int, stop: int, width: int = 5) -> torch.Tensor:
    return torch.arange(start, stop).float()[:, None] + torch.arange(width) / 10


def add(store: FeatureStore, start: int, stop: int, dtype: torch.dtype = torch.float32, width: int = 5) -> None:
    truncated_M = torch.arange(start, stop) % 3 == 0
    store.add(texts(start, stop), features(start, stop, width).to(dtype), truncated_M)


def stored(store: FeatureStore, start: int, stop: int) -> list[bool]:
    """Whether each text is there, as a process finds it that opens the store now."""
    _, place_M2 = FeatureStore(store.folder.parent, SPEC).find(text_digests(texts(start, stop)))
    return (place_M2[:, 0] >= 0).tolist()


def claim(store: FeatureStore, start: int, stop: int, **ranks: int) -> contextlib.AbstractContextManager:
    """Claims some texts; a text's part is its number."""
    return store.claim(text_digests(texts(start, stop)), np.arange(start, stop) % PARTS, **ranks)


def claimed(store: FeatureStore, start: int, stop: int, **ranks: int) -> list[int]:
    with claim(store, start, stop, **ranks) as rows:
        return (start + rows).tolist()


def overwrite(path: Path, content: bytes) -> None:
    """Changes a file in place, and its time for certain, however coarse the clock."""
    before = path.stat().st_mtime_ns
    path.write_bytes(content)
    os.utime(path, ns=(before + 10**9, before + 10**9))


def test_what_was_added_is_found_in_any_order_across_shards(tmp_path):
    store = FeatureStore(tmp_path, SPEC)
    add(store, 0, 10)
    add(store, 10, 30)
    wanted = [texts(0, 30)[number] for number in (25, 3, 11, 3)]
    table = FeatureStore(tmp_path, SPEC).table(text_digests(wanted))
    expected = features(0, 30)[[25, 3, 11, 3]]
    assert torch.equal(table.gather(torch.arange(4)), expected)
    assert torch.equal(table.gather(torch.tensor([2, 0])), expected[[2, 0]])
    assert table.truncated_M.tolist() == [False, True, False, True]


def test_what_became_of_a_text_is_stored_with_it(tmp_path):
    """Shards of earlier versions do not have it, and open."""
    store = FeatureStore(tmp_path, SPEC)
    add(store, 0, 2)
    cut_M2, tokens_M = torch.tensor([[True, False], [False, True]]), torch.tensor([7, 2**60])
    store.add(texts(2, 4), features(2, 4), cut_M2.any(dim=1), {"cut": cut_M2, "tokens": tokens_M})
    table = FeatureStore(tmp_path, SPEC).table(text_digests(texts(0, 4)))
    assert table.cut_M2.tolist() == [[False, False]] * 2 + cut_M2.tolist()
    assert table.tokens_M.tolist() == [0, 0, 7, 2**60]


def test_texts_that_were_cut_by_an_earlier_rule_are_encoded_again(tmp_path):
    store = FeatureStore(tmp_path, SPEC)
    add(store, 0, 4)  # of which 0 and 3 were cut
    recut = FeatureStore(tmp_path, SPEC, recut=True)
    assert claimed(store, 0, 4) == []
    assert claimed(recut, 0, 4) == [0, 3]
    assert recut.table(text_digests(texts(0, 4))) is None
    cut_M2 = torch.tensor([[True, False]] * 2)
    again = [texts(0, 4)[number] for number in (0, 3)]
    reading = {"cut": cut_M2, "tokens": torch.tensor([5, 6])}
    recut.add(again, features(10, 12), torch.tensor([True, True]), reading)
    table = FeatureStore(tmp_path, SPEC, recut=True).table(text_digests(texts(0, 4)))
    assert torch.equal(table.gather(torch.arange(4)), torch.cat([features(10, 11), features(1, 3), features(11, 12)]))
    assert table.tokens_M.tolist() == [5, 0, 0, 6]


@pytest.fixture(scope="module")
def filled(tmp_path_factory) -> FeatureStore:
    """Texts 0 to 29 in shards of 1, 2, ..., 7 texts, 28 and 29 missing."""
    store = FeatureStore(tmp_path_factory.mktemp("filled"), SPEC)
    for size in range(1, 8):
        start = size * (size - 1) // 2
        add(store, start, start + size)
    return store


@given(st.lists(st.integers(0, 29), min_size=1, max_size=40))
def test_whatever_is_asked_for_lies_where_it_is_said_to(filled, numbers):
    digests_M2 = text_digests(texts(0, 30))[numbers]
    names, place_M2 = filled.find(digests_M2)
    assert (place_M2[:, 0] < 0).tolist() == [number >= 28 for number in numbers]
    assert len(names) == len(np.unique(place_M2[place_M2[:, 0] >= 0, 0]))
    table = filled.table(digests_M2)
    if table is None:
        assert max(numbers) >= 28
    else:
        assert torch.equal(table.gather(torch.arange(len(numbers))), features(0, 30)[numbers])


def test_missing_texts_are_told_apart(tmp_path):
    store = FeatureStore(tmp_path, SPEC)
    assert stored(store, 0, 3) == [False] * 3
    add(store, 0, 10)
    assert stored(store, 8, 12) == [True, True, False, False]
    assert store.table(text_digests(texts(8, 12))) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_numbers_come_back_as_they_were_stored(tmp_path, dtype):
    store = FeatureStore(tmp_path, SPEC)
    add(store, 0, 10, dtype)
    gathered = store.table(text_digests(texts(0, 10))).gather(torch.arange(10))
    assert gathered.dtype == torch.float32
    assert torch.equal(gathered, features(0, 10).to(dtype).float())


def test_another_encoder_has_another_folder(tmp_path):
    add(FeatureStore(tmp_path, SPEC), 0, 3)
    other = FeatureStore(tmp_path, {**SPEC, "revision": "abc"})
    assert other.shards() == {}
    assert other.folder != FeatureStore(tmp_path, SPEC).folder


def test_a_store_is_found_where_earlier_versions_have_put_it(tmp_path):
    assert FeatureStore(tmp_path, SPEC).fingerprint == "30fc8d571b96429e"


def test_a_digest_is_compared_with_both_its_halves(tmp_path):
    store = FeatureStore(tmp_path, SPEC)
    add(store, 0, 3)
    for half in (0, 1):
        digests_M2 = text_digests(texts(0, 3)).copy()
        digests_M2[1, half] ^= 1
        assert (store.find(digests_M2)[1][:, 0] >= 0).tolist() == [True, False, True]


def test_a_manifest_of_another_encoder_is_refused(tmp_path):
    store, other = FeatureStore(tmp_path, SPEC), FeatureStore(tmp_path, {**SPEC, "model": "other"})
    add(store, 0, 3)
    add(other, 0, 3)
    store.manifest_path.write_bytes(other.manifest_path.read_bytes())
    with pytest.raises(UserError, match="written for another encoder"):
        store.shards()


def test_a_manifest_of_another_version_is_refused(tmp_path):
    store = FeatureStore(tmp_path, SPEC)
    add(store, 0, 3)
    manifest = json.loads(store.manifest_path.read_text()) | {"format": 3}
    del manifest["checksum"]
    checksum = xxhash.xxh3_128_hexdigest(json.dumps(manifest, sort_keys=True).encode())
    store.manifest_path.write_text(json.dumps({**manifest, "checksum": checksum}))
    with pytest.raises(UserError, match="written for another encoder or version"):
        store.shards()


def test_every_shard_is_named_by_its_checksum_which_the_manifest_holds_too(filled):
    manifest = json.loads(filled.manifest_path.read_text())
    assert len(manifest["shards"]) == 7
    for name, facts in manifest["shards"].items():
        checksum = xxhash.xxh3_128_hexdigest((filled.folder / name).read_bytes())
        assert facts["checksum"] == checksum
        assert name == f"shard-{checksum}.safetensors"


def test_files_appear_by_rename_and_under_the_lock_the_shard_before_its_name(tmp_path, monkeypatch):
    store, replace = FeatureStore(tmp_path, SPEC), os.replace
    renamed = []

    def seen_replace(source: Path, target: Path) -> None:
        with pytest.raises(Timeout):
            FileLock(store.folder / ".lock").acquire(blocking=False)
        renamed.append(target.name)
        replace(source, target)

    monkeypatch.setattr(os, "replace", seen_replace)
    add(store, 0, 3)
    [name] = store.shards()
    assert renamed == [name, "manifest.json"]
    store.manifest_path.unlink()
    assert claimed(store, 0, 4) == [3]
    assert renamed == [name, "manifest.json", "manifest.json"]


def test_safetensors_reads_our_shards(tmp_path):
    store = FeatureStore(tmp_path, SPEC)
    add(store, 0, 10)
    [name] = store.shards()
    assert torch.equal(load_file(store.folder / name)["features"], features(0, 10))


def test_no_changed_bit_of_a_shard_is_believed(tmp_path, capsys):
    store = FeatureStore(tmp_path, SPEC)
    add(store, 0, 3)
    [name] = store.shards()
    shard = store.folder / name
    whole = shard.read_bytes()
    for at in range(len(whole)):
        changed = bytearray(whole)
        changed[at] ^= 1 << at % 8
        overwrite(shard, changed)
        assert FeatureStore(tmp_path, SPEC).table(text_digests(texts(0, 3))) is None, f"byte {at}"
    assert "damaged; its 3 texts are to be encoded again" in capsys.readouterr().out
    overwrite(shard, whole)
    assert FeatureStore(tmp_path, SPEC).table(text_digests(texts(0, 3))) is not None


def test_no_changed_bit_of_a_manifest_is_believed_and_nothing_is_lost_by_it(tmp_path, capsys):
    store = FeatureStore(tmp_path, SPEC)
    add(store, 0, 3)
    add(store, 3, 6)
    whole = store.manifest_path.read_bytes()
    for at in range(len(whole)):
        changed = bytearray(whole)
        changed[at] ^= 1 << at % 8
        store.manifest_path.write_bytes(changed)
        assert stored(store, 0, 6) == [False] * 6, f"byte {at}"
    assert "manifest.json: broken" in capsys.readouterr().out
    for broken in (b"", b"{", b"[]", b"7", b'"shards"', whole[:-20], whole[20:]):
        store.manifest_path.write_bytes(broken)
        assert claimed(FeatureStore(tmp_path, SPEC), 0, 6) == []
        assert stored(store, 0, 6) == [True] * 6
        assert json.loads(store.manifest_path.read_text())["shards"] == json.loads(whole)["shards"]


@pytest.mark.parametrize("damage", ["flip", "cut", "longer", "empty", "gone"])
def test_what_a_damaged_shard_held_is_encoded_again(tmp_path, capsys, damage):
    store = FeatureStore(tmp_path, SPEC)
    add(store, 0, 10)
    [kept] = store.shards()
    add(store, 10, 30)
    [name] = store.shards().keys() - {kept}
    shard = store.folder / name
    whole = shard.read_bytes()
    flipped = bytearray(whole)
    flipped[-100] ^= 4
    content = {"flip": flipped, "cut": whole[:-8], "longer": whole + b"0", "empty": b"", "gone": whole}[damage]
    overwrite(shard, content)
    if damage == "gone":
        shard.unlink()
    opened = FeatureStore(tmp_path, SPEC)
    digests_M2 = text_digests(texts(5, 20))
    assert opened.table(digests_M2) is None
    reason = {"flip": "damaged", "gone": "No such file"}.get(damage, "its size has changed")
    with claim(opened, 5, 20) as rows:
        assert rows.tolist() == list(range(5, 15))
        add(opened, 10, 20)
    [line] = [line for line in capsys.readouterr().out.splitlines() if reason in line]
    assert line.startswith(f"{shard}: {reason}")
    assert line.endswith("; its 20 texts are to be encoded again")
    assert torch.equal(opened.table(digests_M2).gather(torch.arange(15)), features(5, 20))
    assert stored(store, 0, 30) == [True] * 20 + [False] * 10
    assert len(store.shards()) == len(list(store.folder.glob("shard-*"))) == 2
    add(opened, 10, 30)  # as another process may: the very shard again
    assert shard.read_bytes() == whole
    assert stored(store, 0, 30) == [True] * 30


def test_damage_is_said_once_and_again_when_it_comes_back(tmp_path, capsys):
    store = FeatureStore(tmp_path, SPEC)
    add(store, 0, 10)
    [name] = store.shards()
    for _ in range(2):
        overwrite(store.folder / name, b"damaged")
        for _ in range(2):
            assert store.table(text_digests(texts(0, 10))) is None
        assert capsys.readouterr().out.count("its size has changed") == 1
        with claim(store, 0, 10) as rows:
            assert len(rows) == 10
            add(store, 0, 10)


def test_a_shard_that_nobody_asks_for_is_not_read(tmp_path, capsys):
    store = FeatureStore(tmp_path, SPEC)
    add(store, 0, 10)
    [name] = store.shards()
    content = bytearray((store.folder / name).read_bytes())
    content[-100] ^= 4
    add(store, 10, 30)
    overwrite(store.folder / name, content)
    assert FeatureStore(tmp_path, SPEC).table(text_digests(texts(10, 30))) is not None
    assert "damaged" not in capsys.readouterr().out


def test_a_shard_that_the_manifest_does_not_name_counts_once_someone_tidies(tmp_path):
    """As after a kill between the two renames: nobody sees it, and whoever encodes next finds it done."""
    store = FeatureStore(tmp_path, SPEC)
    add(store, 0, 3)
    before = store.manifest_path.read_bytes()
    add(store, 3, 6)
    store.manifest_path.write_bytes(before)
    assert stored(store, 0, 6) == [True] * 3 + [False] * 3
    assert claimed(store, 0, 6) == []
    assert stored(store, 0, 6) == [True] * 6


def test_what_dead_writers_left_is_removed(tmp_path):
    store = FeatureStore(tmp_path, SPEC)
    add(store, 0, 3)
    left = [store.folder / name for name in ("manifest.json.partial", "shard-1.safetensors.partial", "shard-2.partial")]
    for path in left:
        path.write_text("half")
    (store.folder / "shard-3.safetensors").write_text("a name that it has not earned")
    before = store.shards()
    assert claimed(store, 0, 4) == [3]
    assert {path.name for path in store.folder.iterdir()} == {*before, "manifest.json", ".lock", "locks"}


def test_who_comes_second_gets_the_parts_that_are_free(tmp_path):
    first, second = FeatureStore(tmp_path, SPEC), FeatureStore(tmp_path, SPEC)
    with claim(first, 0, 10) as rows:
        assert rows.tolist() == list(range(10))
        assert claimed(second, 5, 20) == list(range(10, 20))
        add(first, 0, 10)
    assert claimed(second, 0, 20) == list(range(10, 20))


@pytest.mark.parametrize("rank", [0, 1])
def test_the_first_rank_says_once_that_it_waits(rank, tmp_path, monkeypatch, capsys):
    first, second = FeatureStore(tmp_path, SPEC), FeatureStore(tmp_path, SPEC)
    naps = []
    with contextlib.ExitStack() as held:
        held.enter_context(claim(first, 0, 10))

        def nap(seconds: float) -> None:
            naps.append(seconds)
            if len(naps) == 3:
                held.close()

        monkeypatch.setattr(feature_store.time, "sleep", nap)
        assert claimed(second, 0, 10, rank=rank, world_size=2) == list(range(rank, 10, 2))
    assert naps == [feature_store.POLL_SECONDS] * 3
    assert capsys.readouterr().out.count("waiting for another process to encode 10 texts") == (rank == 0)


def test_nobody_waits_for_what_has_been_done_meanwhile(tmp_path):
    store = FeatureStore(tmp_path, SPEC)
    add(store, 0, 10)
    with claim(FeatureStore(tmp_path, SPEC), 0, 20):
        assert claimed(store, 0, 10) == []


def test_a_claim_ends_with_an_error(tmp_path):
    first, second = FeatureStore(tmp_path, SPEC), FeatureStore(tmp_path, SPEC)
    with pytest.raises(ZeroDivisionError), claim(first, 0, 10):
        1 / 0  # noqa: B018
    assert claimed(second, 0, 10) == list(range(10))


def test_ranks_take_their_own_parts_first_and_then_help(tmp_path):
    stores = [FeatureStore(tmp_path, SPEC) for _ in range(3)]
    with contextlib.ExitStack() as held:
        rows = [held.enter_context(claim(stores[rank], 0, 30, rank=rank, world_size=3)) for rank in range(3)]
    assert [found.tolist() for found in rows] == [list(range(rank, 30, 3)) for rank in range(3)]
    own = texts(0, 30)[1::3]
    stores[1].add(own, features(0, 30)[1::3], torch.zeros(10, dtype=torch.bool))
    with claim(stores[0], 0, 30, rank=0, world_size=3):
        assert claimed(stores[1], 0, 30, rank=1, world_size=3) == list(range(2, 30, 3))


@pytest.fixture
def old(tmp_path) -> FeatureStore:
    """Texts 0 to 9 as the first version of the store left them, without checksums."""
    store = FeatureStore(tmp_path, SPEC)
    store.folder.mkdir()
    digests = torch.from_numpy(text_digests(texts(0, 10)).view(np.int64).copy())
    shard = store.folder / "shard-0123456789abcdef.safetensors"
    tensors = {"features": features(0, 10), "digests": digests, "truncated": torch.zeros(10, dtype=torch.bool)}
    save_file(tensors, shard)
    facts = {"rows": 10, "bytes": shard.stat().st_size}
    store.manifest_path.write_text(json.dumps({"format": 1, "spec": SPEC, "shards": {shard.name: facts}}, indent=1))
    return store


def test_a_store_of_the_first_version_is_read_as_it_is(old):
    before = {path.name: path.read_bytes() for path in old.folder.iterdir()}
    table = old.table(text_digests(texts(0, 10)))
    assert torch.equal(table.gather(torch.arange(10)), features(0, 10))
    assert {path.name: path.read_bytes() for path in old.folder.iterdir()} == before


def test_a_shard_of_the_first_version_with_other_rows_than_were_written_is_encoded_again(old, capsys):
    [name] = old.shards()
    facts = {"rows": 9, "bytes": old.shards()[name]["bytes"]}
    old.manifest_path.write_text(json.dumps({"format": 1, "spec": SPEC, "shards": {name: facts}}))
    assert old.table(text_digests(texts(0, 9))) is None
    assert f"{name}: damaged; its 9 texts are to be encoded again" in capsys.readouterr().out
    assert claimed(old, 0, 9) == list(range(9))


def test_a_store_of_the_first_version_gets_checksums_when_it_grows(old):
    with claim(old, 0, 20) as rows:
        assert rows.tolist() == list(range(10, 20))
        add(old, 10, 20)
    assert json.loads(old.manifest_path.read_text())["format"] == 2
    assert stored(old, 0, 20) == [True] * 20
    content = bytearray((old.folder / "shard-0123456789abcdef.safetensors").read_bytes())
    content[-100] ^= 4
    overwrite(old.folder / "shard-0123456789abcdef.safetensors", content)
    assert stored(old, 0, 20) == [False] * 10 + [True] * 10
    assert claimed(FeatureStore(old.folder.parent, SPEC), 0, 20) == list(range(10))


def test_a_full_disk_is_said_and_finished_shards_are_kept(tmp_path):
    elsewhere = FeatureStore(tmp_path / "elsewhere", SPEC)
    add(elsewhere, 10, 20, width=5000)
    [name] = elsewhere.shards()
    size = (elsewhere.folder / name).stat().st_size
    store = FeatureStore(tmp_path, SPEC)
    with claim(store, 0, 50):
        add(store, 0, 10, width=5000)
        with full_disk(name), pytest.raises(UserError) as caught:
            add(store, 10, 20, width=5000)
    assert str(caught.value).startswith(f"{store.folder}: the disk is full; what is still to be stored takes")
    assert f" {size * 4 / 1e6:,.1f} MB" in str(caught.value)  # of 50 texts 10 are stored
    assert "Finished shards are kept" in str(caught.value)
    assert stored(store, 0, 20) == [True] * 10 + [False] * 10
    assert not list(store.folder.glob("*.partial"))
    add(store, 10, 20, width=5000)
    assert stored(store, 0, 20) == [True] * 20


def test_a_disk_that_is_full_before_the_manifest_loses_no_shard(tmp_path):
    store = FeatureStore(tmp_path, SPEC)
    add(store, 0, 10)
    with full_disk("manifest.json"), pytest.raises(UserError, match="the disk is full"):
        add(store, 10, 20)
    assert stored(store, 0, 20) == [True] * 10 + [False] * 10
    assert claimed(store, 0, 20) == []
    assert stored(store, 0, 20) == [True] * 20


@pytest.fixture
def guarded() -> Iterator[FeatureStore]:
    """Texts 0 to 9 in a folder that may not be written, opened by a user who is not root."""
    with tempfile.TemporaryDirectory() as root:
        Path(root).chmod(0o755)
        store = FeatureStore(Path(root), SPEC)
        add(store, 0, 10)
        store.folder.chmod(0o555)
        if root_user := os.geteuid() == 0:
            os.seteuid(NOBODY)
        yield store
        if root_user:
            os.seteuid(0)
        store.folder.chmod(0o755)


def test_a_folder_that_cannot_be_written_is_read(guarded):
    before = {path: path.stat().st_mtime_ns for path in guarded.folder.rglob("*")}
    with pytest.raises(PermissionError):
        (guarded.folder / "probe").touch()
    table = guarded.table(text_digests(texts(0, 10)))
    assert torch.equal(table.gather(torch.arange(10)), features(0, 10))
    with pytest.raises(UserError, match=r"some texts are not stored there yet, .*\(Permission denied\).*features_dir"):
        claimed(guarded, 0, 12)
    with pytest.raises(UserError, match="Permission denied"):
        add(guarded, 10, 12)
    assert {path: path.stat().st_mtime_ns for path in guarded.folder.rglob("*")} == before


@pytest.mark.parametrize("what", ["shard", "manifest"])
def test_a_file_that_may_not_be_read_is_not_taken_for_damage(guarded, what):
    [name] = guarded.shards()
    path = guarded.folder / name if what == "shard" else guarded.manifest_path
    os.seteuid(path.stat().st_uid)
    path.chmod(0o000)
    if path.stat().st_uid == 0:
        os.seteuid(NOBODY)
    with pytest.raises(UserError, match=rf"{path}: cannot be read \(Permission denied\)"):
        guarded.table(text_digests(texts(0, 10)))


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    store = FeatureStore(tmp_path / "file", SPEC)
    assert store.table(text_digests(texts(0, 3))) is None
    with pytest.raises(UserError, match=r"cannot be written \(Not a directory\)"):
        claimed(store, 0, 3)


def test_gathering_gives_pages_back(tmp_path, monkeypatch):
    store = FeatureStore(tmp_path, SPEC)
    store.add(texts(0, 2000), torch.randn(2000, 4096), torch.zeros(2000, dtype=torch.bool))
    table = store.table(text_digests(texts(0, 2000)))
    assert resident_bytes(store.folder) < 4e6  # it was read to be verified, and searched
    table.resident_bytes = 2**40
    monkeypatch.setattr(table, "_release", lambda: None)
    gathered = table.gather(torch.arange(2000))
    assert resident_bytes(store.folder) > 30e6
    monkeypatch.undo()
    assert torch.equal(gathered, table.gather(torch.arange(2000)))
    assert resident_bytes(store.folder) < 4e6


def test_pages_are_given_back_whenever_there_may_be_too_many(filled, monkeypatch):
    """Touching one row may map as much as `FAULT_BYTES`."""
    table, released = filled.table(text_digests(texts(0, 28))), []
    table.resident_bytes = 5 * feature_store.FAULT_BYTES + 1
    monkeypatch.setattr(table, "_release", lambda: released.append(1))
    assert torch.equal(table.gather(torch.arange(28)), features(0, 28))
    assert len(released) == 6
    assert torch.equal(table.resident(), features(0, 28))


def test_more_shards_than_files_may_be_open(tmp_path):
    store = FeatureStore(tmp_path, SPEC)
    for number in range(40):
        add(store, number, number + 1)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 20, before[1]))
    try:
        table = store.table(text_digests(texts(0, 40)))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert torch.equal(table.gather(torch.arange(40)), features(0, 40))


def resident_bytes(folder: Path) -> int:
    """Resident part of this process's mappings of files in a folder, from the kernel's own account."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ")[0]:
            inside = str(folder) in line
        elif inside and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


def test_digests_depend_on_every_part_of_a_text():
    prompt = (Message("user", "a"),)
    variants = [
        Text(prompt),
        Text(prompt, ""),
        Text(prompt, "b"),
        Text((Message("system", "a"),), "b"),
        Text((Message("user", "a"), Message("user", "b"))),
    ]
    assert len(np.unique(text_digests(variants), axis=0)) == len(variants)
