"""Tests of `micro_lit.metrics.baselines`."""

import json
import math
import random
from collections import Counter
from pathlib import Path

import pytest
import torch
from conftest import SMALL_FEATURES, SMALL_TEXT

from micro_lit import train
from micro_lit.config import build
from micro_lit.data.pairs import Counts, Pairs, from_records
from micro_lit.data.records import LABELS, Message, Record
from micro_lit.metrics.baselines import BaselineMetrics, Baselines, Majority
from micro_lit.report.collect import collect, look_up


def record(prompt: str, chosen: str, rejected: str, **columns) -> Record:
    return Record((Message("user", prompt),), chosen, rejected, **columns)


def made(train_records, test_records, first_shown=None):
    splits = ["train"] * len(train_records) + ["test"] * len(test_records)
    data = from_records([*train_records, *test_records], splits, {"made": Counts()})
    if first_shown is not None:
        data.pairs.first_shown_N[data.splits["test"]] = torch.tensor(first_shown, dtype=torch.int8)
    return data


def correct(data) -> dict[str, list[float]]:
    baselines = Baselines(data, data.split("train"))
    return dict(zip(baselines.names, baselines.correct(data.split("test")).T.tolist(), strict=True))


def test_the_longer_response_wins_by_characters_and_equal_lengths_are_a_coin():
    judged = [record("q", "four", "two words"), record("q", "ten letters", "six"), record("q", "ééé", "abc")]
    assert correct(made([record("q", "a", "b")], judged))["longer"] == [0.0, 1.0, 0.5]


def test_the_majority_is_of_training_raters_of_the_same_two_responses_in_the_same_context():
    raters = [record("q", "a", "b", user_id=f"u{number}") for number in range(2)]
    # The first user's second row, other responses, and another criterion do not count.
    other = [record("q", "b", "a", user_id="u2"), record("q", "b", "a", user_id="u2"), record("q", "a", "c")]
    other += [record("q", "b", "a", criterion="Be brief.", user_id=f"v{number}") for number in range(5)]
    judged = [
        record("q", "a", "b", user_id="t"),
        record("q", "b", "a", user_id="t2"),
        record("q", "b", "a", criterion="Be brief.", user_id="t3"),
        record("q", "c", "b", user_id="t4"),
        record("p", "a", "b", user_id="t5"),
    ]
    found = correct(made([*raters, *other], judged))
    assert found["majority"] == [1.0, 0.0, 1.0, 0.5, 0.5]


def test_as_many_raters_on_either_side_are_a_coin():
    raters = [record("q", "a", "b", user_id="u"), record("q", "b", "a", user_id="v")]
    assert correct(made(raters, [record("q", "a", "b", user_id="t")]))["majority"] == [0.5]


def random_pairs(generator: torch.Generator, rows: int, texts: int) -> Pairs:
    triplets_N3 = torch.stack([torch.randperm(texts, generator=generator)[:3] for _ in range(rows)])
    labels_NC = torch.full((rows, len(LABELS)), -1)
    labels_NC[:, LABELS.index("pair_id")] = torch.where(torch.rand(rows, generator=generator) < 0.8, 0, -1)
    return Pairs(triplets_N3, labels_NC, torch.zeros(rows), torch.empty(rows, 0))


@pytest.mark.parametrize("named", [True, False])
def test_votes_are_those_counted_one_by_one(named):
    generator = torch.Generator().manual_seed(0)
    training, judged = random_pairs(generator, 400, 5), random_pairs(generator, 100, 6)
    votes: Counter[tuple[int, int, int]] = Counter()
    for triplet, pair in zip(training.triplets_N3.tolist(), training.label_N("pair_id").tolist(), strict=True):
        votes[tuple(triplet)] += pair >= 0 or not named
    expected = [votes[c, a, b] - votes[c, b, a] for c, a, b in judged.triplets_N3.tolist()]
    assert Majority(training, num_texts=6, named=named).agrees(judged).tolist() == expected
    assert any(expected)


def test_three_texts_of_millions_do_not_overflow():
    texts = 4_000_000
    row_N3 = torch.tensor([[texts - 1, texts - 2, texts - 3], [texts - 4, texts - 2, texts - 3]])
    pairs = Pairs(row_N3, torch.zeros(2, len(LABELS), dtype=torch.int64), torch.zeros(2), torch.empty(2, 0))
    votes = Majority(pairs[torch.tensor([0])], texts)
    assert votes.agrees(pairs).tolist() == [1, 0]


def test_without_training_raters_the_majority_is_a_coin():
    nobody = random_pairs(torch.Generator(), 3, 4)
    assert Majority(nobody[torch.arange(0)], 4).agrees(nobody).tolist() == [0, 0, 0]


