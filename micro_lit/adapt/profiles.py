"""Profiles: online adaptation of many users in parallel, in memory and in a JSON file.

A profile consists of weights over heads and a number of labels, with the state needed to continue: the summed losses of
each head and of the weights. All users start from one prior. Labels arrive one at a time; their number is not known in
advance. Any function that scores pairs may be a head: `micro_lit.personalise.learning` puts the trained model first.

Dimension letters: N labels, S some users, U users with a profile, K heads.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import logsumexp

from micro_lit.adapt import labels
from micro_lit.adapt.checked import Method, adapted
from micro_lit.adapt.labels import Array, Floats, Integers
from micro_lit.adapt.online import HedgeState, OnlineHedge
from micro_lit.adapt.weights import reweigh
from micro_lit.host.files import write_text
from micro_lit.likelihood import ProbabilityLink

PROFILE_FORMAT, VERSION = "micro_lit profiles", 1
KEYS = ("heads", "rule", "prior", "users", "checksum")
PROFILE_KEYS = ("labels", "weights", "losses", "lost")
REMEDY = (
    "give the file and the run that belong together, restore a copy of the file, or start a new one under another name"
)
TOLERANCE = 1e-9  # of weights: on another machine the last bit of exp may differ

Users = str | Sequence[str]


class Posterior:
    """w_k ∝ π_k Π σ(Δ_k), as `weights.posterior`; the loss of the weights is -log Σ_k w_k σ(Δ_k).

    That is the loss of the mixture itself. Over any number of labels it is at most log(1/π_k) nats more than that of
    head k: the losses telescope to -log Σ_k π_k Π σ(Δ_k). It becomes certain of one head even for a user who matches no
    head: unless one head suits all users, it can end worse than it began.
    """

    nats = 1.0  # nats per unit of loss

    def losses(self, margins: Floats) -> Array:
        """-log σ(Δ), in nats."""
        return labels.losses(margins)

    def weights(self, state: HedgeState) -> Array:
        """[U, K] weights for each user's next pair."""
        return reweigh(state.prior_UK, state.loss_UK)

    def lost(self, weights_SK: Array, losses_SK: Array) -> Array:
        """[S] loss of the weights, given the losses of the heads."""
        return -logsumexp(-losses_SK, b=weights_SK, axis=1)

    def bound(self, counts: Integers, num_heads: int, prior_weight: float) -> Array:
        """Upper bound of the regret to a head with this prior weight after so many labels."""
        return np.full(counts.shape, -np.log(prior_weight))


class Hedge(OnlineHedge):
    """`OnlineHedge` for sequences of unknown length; the loss of the weights is Σ_k w_k ℓ_k of the clipped losses ℓ.

    It learns more slowly and stays less certain of one head; its regret bound grows with the number of labels.
    """

    @property
    def nats(self) -> float:
        """Nats per unit of loss."""
        return self.ceiling

    def lost(self, weights_SK: Array, losses_SK: Array) -> Array:
        """[S] loss of the weights, given the losses of the heads."""
        return (weights_SK * losses_SK).sum(axis=1)


class Unknown(Posterior):
    """Rule for a custom adaptation: losses are those of the mixture; there is no regret bound (NaN)."""

    def bound(self, counts: Integers, num_heads: int, prior_weight: float) -> Array:
        return np.full(counts.shape, np.nan)


RULES: dict[str, Posterior | Hedge] = {"posterior": Posterior(), "hedge": Hedge()}


class Learned(NamedTuple):
    """The state at each of N labels, in the order they were given.

    weights_NK: weights of its user before the label was seen. label_N: its number among the user's labels, from 1.
    regret_N: regret of its user after it, in nats: excess loss of the weights over the best single head so far, by the
        loss of the rule. bound_N: the rule's upper bound of it; NaN if there is none.
    """

    weights_NK: Array
    label_N: NDArray[np.int64]
    regret_N: Array
    bound_N: Array


class Kept(NamedTuple):
    """The stored state of S users: summed losses of each head, number of labels, summed losses of the weights.

    Losses are in units of the rule.
    """

    loss_SK: Array
    count_S: NDArray[np.int64]
    lost_S: Array


