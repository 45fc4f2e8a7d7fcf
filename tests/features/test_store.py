import json
from pathlib import Path

import numpy as np
import pytest
import torch

from micro_lit.data.pairs import Text
from micro_lit.data.records import Message
from micro_lit.errors import UserError
from micro_lit.features.store import FeatureStore, text_digests

SPEC = {"model": "m", "revision": None}


def texts(start: int, stop: int) -> list[Text]:
    return [Text((Message("user", f"prompt {number}"),), f"reply {number}") for number in range(start, stop)]


def features(start: int, stop: int, width: int = 5) -> torch.Tensor:
    return torch.arange(start, stop).float()[:, None] + torch.arange(width) / 10


def add(store: FeatureStore, start: int, stop: int, dtype: torch.dtype = torch.float32) -> None:
    truncated_M = torch.arange(start, stop) % 2 == 0
    with store.lock():
        store.add(texts(start, stop), features(start, stop).to(dtype), truncated_M)


def test_what_was_added_is_found_in_any_order_across_shards(tmp_path):
    store = FeatureStore(tmp_path, SPEC)
    add(store, 0, 10)
    add(store, 10, 30)
    wanted = [texts(0, 30)[number] for number in (25, 3, 11, 3)]
    table = FeatureStore(tmp_path, SPEC).table(text_digests(wanted))
    expected = features(0, 30)[[25, 3, 11, 3]]
    assert torch.equal(table.gather(torch.arange(4)), expected)
    assert torch.equal(table.gather(torch.tensor([2, 0])), expected[[2, 0]])
    assert not table.truncated_M.any()
    assert FeatureStore(tmp_path, SPEC).table(text_digests(texts(0, 4))).truncated_M.tolist() == [
        True,
        False,
        True,
        False,
    ]


def test_missing_texts_are_told_apart(tmp_path):
    store = FeatureStore(tmp_path, SPEC)
    assert (store.find(text_digests(texts(0, 3))) == -1).all()
    add(store, 0, 10)
    found = store.find(text_digests(texts(8, 12)))
    assert (found[:, 0] >= 0).tolist() == [True, True, False, False]


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


def test_a_manifest_of_another_encoder_is_refused(tmp_path):
    store = FeatureStore(tmp_path, SPEC)
    add(store, 0, 3)
    manifest = json.loads(store.manifest_path.read_text())
    manifest["spec"]["model"] = "other"
    store.manifest_path.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="written for another encoder"):
        store.shards()


def test_broken_files_are_refused(tmp_path):
    store = FeatureStore(tmp_path, SPEC)
    add(store, 0, 3)
    [name] = store.shards()
    shard = store.folder / name
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-8])
    with pytest.raises(UserError, match="cut short"):
        store.shards()
    shard.unlink()
    with pytest.raises(UserError, match="missing"):
        store.shards()
    shard.write_bytes(whole)
    store.manifest_path.write_text("{")
    with pytest.raises(UserError, match="broken"):
        store.shards()


def test_a_shard_that_the_manifest_does_not_name_does_not_count(tmp_path):
    """As after a kill between the two renames."""
    store = FeatureStore(tmp_path, SPEC)
    add(store, 0, 3)
    before = store.manifest_path.read_bytes()
    add(store, 3, 6)
    store.manifest_path.write_bytes(before)
    assert (store.find(text_digests(texts(0, 6)))[:, 0] >= 0).sum() == 3


def test_safetensors_reads_our_shards(tmp_path):
    from safetensors.torch import load_file

    store = FeatureStore(tmp_path, SPEC)
    add(store, 0, 10)
    [name] = store.shards()
    assert torch.equal(load_file(store.folder / name)["features"], features(0, 10))


def test_gathering_gives_pages_back(tmp_path, monkeypatch):
    store = FeatureStore(tmp_path, SPEC)
    with store.lock():
        store.add(texts(0, 2000), torch.randn(2000, 4096), torch.zeros(2000, dtype=torch.bool))
    table = store.table(text_digests(texts(0, 2000)))
    table.resident_bytes = 2**40
    monkeypatch.setattr(table, "_release", lambda: None)
    gathered = table.gather(torch.arange(2000))
    assert resident_bytes(store.folder) > 30e6
    monkeypatch.undo()
    assert torch.equal(gathered, table.gather(torch.arange(2000)))
    assert resident_bytes(store.folder) < 4e6


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
