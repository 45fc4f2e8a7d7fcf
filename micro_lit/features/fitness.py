"""Checks that a pretrained model can be a backbone, before any text is encoded."""

from typing import Any

import torch
from torch import nn

from micro_lit.errors import UserError

# Model types whose position ids start at pad_token_id + 1, so that fewer tokens fit than max_position_embeddings.
OFFSET_BY_PADDING = (
    "camembert", "data2vec-text", "ibert", "layoutlmv3", "lilt", "longformer", "luke", "markuplm", "mluke", "mpnet",
    "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod",
)  # fmt: skip
# Tokenizers without a length limit store a very large number as model_max_length.
SANE_LENGTH = 10**9


def check_backbone_config(model: str, config: Any) -> None:
    """Raises `UserError` unless the config is of a model that reads tokens and returns a vector for each.

    Encoder-decoders, models without a vocabulary or hidden size, and quantised models are refused.

    Args:
        model: hub id or folder, for the error message.
        config: its Hugging Face config.
    """
    text = config.get_text_config()
    if getattr(config, "is_encoder_decoder", False):
        raise _unfit(model, f"{config.model_type} is an encoder-decoder", "an encoder, or a decoder alone")
    if not getattr(text, "vocab_size", None):
        raise _unfit(model, f"{config.model_type} reads no text: its config names no vocab_size", "a language model")
    if not getattr(text, "hidden_size", None):
        raise _unfit(model, "its config names no width (hidden_size)", "another model")
    if (found := getattr(config, "quantization_config", None)) is not None:
        method = found.get("quant_method") if isinstance(found, dict) else getattr(found, "quant_method", None)
        raise _unfit(
            model, f"its weights are quantised ({method or 'method unknown'})", "the repository of its full weights"
        )


def check_tokens(model: str, config: Any, tokenizer: Any) -> None:
    """Raises `UserError` when a tokenizer has tokens without a row in the model's embedding.

    The padding token is exempt: many tokenizers add one, and padding here uses id 0 instead.
    """
    rows = config.get_text_config().vocab_size
    vocabulary = sorted((token, name) for name, token in tokenizer.get_vocab().items() if token >= rows)
    beyond = [name for _, name in vocabulary if name != tokenizer.pad_token]
    if beyond:
        raise _unfit(
            model,
            f"its tokenizer has {len(beyond):,} tokens beyond the {rows:,} rows of its embedding ({beyond[0]!r})",
            "a folder in which tokenizer and weights belong together",
        )


def longest(config: Any, tokenizer: Any) -> int | None:
    """Most tokens a text may have, by the model's positions and its tokenizer's limit; None without a limit."""
    text = config.get_text_config()
    positions = getattr(text, "max_position_embeddings", None) or 0
    if text.model_type in OFFSET_BY_PADDING:
        padding = getattr(text, "pad_token_id", None)
        positions -= 1 + (1 if padding is None else padding)
    limits = [each for each in (positions, tokenizer.model_max_length) if each and 0 < each < SANE_LENGTH]
    return min(limits, default=None)


@torch.no_grad()
def check_network(model: str, network: nn.Module) -> None:
    """Raises `UserError` when a network has no token embedding, or a forward pass on three tokens fails.

    The pass must return one vector of `hidden_size` for each token.
    """
    text = network.config.get_text_config()
    try:
        rows = network.get_input_embeddings().weight.shape[0]
    except Exception as error:  # the exception differs between models
        raise _unfit(model, f"{type(network).__name__} has no token embedding", "a language model") from error
    if text._attn_implementation not in ("sdpa", "eager"):  # other kernels may not run on the CPU
        return
    try:
        hidden_BLD = network(input_ids=torch.arange(3)[None] % rows).last_hidden_state
        shape = tuple(hidden_BLD.shape)
    except Exception as error:  # a missing image, missing decoder inputs, shapes that do not fit
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise _unfit(
            model, f"{type(network).__name__} cannot read text alone ({reason})", "a language model"
        ) from error
    if shape != (1, 3, text.hidden_size):
        raise _unfit(
            model, f"its output for 3 tokens is {shape}, not one vector of {text.hidden_size} for each", "another model"
        )


def _unfit(model: str, reason: str, remedy: str) -> UserError:
    return UserError(f"backbone.model={model}: {reason}; give {remedy}")
