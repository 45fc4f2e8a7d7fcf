"""Against the real wandb, its real wandb-core, and a server of our own that answers as it is told."""

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pandas as pd
import pytest
import pytorch_lightning as pl
import wandb
import yaml
from conftest import SMALL_FEATURES
from processes import LAST_RESORT, wait_until
from wandb.proto import wandb_internal_pb2

from micro_lit import config, track, train
from micro_lit.run import checkpoints
from micro_lit.track import Artifact, Loggers, RunRecord
from micro_lit.track import wandb as tracking
from micro_lit.track.wandb import Session

KEY = "0123456789abcdef" * 3
FEATURES = ("+experiment=planted_floors_k8", *SMALL_FEATURES, "trainer.max_epochs=2")
BUCKET = {
    "id": "b", "displayName": "run", "config": "{}", "sweepName": None, "historyLineCount": 0,
    "project": {"id": "p", "name": "p", "entity": {"id": "e", "name": "me"}},
}  # fmt: skip


class Server(ThreadingHTTPServer):
    """As much of a W&B server as a run needs; `failing` says how it answers to a path instead, None for not at all."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.failing: Callable[[str], int | None] = lambda path: 200
        self.asked: list[tuple[str, str]] = []
        self.closing = threading.Event()

    def handle_error(self, *_) -> None:
        """A client that goes away in the middle is none of the test's business."""

    def answer(self, path: str, body: str) -> dict:
        if path != "/graphql":
            return {}
        query, given = (json.loads(body).get(name) or {} for name in ("query", "variables"))
        if "mutation UpsertBucket" in query:
            return {"data": {"upsertBucket": {"bucket": {**BUCKET, "name": given["name"]}, "inserted": True}}}
        if "mutation CreateRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.url}/upload/{name}"} for name in given["files"]]
            return {"data": {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}}
        return {"data": {"model": {**BUCKET["project"], "bucket": None}} if "RunResumeStatus" in query else {}}

    def upserts(self) -> list[dict]:
        bodies = [json.loads(body) for path, body in self.asked if path == "/graphql"]
        return [body["variables"] for body in bodies if "mutation UpsertBucket" in body["query"]]

    def history(self) -> list[dict]:
        streams = [json.loads(body) for path, body in self.asked if path.endswith("/file_stream")]
        chunks = [stream.get("files", {}).get("wandb-history.jsonl", {}).get("content", []) for stream in streams]
        return [json.loads(line) for chunk in chunks for line in chunk]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode(errors="replace")
        self.server.asked.append((self.path, body))
        status = self.server.failing(self.path)
        if status is None:
            self.server.closing.wait()
            return
        failed = {"error": "told to", "errors": [{"message": "told to"}]}
        answer = json.dumps(self.server.answer(self.path, body) if status == 200 else failed).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST = do_PUT = do_HEAD = answer

    def log_message(self, *_) -> None:
        pass