class Profiles:
    """Profiles of any number of users over K heads.

    Methods take `users`, one name or several; a user without a profile counts as one without labels.

    Args:
        prior_K: weights before any label.
        heads: fingerprint of the heads, so that profiles in a file are never used with other heads.
        rule: how weights follow from labels: one of `RULES`, or the name of `adapt`.
        adapt: a custom adaptation. It is applied to all labels of a user, whose margins are stored for it.
    """

    def __init__(self, prior_K: Floats, heads: str, rule: str = "posterior", adapt: Method | None = None) -> None:
        labels.check_prior(prior_K[None])
        if rule not in RULES and adapt is None:
            raise ValueError(f"rule is {rule!r}; allowed are {', '.join(RULES)}")
        self.adapt, self._margins = adapt, {}
        self._rule = RULES[rule] if adapt is None else Unknown()
        self.prior_K = prior_K.astype(np.float64)
        self.heads, self.rule = heads, rule
        self._row_of: dict[str, int] = {}
        # Row 0 stands for all users without a profile.
        self._loss_UK = np.zeros((1, len(prior_K)))
        self._count_U, self._lost_U = np.zeros(1, dtype=np.int64), np.zeros(1)

    @property
    def users(self) -> list[str]:
        """Users with a profile, in the order of their first labels."""
        return list(self._row_of)

    def counts(self, users: Users) -> NDArray[np.int64]:
        """[S] number of labels of each user."""
        return self._count_U[self._rows(users)]

    def weights(self, users: Users) -> Array:
        """[S, K] weights for each user's next pair; without labels the prior, to the last bit."""
        if self.adapt is None:
            return self._rule.weights(self._state(users))
        return self._adapted([self.margins(user) for user in _user_names(users)])

    def margins(self, user: str) -> Array:
        """[n, K] margins of all labels of a user; stored only for a custom adaptation."""
        return self._margins.get(user, np.empty((0, len(self.prior_K))))

    def keep_margins(self, user: str, margins_nK: Array) -> None:
        """Sets the margins of all labels of a user, in their order."""
        self._margins[user] = margins_nK

    def rewards(self, users: Users, rewards_SK: Floats) -> Array:
        """[S] Σ_k w_k r_k of a response for each user, comparable with other responses to the same prompt."""
        return (self.weights(users) * rewards_SK).sum(axis=1)

    def log_prob(self, users: Users, margins_SK: Floats) -> Array:
        """[S] log Σ_k w_k σ(Δ_k) in nats: log-probability that each user prefers the chosen response of a pair."""
        return log_prob(margins_SK, self.weights(users))

    def learn(self, users: Users, margins_NK: Floats) -> Learned:
        """Learns labels in sequence. Splitting the labels over several calls gives bit-equal profiles.

        Args:
            users: the user of each label, with or without a profile.
            margins_NK: rewards of the chosen minus the rejected responses.

        Returns:
            Weights before each label, and regret after it.

        Raises:
            ValueError: invalid margins; nothing has changed.
        """
        code: dict[str, int] = {}
        user_N = np.array([code.setdefault(user, len(code)) for user in _user_names(users)], dtype=np.int64)
        names = list(code)
        state, lost_U = self._state(names), self._lost_U[self._rows(names)]
        labels.check_margins(margins_NK, user_N, state.prior_UK)
        rule, losses_NK = self._rule, self._rule.losses(np.ascontiguousarray(margins_NK))
        own_NK = None if self.adapt is None else self._before_each(names, user_N, margins_NK)
        weights_NK, label_N, best_N = np.empty(margins_NK.shape), np.empty_like(user_N), np.empty_like(user_N)
        regret_N, bound_N = np.empty(len(user_N)), np.empty(len(user_N))
        for row_S in _rounds(user_N):
            user_S = user_N[row_S]
            weights_NK[row_S] = weights_SK = (
                rule.weights(HedgeState(*(column[user_S] for column in state))) if own_NK is None else own_NK[row_S]
            )
            lost_U[user_S] += rule.lost(weights_SK, losses_NK[row_S])
            state.loss_UK[user_S] += losses_NK[row_S]
            state.steps_U[user_S] += 1
            # A head of prior 0 never gets weight, so there is no regret bound relative to it.
            loss_SK = np.where(self.prior_K > 0, state.loss_UK[user_S], np.inf)
            label_N[row_S], best_N[row_S] = state.steps_U[user_S], loss_SK.argmin(axis=1)
            regret_N[row_S] = lost_U[user_S] - loss_SK.min(axis=1)
        for head in np.unique(best_N):
            rows = best_N == head
            bound_N[rows] = rule.bound(label_N[rows], len(self.prior_K), float(self.prior_K[head]))
        self.keep(names, Kept(state.loss_UK, state.steps_U, lost_U))
        return Learned(weights_NK, label_N, rule.nats * regret_N, rule.nats * bound_N)

    def _before_each(self, names: Sequence[str], user_N: Integers, margins_NK: Floats) -> Array:
        """[N, K] weights by the custom adaptation before each label; stores the labels. Each prefix acts as a user."""
        weights_NK = np.empty(margins_NK.shape)
        for code, user in enumerate(names):
            row_n = np.flatnonzero(user_N == code)
            before = len(self.margins(user))
            self._margins[user] = np.concatenate([self.margins(user), margins_NK[row_n]])
            prefixes = [self._margins[user][: before + place] for place in range(len(row_n))]
            weights_NK[row_n] = self._adapted(prefixes)
        return weights_NK

    def _adapted(self, margins: Sequence[Array]) -> Array:
        """[S, K] weights by the custom adaptation for each list of labels, computed in blocks that fit memory."""
        weights_SK, start = np.empty((len(margins), len(self.prior_K))), 0
        while start < len(margins):
            end, size = start + 1, margins[start].size
            while end < len(margins) and size + margins[end].size <= labels.BLOCK_VALUES:
                size += margins[end].size
                end += 1
            user_N = np.repeat(np.arange(end - start), [len(each) for each in margins[start:end]])
            prior_SK = np.tile(self.prior_K, (end - start, 1))
            weights_SK[start:end] = adapted(self.adapt, self.rule, np.concatenate(margins[start:end]), user_N, prior_SK)
            start = end
        return weights_SK

    def kept(self, users: Users) -> Kept:
        """The stored state of each user, as `keep` takes it; zeros for a user without a profile."""
        row_S = self._rows(users)
        return Kept(self._loss_UK[row_S], self._count_U[row_S], self._lost_U[row_S])

    def keep(self, names: Sequence[str], kept: Kept) -> None:
        """Sets the profiles of some users, each named once; creates missing profiles."""
        new = [user for user in names if user not in self._row_of]
        if new:
            first = len(self._loss_UK)
            self._row_of |= {user: first + row for row, user in enumerate(new)}
            self._loss_UK = np.pad(self._loss_UK, ((0, len(new)), (0, 0)))
            self._count_U, self._lost_U = (np.pad(column, (0, len(new))) for column in (self._count_U, self._lost_U))
        row_S = self._rows(names)
        self._loss_UK[row_S], self._count_U[row_S], self._lost_U[row_S] = kept

    def save(self, path: Path) -> None:
        """Writes a JSON file atomically. Raises `OSError`."""
        columns = (self._count_U[1:], self.weights(self.users), self._loss_UK[1:], self._lost_U[1:])
        rows = zip(*(column.tolist() for column in columns), strict=True)
        content = {
            "format": PROFILE_FORMAT,
            "version": VERSION,
            "heads": self.heads,
            "rule": self.rule,
            "prior": self.prior_K.tolist(),
            "users": dict(zip(self.users, (dict(zip(PROFILE_KEYS, row, strict=True)) for row in rows), strict=True)),
        }
        content["checksum"] = checksum(content)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(content) + "\n")

    @classmethod
    def load(cls, path: Path, heads: str | None = None) -> "Profiles":
        """Reads profiles as saved, to the last bit.

        Args:
            path: JSON file written by `save`.
            heads: fingerprint that the profiles must have; None accepts any.

        Raises:
            ValueError: the file is damaged, edited or has other heads; with file, cause and remedy.
        """
        try:
            content = json.loads(path.read_text(), parse_constant=_refuse_constant)
            if not isinstance(content, Mapping) or content.get("format") != PROFILE_FORMAT:
                raise ValueError("it is no file of profiles")
            if content.get("version") != VERSION:
                raise ValueError(f"it is of version {content.get('version')!r}, and this release reads {VERSION}")
            _check_keys(content, KEYS, "the file")
            if content["checksum"] != checksum(content):
                raise ValueError("it does not fit its checksum: it was edited or damaged")
            if heads not in (None, content["heads"]):
                raise ValueError(f"its profiles are of other heads ({content['heads']}) than the run's ({heads})")
            return cls._from_content(content)
        except (OSError, ValueError, RecursionError) as error:
            raise ValueError(f"{path}: {error}; {REMEDY}") from error

    @classmethod
    def _from_content(cls, content: Mapping[str, Any]) -> "Profiles":
        prior_K = _finite_numbers(content["prior"], None, "the prior")
        profiles = cls(prior_K, str(content["heads"]), str(content["rule"]))
        shapes = dict(zip(PROFILE_KEYS, ((), prior_K.shape, prior_K.shape, ()), strict=True))
        read: dict[str, list[Array]] = {name: [] for name in shapes}
        _check_keys(content["users"], (), "the users")
        for user, profile in content["users"].items():
            _check_keys(profile, PROFILE_KEYS, f"the profile of {user!r}")
            for name, shape in shapes.items():
                read[name].append(_finite_numbers(profile[name], shape, f"{name} of {user!r}"))
            count = float(read["labels"][-1])
            if count < 1 or count % 1:
                raise ValueError(f"labels of {user!r}: {count} is no count of labels")
        if not content["users"]:
            return profiles
        count_U, weights_UK, loss_UK, lost_U = (np.array(columns) for columns in read.values())
        names = list(content["users"])
        profiles.keep(names, Kept(loss_UK, count_U.astype(np.int64), lost_U))
        off_U = ~(np.abs(profiles.weights(names) - weights_UK) <= TOLERANCE).all(axis=1)
        if off_U.any():
            raise ValueError(f"weights of {names[int(off_U.argmax())]!r}: not those that the prior and the losses give")
        return profiles

    def _state(self, users: Users) -> HedgeState:
        row_S = self._rows(users)
        prior_SK = np.broadcast_to(self.prior_K, (len(row_S), len(self.prior_K)))
        return HedgeState(prior_SK, self._loss_UK[row_S], self._count_U[row_S])

    def _rows(self, users: Users) -> NDArray[np.int64]:
        return np.array([self._row_of.get(user, 0) for user in _user_names(users)], dtype=np.int64)


