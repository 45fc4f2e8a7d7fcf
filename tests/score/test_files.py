"""`micro_lit.score`: files of responses in, tables of rewards out."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import micro_lit
from micro_lit import config
from micro_lit.errors import UserError
from micro_lit.score import __main__ as command
from micro_lit.score.files import part_of

ROWS = [
    {"prompt": f"question {n % 5}", "response": f"answer {n}", "user_id": f"user {n % 2}", "criterion": "Be kind."}
    for n in range(20)
]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """The folder of a mixture tied to users, on a few labels."""
    folder = tmp_path_factory.mktemp("scored")
    rows = [
        {"prompt": f"q {n % 5}", "chosen": f"a {n}", "rejected": f"reply {n}", "user_id": f"user {n % 2}"}
        for n in range(60)
    ]
    (folder / "labels.jsonl").write_text("\n".join(map(json.dumps, rows)))
    small = ["trainer.max_epochs=1", "trainer.limit_train_batches=2", "model=tied", "model.num_heads=2"]
    paths = [f"paths.run_dir={folder}/run", f"data.train={folder}/labels.jsonl"]
    return micro_lit.fit(["data=pairs", "backbone=tiny", *small, *paths]).folder


@pytest.fixture
def score(run, tmp_path):
    """Runs the command on rows; returns the written table."""

    def score(*overrides: str, rows=ROWS, out: str = "scores.parquet") -> pd.DataFrame:
        (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
        given = [f"run={run}", f"responses={tmp_path}/rows.jsonl", f"out={tmp_path}/{out}", *overrides]
        written = command.run(config.compose("score", [*given, f"paths.run_dir={tmp_path}/own"]))
        readers = {
            ".parquet": pd.read_parquet,
            ".csv": pd.read_csv,
            ".jsonl": lambda path: pd.read_json(path, lines=True),
        }
        return readers[written.suffix](written)

    return score


def test_a_table_holds_the_rewards_that_python_gives(score, run):
    found = score()
    model = micro_lit.load(run)
    prompts, texts = [row["prompt"] for row in ROWS], [row["response"] for row in ROWS]
    given = {"user": [row["user_id"] for row in ROWS], "criterion": "Be kind."}
    assert found["row"].tolist() == list(range(20))
    np.testing.assert_allclose(found["reward"], model.score(prompts, texts, **given), atol=1e-6)
    np.testing.assert_allclose(found[model.heads], model.score(prompts, texts), atol=1e-6)


def test_ranks_are_among_the_responses_to_a_prompt(score):
    found = score()
    for _, own in found.groupby([row["prompt"] for row in ROWS]):
        assert sorted(own["rank"]) == [1, 2, 3, 4]
        assert own.sort_values("reward", ascending=False)["rank"].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_the_best_response_to_each_prompt_is_selected(score, ending):
    found = score("select=best", out=f"best.{ending}")
    assert len(found) == 5
    assert (found["rank"] == 1).all()


def test_parts_hold_each_row_once_and_all_responses_to_a_prompt(score, capsys):
    whole = score()
    parts = [score("parts=3", f"part={part}", out="part.parquet") for part in range(3)]
    together = pd.concat(parts).sort_values("row").reset_index(drop=True)
    assert together["row"].tolist() == whole["row"].tolist()
    np.testing.assert_allclose(together["reward"], whole["reward"], atol=1e-5)
    assert together["rank"].tolist() == whole["rank"].tolist()
    capsys.readouterr()
    score("parts=3", "part=1", out="part.parquet")
    assert "finished before" in capsys.readouterr().out


def test_a_row_without_a_user_is_scored_as_for_a_new_one_and_changes_no_other(score, run):
    rows = [{**row, "user_id": None} if number == 3 else row for number, row in enumerate(ROWS)]
    whole, found = score(out="a.parquet"), score(rows=rows, out="b.parquet")
    np.testing.assert_allclose(found["reward"].drop(3), whole["reward"].drop(3), atol=1e-6)
    new = micro_lit.load(run).score([ROWS[3]["prompt"]], [ROWS[3]["response"]], criterion="Be kind.")
    assert found["reward"][3] == pytest.approx(new[0], abs=1e-6)


def test_columns_of_other_names_are_mapped(score):
    rows = [{"q": row["prompt"], "a": row["response"]} for row in ROWS]
    assert len(score("+columns.prompt=q", "+columns.response=a", rows=rows)) == 20


@pytest.mark.parametrize(
    ("rows", "overrides", "message"),
    [
        ([], [], "no rows|no row"),
        ([{"prompt": "a"}], [], "column 'response' is missing or null"),
        ([{"prompt": "a", "response": " "}], [], "'response' is empty"),
        ([{"prompt": "a", "response": "b", "user_id": "nobody"}], [], "user='nobody': not among the 2 users"),
        (ROWS, ["part=3", "parts=3"], "part=3: parts are numbered from 0"),
        (ROWS, ["out=scores.xlsx"], "give a file that ends in .parquet, .csv, .jsonl"),
        (ROWS, ["run=nowhere"], "nowhere: not the folder of a run"),
        (ROWS, ["select=worst"], "select='worst' is not allowed; give one of all, best"),
        (ROWS, ["parts=0"], "parts=0 is not allowed"),
    ],
)
def test_mistakes_are_one_line_and_leave_no_file(rows, overrides, message, score, tmp_path):
    with pytest.raises(UserError, match=message) as caught:
        score(*overrides, rows=rows)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("scores*"))


def test_a_file_is_not_replaced_unless_asked(score):
    score()
    with pytest.raises(UserError, match="exists already"):
        score()
    assert len(score("overwrite=true")) == 20


def test_parts_have_their_number_in_the_name():
    assert part_of(Path("a/scores.csv"), 2, 8) == Path("a/scores-00002-of-00008.csv")
    assert part_of(Path("a/scores.csv"), 0, 1) == Path("a/scores.csv")
