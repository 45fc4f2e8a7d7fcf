"""Tests of the loggers that come with `micro_lit.track` beside W&B."""

import json
from pathlib import Path

import pandas as pd
import pytest

from micro_lit import track
from micro_lit.config import compose
from micro_lit.errors import UserError
from micro_lit.track import Artifact, Loggers, RunRecord
from micro_lit.track.jsonl import JSONLLogger

TABLE = pd.DataFrame({"model": ["a|b", "token=abc"], "NLL": [0.5, float("nan")]})


def picture(folder: Path) -> Path:
    image = pytest.importorskip("PIL.Image")
    image.new("RGB", (4, 3), (255, 0, 0)).save(folder / "figure.png")
    return folder / "figure.png"


def published(folder: Path, *overrides: str) -> None:
    settings = compose("report", ["runs=x", f"paths.run_dir={folder}", *overrides])
    artifacts = [Artifact("model", folder / "judged")]
    outcome = {"summary": {"test/nll": 0.25}, "tables": {"seen/nll": TABLE}, "artifacts": artifacts}
    record = RunRecord("people", "mine", folder, settings, figures={"figure": picture(folder)}, **outcome)
    track.publish(record)


def test_json_lines_hold_curves_then_the_outcome(tmp_path):
    logger = JSONLLogger(str(tmp_path))
    logger.begin(RunRecord("train", "a", tmp_path, {}), resumed=False)
    logger.log_metrics({"train/nll": 0.5, "train/other": float("inf")}, 7)
    path = tmp_path / "metrics.jsonl"
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 7, "train/nll": 0.5, "train/other": None}
    ]
    published(tmp_path, "logger=jsonl")
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"table": "seen/nll", "rows": [{"model": "a|b", "NLL": 0.5}, {"model": "token=***", "NLL": None}]},
        {"figure": "figure", "path": "figure.png"},
        {"artifact": "model", "folder": "judged", "written": False},
        {"summary": {"test/nll": 0.25}, "command": "people", "name": "mine", "failed": False},
    ]


def test_csv_has_a_file_for_each_table(tmp_path):
    published(tmp_path, "logger=csv")
    assert (tmp_path / "tables" / "seen-nll.csv").read_text() == "model,NLL\na|b,0.5\ntoken=***,\n"


def test_tensorboard_gets_scalars_tables_and_figures(tmp_path):
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    published(tmp_path, "logger=tensorboard")
    found = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"tensors": 0}).Reload()
    assert [event.value for event in found.Scalars("summary/test/nll")] == [0.25]
    assert [(event.width, event.height) for event in found.Images("people/figure")] == [(4, 3)]
    [table] = found.Tensors("people/seen/nll/text_summary")
    text = table.tensor_proto.string_val[0].decode()
    assert text.splitlines()[0] == "| model | NLL |"
    assert "| a\\|b | 0.5 |" in text
    assert "abc" not in text
    assert found.Tensors("settings/text_summary")


def test_without_tensorboard_one_line_says_what_to_install(tmp_path, monkeypatch):
    import lightning_fabric.loggers.tensorboard as fabric

    for name in ("_TENSORBOARD_AVAILABLE", "_TENSORBOARDX_AVAILABLE"):
        monkeypatch.setattr(fabric, name, False)
    settings = compose("report", ["runs=x", "logger=tensorboard", f"paths.run_dir={tmp_path}"])
    with pytest.raises(UserError, match=r"pip install 'micro-lit\[tensorboard\]'"):
        Loggers(settings)


def test_several_loggers_are_a_list():
    settings = compose("train", ["logger=[wandb,tensorboard,jsonl]", "paths.run_dir=x"])
    assert list(settings["logger"]) == ["csv", "wandb", "tensorboard", "jsonl"]


@pytest.mark.parametrize("logger", [{"x": {"_target_": "os.system"}}, {"x": {"_target_": "a.B", "_args_": [1]}}])
def test_the_end_of_a_sweep_builds_no_other_classes_than_a_run(logger):
    with pytest.raises(UserError, match="is not allowed"):
        Loggers({"logger": logger, "packages": ["a"]})


def test_the_record_is_redacted_in_one_place(tmp_path):
    record = RunRecord("report", "token=abc", tmp_path, {"api_key": "abcd"}, tables={"t": TABLE})
    shown = record.redacted()
    assert (shown.name, shown.settings) == ("token=***", {"api_key": "***"})
    assert shown.tables["t"]["model"].tolist() == ["a|b", "token=***"]
    plain = TABLE.head(1)
    assert RunRecord("report", "a", tmp_path, {}, tables={"t": plain}).redacted().tables["t"] is plain