def log_prob(margins_NK: Floats, weights_NK: Floats) -> Array:
    """[N] log Σ_k w_k σ(Δ_k), in nats, with separate weights for each label."""
    margins_NK, log_weights_NK = torch.from_numpy(labels.clipped(margins_NK)), torch.from_numpy(weights_NK).log()
    return ProbabilityLink().log_prob(margins_NK, log_weights_NK).numpy()


def checksum(content: Mapping[str, Any]) -> str:
    """SHA-256 of the content without its `checksum`, independent of the layout of the file."""
    kept = {name: value for name, value in content.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _user_names(users: Users) -> Sequence[str]:
    return [users] if isinstance(users, str) else users


def _rounds(user_N: Integers) -> list[Integers]:
    """Rows of all users' first labels, then of all second labels, and so on."""
    order_N, count_U = np.argsort(user_N, kind="stable"), np.bincount(user_N)
    round_N = np.empty_like(user_N)
    round_N[order_N] = np.arange(len(user_N)) - np.repeat(np.cumsum(count_U) - count_U, count_U)
    return np.split(np.argsort(round_N, kind="stable"), np.cumsum(np.bincount(round_N))[:-1])


def _check_keys(found: Any, keys: Sequence[str], what: str) -> None:
    if not isinstance(found, Mapping):
        raise ValueError(f"{what}: not an object")
    missing = [key for key in keys if key not in found]
    if missing:
        raise ValueError(f"{what}: lacks {', '.join(missing)}")


def _finite_numbers(value: Any, shape: tuple[int, ...] | None, what: str) -> Array:
    """JSON numbers as an array. Raises `ValueError` unless finite, non-negative and of the given shape, if any."""
    try:
        numbers = np.array(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{what}: {error}") from error
    if shape is not None and numbers.shape != shape:
        raise ValueError(f"{what}: of shape {numbers.shape}, not {shape}")
    bad = numbers[~(np.isfinite(numbers) & (numbers >= 0))]
    if bad.size:
        raise ValueError(f"{what}: {bad[0]} is no finite number of at least 0")
    return numbers


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")
