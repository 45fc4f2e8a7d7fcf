import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from micro_lit import config
from micro_lit.config import rules
from micro_lit.config.annotations import signature_of
from micro_lit.errors import UserError

NODE = {"_target_": "torch.nn.Linear"}


def takes(
    whole: int = 1,
    number: float = 1.0,
    switch: bool = True,
    text: str = "",
    some: int | None = None,
    word: Literal["a", "b"] = "a",
    names: Sequence[str] = (),
    two: tuple[float, float] = (0.0, 0.0),
    shares: Mapping[str, float] | None = None,
    make: Callable[..., Any] | None = None,
    path: Path | str = "",
    anything: Any = None,
    bare=None,
) -> None:
    """Takes one of each."""


TAKES = signature_of(takes, "takes")


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("whole", [0, -7], [1.5, True, "1", None, [1], {"a": 1}]),
        ("number", [0, 1.5], [True, "1", None, [1.0]]),
        ("switch", [True, False], [0, 1, "true", None]),
        ("text", ["", "a"], [1, None, ["a"], {"a": 1}, True]),
        ("some", [None, 1], [1.5, "1", True]),
        ("word", ["a", "b"], ["c", None, 1, ["a"]]),
        ("names", [[], ["a"]], ["a", [1], [None], None, {"a": 1}]),
        ("two", [[1, 2.0]], [[1], [1, 2, 3], ["a", 1], 1, None]),
        ("shares", [None, {}, {"a": 1}], [{"a": "b"}, [1], 1]),
        ("make", [None, NODE], [1, "a", {"a": 1}, [NODE]]),
        ("path", ["a"], [1, None, ["a"]]),
        ("anything", [1, "a", None, [1], {"a": 1}], []),
        ("bare", [1, "a", None], []),
    ],
)
def test_each_type_takes_what_it_says(name, right, wrong):
    for value in right:
        rules.check("group", TAKES, {name: value})
    for value in wrong:
        with pytest.raises(UserError, match=rf"group\.{name}=.* is not allowed; give "):
            rules.check("group", TAKES, {name: value})


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=3))
@hypothesis_settings(deadline=None)
def test_no_value_of_a_config_is_a_fault(value):
    for name in ("whole", "number", "two", "names", "shares", "word"):
        with contextlib.suppress(UserError):
            rules.check("", TAKES, {name: value})


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.population.attributes=7", r"data.population.attributes=7 is not allowed; give a list"),
        ("data.population.groups=1.5", r"data.population.groups=1.5 is not allowed; give a whole number or a mapping"),
        ("data.population.group_weights=abc", r"data.population.group_weights='abc' is not allowed"),
        ("data.population.topics=1.5", r"data.population.topics=1.5 is not allowed; give a whole number"),
        ("+data.population.nix=7", r"data.population.nix is not a setting of"),
        ("trainer.deterministic=abc", r"trainer.deterministic='abc' is not allowed; give true or false or one of warn"),
        ("trainer.profiler=[1]", r"trainer.profiler=\[1\] is not allowed"),
        ("+model.optimizer.betas=[0.9]", r"model.optimizer.betas=\[0.9\] is not allowed; give a list"),
        ("callbacks.best.mode=true", r"callbacks.best.mode=True is not allowed; give text"),
    ],
)
def test_settings_are_compared_with_what_takes_them(override, message, settings):
    def build() -> None:
        found = settings("+experiment=planted_floors_k8", override)
        config.check_objects(found)
        config.build(found["data"])

    with pytest.raises(UserError, match=message):
        build()


def test_what_a_library_refuses_is_a_users_mistake():
    with pytest.raises(UserError, match=r"ModelCheckpoint: .*mode"):
        config.build({"_target_": "pytorch_lightning.callbacks.ModelCheckpoint", "mode": "nix"})
    with pytest.raises(UserError, match=r"MLFlowLogger: .*mlflow"):
        config.build({"_target_": "pytorch_lightning.loggers.MLFlowLogger"})