def test_the_first_response_wins_where_the_order_is_given_and_nowhere_else():
    judged = [record("q", f"a{number}", "b") for number in range(3)]
    training = [record("q", "x", "y")]
    assert "first" not in correct(made(training, judged))
    found = correct(made(training, judged, first_shown=[1, 0, -1]))["first"]
    assert found[:2] == [1.0, 0.0]
    assert math.isnan(found[2])


def test_pairs_do_not_tell_the_order_unless_it_is_given():
    pairs = made([record("q", "a", "b")], [record("q", "c", "d")]).pairs
    assert pairs.first_shown_N.tolist() == [-1, -1]
    assert pairs.first_shown_N.dtype == torch.int8
    given = Pairs(
        pairs.triplets_N3, pairs.labels_NC, pairs.rating_gap_N, pairs.reference_log_probs_NF,
        torch.tensor([1, 0], dtype=torch.int8),
    )  # fmt: skip
    assert given[torch.tensor([1])].first_shown_N.tolist() == [0]


def judged_at_random(rows: int):
    generator = random.Random(0)
    words = [record(f"q{row}", "x" * generator.randint(1, 4), "y" * generator.randint(1, 4)) for row in range(rows)]
    order = [generator.choice([1, 0, -1]) for _ in range(rows)]
    return made([record("q", "a", "b"), record("q0", words[0].chosen, words[0].rejected)], words, order)


def mean_and_error(values: list[float]) -> dict[str, float]:
    values_N = torch.tensor(values, dtype=torch.float64)
    n = len(values)
    return {"value": float(values_N.mean()), "se": float(values_N.std() / n**0.5), "n": n}


def test_the_difference_from_a_model_is_paired_by_row_over_batches_of_any_size():
    data = judged_at_random(41)
    test = data.split("test")
    log_prob_N = torch.rand(41, generator=torch.Generator().manual_seed(1)).log()
    log_prob_N[3] = math.log(0.5)
    model = [1.0 if value > math.log(0.5) + 1e-6 else 0.5 if value == log_prob_N[3] else 0.0 for value in log_prob_N]
    metrics = BaselineMetrics(Baselines(data, data.split("train")))
    for row_B in torch.arange(41).split(9):
        metrics.update(log_prob_N[row_B], test[row_B])
    found, by_row = metrics.compute(), correct(data)
    assert set(found) == {"longer", "majority", "first"}
    for name, values in by_row.items():
        given = [(own, theirs) for own, theirs in zip(model, values, strict=True) if not math.isnan(theirs)]
        expected = mean_and_error([theirs for _, theirs in given])
        assert {key: found[name][key] for key in expected} == pytest.approx(expected)
        difference = mean_and_error([own - theirs for own, theirs in given])
        assert {key: found[name]["difference"][key] for key in difference} == pytest.approx(difference)
    assert found["first"]["n"] < 41
    assert found["majority"]["known"] == pytest.approx(1 / 41)
    assert "known" not in found["longer"]


def test_a_run_measures_them_on_its_test_rows(settings):
    run = settings("+experiment=mixture_k8", *SMALL_TEXT, "trainer.max_epochs=1")
    train.run(run)
    folder = Path(run["paths"]["run_dir"])
    results = json.loads((folder / "results.json").read_text())
    data = build(run["data"]).load(run["seed"])
    test = data.split("test")
    lengths = [
        (len(data.texts[chosen].response), len(data.texts[rejected].response))
        for chosen, rejected in zip(test.chosen_N.tolist(), test.rejected_N.tolist(), strict=True)
    ]
    longer = results["baselines"]["longer"]
    assert longer["value"] == pytest.approx(sum((a > b) + (a == b) / 2 for a, b in lengths) / 48)
    accuracy = results["test"]["accuracy"]["value"]
    assert longer["difference"]["value"] == pytest.approx(accuracy - longer["value"])
    # No prompt of planted English is in two splits.
    assert results["baselines"]["majority"]["known"] == 0
    assert results["baselines"]["majority"]["value"] == 0.5
    assert "first" not in results["baselines"]
    # A report of many runs can show them.
    [finished] = collect([str(folder)])
    assert look_up(finished.results, "baselines.longer") == {key: longer[key] for key in longer if key != "difference"}


def test_vectors_of_a_planted_population_have_floors_and_no_baselines(settings):
    run = settings("+experiment=planted_floors_k8", *SMALL_FEATURES, "trainer.max_epochs=1")
    train.run(run)
    assert json.loads((Path(run["paths"]["run_dir"]) / "results.json").read_text())["baselines"] == {}
