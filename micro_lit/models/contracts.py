"""The contracts of heads, gates and loss terms: base classes, and adapters for modules that do not extend them.

Shape letters: B pairs in the batch, D representation width, K heads, N responses or pairs.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from micro_lit.errors import UserError, name_of
from micro_lit.likelihood import Link, link_of

# Inputs that a gate may read as integer codes, and the label column of each.
COLUMNS = {"source": "source", "criterion": "attribute", "user": "user_id"}
GATE_INPUTS = ("prompt", *COLUMNS)


class Head(nn.Module):
    """Base class of heads: K scalar rewards from one response representation.

    `forward(features_ND)` returns [N, K]. Heads are built with (width, num_heads). All other members have defaults.
    """

    reads_context: ClassVar[bool] = False
    """Whether the reward depends on the prompt; then `forward(features_BD, context_BD)`, one row per pair."""

    def penalty(self) -> Float[Tensor, ""] | None:
        """The negative log-density of a prior on the weights, in nats; None: no prior.

        It is added to the loss summed over all training pairs; the model divides both by the number of pairs.
        """
        return None

    def prepare(self, differences: Iterable[Float[Tensor, "B D"]]) -> None:
        """Prepares the head before training, for heads computed from the training data.

        Args:
            differences: φ(chosen) - φ(rejected) of all training pairs, in batches [B, D].
        """


class Gate(nn.Module):
    """Base class of gates: log weights of K heads, whose exponentials sum to one.

    `forward` returns [B, K], or [1, K] if all pairs share the weights. Its arguments are the inputs listed in `reads`,
    in that order; a single None if `reads` is empty. Gates are built with (width, num_heads).
    """

    reads: tuple[str, ...] = ()
    """Inputs of the gate. prompt: representation of the prompt, [B, D]. source, criterion, user: int64 codes [B].

    Codes number the training values of the columns `source`, `attribute` and `user_id`; -1 is an unknown value. The
    checkpoint stores the values, so that they get the same codes on other data.
    """

    def make_room(self, counts: Mapping[str, int]) -> None:
        """Creates parameters whose size depends on the number of codes. Called before training and before loading.

        Args:
            counts: number of training values, by the keys `source`, `criterion` and `user`.
        """

    def zero_(self) -> bool:
        """Sets the parameters so that all weights are equal for any input. Returns False if the gate cannot do so.

        A router starts from the weights of stage 1. If this returns False, the router subtracts the gate's initial log
        weights instead.
        """
        return False


LossTerm = Callable[[Any, Any], Tensor]
"""A term of the training loss: (judgment, pairs) -> a scalar tensor in nats per pair, added to the loss.

judgment: `micro_lit.models.mixture.Judgment` of the batch. pairs: the batch, `micro_lit.data.pairs.Pairs`. The weights
of a term that is a `torch.nn.Module` are trained too. The term is logged as train/<name>.
"""

# Names of the built-in terms, which terms of users may not have.
RESERVED_TERMS = frozenset(
    {"nll", "entropy", "balance", "centring", "penalty", "prior", "sparsity", "diversity", "kl", "cross_entropy"}
)


def named_terms(terms: Mapping[str, Any] | None) -> dict[str, LossTerm]:
    """The loss terms in settings that are not null. Raises `UserError` for an invalid name or a term not callable."""
    found = {name: term for name, term in (terms or {}).items() if term is not None}
    for name, term in found.items():
        if name in RESERVED_TERMS or not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            raise UserError(
                f"model.terms.{name}: give {name_of(term)} another name, of lower-case letters, digits and _ and none "
                f"of {', '.join(sorted(RESERVED_TERMS))}"
            )
        if not callable(term):
            raise UserError(f"model.terms.{name}: {name_of(term)} has no __call__(judgment, pairs)")
    return found


def as_link(link: Any) -> Link:
    """The link with a given name, or the given `Link` itself. Raises `UserError` for any other object."""
    if not isinstance(link, str | Link):
        raise UserError(f"the link {name_of(link)} does not extend micro_lit.likelihood.Link, which gives its log_prob")
    return link_of(link)


def as_head(module: Any) -> nn.Module:
    """Adapts a module to the contract of `Head`: undeclared members get the defaults.

    Also reads `needs_context`, the former name of `reads_context`. Raises `UserError` if it is not a module.
    """
    _check_module("head", module)
    if _declared(module, "reads_context", "needs_context") != "reads_context":
        module.reads_context = bool(getattr(module, "needs_context", False))
    return _completed(module, penalty=_nothing, prepare=_nothing)


def as_gate(module: Any) -> nn.Module:
    """Adapts a module to the contract of `Gate`: undeclared members get the defaults.

    The former `needs_context` means reading the prompt (true) or nothing (false); a module that declares neither reads
    the prompt. Raises `UserError` if it is not a module, or if `reads` contains an unknown input.
    """
    _check_module("gate", module)
    if _declared(module, "reads", "needs_context") != "reads":
        module.reads = ("prompt",) if getattr(module, "needs_context", True) else ()
    reads = module.reads
    if not isinstance(reads, tuple | list) or len(set(reads)) != len(reads) or not set(reads) <= set(GATE_INPUTS):
        raise UserError(
            f"model.gate: {type(module).__name__} reads {reads!r}; give a tuple of some of {', '.join(GATE_INPUTS)}"
        )
    return _completed(module, make_room=_nothing, zero_=_cannot)


def gate_arguments(gate: nn.Module, given: Mapping[str, Tensor | None]) -> Sequence[Tensor | None]:
    """The arguments of a gate's `forward`, in the order of `reads`."""
    return [given[name] for name in gate.reads] or [None]


def _check_module(kind: str, module: Any) -> None:
    if not isinstance(module, nn.Module):
        raise UserError(f"model.{kind}: {type(module).__name__} is not a torch.nn.Module; give a subclass of it")


def _declared(module: nn.Module, now: str, before: str) -> str | None:
    """Which of two names comes first in the lookup order: instance, class, then base classes; None if neither."""

    def places() -> Iterator[Mapping[str, Any]]:
        yield vars(module)
        yield from (vars(owner) for owner in type(module).__mro__)

    return next((name for place in places() for name in (now, before) if name in place), None)


def _completed(module: Any, **defaults: Any) -> Any:
    for name, default in defaults.items():
        if not hasattr(module, name):
            setattr(module, name, default)
    return module


def _nothing(*_: Any) -> None:
    """Default for optional methods: returns None."""


def _cannot() -> bool:
    """Default for `zero_`: returns False."""
    return False


def training_values(names: Mapping[str, list[str]], given: Mapping[str, Sequence[str] | None]) -> dict[str, list[str]]:
    """The training values of source, criterion and user: those given, otherwise those of the data."""
    found = {name: given.get(name) for name in COLUMNS}
    return {name: list(names.get(COLUMNS[name], []) if values is None else values) for name, values in found.items()}
