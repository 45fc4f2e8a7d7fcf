"""Systems: they learn codes from labels of subjects, and return log-probabilities of comparisons.

Your own system is a subclass of `System`. The comparison uses this interface only, and checks its outputs.

Dimension letters: N rows of the data, B rows in a batch, L labels, U subjects in all draws, R draws, K heads, J = 1 + K
judges, C width of a code.
"""

from collections.abc import Mapping, Set

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor

from micro_lit import adapt
from micro_lit.adapt.checked import Method, adapted
from micro_lit.compare import judges
from micro_lit.compare.candidates import Candidate
from micro_lit.compare.subjects import Labels, Subjects
from micro_lit.errors import UserError
from micro_lit.likelihood import LOG_NEVER, LOG_PROB_TOLERANCE, Link, ProbabilityLink
from micro_lit.models.people import prior_of_users

Array = NDArray[np.float64]

OWN_WEIGHTS, TOLD, KNOWS_NOTHING, OWN, BEST_HEAD = (
    "own weights",
    "told the attribute",
    "nothing",
    "its own",
    "best head",
)
PROFILE = "profile"
TEST_LABELS = "test labels"


class System:
    """Base class of systems: a model, a model with an adaptation, a router, an oracle.

    Attributes:
        candidate: name of the model in tables.
        method: name of the adaptation in tables.
        heads: number of heads, for tables.
        knows: inputs beyond prompt, responses and the labels that all systems learn from, such as `attribute`, `group`
            or `test labels`. In a table whose systems do not have these inputs, the system is marked as an ORACLE.
        learns: whether labels change its predictions.
        random: whether `learn` is random, so that equal labels in two draws are learned twice.
        weighs_heads: whether codes are log weights of heads, which are added to those of a gate.
    """

    knows: frozenset[str] = frozenset()
    learns = True
    random = False
    weighs_heads = False

    def __init__(self, candidate: str, method: str, heads: int) -> None:
        self.candidate, self.method, self.heads = candidate, method, heads

    def learn(self, labels: Labels, flipped: bool = False) -> Float[Tensor, "U C"]:
        """Learns the code of every subject in every draw from its labels.

        Args:
            labels: labelled rows of all subjects and draws.
            flipped: whether to learn from the opposite labels (responses swapped).
        """
        return torch.zeros(labels.num_users, 0)

    def log_prob(self, row_B: Int64[Tensor, " B"], codes_BC: Float[Tensor, "B C"]) -> Float[Tensor, " B"]:
        """Returns the log-probability, in nats, of the label of each row, given one code per row.

        Args:
            row_B: rows, as indices into the data.
            codes_BC: code of the subject of each row.
        """
        raise NotImplementedError


class AsTrained(System):
    """A candidate with the weights of its own gate; it does not learn from labels."""

    learns = False

    def __init__(self, candidate: Candidate, method: str) -> None:
        super().__init__(candidate.name, method, candidate.num_heads)
        # Without codes a model of people has no input about users.
        self.knows = candidate.model.knows - ({"user"} if candidate.model.by_user else set())
        margins_NK, log_weights_NK = (torch.from_numpy(x) for x in (candidate.margins_NK, candidate.log_weights_NK))
        self.log_prob_N = candidate.link.log_prob(margins_NK, log_weights_NK)

    def log_prob(self, row_B: Int64[Tensor, " B"], codes_BC: Float[Tensor, "B C"]) -> Float[Tensor, " B"]:
        return self.log_prob_N[row_B]


