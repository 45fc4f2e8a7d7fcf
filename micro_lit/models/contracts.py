"""What a head and a gate must give, and what they may declare; a module from elsewhere is completed once.

Shape letters: B pairs in the batch, D representation width, K heads, N responses or pairs.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from micro_lit.errors import UserError, name_of
from micro_lit.likelihood import Link, link_of

# What a gate may read, and the label column of those that are codes.
COLUMNS = {"source": "source", "criterion": "attribute", "user": "user_id"}
READABLE = ("prompt", *COLUMNS)


class Head(nn.Module):
    """K scalar rewards from one response representation: `forward(features_ND)` gives [N, K].

    It is built with (width, num_heads). The defaults below are those of a head that declares nothing.
    """

    reads_context: ClassVar[bool] = False
    """Whether the reward depends on the prompt: then `forward(features_BD, context_BD)`, one row a pair."""

    def penalty(self) -> Float[Tensor, ""] | None:
        """The negative log-density of a prior of the weights, in nats; None: no prior.

        It stands beside the sum of the losses of all training pairs: the model divides it by their number.
        """
        return None

    def prepare(self, differences: Iterable[Float[Tensor, "B D"]]) -> None:
        """Reads the training data before training, for a head that is made of them.

        Args:
            differences: φ(chosen) - φ(rejected) of all training pairs, a batch at a time.
        """


class Gate(nn.Module):
    """Log weights of K heads: `forward` gives [B, K], or [1, K] where all pairs have the same; their exps sum to one.

    It is built with (width, num_heads). `forward` takes what `reads` names, in that order; None where it reads nothing.
    """

    reads: tuple[str, ...] = ()
    """prompt: the representation of the prompt, [B, D]. source, criterion, user: codes [B], int64, -1 for unknown.

    Codes count the values of the training data, `source`, `attribute` and `user_id`; the checkpoint holds the values,
    so that they have the same codes on other data.
    """

    def make_room(self, counts: Mapping[str, int]) -> None:
        """Makes what depends on the number of values, before training and before a checkpoint is loaded.

        Args:
            counts: number of sources, criteria and users of the training data, by these names in the singular.
        """

    def zero_(self) -> bool:
        """Makes all weights equal, whatever is read. Returns False for a gate that cannot.

        A router starts from the weights of stage 1. Of a gate that returns False it subtracts the log weights that the
        gate has at the start.
        """
        return False


LossTerm = Callable[[Any, Any], Tensor]
"""A term of the training loss: (judgment, pairs) -> a scalar tensor, in nats a pair, which is added to the loss.

judgment: `micro_lit.models.mixture.Judgment` of the batch. pairs: the batch, `micro_lit.data.pairs.Pairs`. A term that
is a `torch.nn.Module` may have weights, which are trained too. It is logged as train/<name>.
"""

# Names of terms that a model of ours may have itself.
TAKEN = frozenset(
    {"nll", "entropy", "balance", "centring", "penalty", "prior", "sparsity", "diversity", "kl", "cross_entropy"}
)


def named_terms(terms: Mapping[str, Any] | None) -> dict[str, LossTerm]:
    """The terms that settings add, without those set to null. Raises `UserError` for a bad name, or no function."""
    found = {name: term for name, term in (terms or {}).items() if term is not None}
    for name, term in found.items():
        if name in TAKEN or not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            raise UserError(
                f"model.terms.{name}: give {name_of(term)} another name, of lower-case letters, digits and _ and none "
                f"of {', '.join(sorted(TAKEN))}"
            )
        if not callable(term):
            raise UserError(f"model.terms.{name}: {name_of(term)} has no __call__(judgment, pairs)")
    return found


def as_link(link: Any) -> Link:
    """The link of a name, or one that extends `Link`. Raises `UserError` for any other object."""
    if not isinstance(link, str | Link):
        raise UserError(f"the link {name_of(link)} does not extend micro_lit.likelihood.Link, which gives its log_prob")
    return link_of(link)


def as_head(module: Any) -> nn.Module:
    """A head with all of the contract; a module from elsewhere gets the defaults of what it does not declare.

    `needs_context`, the earlier name of `reads_context`, is read too. Raises `UserError` for what is no module.
    """
    _check_module("head", module)
    if _declared(module, "reads_context", "needs_context") != "reads_context":
        module.reads_context = bool(getattr(module, "needs_context", False))
    return _completed(module, penalty=_nothing, prepare=_nothing)


def as_gate(module: Any) -> nn.Module:
    """A gate with all of the contract; a module from elsewhere gets the defaults of what it does not declare.

    `needs_context` of an earlier version stands for reading the prompt, or nothing; a module that declares neither
    reads the prompt. Raises `UserError` for what is no module, or reads what there is not.
    """
    _check_module("gate", module)
    if _declared(module, "reads", "needs_context") != "reads":
        module.reads = ("prompt",) if getattr(module, "needs_context", True) else ()
    reads = module.reads
    if not isinstance(reads, tuple | list) or len(set(reads)) != len(reads) or not set(reads) <= set(READABLE):
        raise UserError(
            f"model.gate: {type(module).__name__} reads {reads!r}; give a tuple of some of {', '.join(READABLE)}"
        )
    return _completed(module, make_room=_nothing, zero_=_cannot)


def asked(gate: nn.Module, given: Mapping[str, Tensor | None]) -> Sequence[Tensor | None]:
    """The arguments of a gate, in the order of `reads`."""
    return [given[name] for name in gate.reads] or [None]


def _check_module(kind: str, module: Any) -> None:
    if not isinstance(module, nn.Module):
        raise UserError(f"model.{kind}: {type(module).__name__} is no torch.nn.Module; give a subclass of it")


def _declared(module: nn.Module, now: str, before: str) -> str | None:
    """Which of two names is declared nearer: by the object, by its class, or by the first base that declares one."""

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
    """The default of a method that gives nothing."""


def _cannot() -> bool:
    """The default of `zero_`."""
    return False