@pytest.fixture(autouse=True)
def anew(monkeypatch, tmp_path) -> Iterator[None]:
    """A library that has not yet read the environment, with no key in it, and a past without failures."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setattr(tracking, "_shunned_until", 0.0)
    wandb.teardown()
    yield
    tracking._forget_service()


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    """Runs that have a key go there."""
    with Server() as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        monkeypatch.setenv("WANDB_BASE_URL", found.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        yield found
        found.closing.set()
        found.shutdown()


def records(path: Path) -> Iterator[wandb_internal_pb2.Record]:
    """What a .wandb file holds: 7 bytes, then the log format of LevelDB, whose blocks have 32 KiB."""
    raw, at, held = path.read_bytes(), 7, b""
    while at + 7 <= len(raw):
        left = 32768 - at % 32768
        length, kind = int.from_bytes(raw[at + 4 : at + 6], "little"), raw[at + 6]
        if left < 7 or kind == 0:
            at += left
            continue
        held += raw[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield wandb_internal_pb2.Record.FromString(held)
            held = b""


def kept(folder: Path, pattern: str = "*run-*", ended: bool = True) -> list[wandb_internal_pb2.Record]:
    """All records below the `wandb` folder of a run, the older files first."""
    if ended:
        wandb.teardown()  # wandb-core writes the last of them when it ends
    paths = sorted(folder.glob(f"wandb/{pattern}/*.wandb"), key=lambda path: path.stat().st_mtime_ns)
    return [record for path in paths if not path.parent.is_symlink() for record in records(path)]


def rows(found: list[wandb_internal_pb2.Record]) -> list[dict]:
    items = [record.history.item for record in found if record.WhichOneof("record_type") == "history"]
    return [{item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in row} for row in items]


def logged(found: list[dict], name: str) -> list:
    return [row[name] for row in found if name in row]


def said(capsys) -> list[str]:
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("W&B: ")]


def core() -> int:
    """The number of the process wandb-core."""
    return tracking._service().pid


def opened(session: Session) -> None:
    """Waits until the session has its run."""
    there = threading.Event()
    session.do(lambda run: there.set())
    assert there.wait(LAST_RESORT)


def kill_core(session: Session) -> None:
    """Kills wandb-core; returns once that is noticed, for what it is told in between is lost with it."""
    os.kill(core(), signal.SIGKILL)

    def noticed() -> bool:
        session.do(lambda run: run.log({"noticed": True}))
        return len(list(session.folder.glob("wandb/offline-run-*"))) >= 2

    wait_until(noticed)


def one_two_three(session: Session) -> None:
    for number in (1, 2, 3):
        session.do(lambda run, number=number: run.log({"number": number}))


# What can fail


@pytest.mark.parametrize("status", [401, 403, 429, 500, None, "refused"])
def test_whatever_the_server_answers_all_is_kept(status, server, tmp_path, capsys):
    """None: it never answers. refused: it is not there."""
    server.failing = lambda path: status
    if status == "refused":
        os.environ["WANDB_BASE_URL"] = "http://127.0.0.1:1"  # the fixture puts it back
    session = Session(tmp_path, init_timeout=0.5, finish_timeout=0.5, project="p")
    one_two_three(session)
    session.finish()
    why, how = said(capsys)
    assert why.startswith("W&B: no usable answer (")
    assert why.endswith("; the run goes on, offline")
    [folder] = tmp_path.glob("wandb/offline-run-*")
    assert how == f"W&B: to send what is not yet sent: wandb sync {folder}"
    assert logged(rows(kept(tmp_path)), "number") == [1, 2, 3]
    later = Session(tmp_path / "later", init_timeout=0.5, finish_timeout=0.5, project="p")
    one_two_three(later)
    asked = len(server.asked)
    later.finish()
    assert len(server.asked) == asked  # the next job of a sweep does not wait for it again
    assert logged(rows(kept(tmp_path / "later")), "number") == [1, 2, 3]


def test_nobody_waits_for_a_server_that_does_not_answer(server, tmp_path):
    server.failing = lambda path: None
    session = Session(tmp_path, init_timeout=0.5, finish_timeout=0.5, project="p")
    at_work, gate = threading.Event(), threading.Event()
    session.do(lambda run: (at_work.set(), gate.wait()))
    one_two_three(session)  # while the thread stands at the gate
    assert at_work.wait(LAST_RESORT)
    gate.set()
    session.finish()
    assert logged(rows(kept(tmp_path)), "number") == [1, 2, 3]


def test_what_the_server_takes_is_sent_and_grouped(server, tmp_path, capsys):
    session = Session(
        tmp_path, project="p", group="a sweep", job_type="adapt", name="a name", finish_timeout=LAST_RESORT
    )
    one_two_three(session)
    session.finish()
    assert logged(server.history(), "number") == [1, 2, 3]
    sent = server.upserts()[0]
    assert (sent["groupName"], sent["jobType"], sent["displayName"]) == ("a sweep", "adapt", "a name")
    assert sent["name"] == tracking.run_id(tmp_path)
    assert said(capsys) == [f"W&B: {server.url}/me/p/runs/{tracking.run_id(tmp_path)}"]


def test_a_quota_that_ends_in_the_middle_is_noticed(server, tmp_path, capsys):
    """wandb-core then stops sending, and to finish the run succeeds all the same."""
    server.failing = lambda path: 403 if path.endswith("/file_stream") else 200
    session = Session(tmp_path, project="p", finish_timeout=LAST_RESORT)
    one_two_three(session)
    session.finish()
    [folder] = [path for path in tmp_path.glob("wandb/run-*") if not path.is_symlink() and path.is_dir()]
    assert said(capsys)[-1] == f"W&B: to send what is not yet sent: wandb sync --include-online {folder}"
    assert logged(rows(kept(tmp_path)), "number") == [1, 2, 3]


def test_a_server_that_does_not_take_the_end_is_left(server, tmp_path, capsys):
    server.failing = lambda path: 429 if path.endswith("/file_stream") else 200
    session = Session(tmp_path, project="p", finish_timeout=0.5)
    one_two_three(session)
    session.finish()
    assert "wandb sync --include-online" in said(capsys)[-1]
    assert logged(rows(kept(tmp_path)), "number") == [1, 2, 3]


@pytest.mark.full
def test_a_wandb_core_that_hangs_is_ended_and_what_it_was_told_is_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tracking, "EXIT_GRACE", 3.0)
    session = Session(tmp_path, project="p", offline=True, init_timeout=0.1, finish_timeout=0.1)
    opened(session)
    os.kill(core(), signal.SIGSTOP)
    session.do(lambda run: run.log({"large": "x" * 10**7}))  # more than a socket holds
    one_two_three(session)
    session.finish()
    assert len(list(tmp_path.glob("wandb/offline-run-*"))) == 2
    assert logged(rows(kept(tmp_path)), "number") == [1, 2, 3]
    assert "its process has died" in said(capsys)[0]


def test_the_line_that_is_printed_sends_all_even_from_before_a_kill(server, tmp_path, capsys):
    session = Session(tmp_path, project="p", offline=True, finish_timeout=LAST_RESORT)
    session.do(lambda run: run.log({"number": 1}))
    opened(session)
    wait_until(lambda: logged(rows(kept(tmp_path, ended=False)), "number"))  # wandb-core writes once a second
    kill_core(session)
    session.do(lambda run: run.log({"number": 2}))
    session.do(lambda run: run.log({"number": 3}))
    session.finish()
    assert not server.asked
    printed = said(capsys)[-1].split(": ")[-1]
    wandb.teardown()
    command = [sys.executable, "-m", *shlex.split(printed)]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=LAST_RESORT)
    assert sorted(logged(server.history(), "number")) == [1, 2, 3]
    assert {sent["name"] for sent in server.upserts()} == {tracking.run_id(tmp_path)}


def test_a_folder_that_cannot_be_written_hurts_nobody(tmp_path, capsys):
    (tmp_path / "wandb").write_text("a file")
    session = Session(tmp_path, project="p")
    one_two_three(session)
    session.finish()
    [line] = said(capsys)
    assert line.startswith("W&B: nothing more is logged here (")


def test_a_key_in_no_known_form_hurts_nobody(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_API_KEY", "not a key")
    wandb.teardown()
    session = Session(tmp_path, project="p")
    one_two_three(session)
    session.finish()
    assert 1 <= len(said(capsys)) <= 2


@pytest.mark.quick
def test_what_wandb_refuses_is_said_once_and_the_rest_is_logged(tmp_path, capsys):
    logger = tracking.WandbLogger(save_dir=str(tmp_path), project="p")
    for _ in range(2):
        assert logger.experiment.log("not a mapping") is None
    logger.log_metrics({"number": 1}, step=7)
    logger.finish(failed=False)
    complaint, how = said(capsys)
    assert complaint.startswith("W&B: something is not logged (")
    assert "wandb sync" in how
    assert logged(rows(kept(tmp_path)), "trainer/global_step") == [7]


@pytest.mark.parametrize("mode", [None, "online"])
def test_without_a_key_nobody_is_asked_for_one(mode, tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr("wandb.errors.term.can_use_terminput", lambda: True)
    monkeypatch.setattr("wandb.util.prompt_choices", lambda *_, **__: asked.append(1))
    if mode:
        monkeypatch.setenv("WANDB_MODE", mode)
    session = Session(tmp_path, project="p")
    one_two_three(session)
    session.finish()
    assert not asked
    assert logged(rows(kept(tmp_path, "offline-run-*")), "number") == [1, 2, 3]
    assert len(said(capsys)) == 1


def test_disabled_is_disabled(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    wandb.teardown()
    session = Session(tmp_path, project="p")
    one_two_three(session)
    session.finish()
    assert not said(capsys)
    assert not list(tmp_path.glob("wandb/*run-*"))


def test_only_the_first_process_of_a_run_talks(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    session = Session(tmp_path, project="p")
    one_two_three(session)
    session.finish()
    assert not (tmp_path / "wandb").exists()


# Whole runs


class KillCore(pl.Callback):
    """Kills wandb-core, which has the run by then, before the batch of a given step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch, batch_index: int) -> None:
        if trainer.global_step == self.step:
            [logger] = [each.logger for each in trainer.loggers if isinstance(each.logger, tracking.WandbLogger)]
            opened(logger.session())
            wait_until(lambda: logged(rows(kept(Path(logger.save_dir), ended=False)), "train/nll"))
            kill_core(logger.session())