class Reweighted(System):
    """Frozen heads with weights from an adaptation, the same for every prompt. The gate is not used.

    Args:
        candidate, method: names in tables.
        margins_NK: margins of every head on all rows of the data.
        prior_K: weights before any label.
        link: how weights and margins make a probability.
        adapt: an adaptation of `micro_lit.adapt`, or a function with the same signature.
        knows: see `System`.
    """

    def __init__(
        self,
        candidate: str,
        method: str,
        margins_NK: Array,
        prior_K: Array,
        link: Link,
        adapt: Method,
        knows: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__(candidate, method, margins_NK.shape[1])
        self.margins_NK, self.prior_K, self.link, self.adapt, self.knows = margins_NK, prior_K, link, adapt, knows

    def learn(self, labels: Labels, flipped: bool = False) -> Float[Tensor, "U K"]:
        margins_LK = self.margins_NK[labels.row_L]
        prior_UK = np.tile(self.prior_K, (labels.num_users, 1))
        return torch.from_numpy(
            adapted(self.adapt, self.method, -margins_LK if flipped else margins_LK, labels.user_L, prior_UK)
        )

    def log_prob(self, row_B: Int64[Tensor, " B"], codes_BC: Float[Tensor, "B K"]) -> Float[Tensor, " B"]:
        margins_BK = torch.from_numpy(self.margins_NK)[row_B]
        return self.link.log_prob(margins_BK, codes_BC.log())


class Profile(Reweighted):
    """A user profile, as stored by `micro_lit.personalise`: weights over the model as trained and each of its heads.

    Args:
        candidate: name in tables.
        margins_NJ: margins of the judges of a run, see `micro_lit.compare.judges`.
        adapt: adaptation of the profile.
    """

    def __init__(self, candidate: str, margins_NJ: Array, adapt: Method = adapt.posterior) -> None:
        prior_J = judges.judge_prior(margins_NJ.shape[1] - 1)
        super().__init__(candidate, PROFILE, margins_NJ, prior_J, ProbabilityLink(), adapt)

    @classmethod
    def of(cls, candidate: Candidate) -> "Profile":
        """Creates the profile of a candidate. The margin of the model as trained is the log odds of its preference."""
        margins_NK, log_weights_NK = (torch.from_numpy(x) for x in (candidate.margins_NK, candidate.log_weights_NK))
        first_N, second_N = (candidate.link.log_prob(sign * margins_NK, log_weights_NK) for sign in (1, -1))
        found = cls(candidate.name, torch.cat([(first_N - second_N)[:, None], margins_NK], dim=1).numpy())
        found.knows = candidate.model.knows
        return found


class BestHead(Reweighted):
    """ORACLE: uses for each subject the head with the lowest loss on all of its TEST rows, labelled or not."""

    learns = False

    def __init__(self, candidate: Candidate, subjects: Subjects) -> None:
        uniform_K = np.full(candidate.num_heads, 1 / candidate.num_heads)
        knows = candidate.model.knows | {TEST_LABELS}
        super().__init__(
            candidate.name, BEST_HEAD, candidate.margins_NK, uniform_K, candidate.link, adapt.best_head_oracle,
            knows,
        )  # fmt: skip
        self.test = Labels(subjects.row_N, subjects.user_N, 1, subjects.num_users)

    def learn(self, labels: Labels, flipped: bool = False) -> Float[Tensor, "U K"]:
        return super().learn(self.test).repeat(labels.num_draws, 1)


class Evidence(System):
    """A mixture that keeps its gate: an adaptation adds the evidence of labels to the gate's log weights."""

    weighs_heads = True

    def __init__(self, candidate: Candidate, method: str, adapt: Method) -> None:
        super().__init__(candidate.name, method, candidate.num_heads)
        self.source, self.adapt, self.knows = candidate, adapt, candidate.model.knows

    def learn(self, labels: Labels, flipped: bool = False) -> Float[Tensor, "U K"]:
        margins_LK, log_weights_LK = (
            torch.from_numpy(each_NK[labels.row_L])
            for each_NK in (self.source.margins_NK, self.source.dense_log_weights_NK)
        )
        user_L = torch.from_numpy(labels.user_L)
        prior_UK = prior_of_users(log_weights_LK, user_L, labels.num_users).exp()
        margins_LK = -margins_LK if flipped else margins_LK
        weights_UK = adapted(self.adapt, self.method, margins_LK.numpy(), labels.user_L, prior_UK.numpy())
        after_UK, before_UK = (
            each_UK.log().clamp(min=LOG_NEVER) for each_UK in (torch.from_numpy(weights_UK), prior_UK)
        )
        return after_UK - before_UK

    def log_prob(self, row_B: Int64[Tensor, " B"], codes_BC: Float[Tensor, "B K"]) -> Float[Tensor, " B"]:
        model = self.source.model
        return model.log_prob(model(self.source.data.pairs[row_B], codes_BC.float()))


class PeopleModel(System):
    """A model of people, which learns codes of subjects with its own method."""

    def __init__(self, candidate: Candidate) -> None:
        super().__init__(candidate.name, OWN, candidate.num_heads)
        self.model, self.pairs = candidate.model, candidate.data.pairs
        self.weighs_heads = candidate.model.weighs_heads

    def learn(self, labels: Labels, flipped: bool = False) -> Float[Tensor, "U C"]:
        pairs = self.pairs[torch.from_numpy(labels.row_L)]
        return self.model.learn(
            pairs.swapped() if flipped else pairs, torch.from_numpy(labels.user_L), labels.num_users
        )

    def log_prob(self, row_B: Int64[Tensor, " B"], codes_BC: Float[Tensor, "B C"]) -> Float[Tensor, " B"]:
        return self.model.log_prob(self.model(self.pairs[row_B], codes_BC))


@torch.no_grad()
def learned(system: System, labels: Labels, flipped: bool = False) -> Tensor:
    """Returns the codes [U, C] that a system learns.

    Raises:
        UserError: the codes do not have one row for each subject and draw.
    """
    codes_UC = system.learn(labels, flipped)
    if codes_UC.ndim != 2 or len(codes_UC) != labels.num_users:
        raise UserError(
            f"{type(system).__name__} ({system.candidate}) learned codes of shape {tuple(codes_UC.shape)}; give a row "
            f"for each of {labels.num_users} subjects and draws"
        )
    return codes_UC


@torch.no_grad()
def judge(system: System, subjects: Subjects, codes_UC: Tensor, batch_size: int) -> Array:
    """Returns the log-probability [R, N], in nats, of the test rows, each with the code of its subject in that draw.

    Args:
        subjects: subjects and their test rows.
        codes_UC: codes of all subjects in all draws, from `learned`.
        batch_size: number of rows per call of `log_prob`.

    Raises:
        UserError: the system returns wrong shapes, NaN, or log-probabilities above 0.
    """
    codes_RUC = codes_UC.view(-1, subjects.num_users, codes_UC.shape[1]) if codes_UC.numel() else codes_UC[None]
    codes_RUC = codes_RUC[:, : subjects.num_users]  # without codes (C = 0) all draws are equal
    log_prob_RN = np.empty((len(codes_RUC), len(subjects.row_N)))
    row_N, user_N = torch.from_numpy(subjects.row_N), torch.from_numpy(subjects.user_N)
    for place_B in torch.arange(len(row_N)).split(batch_size):
        for log_prob_N, codes_UC in zip(log_prob_RN, codes_RUC, strict=True):
            found_B = system.log_prob(row_N[place_B], codes_UC[user_N[place_B]])
            _check_codes(system, found_B, len(place_B))
            log_prob_N[place_B] = found_B
    return log_prob_RN


def _check_codes(system: System, log_prob_B: Tensor, rows: int) -> None:
    """Raises `UserError` unless these are valid log-probabilities, one for each row."""
    if log_prob_B.shape != (rows,):
        wrong = f"{tuple(log_prob_B.shape)} numbers for {rows} rows"
    elif log_prob_B.isnan().any():
        wrong = "log-probabilities that are NaN"
    elif (log_prob_B > LOG_PROB_TOLERANCE).any():
        wrong = f"a log-probability of {float(log_prob_B.max()):.4g}; none is above 0"
    else:
        return
    raise UserError(f"{type(system).__name__} ({system.candidate}, {system.method}) gave {wrong}")


def is_oracle(system: System, told: Set[str]) -> bool:
    """Whether a system has inputs beyond those that rivals in the table may have (`told`)."""
    return bool(system.knows - told)


def turned(before_RN: Array, after_RN: Array, opposite_RN: Array, keep_RN: NDArray[np.bool_]) -> float | None:
    """Checks that predictions depend on the labels, by flipping all labels.

    Args:
        before_RN, after_RN, opposite_RN: log-probabilities without labels, with labels, and with every label flipped.
        keep_RN: whether a row is scored.

    Returns:
        Share of the predictions changed by the labels that differ with flipped labels; None if none changed.
    """
    side_RN, after_side_RN, opposite_side_RN = (each > np.log(0.5) for each in (before_RN, after_RN, opposite_RN))
    moved_RN = keep_RN & (after_side_RN != side_RN)
    opposite_side_RN, after_side_RN = np.broadcast_arrays(opposite_side_RN, after_side_RN, moved_RN)[:2]
    return float((opposite_side_RN != after_side_RN)[moved_RN].mean()) if moved_RN.any() else None


def of_candidate(
    candidate: Candidate, methods: Mapping[str, Method], nothing: str, keeps_gate: bool, profiled: bool
) -> list[System]:
    """Returns the systems of a candidate that learn from labels.

    A model of people has its own method, a mixture has one system per adaptation. A model with one head cannot adapt.

    Args:
        candidate: a trained model.
        methods: adaptations by name.
        nothing: name of the method of a model that cannot adapt.
        keeps_gate: whether adaptations add to the weights of the gate (`Evidence`) or replace them (`Reweighted`).
        profiled: whether to add its `Profile`.
    """
    if candidate.model.by_user:
        return [PeopleModel(candidate)]
    if candidate.num_heads == 1:
        return [AsTrained(candidate, nothing)]
    profiles: list[System] = [Profile.of(candidate)] if profiled else []
    if keeps_gate:
        return [*(Evidence(candidate, name, adapt) for name, adapt in methods.items()), *profiles]
    known = candidate.model.knows
    return [
        *(
            Reweighted(candidate.name, name, candidate.margins_NK, candidate.prior_K, candidate.link, adapt, known)
            for name, adapt in methods.items()
        ),
        *profiles,
    ]
