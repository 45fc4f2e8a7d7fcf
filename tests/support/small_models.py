"""Pairs of a few words, tables of random tokens, and small pretrained models on disk."""

from pathlib import Path

import torch
from transformers import AutoModel, LlamaConfig

from micro_lit.data.pairs import Counts, PreferenceData, from_records
from micro_lit.data.records import Message, Record
from micro_lit.features.tiny import Tiny
from micro_lit.features.tokens import TokenTable

PROMPTS = ("What is rain?", "Why do cats purr, and is it always a sign of joy?", "Name a star.")
REPLIES = ("Water.", "It depends on the cat, and on the day, and on you.", "Vega, Deneb or Altair will do.")


def make_data(criterion: str | None = None) -> PreferenceData:
    """Each prompt with every two of the replies, in both orders."""
    records = [
        Record((Message("user", prompt),), chosen, rejected, criterion=criterion)
        for prompt in PROMPTS
        for chosen in REPLIES
        for rejected in REPLIES
        if chosen != rejected
    ]
    splits = ["train"] * (len(records) - 4) + ["validation"] * 2 + ["test"] * 2
    return from_records(records, splits, {"made": Counts(rows=len(records))})


def make_table(prompts: list[tuple[int, list[int]]], seed: int = 0) -> TokenTable:
    """Prompts of some tokens, each with responses of some tokens; 0 tokens: the prompt alone. All ids are above 0."""
    draw = torch.Generator().manual_seed(seed)
    ids, prompt_lengths, numbers = [], [], []
    for number, (length, responses) in enumerate(prompts):
        prompt = torch.randint(1, 64, (length,), generator=draw)
        for response in responses:
            ids.append(torch.cat([prompt, torch.randint(1, 64, (response,), generator=draw)]))
            prompt_lengths.append(length)
            numbers.append(number)
    offsets = torch.tensor([0, *map(len, ids)]).cumsum(0)
    whole_M = torch.zeros(len(ids), dtype=torch.bool)
    return TokenTable(torch.cat(ids).int(), offsets, torch.tensor(prompt_lengths), whole_M, torch.tensor(numbers))


def save_llama(folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Writes a small causal model with a chat template, whose pad token ends a turn too, as in many published ones."""
    tokenizer = Tiny(vocabulary=400).learn_tokenizer(make_data().texts)
    tokenizer.pad_token = tokenizer.eos_token
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, bos_token_id=None, eos_token_id=None, initializer_range=0.3,
    )  # fmt: skip
    AutoModel.from_config(config, dtype=dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
