import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional import clustering

from micro_lit import likelihood
from micro_lit.metrics import (
    NUM_BINS,
    CategoryMetrics,
    ExcessMetrics,
    HeadMetrics,
    PreferenceMetrics,
    RaterMetrics,
    WeightMetrics,
    bernoulli_divergence,
)


def log_probs(num_pairs: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.logsigmoid(2.0 * torch.randn(num_pairs, generator=generator))


def test_scores_against_numpy():
    log_prob_B = log_probs(500)
    metrics = PreferenceMetrics()
    metrics.update(log_prob_B)
    [result] = metrics.compute()
    probability_N = log_prob_B.double().exp().numpy()
    columns = {
        "nll": -np.log(probability_N),
        "accuracy": (probability_N > 0.5).astype(float),
        "brier": (1 - probability_N) ** 2,
    }
    for name, value_N in columns.items():
        assert result[name]["value"] == pytest.approx(value_N.mean(), abs=1e-6)
        assert result[name]["se"] == pytest.approx(value_N.std(ddof=1) / math.sqrt(500), rel=1e-4)
        assert result[name]["n"] == 500


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sums_stay_in_float64_where_a_trainer_brings_the_model_to_another_dtype(dtype):
    """FSDP brings a model to float32, and trainer.precision=bf16-true to bfloat16, before rows are added."""
    made = (
        PreferenceMetrics, partial(ExcessMetrics, 1, 0), partial(WeightMetrics, 3), partial(HeadMetrics, 3, 2),
        partial(CategoryMetrics, 3, 2), partial(RaterMetrics, 4),
    )  # fmt: skip
    kept, moved = (torch.nn.ModuleList(make() for make in made) for _ in range(2))
    moved.to(dtype)
    for metrics in moved:
        metrics.reset()
    for one, other in zip(kept, moved, strict=True):
        for name in one._defaults:
            assert getattr(other, name).dtype == getattr(one, name).dtype, f"{type(one).__name__}.{name}"
    log_prob_B = log_probs(500)
    for metrics in (kept[0], moved[0]):
        metrics.update(log_prob_B)
    assert kept[0].compute() == moved[0].compute()


def test_calibration_error_against_a_plain_loop():
    log_prob_B = log_probs(2000, seed=1)
    metrics = PreferenceMetrics()
    metrics.update(log_prob_B)
    probability_N = log_prob_B.double().exp().numpy()
    confidence_N = np.maximum(probability_N, 1 - probability_N)
    edges = np.linspace(0.5, 1.0, NUM_BINS + 1)
    expected = 0.0
    for low, high in itertools.pairwise(edges):
        inside = (confidence_N >= low) & (confidence_N < high)
        if inside.any():
            gap = confidence_N[inside].mean() - (probability_N[inside] > 0.5).mean()
            expected += abs(gap) * inside.mean()
    assert metrics.compute()[0]["ece"]["value"] == pytest.approx(expected, abs=1e-9)


def test_a_tie_counts_one_half():
    metrics = PreferenceMetrics()
    metrics.update(torch.tensor([0.5, 0.9, 0.1]).log())
    assert metrics.compute()[0]["accuracy"]["value"] == pytest.approx(0.5)


@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=5), seed=st.integers(0, 1000))
def test_batches_of_any_size_give_the_same_numbers(sizes, seed):
    log_prob_B = log_probs(sum(sizes), seed)
    cell_B = torch.arange(len(log_prob_B)) % 3 - 1
    whole, parts = PreferenceMetrics(2), PreferenceMetrics(2)
    whole.update(log_prob_B, None, cell_B)
    for log_prob, cell in zip(log_prob_B.split(sizes), cell_B.split(sizes), strict=True):
        parts.update(log_prob, None, cell)
    for left, right in zip(whole.compute(), parts.compute(), strict=True):
        assert left.keys() == right.keys()
        for name in left:
            assert left[name] == pytest.approx(right[name], abs=1e-12)


