"""A trained model that scores texts: rewards of responses, and preferences between two.

Dimension letters: N responses or pairs, K heads.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor

from micro_lit.adapt.profile_files import open_store
from micro_lit.adapt.profiles import RULES
from micro_lit.compare import judges
from micro_lit.data.counts import Counts
from micro_lit.data.messages import BadRow
from micro_lit.data.pairs import from_records
from micro_lit.data.records import Record, parse_record
from micro_lit.errors import UserError
from micro_lit.likelihood import WEIGHTS_TOLERANCE
from micro_lit.models import MixtureBT
from micro_lit.models.mixture import Judgment
from micro_lit.report import results
from micro_lit.run import codes
from micro_lit.run.restored import Trust, restore_for_texts

Array = NDArray[np.float64]

ROWS_AT_ONCE = 4096  # rows whose features are in memory at the same time


def load(folder: str | Path, packages: Sequence[str] = (), trust_remote_code: bool = False) -> "LoadedModel":
    """Loads the model of a finished run as it was tested.

    Args:
        folder: the run folder.
        packages: packages of your own whose classes the run's settings may name.
        trust_remote_code: whether the backbone may run code that comes with its weights.

    Raises:
        UserError: the folder holds no such run, or the run was trained on vectors.
    """
    path = Path(folder).expanduser()
    transformers.utils.logging.disable_progress_bar()
    model = restore_for_texts(path, Trust(tuple(packages), trust_remote_code))
    return LoadedModel(path, model, _head_names(model))


def _head_names(model: MixtureBT) -> list[str]:
    """Names of heads: those of the attributes where each attribute has a head of its own, otherwise numbers."""
    attributes = model.names["attribute"]
    own = "attribute" in model.knows and len(attributes) == model.num_heads
    return list(attributes) if own else [f"head {head}" for head in range(model.num_heads)]


class LoadedModel:
    """A trained model, ready to score texts. Nothing is written; features of recent texts stay in memory.

    Attributes:
        folder: the run folder.
        heads: names of the K heads.
        users: ids of the users whose codes the run kept; empty for models that learn no users.
    """

    def __init__(self, folder: Path, model: MixtureBT, heads: Sequence[str]) -> None:
        self.folder, self.heads = folder, list(heads)
        self._model = model
        self._codes = codes.read_users(folder) if model.by_user else {}
        self.users = list(self._codes) or list(model.values["user"] if "user" in model.gate.reads else [])

    @property
    def cards(self) -> dict[str, Any]:
        """What the test of the run measured of its heads: `heads` of results.json."""
        return results.read_results(self.folder)["heads"]

    def score(
        self,
        prompts: Any,
        responses: Any,
        *,
        user: Any = None,
        criterion: Any = None,
        weights: Any = None,
        head: Any = None,
    ) -> Array:
        """Rewards of responses.

        Args:
            prompts: N prompts, or one for all responses. A prompt is text, or messages with role and content.
            responses: N responses.
            user: id of a known user, or one for each response.
            criterion: sentence that says what the rater wants, or one for each response.
            weights: weights of heads, [K] or [N, K]; "gate" for those of the model's own gate.
            head: number or name of one head.

        Returns:
            [N, K] rewards of all heads. With `user`, `criterion`, `weights` or `head`, the mixed reward of each
            response, [N]: Σ_k w_k r_k. It orders responses; for the probability of a preference see `prefer`.

        Raises:
            UserError: a text, the user, a weight or a length is not valid.
        """
        records = _responses(prompts, responses, criterion)
        judged = self._judge(records, _each(user, len(records), "user"))
        if user is None and criterion is None and weights is None and head is None:
            return judged.chosen_BK.double().numpy()
        weights_NK = self._weights(judged, weights, head)
        return (weights_NK * judged.chosen_BK.double()).sum(dim=1).numpy()

    def prefer(
        self,
        prompts: Any,
        first: Any,
        second: Any,
        *,
        user: Any = None,
        criterion: Any = None,
        weights: Any = None,
        head: Any = None,
    ) -> Array:
        """Probabilities [N] that the first response is preferred to the second, by the link of the model.

        Args:
            prompts, user, criterion, head: see `score`.
            first, second: N responses each.
            weights: see `score`; they must be at least 0 and sum to one.

        Raises:
            UserError: see `score`.
        """
        records = _pairs(prompts, first, second, criterion)
        judged = self._judge(records, _each(user, len(records), "user"))
        if weights is None and head is None:
            return self._model.log_prob(judged).double().exp().numpy()
        weights_NK = self._weights(judged, weights, head)
        if (weights_NK < 0).any() or ((weights_NK.sum(dim=1) - 1).abs() > WEIGHTS_TOLERANCE).any():
            raise UserError("weights: for a probability they must be at least 0 and sum to one")
        return self._model.link.log_prob(judged.margins_BK.double(), weights_NK.log()).exp().numpy()

    def score_records(self, records: Sequence[Record]) -> tuple[Array, Array]:
        """Rewards of checked rows: of all heads [N, K], and mixed [N] for the criterion and the user of each row.

        Args:
            records: from `micro_lit.data.responses.response_record`. The user of a row counts if the model learns
                users; a row without one is scored as for a new user.

        Raises:
            UserError: a user is not known.
        """
        judged = self._judge(records, [record.user_id for record in records] if self._learns_users else None)
        rewards_NK = judged.chosen_BK.double()
        return rewards_NK.numpy(), (judged.log_weights_BK.double().exp() * rewards_NK).sum(dim=1).numpy()

    def for_user(self, user: str, profile: str | Path | None = None) -> "PersonalModel":
        """The model of one person.

        Args:
            user: id of a user of the run (`users`), or of the profiles.
            profile: file of profiles that `micro_lit.personalise` keeps for this run; None: a user of the run itself.

        Raises:
            UserError: the user is not known.
        """
        if profile is None:
            self._code_of(user)
            return PersonalModel(self, user, None)
        with open_store(Path(profile).expanduser(), None, make=False) as store:
            if store.heads != judges.heads_fingerprint(self._model):
                raise UserError(f"profile={profile}: its profiles are of other heads than those of {self.folder}")
            if store.rule not in RULES:
                raise UserError(f"profile={profile}: kept by {store.rule}, an adaptation of your own; use personalise")
            if user not in store.users:
                raise UserError(f"user={user}: no profile in {store.path}; known: {', '.join(store.users[:5])}")
            weights_J = store.profiles([user]).weights([user])[0]
        return PersonalModel(self, user, weights_J)

    @property
    def _learns_users(self) -> bool:
        return self._model.by_user or "user" in self._model.gate.reads

    def _judge(self, records: Sequence[Record], users: Sequence[str | None] | None) -> Judgment:
        """The judgment of all records, on the CPU, in chunks of rows."""
        if users is not None and not self._learns_users:
            raise UserError("user: this model learned no users; give weights=, or a profile to for_user()")
        parts = []
        for start in range(0, len(records), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            parts.append(self._judge_rows(records[rows], None if users is None else users[rows]))
        columns = zip(*((part.margins_BK, part.log_weights_BK, part.chosen_BK) for part in parts), strict=True)
        margins_BK, log_weights_BK, chosen_BK = map(torch.cat, columns)
        return Judgment(margins_BK, log_weights_BK, chosen_BK, chosen_BK, None, log_weights_BK)

    @torch.no_grad()
    def _judge_rows(self, records: Sequence[Record], users: Sequence[str | None] | None) -> Judgment:
        model = self._model
        if users is not None:
            records = [record._replace(user_id=user) for record, user in zip(records, users, strict=True)]
        if len(sources := model.values["source"]) == 1:  # a gate that reads sources then knows one; files name no other
            records = [record._replace(source=sources[0]) for record in records]
        data = from_records(records, ["test"] * len(records), {"": Counts(rows=len(records))})
        reads_prompt = "prompt" in model.gate.reads or model.head.reads_context
        rows_T = data.pairs.triplets_N3[:, 0 if reads_prompt else 1 :].unique()  # contexts cost as much as responses
        features_MD = torch.zeros(len(data.texts), model.backbone.width)
        features_MD[rows_T] = model.backbone.live([data.texts[row] for row in rows_T.tolist()])
        model.backbone.features_MD = features_MD
        model.map_codes(data.names)
        code_of = {user: self._code_of(user) for user in dict.fromkeys(users or ()) if user is not None}
        if not model.by_user or users is None:
            return model(data.pairs)
        new = torch.zeros(model.code_width)  # the code of a user without labels
        return model(data.pairs, torch.stack([code_of.get(user, new) for user in users]))

    def _code_of(self, user: str) -> Tensor | None:
        """The code of a user of a model of people. Raises `UserError` for an unknown user."""
        if user in self._codes:
            return self._codes[user]
        if not self._model.by_user and user in self.users:
            return None
        if not self.users:
            raise UserError(f"user={user!r}: {self.folder} keeps no users (trained with share_codes=false, or on none)")
        near = ", ".join(map(repr, self.users[:5]))
        raise UserError(f"user={user!r}: not among the {len(self.users):,} users of {self.folder}, such as {near}")

    def _weights(self, judged: Judgment, weights: Any, head: Any) -> Tensor:
        """Weights [N, K] in float64."""
        num_rows, num_heads = judged.chosen_BK.shape
        if head is not None:
            if weights is not None:
                raise UserError("give head or weights, not both")
            return torch.eye(num_heads, dtype=torch.float64)[self._head(head)].expand(num_rows, -1)
        if weights is None or (isinstance(weights, str) and weights == "gate"):
            return judged.log_weights_BK.double().exp()
        try:
            found = torch.as_tensor(np.asarray(weights, dtype=np.float64))
        except (TypeError, ValueError):
            raise UserError(f'weights: give {num_heads} numbers, a row of them for each response, or "gate"') from None
        if tuple(found.shape) not in ((num_heads,), (num_rows, num_heads)) or not found.isfinite().all():
            raise UserError(
                f"weights: of shape {list(found.shape)}; give {num_heads} finite numbers, or a row for each"
            )
        return found.expand(num_rows, num_heads)

    def _head(self, head: Any) -> int:
        if isinstance(head, str) and head in self.heads:
            return self.heads.index(head)
        if isinstance(head, int) and not isinstance(head, bool) and 0 <= head < len(self.heads):
            return head
        raise UserError(f"head={head!r}: give a number from 0 to {len(self.heads) - 1}, or one of {self.heads}")


class PersonalModel:
    """A loaded model for one person: `score` and `prefer` without a user."""

    def __init__(self, model: LoadedModel, user: str, weights_J: Array | None) -> None:
        self.model, self.user, self._weights_J = model, user, weights_J

    def score(self, prompts: Any, responses: Any) -> Array:
        """The person's rewards [N] of N responses; see `LoadedModel.score`."""
        if self._weights_J is None:
            return self.model.score(prompts, responses, user=self.user)
        judged = self.model._judge(_responses(prompts, responses, None), None)
        return (self._mixed(judged) * judged.chosen_BK.double()).sum(dim=1).numpy()

    def prefer(self, prompts: Any, first: Any, second: Any) -> Array:
        """Probabilities [N] that the person prefers the first response; see `LoadedModel.prefer`."""
        if self._weights_J is None:
            return self.model.prefer(prompts, first, second, user=self.user)
        judged = self.model._judge(_pairs(prompts, first, second, None), None)
        link, own = self.model._model.link, torch.from_numpy(self._weights_J)
        as_trained_N = link.log_prob(judged.margins_BK.double(), judged.log_weights_BK.double()).exp()
        heads_NK = torch.sigmoid(judged.margins_BK.double())
        return (own[0] * as_trained_N + (own[1:] * heads_NK).sum(dim=1)).numpy()

    def _mixed(self, judged: Judgment) -> Tensor:
        """Weights [N, K] of heads: the share of the model as trained is spread over heads by its gate."""
        own = torch.from_numpy(self._weights_J)
        return own[0] * judged.log_weights_BK.double().exp() + own[1:]