KILL = ("packages=[test_tracking]", "+callbacks.kill._target_=test_tracking.KillCore", "+callbacks.kill.step=9")


def test_a_run_whose_wandb_core_is_killed_ends_as_any_other(settings, capsys):
    expected = train.run(settings(*FEATURES, "trainer.log_every_n_steps=1"))
    killed = settings(*FEATURES, "trainer.log_every_n_steps=1", "logger=wandb", "overwrite=true", *KILL)
    capsys.readouterr()
    assert train.run(killed) == expected
    folder = Path(killed["paths"]["run_dir"])
    died, how = said(capsys)
    assert died.startswith("W&B: its process has died (")
    assert died.endswith("; the run goes on, offline from here on")
    folders = sorted(folder.glob("wandb/offline-run-*"), key=lambda path: path.stat().st_ctime_ns)
    assert len(folders) == 2
    assert all(tracking.run_id(folder) in path.name for path in folders)
    assert set(how.split()[-2:]) == set(map(str, folders))
    found = rows(kept(folder))
    assert all(path.stat().st_size > 7 for each in folders for path in each.glob("*.wandb"))
    losses = pd.read_csv(folder / "metrics.csv")["train/nll"].dropna()
    assert len(losses) == 16
    assert logged(found, "train/nll")[-7:] == pytest.approx(losses.tolist()[-7:])  # all since step 9
    assert logged(found, "test/nll") == pytest.approx([expected])


