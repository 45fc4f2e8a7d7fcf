import csv
import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import wandb

from micro_lit import config, dashboard, train
from micro_lit.errors import UserError
from micro_lit.report.results import summary
from micro_lit.track import wandb as tracking

SMALL = ("data.train=256", "data.validation=64", "data.test=64", "trainer.max_epochs=1", "trainer.log_every_n_steps=1")

# wandb-workspaces itself is written so; its owners' to mend.
pytestmark = pytest.mark.filterwarnings("ignore:Pydantic V1 style `@validator`:DeprecationWarning")


@pytest.fixture
def extra() -> None:
    pytest.importorskip("wandb_workspaces", reason="the extra dashboard is not installed")


@pytest.fixture
def server(monkeypatch) -> Iterator[ThreadingHTTPServer]:
    """A W&B server that knows whose key it is and takes views; `status` is what it answers."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.server.asked.append(asked)
            data = {"viewer": {"id": "u", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}}
            if "upsertView" in asked["query"]:
                data = {"upsertView": {"view": {"id": "v", "name": asked["variables"]["name"]}, "inserted": True}}
            answer = json.dumps({"data": data}).encode()
            self.send_response(self.server.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        found.status, found.asked = 200, []
        threading.Thread(target=found.serve_forever, daemon=True).start()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{found.server_address[1]}")
        monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef" * 3)
        monkeypatch.delenv("WANDB_MODE")
        wandb.teardown()
        yield found
        tracking._forget_service()
        found.shutdown()


def panels(spec: dict) -> list[dict]:
    return [panel for section in spec["section"]["panelBankConfig"]["sections"] for panel in section["panels"]]


def without_ids(node):
    if isinstance(node, dict):
        return {name: without_ids(child) for name, child in node.items() if name != "__id__"}
    return [without_ids(child) for child in node] if isinstance(node, list) else node


@pytest.fixture
def compose() -> Callable[..., dict]:
    """Settings of the command."""
    return lambda *overrides: config.compose("dashboard", ["entity=me", *overrides])


def test_every_name_in_a_panel_is_one_that_a_run_logs(compose, settings, tmp_path, extra):
    run = settings("+experiment=sparse_moe_planted", *SMALL)
    train.run(run)
    folder = Path(run["paths"]["run_dir"])
    with (folder / "metrics.csv").open() as file:
        logged = set(csv.DictReader(file).fieldnames)
    summed = set(summary(json.loads((folder / "results.json").read_text())))
    known = {"trainer/global_step", *logged, *summed}
    dashboard.run(compose(f"out={tmp_path / 'panels.json'}"))
    shown = panels(json.loads((tmp_path / "panels.json").read_text())["spec"])
    assert len(shown) > 15
    for panel in shown:
        named = panel["config"]
        names = [*named.get("metrics", []), named.get("targetKey"), named.get("xAxis"), named.get("yAxis")]
        names += [column["accessor"] for column in named.get("columns", [])]
        assert any(names)
        for name in filter(None, names):
            if name.startswith("config:"):
                node = run
                for part in name.removeprefix("config:").replace(".value", "").split("."):
                    node = node[part]
            else:
                assert name.removeprefix("summary:") in known
        if pattern := named.get("metricRegex"):
            assert {"train/nll", "train/sparsity"} <= {name for name in logged if re.search(pattern, name)}


def test_runs_are_grouped_by_sweep_and_type(compose, tmp_path, extra):
    dashboard.run(compose(f"out={tmp_path / 'panels.json'}", "project=mine", "title=Heads"))
    view = json.loads((tmp_path / "panels.json").read_text())
    [runs] = view["spec"]["section"]["runSets"]
    assert [key["name"] for key in runs["grouping"]] == ["group", "jobType"]
    assert (view["entity"], view["project"], view["displayName"]) == ("me", "mine", "Heads")


def test_saving_sends_what_the_file_holds(compose, server, tmp_path, capsys, extra):
    dashboard.run(compose(f"out={tmp_path / 'panels.json'}"))
    address = dashboard.run(compose())
    [sent] = [asked["variables"] for asked in server.asked if "upsertView" in asked["query"]]
    assert (sent["entityName"], sent["projectName"], sent["type"]) == ("me", "micro_lit", "project-view")
    kept = json.loads((tmp_path / "panels.json").read_text())["spec"]
    assert without_ids(json.loads(sent["spec"])) == without_ids(kept)
    assert address.endswith(f"/me/micro_lit?nw={sent['name'].removeprefix('nw-').removesuffix('-v')}")
    assert capsys.readouterr().out.splitlines()[-1] == f"saved: {address}"


def test_a_server_that_refuses_is_a_users_error(compose, server, extra):
    server.status = 401
    with pytest.raises(UserError, match=r"the panels are not saved .*out=<file>"):
        dashboard.run(compose())


def test_without_a_key_nothing_is_asked(compose, monkeypatch, tmp_path, extra):
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    wandb.teardown()
    with pytest.raises(UserError, match="no key for W&B; set WANDB_API_KEY"):
        dashboard.run(compose())


def test_the_extra_is_named_when_it_is_not_there(compose, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    with pytest.raises(UserError, match=r"pip install 'micro-lit\[dashboard\]'"):
        dashboard.run(compose())


def test_a_file_that_cannot_be_written_is_a_users_error(compose, tmp_path, extra):
    with pytest.raises(UserError, match=r"out=.*: cannot be written \(No such file or directory\)"):
        dashboard.run(compose(f"out={tmp_path / 'none' / 'panels.json'}"))


def test_help_needs_neither_torch_nor_wandb_and_no_folder_is_made(tmp_path):
    command = [sys.executable, "-X", "importtime", "-m", "micro_lit.dashboard"]
    shown = subprocess.run([*command, "--help"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "python -m micro_lit.dashboard entity=me" in shown.stdout
    imported = {line.rsplit("|", 1)[-1].strip() for line in shown.stderr.splitlines() if "import time:" in line}
    assert not {"torch", "wandb", "pytorch_lightning"} & imported
    refused = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "error: entity: no value given" in refused.stderr
    assert not list(tmp_path.iterdir())