def _each(value: Any, number: int, name: str) -> list[str] | None:
    """One value for each row."""
    if value is None or isinstance(value, str):
        return None if value is None else [value] * number
    found = list(value) if isinstance(value, Sequence) else []
    if len(found) != number or not all(isinstance(each, str) for each in found):
        raise UserError(f"{name}: give one text, or one for each of the {number:,} rows")
    return found


def _prompts(prompts: Any, number: int) -> list[Any]:
    """One prompt for each row; a single prompt as text, or as messages, stands for all."""
    if isinstance(prompts, str) or (isinstance(prompts, Sequence) and prompts and isinstance(prompts[0], Mapping)):
        return [prompts] * number
    if not isinstance(prompts, Sequence) or len(prompts) != number:
        raise UserError(f"prompts: {_length(prompts)} for {number:,} responses; give one for each, or a single text")
    return list(prompts)


def _length(given: Any) -> str:
    return f"{len(given):,} given" if isinstance(given, Sequence) else f"a {type(given).__name__}"


def _listed(given: Any, name: str) -> list[Any]:
    if isinstance(given, str) or not isinstance(given, Sequence) or not given:
        raise UserError(f"{name}: give a list of one text or more")
    return list(given)


def _responses(prompts: Any, responses: Any, criterion: Any) -> list[Record]:
    """A record for each response, as a pair of the response with itself."""
    found = _listed(responses, "responses")
    criteria = _each(criterion, len(found), "criterion") or [None] * len(found)
    rows = zip(_prompts(prompts, len(found)), found, criteria, strict=True)
    return [_record(number, "response", prompt, text, None, each) for number, (prompt, text, each) in enumerate(rows)]


def _pairs(prompts: Any, first: Any, second: Any, criterion: Any) -> list[Record]:
    left, right = _listed(first, "first"), _listed(second, "second")
    if len(left) != len(right):
        raise UserError(f"first has {len(left):,} responses and second {len(right):,}; give pairs")
    criteria = _each(criterion, len(left), "criterion") or [None] * len(left)
    rows = zip(_prompts(prompts, len(left)), left, right, criteria, strict=True)
    return [_record(number, "first", *row) for number, row in enumerate(rows)]


def _record(number: int, name: str, prompt: Any, text: Any, other: Any, criterion: str | None) -> Record:
    same = other is None or other == text
    # `parse_record` refuses equal responses, so that the second one differs until it is replaced.
    row = {"prompt": prompt, "chosen": text, "rejected": f"{text} " if same else other, "criterion": criterion}
    try:
        if not isinstance(text, str) or not isinstance(row["rejected"], str):
            raise BadRow(f"{name!r} is no text")
        record = parse_record(row)
    except BadRow as error:
        raise UserError(f"row {number}: {str(error).replace('chosen', name).replace('rejected', 'second')}") from error
    return record._replace(rejected=record.chosen) if same else record
