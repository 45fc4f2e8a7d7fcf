"""Tests of `micro_lit.report.collect`."""

import json
import os
import shutil
from pathlib import Path

import pytest
from run_folders import write_run

from micro_lit.errors import UserError
from micro_lit.host.files import write_text
from micro_lit.report import collect as collecting
from micro_lit.report.collect import collect, group_runs, look_up, split_by_number, values_of


def labels(folder) -> list[dict]:
    return [dict(run.labels) for run in collect([str(folder)])]


# Which runs


@pytest.fixture
def tree(tmp_path):
    """Three runs at different depths, and one that has not finished."""
    for seed, place in enumerate(("a/one", "a/deep/er/two", "b/three")):
        write_run(tmp_path / place, seed=seed)
    (tmp_path / "b" / "unfinished").mkdir()
    (tmp_path / "b" / "unfinished" / "config.yaml").write_text("seed: 7\n")
    return tmp_path


@pytest.mark.parametrize(
    ("paths", "seeds"),
    [
        (["a/one"], [0]),
        (["a"], [0, 1]),
        (["."], [0, 1, 2]),
        (["a/one", "b"], [0, 2]),
        (["?/*"], [0, 1, 2]),
        (["[b]"], [2]),
        (["a", "a/one", "./a/deep"], [0, 1]),
    ],
)
def test_runs_are_found_in_run_folders_sweeps_and_patterns(paths, seeds, tree, monkeypatch):
    monkeypatch.chdir(tree)
    assert [run.seed for run in collect(paths)] == seeds


def test_a_folder_whose_name_looks_like_a_pattern_is_a_folder(tmp_path):
    write_run(tmp_path / "report.y=[test.nll]")
    assert len(collect([str(tmp_path / "report.y=[test.nll]")])) == 1


def test_no_run_is_a_users_mistake(tree):
    for path in ("nowhere", "b/unfinished", "x*"):
        with pytest.raises(UserError, match=r"no results.json below; give the folder") as caught:
            collect([str(tree / path)])
        assert "\n" not in str(caught.value)


def test_of_runs_with_the_same_settings_and_seed_the_later_is_kept(tmp_path):
    for name, nll, time in (("z", 0.1, 1000), ("m", 0.2, 3000), ("a", 0.3, 2000)):
        os.utime(write_run(tmp_path / name, nll=nll) / "results.json", (time, time))
    write_run(tmp_path / "other", nll=0.4, seed=1)
    runs = collect([str(tmp_path)])
    assert [(run.seed, run.results["test"]["nll"]["value"]) for run in runs] == [(0, 0.2), (1, 0.4)]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("results.json", '{"seed": 0,'),
        ("results.json", "{}"),
        ("results.json", "[]"),
        ("results.json", "\xff"),
        ("config.yaml", "a: b: c"),
        ("config.yaml", "a: [1,\nb"),
        ("config.yaml", ""),
        ("config.yaml", None),
        (".hydra/hydra.yaml", ""),
        (".hydra/hydra.yaml", "hydra: {}"),
        (".hydra/hydra.yaml", "hydra: {overrides: {task: [1]}, runtime: {choices: {}}}"),
        ("config.yaml", "paths: {run_dir: 1, data_dir: 2}"),
        ("config.yaml", "a: &a {b: *a}"),
        ("results.json", "[" * 100_000),
        ("results.json", "7"),
    ],
)
def test_what_cannot_be_read_is_named_in_one_line(file, content, tmp_path):
    folder = write_run(tmp_path / "run")
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match=rf"^{folder}: not the folder of a finished run \(.+\)$") as caught:
        collect([str(tmp_path)])
    assert "\n" not in str(caught.value)
    # Beside runs that can be read it is left out, with the same words.
    write_run(tmp_path / "other", seed=1)
    left_out: list[str] = []
    assert [run.seed for run in collect([str(tmp_path)], left_out)] == [1]
    assert left_out == [f"left out: {caught.value}", "1 of 2 runs left out"]


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        ("seed", "0", "seed is '0'"),
        ("seed", True, "seed is True"),
        ("seconds", None, "seconds is None"),
        ("test.nll.value", "0.6", "test.nll.value is '0.6', which is no finite number"),
        ("test.nll.value", None, "test.nll.value is None"),
        ("test.nll.value", [0.6], r"test.nll.value is \[0.6\]"),
        ("test.nll.value", {"a": 1}, "test.nll.value is {.a.: 1}, which is no number"),
        ("test.nll.value", float("nan"), "test.nll.value is nan"),
        ("test.nll.value", 10**400, ""),
        ("test.nll.se", "0.1", "test.nll.se is '0.1'"),
        ("test.nll", 0.6, "test.nll is 0.6, which is no mapping"),
        ("test.nll", {}, "test.nll.value missing"),
        ("test", [], r"test is \[\], which is no mapping"),
        ("floors.oracle", {"value": 0.2}, "floors.oracle.se missing"),
        ("floors.oracle.value", float("inf"), "floors.oracle.value is inf"),
        ("floors", None, "floors is None"),
        ("excess_risk", {"value": 0.1, "over": "nothing"}, "excess_risk.over names no floor"),
        ("excess_risk", {"value": "0.1", "over": "oracle"}, "excess_risk.value is '0.1'"),
        ("raters.brier", 0.5, "raters.brier is 0.5, which is no mapping"),
        ("raters.brier", {"floors": {"brier": {"value": 0.1}}}, "raters.brier.floors.brier holds no value or no se"),
        ("baselines.longer.value", None, "baselines.longer.value is None, which is no finite number"),
        ("heads.effective", "3", "heads.effective is '3', which is no number"),
        ("data.train", "9", "data.train is '9'"),
    ],
)
def test_results_that_are_no_numbers_are_found_when_they_are_read(place, value, words, tmp_path):
    """And not later, in a table or a figure."""
    measured = {"heads": {"effective": 3.0}, "data": {"train": 9}, "baselines": {"longer": {"value": 0.6}}}
    folder = write_run(tmp_path / "run", floors={"oracle": 0.2}, **measured)
    results = json.loads((folder / "results.json").read_text())
    *outer, last = place.split(".")
    node = results
    for name in outer:
        node = node[name]
    node[last] = value
    (folder / "results.json").write_text(json.dumps(results))
    with pytest.raises(UserError, match=rf"^{folder}: not the folder of a finished run \(results.json: {words}"):
        collect([str(tmp_path)])
    write_run(tmp_path / "other", seed=1)
    left_out: list[str] = []
    assert [run.seed for run in collect([str(tmp_path)], left_out)] == [1]
    assert left_out[1:] == ["1 of 2 runs left out"]


