"""The backbone interface of the models: a batch of pairs in, representations of context, chosen and rejected out.

`CachedBackbone` looks features up in a table; `TrainableBackbone` runs a transformer. Models use both through the same
interface. The classes that `conf/backbone` names (`Identity` here, `Pretrained`, `Tiny`) are factories: their method
`prepare(data, features_dir)` returns one of the two.

Dimension letters: B pairs in the batch, R distinct responses, C distinct contexts and T texts of it, M distinct texts,
D representation width.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from micro_lit.data.pairs import Pairs, PreferenceData
from micro_lit.data.records import LABELS
from micro_lit.data.texts import Text
from micro_lit.errors import UserError
from micro_lit.features.network import PooledTransformer
from micro_lit.features.rows import in_rows
from micro_lit.features.store import STORE_CHUNK_BYTES, MappedTable
from micro_lit.features.tokens import Reading, TextTokenizer, TokenTable


class Representations(NamedTuple):
    """Representations of a batch: each distinct response once, with the indices of the chosen and rejected ones.

    Attributes:
        context_BD: the context of each pair; None when it was not requested.
        responses_RD: the distinct responses.
        chosen_B, rejected_B: indices into the rows of `responses_RD`.
    """

    context_BD: Float[Tensor, "B D"] | None
    responses_RD: Float[Tensor, "R D"]
    chosen_B: Int64[Tensor, " B"]
    rejected_B: Int64[Tensor, " B"]

    @property
    def chosen_BD(self) -> Float[Tensor, "B D"]:
        return self.responses_RD[self.chosen_B]

    @property
    def rejected_BD(self) -> Float[Tensor, "B D"]:
        return self.responses_RD[self.rejected_B]


def _distinct_responses(pairs: Pairs) -> tuple[Int64[Tensor, " R"], Int64[Tensor, " B"], Int64[Tensor, " B"]]:
    """Distinct response rows of the text table, and the indices of chosen and rejected responses among them."""
    rows_R, place_B2 = pairs.triplets_N3[:, 1:].unique(return_inverse=True)
    return rows_R, place_B2[:, 0], place_B2[:, 1]


NO_PAIRS = Pairs(
    torch.empty(0, 3, dtype=torch.int64),
    torch.empty(0, len(LABELS), dtype=torch.int64),
    torch.empty(0),
    torch.empty(0, 0),
)


class Backbone(nn.Module):
    """Base class of backbones: `forward(pairs, with_context)` returns `Representations`.

    Attributes:
        width: D.
        is_trained: whether gradients reach its weights.
        untrained: names of the frozen weights, which checkpoints may leave out.
        reading: truncation and token digests of the texts; None when the data are vectors.
        example: one text as the backbone reads it, after the chat template; None when the data are vectors.
        learned_tokenizer: the tokenizer as JSON if it was trained on these texts and exists nowhere else, else None.
        store_folder: folder of the feature store that holds the features; None without one.
        live: encodes texts that are given later, see `BackboneFactory.open`; None in a run.
    """

    width: int
    is_trained = False
    untrained: frozenset[str] = frozenset()
    reading: Reading | None = None
    example: str | None = None
    learned_tokenizer: str | None = None
    store_folder: Path | None = None
    live: Callable[[Sequence[Text]], Float[Tensor, "M D"]] | None = None


class CachedBackbone(Backbone):
    """Looks representations up in a table of features, in memory or memory-mapped.

    Args:
        table: a tensor, which moves with the model to its device, or a memory-mapped table, which stays on disk.
        standardise: scale every dimension of contexts and of responses to mean 0 and standard deviation 1 over the
            training texts. On raw sentence embeddings heads learn slowly, because a few dimensions are many times
            larger than the others.
        train: the training pairs, from which mean and standard deviation are computed.
        reading, example, store_folder: see `Backbone`.
    """

    def __init__(
        self,
        table: Float[Tensor, "M D"] | MappedTable,
        standardise: bool,
        train: Pairs,
        reading: Reading | None = None,
        example: str | None = None,
        store_folder: Path | None = None,
    ) -> None:
        super().__init__()
        self.store_folder = store_folder
        self.table = table if isinstance(table, MappedTable) else None
        self.register_buffer("features_MD", None if self.table else table, persistent=False)
        self.width = table.width if isinstance(table, MappedTable) else table.shape[1]
        self.reading = reading
        self.example = example
        self.standardise = standardise
        self.recent: tuple[Pairs, bool, Representations] | None = None
        for role, rows in (("context", train.context_N), ("response", train.triplets_N3[:, 1:])):
            mean_D, std_D = self._moments(rows.unique()) if standardise else (torch.zeros(()), torch.ones(()))
            self.register_buffer(f"{role}_scale", 1.0 / std_D)
            self.register_buffer(f"{role}_shift", -mean_D / std_D)

    def forward(self, pairs: Pairs, with_context: bool) -> Representations:
        # A line search evaluates the same batch many times, so the last result is cached.
        if self.recent is not None and self.recent[0] is pairs and self.recent[1] == with_context:
            return self.recent[2]
        rows_R, chosen_B, rejected_B = _distinct_responses(pairs)
        context_BD = self._gather(pairs.context_N, "context") if with_context else None
        shown = Representations(context_BD, self._gather(rows_R, "response"), chosen_B, rejected_B)
        if torch.is_grad_enabled():
            self.recent = (pairs, with_context, shown)
        return shown

    def _gather(self, rows_B: Int64[Tensor, " B"], role: Literal["context", "response"]) -> Float[Tensor, "B D"]:
        vectors_BD = self._read(rows_B)
        if self.standardise:
            vectors_BD.mul_(getattr(self, f"{role}_scale")).add_(getattr(self, f"{role}_shift"))
        return vectors_BD

    def _read(self, rows_B: Int64[Tensor, " B"]) -> Float[Tensor, "B D"]:
        """A copy of some rows of the table, not standardised."""
        if self.table is None:
            return self.features_MD[rows_B]
        return self.table.gather(rows_B).to(rows_B.device)

    def _moments(self, rows_M: Int64[Tensor, " M"]) -> tuple[Float[Tensor, " D"], Float[Tensor, " D"]]:
        """Mean and standard deviation in two passes; the standard deviation of a constant dimension is set to 1."""
        if not len(rows_M):  # no training pairs: a trained model scores new data, and its checkpoint has the moments
            return torch.zeros(self.width), torch.ones(self.width)
        chunks = rows_M.split(max(1, STORE_CHUNK_BYTES // (4 * self.width)))
        mean_D = sum(self._read(chunk).double().sum(dim=0) for chunk in chunks) / len(rows_M)
        variance_D = sum((self._read(chunk) - mean_D).square().sum(dim=0) for chunk in chunks) / len(rows_M)
        std_D = variance_D.sqrt().float()
        return mean_D.float(), torch.where(std_D > 1e-6, std_D, 1.0)


class TrainableBackbone(Backbone):
    """Runs a transformer over each distinct text of the batch once; gradients reach its weights.

    Where the network allows it, responses to the same prompt share one pass over the prompt (see `rows`). With dropout,
    these responses then share the dropout mask of their prompt.

    Args:
        transformer: the network and its pooling.
        tokens: token ids of all texts of the data set.
        example: one text as the backbone reads it.
        token_budget: most tokens of one forward pass, padding included; None runs each batch in one pass.
        learned_tokenizer: see `Backbone`.

    Attributes:
        passes_alike: whether all devices run the same number of passes per batch: the largest that any of them needs.
    """

    is_trained = True

    def __init__(
        self,
        transformer: PooledTransformer,
        tokens: TokenTable,
        example: str,
        token_budget: int | None,
        learned_tokenizer: str | None = None,
    ) -> None:
        super().__init__()
        self.learned_tokenizer = learned_tokenizer
        self.transformer = transformer
        self.width = transformer.width
        self.break_even = transformer.break_even()
        self.token_budget = token_budget
        self.passes_alike = False
        self.untrained = frozenset(name for name, weight in self.named_parameters() if not weight.requires_grad)
        self.truncated_M, self.reading = tokens.truncated_M, tokens.reading
        self.example = example
        for name in ("flat_ids", "offsets", "prompt_lengths_M", "prompts_M"):
            self.register_buffer(f"tokens_{name}", getattr(tokens, name), persistent=False)

    @property
    def tokens(self) -> TokenTable:
        return TokenTable(
            self.tokens_flat_ids,
            self.tokens_offsets,
            self.tokens_prompt_lengths_M,
            self.truncated_M,
            self.tokens_prompts_M,
        )

    def forward(self, pairs: Pairs, with_context: bool) -> Representations:
        rows_R, chosen_B, rejected_B = _distinct_responses(pairs)
        rows_C, context_B = pairs.context_N.unique(return_inverse=True) if with_context else (rows_R[:0], None)
        responses_RD, contexts_CD = self._run(torch.cat([rows_R, rows_C])).split([len(rows_R), len(rows_C)])
        context_BD = contexts_CD[context_B] if with_context else None
        return Representations(context_BD, responses_RD, chosen_B, rejected_B)

    def lengths(self, pairs: Pairs) -> Int64[Tensor, " N"]:
        """Number of tokens of each pair; a prompt that both texts share is counted once."""
        tokens, (chosen_N, rejected_N) = self.tokens, (pairs.chosen_N, pairs.rejected_N)
        shares_N = tokens.prompts_M[chosen_N] == tokens.prompts_M[rejected_N]
        if self.break_even is None:
            shares_N = torch.zeros_like(shares_N)
        length_M = tokens.lengths_M
        length_N = length_M[chosen_N] + length_M[rejected_N] - tokens.prompt_lengths_M[chosen_N] * shares_N
        return length_N.to(pairs.triplets_N3.device)

    def _run(self, texts_T: Int64[Tensor, " T"]) -> Float[Tensor, "T D"]:
        passes = list(in_rows(self.tokens, texts_T, self.token_budget, self.break_even))
        most = torch.tensor(len(passes), device=texts_T.device)
        if self.passes_alike:
            torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX)
        places_T = torch.cat([places for places, _ in passes])
        texts_TD = torch.cat([self.transformer(rows) for _, rows in passes])[places_T.argsort()]
        for _ in range(int(most) - len(passes)):
            # Dummy passes: with sharded weights the other devices block, forward and backward, until all have run.
            texts_TD = texts_TD + 0.0 * self.transformer(passes[-1][1]).sum()
        return texts_TD


class BackboneFactory:
    """Base class of the classes that `conf/backbone` names; `prepare` builds the backbone for a data set.

    Attributes:
        encodes: whether the class has a method `encode`, which fills the feature store.
    """

    encodes = False

    def prepare(self, data: PreferenceData, features_dir: Path) -> Backbone:
        raise NotImplementedError(f"{type(self).__name__} has no prepare(data, features_dir)")

    def open(self) -> tuple[Backbone, TextTokenizer]:
        """The backbone without texts, and its tokenizer, for texts that are given later.

        Raises:
            UserError: the backbone reads vectors, not texts.
        """
        raise UserError(
            f"backbone={type(self).__name__} reads no texts, so that there is nothing to score; train on texts"
        )


class Identity(BackboneFactory):
    """Backbone for data that are feature vectors already.

    Args:
        standardise: see `CachedBackbone`.
    """

    def __init__(self, standardise: bool = False) -> None:
        self.standardise = standardise

    def prepare(self, data: PreferenceData, features_dir: Path) -> CachedBackbone:
        if not data.is_vectors:
            raise UserError("backbone=identity takes data that are vectors; this data set holds texts")
        return CachedBackbone(data.texts, self.standardise, data.split("train"))