def test_breakdown_equals_separate_metrics_and_skips_unknown():
    log_prob_B = log_probs(300, seed=2)
    cell_B = torch.arange(300) % 4 - 1
    metrics = PreferenceMetrics(4)
    metrics.update(log_prob_B, None, cell_B)
    cells = metrics.compute()
    assert cells[3] == {}
    for cell in range(3):
        alone = PreferenceMetrics()
        alone.update(log_prob_B[cell_B == cell])
        assert cells[cell]["nll"] == pytest.approx(alone.compute()[0]["nll"])


def test_heads_of_planted_groups_are_recovered():
    """Head k speaks for group k, whatever the order in which the heads stand."""
    generator = torch.Generator().manual_seed(3)
    order = torch.tensor([2, 0, 3, 1])
    group_B = torch.arange(400) % 4
    margins_BK = torch.randn(400, 4, generator=generator)
    margins_BK[torch.arange(400), order[group_B]] = 5.0
    log_weights_BK = torch.full((400, 4), -math.log(4.0))
    metrics = HeadMetrics(4, 4)
    for rows in torch.arange(400).split(64):
        posterior_BK = likelihood.hedge_log_targets(-likelihood.WINNER.log_prob(margins_BK[rows]), log_weights_BK[rows])
        metrics.update(margins_BK[rows], log_weights_BK[rows], posterior_BK, group_B[rows])
    result = metrics.compute()
    assert result["recovery"]["matching"] == order.tolist()
    assert result["recovery"]["best_head"] == order.tolist()
    assert result["recovery"]["oracle_nll"]["value"] == pytest.approx(math.log1p(math.exp(-5.0)), rel=1e-4)
    assert result["effective"] == pytest.approx(4.0)
    assert result["entropy_per_example"] == pytest.approx(math.log(4.0))


def test_heads_that_say_the_same_or_nothing_are_not_distinct():
    """Head 1 says what head 0 says, twice as loud; head 2 the opposite; head 3 has no weight."""
    margin_B = torch.randn(100, generator=torch.Generator().manual_seed(4))
    margins_BK = torch.stack([margin_B, 2 * margin_B, -margin_B, margin_B.flip(0)], dim=1)
    log_weights_BK = torch.tensor([0.4, 0.3, 0.295, 0.005]).log().expand(100, 4)
    metrics = HeadMetrics(4)
    metrics.update(margins_BK, log_weights_BK, log_weights_BK, torch.full((100,), -1))
    assert metrics.compute()["distinct"] == 2


def test_head_metrics_without_known_groups_say_nothing_of_recovery():
    metrics = HeadMetrics(2, 3)
    margins_BK = torch.tensor([[1.0, -1.0], [2.0, -2.0]])
    log_weights_BK = torch.log(torch.tensor([[0.9, 0.1], [0.9, 0.1]]))
    metrics.update(margins_BK, log_weights_BK, log_weights_BK, torch.tensor([-1, -1]))
    result = metrics.compute()
    assert "recovery" not in result
    assert result["mean_weight"] == pytest.approx([0.9, 0.1])
    torch.testing.assert_close(torch.tensor(result["margin_correlation"]), torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))


def test_fewer_heads_than_groups_leave_groups_unmatched():
    metrics = HeadMetrics(1, 2)
    zeros = torch.zeros(4, 1)
    metrics.update(zeros, zeros, zeros, torch.tensor([0, 0, 1, 1]))
    assert sorted(metrics.compute()["recovery"]["matching"]) == [-1, 0]


def shared(weights_BK: torch.Tensor) -> dict:
    metrics = WeightMetrics(weights_BK.shape[1])
    metrics.update(weights_BK.clamp(min=1e-300).log())
    return metrics.compute()


