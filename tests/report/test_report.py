"""Tests of `micro_lit.report.runs` and of the command `micro_lit.report`."""

import csv
import json
import statistics
import sys

import pytest
from full_disk import assert_whole
from run_folders import FLOORS, write_run

from micro_lit import track
from micro_lit.errors import UserError
from micro_lit.report import __main__ as command
from micro_lit.report import runs
from micro_lit.report.results import installed

FILES = ["figure.png", "figure.svg", "runs.csv", "table.csv", "table.md", "table.tex"]
NLL = {(pairs, seed): (1 + seed / 7) / pairs for pairs in (10, 100) for seed in range(2)}


@pytest.fixture
def sweep(tmp_path):
    """Four runs: two sizes, two seeds, a loss that halves with every doubling of the size."""
    for (pairs, seed), nll in NLL.items():
        settings = {"data.train": pairs}
        write_run(tmp_path / "sweep" / f"{pairs}-{seed}", nll=nll, seed=seed, settings=settings, floors=FLOORS)
    return tmp_path / "sweep"


def write(sweep, settings=None, **spec):
    default = {"title": None, "metrics": None, "y": ["test.nll"], "x": None, "panels": None, "log": False, "out": None}
    return runs.write_report([str(sweep)], default | spec, sweep.parent / "out", settings)


def test_all_files_are_written_and_named(sweep, capsys):
    pytest.importorskip("matplotlib", reason="the extra report is not installed")
    assert write(sweep, title="Two sizes") == 4
    out = sweep.parent / "out"
    assert sorted(path.name for path in out.iterdir()) == FILES
    printed = capsys.readouterr().out
    assert f"wrote {out}/: {', '.join(FILES)}\n" in printed
    for words in ("Two sizes", "training pairs", "0.1071 ± 0.0101", "Mean ± standard deviation over n seeds."):
        assert words in printed
    shown = (out / "table.md").read_text()
    assert "| 10 | 2 | 0.1071 ± 0.0101 |\n" in shown
    assert "\nFloors of the NLL: F0 oracle 0.2000, " in shown
    assert r"10 & 2 & 0.1071 $\pm$ 0.0101 \\" in (out / "table.tex").read_text()


def test_baselines_are_reported_and_drawn_like_any_quantity(tmp_path):
    pytest.importorskip("matplotlib", reason="the extra report is not installed")
    for seed in range(2):
        write_run(tmp_path / "runs" / str(seed), seed=seed, baselines={"longer": {"value": 0.6 + seed / 10, "n": 9}})
    write(tmp_path / "runs", y=["baselines.longer"], metrics=["test.nll", "baselines.longer"])
    shown = (tmp_path / "out" / "table.md").read_text()
    assert "accuracy, longer wins" in shown
    assert "0.6500 ± 0.0707" in shown


def test_tables_read_back_to_the_last_bit(sweep):
    write(sweep)
    texts = [(sweep.parent / "out" / name).read_text() for name in ("runs.csv", "table.csv")]
    runs, table = (list(csv.DictReader(text.splitlines())) for text in texts)
    assert {(int(row["data.train"]), int(row["seed"])): float(row["test.nll"]) for row in runs} == NLL
    assert {float(row["floors.single_bt_linear"]) for row in runs} == {FLOORS["single_bt_linear"]}
    assert [(row["data.train"], row["n"]) for row in table] == [("10", "2"), ("100", "2")]
    for row, pairs in zip(table, (10, 100), strict=True):
        values = [NLL[pairs, seed] for seed in range(2)]
        assert float(row["test.nll.mean"]) == statistics.mean(values)
        assert float(row["test.nll.sd"]) == statistics.stdev(values)


def test_other_files_in_the_folder_are_not_claimed(sweep, capsys):
    (sweep.parent / "out").mkdir()
    (sweep.parent / "out" / "notes.txt").touch()
    write(sweep)
    assert "notes.txt" not in capsys.readouterr().out


def test_slopes_are_said_for_every_curve_whatever_panel_it_is_in(sweep, capsys):
    for (pairs, seed), nll in NLL.items():
        settings = {"data.train": pairs, "strength": 2}
        write_run(sweep / f"other{pairs}-{seed}", nll=nll**2, seed=seed, settings=settings)
    write(sweep, x="data.train", panels="strength", log=True)
    lines = [line for line in (sweep.parent / "out" / "table.md").read_text().splitlines() if "slope" in line]
    assert lines == [
        f"Log-log slope of NLL over the last decade of training pairs, strength {strength}: {slope} ± 0.000, n = 2"
        for strength, slope in ((2, "-2.000"), (None, "-1.000"))
    ]