def test_when_no_run_can_be_read_the_first_is_named_and_the_others_counted(tmp_path):
    for number in range(3):
        (write_run(tmp_path / str(number)) / "results.json").write_text("")
    with pytest.raises(UserError, match=rf"^{tmp_path / '0'}: .*; 2 more cannot be read either$"):
        collect([str(tmp_path)])


def test_what_runs_leave_today_and_have_left_is_read():
    folders = [path for path in (Path(__file__).parent.parent / "old_runs").iterdir() if path.is_dir()]
    left_out: list[str] = []
    assert len(collect([str(folder) for folder in folders], left_out)) == len(folders) == 4
    assert not left_out


@pytest.mark.parametrize("event", ["removed", "replaced", "folder removed"])
def test_a_run_that_runs_again_meanwhile_is_left_out(event, tmp_path, monkeypatch):
    """Its config.yaml is then of another run than its results.json."""
    folder = write_run(tmp_path / "run")
    write_run(tmp_path / "other", seed=1)
    real = collecting._choices

    def choices(of: Path) -> dict:
        if of == folder:
            match event:
                case "removed":
                    (folder / "results.json").unlink()
                case "replaced":
                    write_text(folder / "results.json", (folder / "results.json").read_text())
                case "folder removed":
                    shutil.rmtree(folder)
        return real(of)

    monkeypatch.setattr(collecting, "_choices", choices)
    left_out: list[str] = []
    assert [run.seed for run in collect([str(tmp_path)], left_out)] == [1]
    assert left_out[0].startswith(f"left out: {folder}: not the folder of a finished run (")
    assert left_out[1] == "1 of 2 runs left out"


# What tells them apart


def test_repetitions_over_seeds_have_no_labels(tmp_path):
    for seed in range(3):
        write_run(tmp_path / str(seed), seed=seed, typed=[f"seed={seed}", "data.train=9"], settings={"data.train": 9})
    assert labels(tmp_path) == [{}, {}, {}]


def test_labels_are_what_was_typed_an_option_for_a_group_and_a_value_for_a_key(tmp_path):
    """Not what the option changes in config.yaml, nor what was typed alike, nor the seeds."""
    for number, (variant, heads) in enumerate([("mixture", 4), ("mixture", 8), ("mixture_static", 4)]):
        for seed in range(2):
            write_run(
                tmp_path / f"{number}{seed}",
                seed=seed,
                typed=["data.train=9", f"+variant={variant}", f"model.num_heads={heads}", f"seed={seed}"],
                options={"variant": variant, "model": variant, "model/gate": f"gate of {variant}", "data": "polis"},
                settings={"model.num_heads": heads, "model.width": 2 * heads, "data.train": 9},
            )
    assert labels(tmp_path)[::2] == [
        {"variant": "mixture", "model.num_heads": 4},
        {"variant": "mixture", "model.num_heads": 8},
        {"variant": "mixture_static", "model.num_heads": 4},
    ]