def test_a_bad_key_changes_nothing_but_where_the_curve_is(server, settings, capsys):
    expected = train.run(settings(*FEATURES))
    server.failing = lambda path: 401
    short = ("logger.wandb.init_timeout=1", "logger.wandb.finish_timeout=1")
    run = settings(*FEATURES, "logger=wandb", "overwrite=true", *short)
    capsys.readouterr()
    assert train.run(run) == expected
    printed = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("W&B: no usable answer (") for line in printed) == 1
    assert "wandb sync " in printed[-1]
    found = kept(Path(run["paths"]["run_dir"]))
    assert logged(rows(found), "test/nll") == pytest.approx([expected])
    assert wandb.run is None


@pytest.mark.full
def test_a_resumed_run_goes_on_in_the_same_run_of_wandb(settings):
    run = settings(*FEATURES, "logger=wandb")
    train.run(run)
    folder = Path(run["paths"]["run_dir"])
    first = tracking.run_id(folder)
    train.run(settings(*FEATURES, "logger=wandb", "trainer.max_epochs=3", f"ckpt_path={folder}/checkpoints/last.ckpt"))
    assert tracking.run_id(folder) == first
    found = [record.run for record in kept(folder) if record.WhichOneof("record_type") == "run"]
    assert {record.run_id for record in found} == {first}
    steps = logged(rows(kept(folder)), "trainer/global_step")
    assert max(steps) == 24
    train.run(settings(*FEATURES, "logger=wandb", "overwrite=true"))
    assert tracking.run_id(folder) != first