@pytest.mark.parametrize(
    ("weights_BK", "of_mean", "per_example", "dead"),
    [
        (torch.eye(4).double(), math.log(4), 0.0, []),  # every example its own head
        (torch.full((4, 4), 0.25).double(), math.log(4), math.log(4), []),  # nobody chooses
        (torch.eye(4)[[2, 2, 2, 2]].double(), 0.0, 0.0, [0, 1, 3]),  # all have collapsed to one
        (torch.tensor([[0.5, 0.5, 0.0, 0.0]]).double(), math.log(2), math.log(2), [2, 3]),
    ],
)
def test_a_collapsed_gate_and_one_that_does_not_choose_are_told_apart(weights_BK, of_mean, per_example, dead):
    found = shared(weights_BK)
    assert found["entropy_of_mean"] == pytest.approx(of_mean, abs=1e-9)
    assert found["entropy_per_example"] == pytest.approx(per_example, abs=1e-9)
    assert found["effective"] == pytest.approx(math.exp(of_mean))
    assert found["dead"] == dead


def test_a_head_is_dead_below_a_tenth_of_an_equal_weight():
    assert shared(torch.tensor([[0.0251, 0.0249, 0.45, 0.5]]).double())["dead"] == [1]


@given(
    num_heads=st.integers(1, 6), sizes=st.lists(st.integers(1, 20), min_size=1, max_size=4), seed=st.integers(0, 999)
)
def test_examples_choose_no_less_than_all_together_and_batches_do_not_matter(num_heads, sizes, seed):
    logits_BK = 3.0 * torch.randn(sum(sizes), num_heads, generator=torch.Generator().manual_seed(seed))
    log_weights_BK = torch.log_softmax(logits_BK.double(), dim=1)
    found, parts = shared(log_weights_BK.exp()), WeightMetrics(num_heads)
    assert -1e-9 <= found["entropy_per_example"] <= found["entropy_of_mean"] + 1e-9 <= math.log(num_heads) + 2e-9
    for log_weights in log_weights_BK.split(sizes):
        parts.update(log_weights)
    for name, value in parts.compute().items():
        assert found[name] == pytest.approx(value, abs=1e-9)


def categorised(top_B: torch.Tensor, category_B: torch.Tensor, num_heads: int, num_categories: int, margins_BK=None):
    """With the given head on top of each row, in batches of seven."""
    metrics = CategoryMetrics(num_heads, num_categories)
    log_weights_BK = torch.nn.functional.one_hot(top_B, num_heads).double().log_softmax(dim=1)
    margins_BK = torch.zeros(len(top_B), num_heads) if margins_BK is None else margins_BK
    for rows in torch.arange(len(top_B)).split(7):
        metrics.update(margins_BK[rows], log_weights_BK[rows], category_B[rows])
    return metrics.compute()


@given(
    num_rows=st.integers(2, 60),
    num_heads=st.integers(1, 5),
    num_categories=st.integers(2, 5),
    luck=st.floats(0, 1),
    seed=st.integers(0, 10**6),
)
def test_agreement_of_heads_and_categories_against_torchmetrics(num_rows, num_heads, num_categories, luck, seed):
    generator = torch.Generator().manual_seed(seed)
    category_B = torch.randint(num_categories, (num_rows,), generator=generator)
    category_B[:2] = torch.tensor([0, 1])
    drawn_B = torch.randint(num_heads, (num_rows,), generator=generator)
    top_B = torch.where(torch.rand(num_rows, generator=generator) < luck, drawn_B, category_B % num_heads)
    found = categorised(top_B, category_B, num_heads, num_categories)
    with torch.sparse.check_sparse_tensor_invariants():  # torch warns of tables that nobody checks
        nmi = clustering.normalized_mutual_info_score(top_B, category_B, "arithmetic")
        ari = clustering.adjusted_rand_score(top_B, category_B)
    assert found["nmi"] == pytest.approx(nmi.item(), abs=1e-5)
    assert found["ari"] == pytest.approx(ari.item(), abs=1e-5)
    in_majority = sum(
        max(int(((top_B == head) & (category_B == category)).sum()) for category in range(num_categories))
        for head in range(num_heads)
    )
    assert found["purity"] == pytest.approx(in_majority / num_rows)
    assert (
        torch.tensor(found["top"]).sum(dim=1).tolist()
        == torch.bincount(category_B, minlength=len(found["top"])).tolist()
    )


