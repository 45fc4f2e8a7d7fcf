"""Tests of what results are not believed."""

import math
import re

import pytest

from micro_lit.metrics.validity import why_impossible


def facts(value: float, se: float = 0.01, **more) -> dict:
    return {"value": value, "se": se, "n": 1000, **more}


def results(nll: float = 0.5, accuracy: float = 0.7, **excess) -> dict:
    return {"test": {"nll": facts(nll), "accuracy": facts(accuracy)}, "excess": excess}


@pytest.mark.parametrize(
    ("measured", "words"),
    [
        (results(nll=math.nan), "test.nll is nan"),
        (results(accuracy=math.inf), "test.accuracy is inf"),
        (results(nll=-1e-9), "below 0"),
        (results(accuracy=1.001), r"outside \[0, 1\]"),
        (results(marginal=facts(math.nan)), "excess.marginal is nan"),
        (results(marginal=facts(-0.06)), "0.0600 nats below F1"),
        (results(marginal=facts(-0.06, se=0.0)), "on every row"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(measured, words):
    reason = why_impossible(measured, ())
    assert reason is not None
    assert len(reason.splitlines()) == 1
    assert re.search(words, reason)


def test_what_luck_explains_is_believed():
    assert why_impossible(results(nll=0.0, accuracy=1.0), ()) is None
    assert why_impossible(results(marginal=facts(-0.049)), ()) is None
    # The error over users counts where it is larger, and few of them make a large distance likely.
    assert why_impossible(results(marginal=facts(-0.06, se_units=0.02, n_units=500)), ()) is None
    assert why_impossible(results(marginal=facts(-0.06, se_units=0.01, n_units=10)), ()) is None
    assert why_impossible(results(marginal=facts(-0.06, se_units=0.01, n_units=500)), ()) is not None


@pytest.mark.parametrize("knows", ["user", "group", "attribute", "criterion"])
def test_who_is_told_more_may_pass_f1_and_not_f0(knows):
    assert why_impossible(results(marginal=facts(-0.3), oracle=facts(0.1)), {knows}) is None
    reason = why_impossible(results(marginal=facts(-0.3), oracle=facts(-0.1)), {knows})
    assert "below F0" in reason
    assert f"reads {knows}" in reason
    assert why_impossible(results(marginal=facts(-0.3), oracle=facts(0.1)), {"source"}) is not None