# What is sent


def test_a_run_says_what_it_came_to_and_where_it_stands(settings):
    run = settings(*FEATURES, "logger=wandb")
    value = train.run(run)
    folder = Path(run["paths"]["run_dir"])
    results = json.loads((folder / "results.json").read_text())
    summary = {
        "/".join(item.nested_key) or item.key: json.loads(item.value_json)
        for record in kept(folder)
        for item in record.summary.update
    }
    assert summary["floors/marginal"] == results["floors"]["marginal"]["value"]
    assert summary["excess/marginal"] == results["excess"]["marginal"]["value"]
    assert logged(rows(kept(folder)), "test/nll") == pytest.approx([value])


def artifacts(folder: Path) -> list[wandb_internal_pb2.ArtifactRecord]:
    return [record.artifact for record in kept(folder) if record.WhichOneof("record_type") == "artifact"]


def test_a_routers_run_was_made_from_stage_1_and_adapts(settings, tmp_path):
    common = ("data.train=512", "data.validation=64", "data.test=256", "trainer.max_epochs=1", "logger=wandb")
    stage1, stage2 = tmp_path / "stage1", tmp_path / "stage2"
    train.run(settings("+experiment=micro_planted", *common, f"paths.run_dir={stage1}"))
    train.run(settings("+experiment=router_planted", *common, f"stage1={stage1}", f"paths.run_dir={stage2}"))
    [made] = artifacts(stage1)
    used, routed = artifacts(stage2)
    assert not made.use_after_commit
    assert (used.use_after_commit, used.name, used.digest) == (True, made.name, made.digest)
    assert (routed.use_after_commit, routed.type, routed.name) == (False, "model", f"model-{tracking.run_id(stage2)}")
    results = json.loads((stage1 / "results.json").read_text())
    assert json.loads(made.metadata) == {
        "test_nll": results["test"]["nll"]["value"], "test_accuracy": results["test"]["accuracy"]["value"],
        "experiment": "micro_planted", "model": "mixture", "num_heads": results["num_heads"], "seed": 0,
    }  # fmt: skip
    contents = {entry.path for entry in made.manifest.contents}
    assert contents == {"config.yaml", "results.json", "best.ckpt"}
    jobs = [
        record.run.job_type
        for folder in (stage1, stage2)
        for record in kept(folder)
        if record.WhichOneof("record_type") == "run"
    ]
    assert jobs == ["train", "adapt"]