def test_heads_that_stand_for_categories_are_perfect_in_any_order_and_one_head_knows_nothing():
    category_B = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2])
    perfect = categorised(torch.tensor([3, 0, 2])[category_B], category_B, 4, 3)
    assert [perfect[score] for score in ("purity", "nmi", "ari")] == pytest.approx([1.0, 1.0, 1.0])
    collapsed = categorised(torch.zeros(8, dtype=torch.int64), category_B, 4, 3)
    assert [collapsed[score] for score in ("purity", "nmi", "ari")] == pytest.approx([3 / 8, 0.0, 0.0])
    # More heads than categories stay pure, but no longer tell which rows belong together.
    split = categorised(torch.arange(8), category_B, 8, 3)
    assert split["purity"] == 1.0
    assert split["nmi"] < 1.0
    assert split["ari"] == pytest.approx(0.0)
    alone = categorised(torch.tensor([1, 0]), torch.tensor([0, 1]), 2, 2)
    assert [alone[score] for score in ("purity", "nmi", "ari")] == pytest.approx([1.0, 1.0, 1.0])


def test_a_specialist_is_right_on_its_own_category():
    """Head 0 is on top of category 0, head 2 of category 1 and once of 0; head 1 never is. A tie is half right."""
    category_B = torch.tensor([0, 0, 0, 1, 1, -1])
    top_B = torch.tensor([0, 0, 2, 2, 2, 1])
    margins_BK = torch.tensor(
        [[1.0, 1.0, -1.0], [1.0, 1.0, -1.0], [0.0, 1.0, 1.0], [-1.0, 1.0, 2.0], [1.0, 1.0, 0.0], [9.0, 9.0, 9.0]]
    )
    found = categorised(top_B, category_B, 3, 3, margins_BK)
    assert found["top"] == [[2, 0, 1], [0, 0, 2], [0, 0, 0]]
    assert found["purity"] == pytest.approx(4 / 5)
    assert found["specialisation"] == [
        {"head": 0, "category": 0, "inside": pytest.approx(2.5 / 3), "outside": pytest.approx(1 / 2), "n": 2},
        {"head": 2, "category": 1, "inside": pytest.approx(1.5 / 2), "outside": pytest.approx(1 / 3), "n": 3},
    ]


@pytest.mark.parametrize("category", [-1, 0, 2])
def test_one_category_alone_says_nothing(category):
    assert categorised(torch.tensor([0, 1, 1]), torch.full((3,), category), 2, 3) == {}


def test_excess_cancels_what_both_share():
    log_prob_B = log_probs(200, seed=4)
    metrics = ExcessMetrics(2, bayes=0)
    metrics.update(log_prob_B, torch.stack([log_prob_B, log_prob_B + 0.25], dim=1))
    (same, better), risk = metrics.compute()
    assert {key: same[key] for key in ("value", "se", "n")} == {"value": 0.0, "se": 0.0, "n": 200}
    assert better["value"] == pytest.approx(0.25, abs=1e-6)
    assert better["se"] == pytest.approx(0.0, abs=1e-6)
    assert risk["value"] == pytest.approx(0.0, abs=1e-15)


@pytest.mark.parametrize("p", [1e-6, 0.1, 0.5, 1.0 - 1e-6])
@pytest.mark.parametrize("q", [1e-4, 0.3, 0.9])
def test_divergence_of_two_coins(p, q):
    expected = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    log_p, log_q = (torch.tensor([value], dtype=torch.float64).log() for value in (p, q))
    found = bernoulli_divergence(log_p, log_q)
    assert found.item() == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_excess_risk_of_a_sure_model_is_a_number():
    """In float32 a mixture of sure heads has a log-probability that rounds to 0 and above."""
    margins_BK = 20.0 * (1.0 + torch.rand(500, 8, generator=torch.Generator().manual_seed(1)))
    log_weights_BK = torch.log_softmax(torch.randn(500, 8, generator=torch.Generator().manual_seed(2)), dim=1)
    log_prob_B = likelihood.preference_log_prob(margins_BK, log_weights_BK)
    assert (log_prob_B >= 0).any()
    metrics = ExcessMetrics(1, bayes=0)
    metrics.update(log_prob_B, torch.nn.functional.logsigmoid(margins_BK[:, :1]))
    _, risk = metrics.compute()
    assert 0 <= risk["value"] < 1e-6