def test_options_never_typed_come_before_the_settings_inside(tmp_path):
    for data in ("polis", "ukp"):
        write_run(tmp_path / data, options={"data": data}, settings={"a.first": data})
    assert labels(tmp_path) == [{"data": "polis"}, {"data": "ukp"}]


def test_a_difference_in_config_yaml_alone_is_a_label(tmp_path):
    for rate in (0.1, 0.02):
        write_run(
            tmp_path / str(rate), typed=["+variant=mixture"], options={"variant": "mixture"}, settings={"lr": rate}
        )
    assert labels(tmp_path) == [{"lr": 0.02}, {"lr": 0.1}]


def test_what_was_typed_and_what_was_not_are_told_apart_together(tmp_path):
    """The typed K splits the runs in two; the rest of the difference is hidden in config.yaml."""
    for number, (heads, rate) in enumerate([(1, 0.1), (2, 0.1), (2, 0.2)]):
        settings = {"model.num_heads": heads, "lr": rate}
        write_run(tmp_path / str(number), typed=[f"model.num_heads={heads}"], settings=settings)
    assert labels(tmp_path) == [
        {"model.num_heads": 1, "lr": 0.1},
        {"model.num_heads": 2, "lr": 0.1},
        {"model.num_heads": 2, "lr": 0.2},
    ]


@pytest.mark.parametrize(
    "name",
    ["name", "ckpt_path", "skip_finished", "paths.features_dir", "report.title", "logger.csv.name", "packages"],
)
def test_incidental_settings_tell_nothing_apart(name, tmp_path):
    for seed in range(2):
        write_run(tmp_path / str(seed), seed=seed, settings={name: f"{seed}"}, typed=[f"{name}={seed}"])
    assert labels(tmp_path) == [{}, {}]


def test_only_whole_names_are_incidental(tmp_path):
    for number in range(2):
        settings = {"model.name": f"model {number}", "reporter": number, "data.seed": number}
        write_run(tmp_path / str(number), settings=settings, typed=[f"model.name=model {number}"])
    assert labels(tmp_path) == [{"model.name": "model 0"}, {"model.name": "model 1"}]


def test_the_logger_chosen_tells_nothing_apart(tmp_path):
    for seed, logger in enumerate(("csv", "wandb")):
        write_run(tmp_path / logger, seed=seed, options={"logger": logger}, typed=[f"logger={logger}"])
    assert labels(tmp_path) == [{}, {}]


def test_where_the_files_lie_tells_nothing_apart(tmp_path):
    """Callbacks name the run's own folder, data sets the folder of all sets."""
    for seed in range(2):
        folder = tmp_path / f"run{seed}"
        settings = {
            "callbacks.best.dirpath": f"{folder}/checkpoints",
            "callbacks.mine.folders": [str(folder), "elsewhere"],
            "paths.data_dir": f"/sets{seed}",
            "data.train": f"/sets{seed}/polis/train.parquet",
        }
        write_run(folder, seed=seed, settings=settings)
    assert labels(tmp_path) == [{}, {}]
    write_run(tmp_path / "third", settings={"paths.data_dir": "/sets", "data.train": "/sets/ukp/train.parquet"})
    assert {run.setting("data.train") for run in collect([str(tmp_path)])} == {
        "<data_dir>/polis/train.parquet",
        "<data_dir>/ukp/train.parquet",
    }


def test_a_folder_that_is_named_like_that_of_the_data_is_not_taken_for_it(tmp_path):
    """With the data in `data/`: another file beside it, and one whose name only holds the word."""
    for number, path in enumerate(("data/pairs.jsonl", "pairs.jsonl", "old_data/pairs.jsonl", "old_pairs.jsonl")):
        write_run(tmp_path / f"run{number}", settings={"data.train": path})
    assert len({run.labels["data.train"] for run in collect([str(tmp_path)])}) == 4


