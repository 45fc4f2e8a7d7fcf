import pytest
import torch
from small_models import make_table
from torch import nn
from transformers import (
    AttentionInterface,
    AutoModel,
    BertConfig,
    FalconConfig,
    FalconH1Config,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    PretrainedConfig,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from micro_lit.errors import UserError
from micro_lit.features.encoder import encode
from micro_lit.features.network import PooledTransformer
from micro_lit.features.rows import in_rows

SHAPE = {
    "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "bos_token_id": None,
    "eos_token_id": None, "initializer_range": 0.2,
}  # fmt: skip
LLAMA = {**SHAPE, "intermediate_size": 32, "num_key_value_heads": 2}
# Rotations, and positions that are learned.
CAUSAL = {
    "llama": LlamaConfig(**LLAMA),
    "gpt2": GPT2Config(**SHAPE, resid_pdrop=0.0, attn_pdrop=0.0, embd_pdrop=0.0),
}
TABLE = make_table([(10, [3, 4, 0]), (2, [7, 8, 1, 0]), (20, [5] * 9), (5, [0]), (1, [30])])
TEXTS = torch.arange(len(TABLE.prompts_M))


def make(config: PretrainedConfig, attention: str = "sdpa", pooling: str = "last", causal: bool = True):
    torch.manual_seed(0)
    return PooledTransformer(AutoModel.from_config(config, attn_implementation=attention), pooling, causal)


def run(network: PooledTransformer, texts, token_budget: int | None, break_even: int | None):
    """Representations of some texts, and the gradient of a sum of them that tells all numbers apart."""
    network.zero_grad()
    passes = list(in_rows(TABLE, texts, token_budget, break_even))
    places, found = torch.cat([places for places, _ in passes]), torch.cat([network(rows) for _, rows in passes])
    found_TD = found[places.argsort()]
    (found_TD * torch.sin(1.0 + texts[:, None] + torch.arange(found_TD.shape[1]))).sum().backward()
    gradients = [weight.grad.flatten() for weight in network.parameters() if weight.grad is not None]
    return found_TD.detach(), torch.cat(gradients)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", CAUSAL)
def test_shared_rows_are_exact(kind, attention, pooling, dtype):
    """Representations and gradients are those of every text run by itself, however texts are put into passes."""
    network = make(CAUSAL[kind], attention, pooling).to(dtype)
    break_even = network.break_even()
    assert break_even is not None
    alone = [run(network, text, None, None) for text in TEXTS.split(1)]
    expected = torch.cat([found for found, _ in alone]), sum(gradient for _, gradient in alone)
    scales = [each.abs().max() for each in expected]
    for token_budget in (None, 64, 1):
        for found, truth, scale in zip(run(network, TEXTS, token_budget, break_even), expected, scales, strict=True):
            # Llama computes its rotations in float32 whatever it is made of.
            assert (found - truth).abs().max() <= 1e-6 * max(1.0, scale)


def test_bidirectional_networks_do_not_see_padding_or_neighbours():
    network = make(BertConfig(**SHAPE, intermediate_size=32), pooling="mean", causal=False).eval()
    assert network.break_even() is None
    alone = torch.cat([run(network, text, None, None)[0] for text in TEXTS.split(1)])
    torch.testing.assert_close(run(network, TEXTS, 64, None)[0], alone)


NOT_SHARING = {
    "window": MistralConfig(**LLAMA, sliding_window=8),
    "alibi": FalconConfig(**SHAPE, alibi=True),
    "state": MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, initializer_range=0.2),
    "half state": FalconH1Config(**LLAMA, mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_d_state=16),
}


@pytest.mark.parametrize("kind", NOT_SHARING)
def test_networks_that_a_mask_does_not_tell_what_to_see_run_each_text_by_itself(kind):
    network = make(NOT_SHARING[kind], "eager").eval()
    assert network.break_even() is None
    found = torch.empty(len(TEXTS), 32)
    for rows_T, found_TD in encode(TABLE, network, 64):
        found[rows_T] = found_TD
    with torch.no_grad():
        alone = torch.cat([network(rows) for text in TEXTS.split(1) for _, rows in in_rows(TABLE, text, None, None)])
    torch.testing.assert_close(found, alone, atol=1e-5, rtol=1e-5)


def test_a_window_that_is_not_in_use_does_not_matter():
    assert make(MistralConfig(**LLAMA, sliding_window=None)).break_even() is not None


def test_kernels_that_may_not_take_a_mask_share_nothing():
    AttentionInterface.register("kernel", sdpa_attention_forward)
    assert make(CAUSAL["llama"], "kernel").break_even() is None


def test_a_network_that_looks_ahead_is_not_causal():
    with pytest.raises(UserError, match=r"backbone.causal=true: .* give backbone.causal=false"):
        make(BertConfig(**SHAPE, intermediate_size=32)).break_even()


def test_a_network_in_training_stays_so():
    network = make(GPT2Config(**SHAPE, resid_pdrop=0.5)).train()
    assert network.break_even() is not None
    assert all(module.training for module in network.modules())


class SmallMemory(nn.Module):
    """Stands for a machine on which passes of more than `most` tokens run out of memory."""

    def __init__(self, network: nn.Module, most: int, error: RuntimeError) -> None:
        super().__init__()
        self.network, self.config = network, network.config
        self.most, self.error = most, error

    def forward(self, input_ids, **options):
        if input_ids.numel() > self.most:
            raise self.error
        return self.network(input_ids=input_ids, **options)


FULL = {
    "gpu": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "cpu": RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
}


@pytest.mark.parametrize("error", FULL)
@pytest.mark.parametrize("most", [40, 70, 200])
def test_when_memory_is_out_batches_become_smaller(error, most, capsys):
    network = make(CAUSAL["llama"])
    expected = torch.empty(len(TEXTS), 32)
    for rows_T, found_TD in encode(TABLE, network, 1000):
        expected[rows_T] = found_TD
    assert capsys.readouterr().out == ""
    network.network = SmallMemory(network.network, most, FULL[error])
    found, seen = torch.empty(len(TEXTS), 32), []
    for rows_T, found_TD in encode(TABLE, network, 1000):
        found[rows_T] = found_TD
        seen += rows_T.tolist()
    assert sorted(seen) == TEXTS.tolist()
    torch.testing.assert_close(found, expected)
    assert capsys.readouterr().out == "out of memory with backbone.token_budget=1000: continuing with smaller batches\n"


@pytest.mark.parametrize("responses", [[21], [21, 0], [21, 20, 0]])
def test_a_text_that_does_not_fit_is_told_to_be_too_long(responses):
    network = make(CAUSAL["llama"])
    network.network = SmallMemory(network.network, 30, FULL["gpu"])
    with pytest.raises(UserError, match=r"single text of 31 tokens; lower backbone.max_length"):
        list(encode(make_table([(10, responses), (2, [3, 4])]), network, 1000))


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    network = make(CAUSAL["llama"])
    network.network = SmallMemory(network.network, 30, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        list(encode(TABLE, network, 1000))