def test_excess_risk_is_the_mean_excess_without_the_luck_of_the_labels():
    """The same expectation, from far fewer rows: a model a millionth of a nat above the truth is seen to be so."""
    generator = torch.Generator().manual_seed(7)
    margin_B = torch.randn(20_000, generator=generator).double()
    wins_B = torch.rand(20_000, generator=generator) < margin_B.sigmoid()
    sign_B = torch.where(wins_B, 1.0, -1.0)
    truth_B, model_B = (torch.nn.functional.logsigmoid(sign_B * scale * margin_B) for scale in (1.0, 1.003))
    metrics = ExcessMetrics(1, bayes=0)
    metrics.update(model_B, truth_B[:, None])
    [excess], risk = metrics.compute()
    curvature_B = margin_B.sigmoid() * (-margin_B).sigmoid() * margin_B**2
    assert risk["value"] == pytest.approx(0.5 * 0.003**2 * curvature_B.mean().item(), rel=0.02)
    assert risk["se"] < 1e-7 < excess["se"]
    assert abs(excess["value"] - risk["value"]) < 4 * excess["se"]


def rated(pair_B, first_wins_B, log_prob_B, num_pairs=4):
    metrics = RaterMetrics(num_pairs)
    for rows in torch.arange(len(pair_B)).split(3):
        metrics.update(log_prob_B[rows], pair_B[rows], first_wins_B[rows])
    return metrics.compute()


def test_rater_metrics_compare_the_same_rows():
    """Pair 0 has three votes (two for the first), pair 2 two that agree; pair 1 has one rater, -1 repeats a vote."""
    pair_B = torch.tensor([0, 0, 0, 1, 2, 2, -1])
    first_wins_B = torch.tensor([True, True, False, True, False, False, True])
    probability_B = torch.tensor([0.6, 0.6, 0.4, 0.9, 0.7, 0.7, 0.1])
    found = rated(pair_B, first_wins_B, probability_B.log())
    assert (found["rows"], found["pairs"]) == (5, 2)
    # Of three votes 2 : 1, p(1-p) is estimated by 2·1/(3·2); the votes of a pair weigh alike.
    assert found["brier"]["floors"]["brier"]["value"] == pytest.approx((3 * (1 / 3) + 2 * 0) / 5)
    assert found["agreement"]["value"] == pytest.approx(1 - 2 * found["brier"]["floors"]["brier"]["value"])
    brier = (2 * 0.4**2 + 0.6**2 + 2 * 0.3**2) / 5
    assert found["brier"]["model"]["value"] == pytest.approx(brier)
    assert found["brier"]["excess"]["value"] == pytest.approx(brier - 1 / 5)
    assert found["accuracy"]["model"]["value"] == pytest.approx(4 / 5)
    assert found["nll"]["model"]["value"] == pytest.approx(-probability_B[[0, 1, 2, 4, 5]].log().mean().item())
    assert found["nll"]["floors"]["lower"]["value"] <= found["nll"]["floors"]["upper"]["value"]


def test_without_shared_pairs_there_is_no_floor_of_raters():
    assert rated(torch.tensor([0, 1, -1, -1]), torch.tensor([True] * 4), torch.full((4,), -0.5)) == {}


def test_labels_that_are_reversed_on_purpose_are_no_raters():
    """Every pair judged once each way, as under two criteria: no crowd agrees with itself less often than chance."""
    pair_B = torch.arange(200) // 2
    found = rated(pair_B, torch.arange(200) % 2 == 0, torch.full((200,), -0.5), num_pairs=100)
    assert found == {}