def test_options_that_change_nothing_tell_nothing_apart(tmp_path):
    """One setting in two studies: its seeds belong together, under the words of the later run."""
    for seed, study in enumerate(("ladder", "heads")):
        for heads in (1, 2):
            settings = {"study.inside": "nothing", "model.num_heads": heads}
            options, typed = {"study": study}, [f"+study={study}", f"model.num_heads={heads}"]
            write_run(tmp_path / f"{study}{heads}", seed=seed, options=options, typed=typed, settings=settings)
    assert labels(tmp_path) == [{"model.num_heads": 1}] * 2 + [{"model.num_heads": 2}] * 2


def test_runs_without_a_hydra_folder_are_labelled_by_their_config(tmp_path):
    for heads in (2, 1):
        write_run(tmp_path / str(heads), typed=None, settings={"model.num_heads": heads})
    assert labels(tmp_path) == [{"model.num_heads": 1}, {"model.num_heads": 2}]
    write_run(tmp_path / "typed", seed=1, typed=["model.num_heads=2"], settings={"model.num_heads": 2})
    assert labels(tmp_path) == [{"model.num_heads": 1}, {"model.num_heads": 2}, {"model.num_heads": 2}]


def test_a_setting_that_only_some_runs_have_is_none_for_the_others(tmp_path):
    """As the number of heads, which single BT does not have."""
    for seed in range(2):
        write_run(tmp_path / f"single{seed}", seed=seed)
    write_run(tmp_path / "mixture", settings={"model.num_heads": 4})
    assert labels(tmp_path) == [{"model.num_heads": 4}, {"model.num_heads": None}, {"model.num_heads": None}]


def test_to_have_a_setting_as_null_is_to_have_it_not(tmp_path):
    """So that a run is the same one after its data got a further setting."""
    write_run(tmp_path / "before")
    write_run(tmp_path / "after", settings={"angle": None})
    write_run(tmp_path / "other", settings={"lr": 1})
    assert labels(tmp_path) == [{"lr": 1}, {"lr": None}]


def test_lists_and_truths_are_labels_too(tmp_path):
    for betas in ([0.9, 0.99], [0.9, 0.999]):
        for criteria in (False, True):
            settings = {"betas": betas, "data.criteria": criteria}
            write_run(tmp_path / f"{betas}{criteria}", settings=settings)
    runs = collect([str(tmp_path)])
    assert len(group_runs(runs, *runs[0].labels)) == 4
    assert {"betas": [0.9, 0.999], "data.criteria": True} in [run.labels for run in runs]


def test_runs_come_by_size_then_by_word_then_by_seed(tmp_path):
    for heads in (8, 16, 4):
        for seed in (10, 9):
            write_run(tmp_path / f"{heads}{seed}", seed=seed, settings={"model.num_heads": heads})
    write_run(tmp_path / "auto", settings={"model.num_heads": "auto"})
    runs = collect([str(tmp_path)])
    assert [(run.labels["model.num_heads"], run.seed) for run in runs] == [
        (4, 9), (4, 10), (8, 9), (8, 10), (16, 9), (16, 10), ("auto", 0),
    ]  # fmt: skip


# What they say


def test_quantities_are_looked_up_by_their_path():
    results = {"test": {"nll": {"value": 0.5, "se": 0.1}}, "heads": {"effective": 3}, "words": "none", "list": [1]}
    assert look_up(results, "test.nll") == {"value": 0.5, "se": 0.1}
    assert look_up(results, "test.nll.se") == {"value": 0.1}
    assert look_up(results, "heads.effective") == {"value": 3.0}
    for path in ("test", "test.brier", "heads.effective.value", "words", "list", "nothing", ""):
        assert look_up(results, path) is None


def test_runs_are_split_in_words_and_by_number(tmp_path):
    for variant in ("mixture", "single_bt"):
        for heads in (16, 8):
            options, settings = {"variant": variant}, {"model.num_heads": heads, "model.link": "probability"}
            write_run(tmp_path / f"{variant}{heads}", nll=heads / 100, options=options, settings=settings)
    runs = collect([str(tmp_path)])
    assert list(group_runs(runs, "variant", "model.num_heads")) == [
        "mixture, num_heads 8", "mixture, num_heads 16", "single_bt, num_heads 8", "single_bt, num_heads 16",
    ]  # fmt: skip
    assert {name: len(part) for name, part in group_runs(runs).items()} == {"": 4}
    by_number = split_by_number(runs, "model.num_heads")
    assert {number: values_of(part, "test.nll") for number, part in by_number.items()} == {
        8.0: [0.08, 0.08],
        16.0: [0.16, 0.16],
    }
    for name in ("variant", "model.link", "nothing"):
        with pytest.raises(UserError, match=rf"report.x={name}: .* the runs differ in: variant, model.num_heads"):
            split_by_number(runs, name)
