"""`backbone=tiny`: a small causal transformer with its tokenizer, both trained from scratch."""

from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge

from micro_lit.data.pairs import PreferenceData, Text
from micro_lit.errors import UserError
from micro_lit.features.backbones import BackboneFactory, TrainableBackbone
from micro_lit.features.live import ANY_TEXT
from micro_lit.features.network import PooledTransformer, Pooling
from micro_lit.features.tokens import TextTokenizer
from micro_lit.ranges import Count

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CHAT_TOKENS = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>"]


class Tiny(BackboneFactory):
    """A small causal transformer, trained from scratch, with a tokenizer trained on the training texts.

    Args:
        hidden: width D, a multiple of 2 * heads.
        layers, heads: number of layers, and of attention heads.
        vocabulary: largest vocabulary size.
        max_length: most tokens of a text.
        pooling: see `PooledTransformer`.
        token_budget: most tokens of one forward pass, padding included.
        init: standard deviation of the initial weights; with the 0.02 of large models a narrow one trains very slowly.
        tokenizer: file of a tokenizer trained earlier, used unchanged (each run saves its own in its folder).
    """

    def __init__(
        self,
        hidden: Count = 64,
        layers: Count = 2,
        heads: Count = 4,
        vocabulary: Annotated[int, Ge(300)] = 2048,
        max_length: Annotated[int, Ge(8)] = 256,
        pooling: Pooling = "last",
        token_budget: Count | None = 4096,
        init: float = 0.1,
        tokenizer: str | None = None,
    ) -> None:
        if hidden % (2 * heads):
            raise UserError(f"backbone.hidden={hidden} must be a multiple of twice backbone.heads={heads}")
        self.init = init
        self.hidden, self.layers, self.heads = hidden, layers, heads
        self.vocabulary = vocabulary
        self.max_length = max_length
        self.pooling = pooling
        self.token_budget = token_budget
        self.tokenizer = tokenizer

    def prepare(self, data: PreferenceData, features_dir: Path) -> TrainableBackbone:
        if data.is_vectors:
            raise UserError("the data are vectors; use backbone=identity")
        if self.tokenizer is None:
            train_rows = data.split("train").triplets_N3.unique().tolist()
            learned = self.learn_tokenizer([data.texts[row] for row in train_rows])
        else:
            learned = self.read_tokenizer(self.tokenizer)
        tokenizer = TextTokenizer(learned, self.max_length)
        example, as_json = tokenizer.show(data.example), learned.backend_tokenizer.to_str()
        network = self.network(tokenizer)
        return TrainableBackbone(network, tokenizer(data.texts), example, self.token_budget, as_json)

    def open(self) -> tuple[TrainableBackbone, TextTokenizer]:
        if self.tokenizer is None:
            raise UserError("backbone=tiny without its tokenizer; the folder of its run has it as tokenizer.json")
        tokenizer = TextTokenizer(self.read_tokenizer(self.tokenizer), self.max_length)
        return TrainableBackbone(self.network(tokenizer), tokenizer([ANY_TEXT]), "", self.token_budget), tokenizer

    def read_tokenizer(self, path: str) -> Any:
        from tokenizers import Tokenizer

        try:
            return _wrapped(Tokenizer.from_file(path))
        except Exception as error:  # tokenizers raises bare exceptions
            raise UserError(f"backbone.tokenizer={path}: cannot be read ({error})") from error

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

    def learn_tokenizer(self, texts: list[Text]) -> Any:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

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
        return _wrapped(tokenizer)


def _wrapped(tokenizer: Any) -> Any:
    """Wraps a bare tokenizer as a transformers tokenizer with chat template and special tokens."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=CHAT_TOKENS[0], eos_token=CHAT_TOKENS[1], chat_template=CHAT_TEMPLATE
    )
