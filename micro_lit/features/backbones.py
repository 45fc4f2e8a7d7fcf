"""Backbones as a model sees them: pairs in, representations of context, chosen and rejected out.

`CachedBackbone` looks vectors up; `TrainableBackbone` runs a transformer. Models never know which. What `conf/backbone`
names (`Identity` here, `Pretrained`, `Tiny`) makes one of the two for a data set with `prepare(data, features_dir)`.

Dimension letters: B pairs in the batch, R distinct responses, C distinct contexts and T texts of it, M distinct texts,
D representation width.
"""

from pathlib import Path
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from micro_lit.data.pairs import Pairs, PreferenceData
from micro_lit.errors import UserError
from micro_lit.features.network import PooledTransformer
from micro_lit.features.rows import in_rows
from micro_lit.features.store import CHUNK_BYTES, MappedTable
from micro_lit.features.tokens import Reading, TokenTable


class Representations(NamedTuple):
    """What a batch is made of: each distinct response once, and where those of a pair stand.

    context_BD: a vector a pair; None when nobody asks for it. responses_RD: the distinct responses. chosen_B,
    rejected_B: rows of responses_RD.
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
    """Rows of the text table, each once, and where chosen and rejected responses stand among them."""
    rows_R, place_B2 = pairs.triplets_N3[:, 1:].unique(return_inverse=True)
    return rows_R, place_B2[:, 0], place_B2[:, 1]


class Backbone(nn.Module):
    """What models and runs ask of a backbone: `forward(pairs, with_context)` gives `Representations`.

    width: D. is_trained: whether gradients reach its weights. untrained: names of the weights that are not trained, and
    that checkpoints need not hold. reading: what became of the texts on their way to it, where the data are texts.
    example: one as the backbone reads it. learned_tokenizer: as JSON, where it was learned on these texts and is
    nowhere else. store_folder: of the feature store that holds the features, if one does.
    """

    width: int
    is_trained = False
    untrained: frozenset[str] = frozenset()
    reading: Reading | None = None
    example: str | None = None
    learned_tokenizer: str | None = None
    store_folder: Path | None = None


class CachedBackbone(Backbone):
    """Looks representations up in a table: a tensor that moves with the model, or a mapped store that stays on disk.

    standardise: bring every dimension of contexts and of responses to mean 0 and standard deviation 1 over the training
        texts. Heads on raw sentence embeddings learn slowly: a few dimensions are many times larger than the rest.
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
        # A line search asks for one batch again and again.
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
        """A copy of some rows, as they are stored."""
        if self.table is None:
            return self.features_MD[rows_B]
        return self.table.gather(rows_B).to(rows_B.device)

    def _moments(self, rows_M: Int64[Tensor, " M"]) -> tuple[Float[Tensor, " D"], Float[Tensor, " D"]]:
        """Mean and standard deviation in two passes; a dimension that does not vary keeps its scale."""
        if not len(rows_M):  # pairs to judge by a trained model, which knows its own
            return torch.zeros(self.width), torch.ones(self.width)
        chunks = rows_M.split(max(1, CHUNK_BYTES // (4 * self.width)))
        mean_D = sum(self._read(chunk).double().sum(dim=0) for chunk in chunks) / len(rows_M)
        variance_D = sum((self._read(chunk) - mean_D).square().sum(dim=0) for chunk in chunks) / len(rows_M)
        std_D = variance_D.sqrt().float()
        return mean_D.float(), torch.where(std_D > 1e-6, std_D, 1.0)


class TrainableBackbone(Backbone):
    """Runs a transformer over the texts of the batch, each once, and a prompt once for all its responses if it can.

    Gradients reach its weights. In a network with dropout, what is dropped of a prompt is the same for its responses.

    token_budget: tokens of one pass, padding included; None: each batch is one pass. passes_alike: whether all devices
        are to run as many passes for a batch as the one that needs most.
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
        """Tokens of each pair: of its two texts, a prompt that they share counted once."""
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
            # In vain, but the others cannot go on without it, nor in the backward pass.
            texts_TD = texts_TD + 0.0 * self.transformer(passes[-1][1]).sum()
        return texts_TD


class BackboneFactory:
    """What `conf/backbone` names: makes the backbone of a data set.

    encodes: whether it has `encode`, which fills the feature store.
    """

    encodes = False

    def prepare(self, data: PreferenceData, features_dir: Path) -> Backbone:
        raise NotImplementedError(f"{type(self).__name__} has no prepare(data, features_dir)")


class Identity(BackboneFactory):
    """The data are vectors already."""

    def __init__(self, standardise: bool = False) -> None:
        self.standardise = standardise

    def prepare(self, data: PreferenceData, features_dir: Path) -> CachedBackbone:
        if not data.is_vectors:
            raise UserError("backbone=identity takes data that are vectors; this data set holds texts")
        return CachedBackbone(data.texts, self.standardise, data.split("train"))