def test_features_are_an_input_by_their_manifest_alone(settings, tmp_path):
    run = settings(*FEATURES, "logger=csv", "trainer.max_epochs=1")
    train.run(run)
    folder = Path(run["paths"]["run_dir"])
    store = tmp_path / "features" / "0123abcd"
    store.mkdir(parents=True)
    shards = {"shard-1.safetensors": {"rows": 20, "bytes": 9}, "shard-2.safetensors": {"rows": 22, "bytes": 9}}
    (store / "manifest.json").write_text(json.dumps({"format": 1, "spec": {"model": "minilm"}, "shards": shards}))
    node = {"_target_": "micro_lit.track.WandbLogger", "save_dir": str(folder), "project": "p"}
    loggers = Loggers({"logger": {"wandb": node}})
    loggers.begin(RunRecord("train", "a", folder, run))
    loggers.record(artifacts=[Artifact("features", store), Artifact("model", folder, written=True)])
    loggers.finish(failed=False)
    features, model = artifacts(folder)
    assert (features.name, features.type, features.use_after_commit) == ("features-0123abcd", "features", True)
    assert json.loads(features.metadata) == {"fingerprint": "0123abcd", "spec": {"model": "minilm"}, "rows": 42}
    assert [entry.path for entry in features.manifest.contents] == ["manifest.json"]
    assert model.type == "model"


def test_tables_are_a_run_of_type_evaluate_that_used_the_models(settings, tmp_path):
    run = settings(*FEATURES, "logger=wandb", "trainer.max_epochs=1")
    train.run(run)
    judged = Path(run["paths"]["run_dir"])
    frames = {"table": pd.DataFrame({"model": ["a"], "NLL": [0.5]})}
    node = {"_target_": "micro_lit.track.WandbLogger", "save_dir": "elsewhere", "project": "p"}
    used = [Artifact("model", folder, checkpoint=checkpoints.shareable(folder)) for folder in (judged, tmp_path)]
    settings = {"logger": {"wandb": node}}
    track.publish(RunRecord("people", "mine", tmp_path / "out", settings, tables=frames, artifacts=used))
    found = kept(tmp_path / "out")
    [about] = [record.run for record in found if record.WhichOneof("record_type") == "run"]
    assert (about.job_type, about.display_name) == ("evaluate", "mine")
    assert any(key.startswith("people/table") for row in rows(found) for key in row)
    inputs = [found.digest for found in artifacts(tmp_path / "out") if found.use_after_commit]
    assert inputs == [artifacts(judged)[0].digest]


# Secrets


def test_nothing_secret_leaves_the_machine(server, settings, monkeypatch):
    monkeypatch.setenv("MY_SECRET", "the-secret-of-mine")
    monkeypatch.setattr("sys.argv", ["train.py", "+data.path=the-secret-of-mine"])
    run = settings(*FEATURES, "logger=wandb", "trainer.max_epochs=1")
    run["name"] = "my the-secret-of-mine"
    train.run(run)
    assert server.upserts()
    sent = "".join(body for _, body in server.asked)
    assert "PlantedFeatures" in sent
    assert "the-secret-of-mine" not in sent
    assert KEY not in sent
    for path in Path(run["paths"]["run_dir"]).glob("wandb/run-*/*.wandb"):
        assert b"the-secret-of-mine" not in path.read_bytes()


@pytest.mark.quick
def test_the_logger_takes_what_its_config_gives(settings):
    node = config.compose("train", ["logger=wandb", "paths.run_dir=x"])["logger"]["wandb"]
    logger = config.build(node)
    assert isinstance(logger, pl.loggers.WandbLogger)
    assert yaml.safe_load((config.config_dir() / "logger" / "wandb.yaml").read_text())["wandb"].keys() == node.keys()


def test_payloads_are_redacted_and_the_cells_of_tables_too():
    table = wandb.Table(columns=["a", "token=abc"], data=[["https://me:pw@host", 1.0]])
    other = wandb.Table(columns=["a"], data=[["x"]])
    sent = tracking._sent({"table": table, "other": other, "words": ["api_key=abc"], "nll": 0.5})
    assert (sent["table"].columns, sent["table"].data) == (["a", "token=***"], [["https://***@host", 1.0]])
    assert sent["other"] is other
    assert (sent["words"], sent["nll"]) == (["api_key=***"], 0.5)
    assert (
        tracking._wandb_reason(ValueError("no answer from https://me:pw@host\nmore"))
        == "no answer from https://***@host"
    )
