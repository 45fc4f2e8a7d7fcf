"""Tests of `micro_lit.report.regret`: what is drawn is read back from matplotlib's artists."""

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="the extra report is not installed")

from micro_lit.adapt.profiles import Profiles
from micro_lit.report import figures, regret


def stream_of(users, num_heads=3):
    """A stream as `micro_lit.personalise.learning` hands it on, of margins at random."""
    margins_NK = np.random.default_rng(0).normal(size=(len(users), num_heads))
    learned = Profiles(np.full(num_heads, 1 / num_heads), "heads").learn(users, margins_NK)
    return {
        "user": users,
        "label": learned.label_N.tolist(),
        "regret": learned.regret_N.tolist(),
        "bound": learned.bound_N.tolist(),
    }


def curves(figure):
    [axes] = figure.axes
    named = [line for line in axes.lines if not line.get_label().startswith("_")]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [line.get_label() for line in named]
    return {line.get_label(): (line.get_xdata().tolist(), line.get_ydata().tolist()) for line in named}


def test_one_user_is_a_curve_below_its_bound():
    stream = stream_of(["ada"] * 30)
    drawn = curves(regret.draw_regret(stream))
    numbers = list(range(1, 31))
    assert drawn == {"regret": (numbers, stream["regret"]), "bound": (numbers, stream["bound"])}
    assert all(low <= high for low, high in zip(drawn["regret"][1], drawn["bound"][1], strict=True))


def test_many_users_are_their_mean_and_the_largest_at_every_number_of_labels():
    stream = stream_of(["ada", "bob", "ada", "eve", "bob", "ada"])
    drawn = curves(regret.draw_regret(stream))
    assert list(drawn) == ["largest regret of 3 users", "mean regret", "bound"]
    for name, fold, column in zip(drawn, (max, np.mean, max), ("regret", "regret", "bound"), strict=True):
        labels, values = drawn[name]
        assert labels == [1, 2, 3]
        rows = [[0, 1, 3], [2, 4], [5]]
        assert values == pytest.approx([fold([stream[column][row] for row in group]) for group in rows])


def test_a_stream_that_goes_on_from_a_profile_starts_where_that_ended():
    profiles = Profiles(np.full(2, 0.5), "heads")
    profiles.learn("ada", np.ones((1, 2)))
    learned = profiles.learn("ada", np.ones((1, 2)))
    columns = {"label": learned.label_N, "regret": learned.regret_N, "bound": learned.bound_N}
    drawn = curves(regret.draw_regret({"user": ["ada"], **{name: column.tolist() for name, column in columns.items()}}))
    assert drawn["regret"][0] == [2]


def test_the_same_figure_is_the_same_file(tmp_path):
    written = []
    for folder in (tmp_path / "first", tmp_path / "again"):
        folder.mkdir()
        written.append([path.read_bytes() for path in figures.save(regret.draw_regret(stream_of(["ada"] * 9)), folder)])
    assert written[0] == written[1]