def test_quantities_that_no_run_has_are_named(sweep, capsys):
    write(sweep, metrics=["test.nll", "test.brierr"])
    assert "No run has measured test.brierr." in capsys.readouterr().out
    with pytest.raises(UserError, match=r"report.metrics=\['test.brierr'\]: no run has measured any of these"):
        write(sweep, metrics=["test.brierr"])


@pytest.mark.parametrize("spec", [{"y": ["test.brier"]}, {"x": "variant", "log": True}, {"panels": "variant"}])
def test_a_wrong_setting_writes_nothing(spec, sweep):
    pytest.importorskip("matplotlib", reason="the extra report is not installed")
    with pytest.raises(UserError, match=r"^report\.(y|x|panels)"):
        write(sweep, **spec)
    assert not (sweep.parent / "out").exists()


def test_a_folder_that_cannot_be_written_is_named(sweep):
    (sweep.parent / "out").touch()
    with pytest.raises(UserError, match=rf"report.out={sweep.parent / 'out'}: cannot be written \(.+\)"):
        write(sweep)


def test_words_in_brackets_are_printed_as_they_are(sweep, capsys):
    for seed in range(2):
        write_run(sweep / f"own{seed}", seed=seed, settings={"data.train": "[/pets]"})
    write(sweep, title="[bold]")
    printed = capsys.readouterr().out
    assert "[/pets]" in printed
    assert "[bold]" in printed


def test_without_matplotlib_the_tables_still_come(sweep, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "micro_lit.report.figures", raising=False)
    monkeypatch.delattr("micro_lit.report.figures", raising=False)
    assert write(sweep, x="data.train", log=True) == 4
    assert sorted(path.name for path in (sweep.parent / "out").iterdir()) == FILES[2:]
    printed = capsys.readouterr().out
    assert "no figure: matplotlib is not installed (pip install 'micro-lit[report]')" in printed
    assert "-1.000" in printed


def test_wandb_offline_gets_table_and_figure(sweep):
    pytest.importorskip("matplotlib", reason="the extra report is not installed")
    import wandb

    target = "micro_lit.track.WandbLogger"
    node = {"_target_": target, "project": "micro_lit", "offline": True, "save_dir": "elsewhere"}
    write(sweep, {"logger": {"wandb": node}})
    assert wandb.run is None
    [folder] = (sweep.parent / "out").glob("wandb/offline-run-*")
    assert list(folder.glob("*.wandb"))
    [table] = folder.glob("files/media/table/report/table*.json")
    found = json.loads(table.read_text())
    assert found["columns"] == ["training pairs", "n", "NLL"]
    assert found["data"][0] == ["10", "2", "0.1071 ± 0.0101"]
    [image] = folder.glob("files/media/images/report/figure*.png")
    assert image.read_bytes() == (sweep.parent / "out" / "figure.png").read_bytes()


# The command


def test_the_command_reports_on_folders_patterns_and_lists(sweep, settings, tmp_path, capsys):
    for given, number in ((sweep, 4), (f"'{sweep}/10-*'", 2), (f"[{sweep}/10-0,{sweep}/100-1]", 2)):
        assert command.run(settings(f"runs={given}", config="report")) == number
        assert (tmp_path / "run" / "table.md").is_file()
    out = tmp_path / "paper" / "table"
    assert command.run(settings(f"runs={sweep}", f"report.out={out}", config="report")) == 4
    assert (out / "table.md").is_file()


def test_the_command_records_its_table_when_asked(sweep, settings, monkeypatch):
    seen = []
    monkeypatch.setattr(track, "publish", seen.append)
    command.run(settings(f"runs={sweep}", config="report"))
    assert seen == []
    command.run(settings(f"runs={sweep}", "logger=wandb", config="report"))
    [record] = seen
    assert (record.command, record.group, list(record.tables)) == ("report", None, ["table"])
    assert record.settings["logger"]["wandb"]["project"] == "micro_lit"


def test_every_file_is_written_whole_or_not_at_all(sweep):
    assert_whole(lambda: write(sweep), sweep.parent / "out")


def test_runs_left_out_are_said_and_counted(sweep, capsys):
    """On the terminal and in the table's own file."""
    (sweep / "10-0" / "results.json").write_text('{"seed": 0,')
    assert write(sweep) == 3
    printed, page = capsys.readouterr().out, (sweep.parent / "out" / "table.md").read_text()
    for words in (
        f"left out: {sweep / '10-0'}: not the folder of a finished run (results.json: ",
        "1 of 4 runs left out",
    ):
        assert words in printed
        assert words in page


def test_code_that_was_never_installed_has_no_version():
    assert installed("a-package-of-nobody") is None
    assert installed("torch").startswith("2.")
