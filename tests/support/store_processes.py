"""What the processes of the feature store's tests run: `Pretrained.encode`, over a network that only takes time."""

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from processes import LAST_RESORT, wait_until
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import nn
from transformers import PreTrainedTokenizerFast

from micro_lit import encode as encode_texts
from micro_lit.config import Settings
from micro_lit.data.pairs import Text
from micro_lit.data.records import Message
from micro_lit.features import encoder
from micro_lit.features import store as feature_store
from micro_lit.features.network import PooledTransformer
from micro_lit.features.pretrained import Pretrained
from micro_lit.features.store import FeatureStore
from micro_lit.features.tokens import TextTokenizer

WIDTH = 4
SHARD_ROWS = 16
BATCH_ROWS = 4
SPEC = {"model": "slow"}


def texts(numbers: Sequence[int]) -> list[Text]:
    """Two to ten words each."""
    words = [(f"p{number % 7}", [f"r{number}"] * (1 + number % 9)) for number in numbers]
    return [Text((Message("user", prompt),), " ".join(response)) for prompt, response in words]


def features(numbers: Sequence[int]) -> torch.Tensor:
    """What the network says of the texts: 1, 2, 3 and 4 times the mean of their token ids, to the bit."""
    sums = torch.tensor([[number % 7 + (1 + number % 9) * (7 + number)] for number in numbers], dtype=torch.float32)
    return sums * torch.arange(1.0, WIDTH + 1) / torch.tensor([[2 + number % 9] for number in numbers])


class Sleeper(nn.Module):
    """Token ids as hidden states, after some seconds. Writes down how many texts it has seen.

    arrive: called before the first texts, when the process holds the locks of what it is to encode.
    """

    def __init__(self, seen: Path, seconds: float, arrive: Callable[[], Any]) -> None:
        super().__init__()
        self.config = SimpleNamespace(hidden_size=WIDTH, get_text_config=lambda: self.config)
        self.weight = nn.Parameter(torch.arange(1.0, WIDTH + 1), requires_grad=False)
        self.seen, self.seconds, self.arrive = seen, seconds, arrive
        self.arrived = False

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SimpleNamespace:
        if not self.arrived:
            self.arrive()
            self.arrived = True
        time.sleep(self.seconds)
        with self.seen.open("a") as file:
            file.write(f"{len(input_ids)}\n")
        return SimpleNamespace(last_hidden_state=input_ids[..., None] * self.weight)


def seen(path: Path) -> int:
    """How many texts went through a network, half-written last lines included."""
    return sum(map(int, path.read_text().split())) if path.exists() else 0


class Slow(Pretrained):
    """A pretrained backbone of that network."""

    def __init__(self, seen: Path, seconds: float, arrive: Callable[[], Any] = bool) -> None:
        super().__init__(
            "slow", pooling="mean", causal=False, dtype="float32", token_budget=BATCH_ROWS * 12, standardise=False
        )
        self.seen, self.seconds, self.arrive = seen, seconds, arrive

    def tokenizer(self) -> TextTokenizer:
        words = [*(f"p{number}" for number in range(7)), *(f"r{number}" for number in range(3000)), "?"]
        tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="?"))
        tokenizer.pre_tokenizer = Whitespace()
        return TextTokenizer(PreTrainedTokenizerFast(tokenizer_object=tokenizer), self.max_length)

    def network(self, dtype: torch.dtype) -> PooledTransformer:
        return PooledTransformer(Sleeper(self.seen, self.seconds, self.arrive), self.pooling, self.causal)

    def _spec(self, tokenizer: TextTokenizer) -> dict[str, Any]:
        return SPEC


def encode(
    numbers: Sequence[int],
    root: Path,
    seen: Path,
    seconds: float = 0.002,
    environment: Mapping[str, str] | None = None,
    barrier: Any = None,
    claimed: Any = None,
    gate: Path | None = None,
) -> None:
    """Asks for the texts of some numbers, as a run would, and checks every number that it gets.

    seen: where the network writes down its texts; what the process prints goes beside it, with the ending .out.
    barrier: passed before anything is asked for. claimed: a barrier that is passed before the first text is encoded;
    gate: a file without which no text is encoded.
    """
    os.environ.update(environment or {})
    sys.stdout = seen.with_suffix(".out").open("w", buffering=1)
    encoder.SHARD_BYTES = SHARD_ROWS * WIDTH * 4
    feature_store.POLL_SECONDS = 0.02

    def arrive() -> None:
        if claimed is not None:
            claimed.wait(timeout=LAST_RESORT)
        if gate is not None:
            print("at the gate")
            wait_until(gate.exists)

    backbone = Slow(seen, seconds, arrive)
    if barrier is not None:
        barrier.wait(timeout=LAST_RESORT)
    table = backbone.encode(texts(numbers), root)
    assert torch.equal(table.gather(torch.arange(len(numbers))), features(numbers))


def encode_command(settings: Settings, environment: Mapping[str, str], output: Path) -> None:
    """Runs `micro_lit.encode`, as torchrun would start it."""
    os.environ.update(environment)
    sys.stdout = output.with_suffix(".out").open("w")
    encode_texts.run(settings)
    sys.stdout.flush()


def store(root: Path) -> FeatureStore:
    return FeatureStore(root, SPEC)
