"""Models and tokenizers that cannot be a backbone, or not as they are set."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from small_models import make_data, save_llama
from transformers import (
    AutoConfig,
    AutoModel,
    BertConfig,
    CLIPConfig,
    LlamaConfig,
    LlamaForSequenceClassification,
    LlamaModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    T5Config,
    ViTConfig,
)

from micro_lit.data.pairs import Text
from micro_lit.data.records import Message
from micro_lit.errors import UserError
from micro_lit.features import pretrained as pretrained_module
from micro_lit.features.pretrained import Pretrained
from micro_lit.features.tiny import Tiny

SHAPE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
LLAMA = {**SHAPE, "num_key_value_heads": 2, "bos_token_id": None, "eos_token_id": None}


def tokenizer():
    return Tiny(vocabulary=400).learn_tokenizer(make_data().texts)


def save(folder: Path, config, tokenizer=None) -> Path:
    """A model of this config, or its config alone where the weights do not matter."""
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    AutoModel.from_config(config).save_pretrained(folder)
    return folder


def change(folder: Path, **settings) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return folder


def refused(folder: Path, tmp_path: Path, monkeypatch, **settings) -> str:
    """What a user reads of a model; not a text is encoded."""

    def encode(*_):
        raise AssertionError("a text is encoded")

    monkeypatch.setattr(pretrained_module, "encode_into", encode)
    settings = {"max_length": 32, "dtype": "float32", **settings}
    told = set()
    for frozen in (True, False):
        with pytest.raises(UserError) as error:
            Pretrained(str(folder), frozen=frozen, **settings).prepare(make_data(), tmp_path / "features")
        told.add(str(error.value))
    [message] = told
    assert "\n" not in message
    assert str(folder) in message or "backbone." in message
    return message


@pytest.fixture
def llama(tmp_path) -> Path:
    return save_llama(tmp_path / "llama")


def test_an_encoder_decoder_is_refused(tmp_path, monkeypatch):
    config = T5Config(vocab_size=400, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    folder = save(tmp_path / "model", config, tokenizer())
    assert "t5 is an encoder-decoder; give an encoder" in refused(folder, tmp_path, monkeypatch)


@pytest.mark.parametrize("with_tokenizer", [False, True])
def test_a_model_of_images_is_refused(tmp_path, monkeypatch, with_tokenizer):
    config = ViTConfig(**SHAPE, image_size=8, patch_size=4)
    folder = save(tmp_path / "model", config, tokenizer() if with_tokenizer else None)
    assert "vit reads no text" in refused(folder, tmp_path, monkeypatch)


def test_a_network_that_fails_on_text_alone_is_refused(llama, tmp_path, monkeypatch):
    def forward(*_, **__):
        raise ValueError("You have to specify\npixel_values")

    monkeypatch.setattr(LlamaModel, "forward", forward)
    message = refused(llama, tmp_path, monkeypatch)
    assert "LlamaModel cannot read text alone (You have to specify pixel_values)" in message


def test_a_model_of_texts_and_images_is_refused(tmp_path, monkeypatch):
    text = {**SHAPE, "vocab_size": 400, "max_position_embeddings": 64}
    config = CLIPConfig(text_config=text, vision_config={**SHAPE, "image_size": 8, "patch_size": 4}, projection_dim=16)
    folder = save(tmp_path / "model", config, tokenizer())
    assert "CLIPModel has no token embedding" in refused(folder, tmp_path, monkeypatch)


def test_quantised_weights_are_refused(llama, tmp_path, monkeypatch):
    change(llama, quantization_config={"quant_method": "gptq", "bits": 4})
    assert "its weights are quantised (gptq); give the repository" in refused(llama, tmp_path, monkeypatch)


def test_a_model_without_width_or_embedding_is_refused(llama, tmp_path, monkeypatch):
    assert "no width" in refused(change(llama, hidden_size=0), tmp_path, monkeypatch)
    assert "no vocab_size" in refused(change(llama, hidden_size=16, vocab_size=0), tmp_path, monkeypatch)


def test_tokens_without_an_embedding_are_refused(tmp_path, monkeypatch):
    config = LlamaConfig(vocab_size=300, **LLAMA)
    message = refused(save(tmp_path / "model", config, tokenizer()), tmp_path, monkeypatch)
    assert "tokens beyond the 300 rows of its embedding" in message


def test_a_padding_token_without_an_embedding_is_not_needed(llama, tmp_path):
    from transformers import AutoTokenizer

    found = AutoTokenizer.from_pretrained(llama)
    found.add_special_tokens({"pad_token": "[PAD]"})
    found.save_pretrained(llama)
    assert found.pad_token_id == AutoConfig.from_pretrained(llama).vocab_size
    data = make_data()
    Pretrained(str(llama), max_length=64).prepare(data, tmp_path / "features")(data.pairs, True)


def test_a_tokenizer_without_padding_or_end_serves(llama, tmp_path):
    PreTrainedTokenizerFast(tokenizer_object=tokenizer()._tokenizer).save_pretrained(llama)
    data = make_data()
    Pretrained(str(llama), max_length=64).prepare(data, tmp_path / "features")(data.pairs, True)


def test_a_checkpoint_of_a_classifier_serves(tmp_path):
    found = tokenizer()
    config = LlamaConfig(vocab_size=len(found), pad_token_id=0, num_labels=1, **LLAMA)
    LlamaForSequenceClassification(config).save_pretrained(tmp_path / "model")
    found.save_pretrained(tmp_path / "model")
    data = make_data()
    Pretrained(str(tmp_path / "model"), max_length=64).prepare(data, tmp_path / "features")(data.pairs, True)


def test_a_slow_tokenizer_is_refused(llama, tmp_path, monkeypatch):
    monkeypatch.setattr(PreTrainedTokenizerFast, "is_fast", False)
    assert "a fast tokenizer (tokenizer.json) is needed" in refused(llama, tmp_path, monkeypatch)


@pytest.mark.parametrize("damage", ["cut off", "other shape"])
def test_weights_that_do_not_load_are_one_line(llama, tmp_path, monkeypatch, damage):
    weights = llama / "model.safetensors"
    if damage == "cut off":
        weights.write_bytes(weights.read_bytes()[:1000])
    else:
        change(llama, intermediate_size=48)
    assert "its model cannot be loaded" in refused(llama, tmp_path, monkeypatch)


def long_text() -> Text:
    return Text((Message("user", "Is it? " * 200),), "It is.")


@pytest.mark.parametrize(
    ("config", "most"),
    [
        (LlamaConfig(vocab_size=400, max_position_embeddings=48, **LLAMA), 48),
        (BertConfig(vocab_size=400, max_position_embeddings=48, **SHAPE), 48),
        (RobertaConfig(vocab_size=400, max_position_embeddings=48, pad_token_id=1, **SHAPE), 46),
    ],
)
def test_texts_are_cut_where_positions_end(tmp_path, capsys, config, most):
    folder = save(tmp_path / "model", config, tokenizer())
    causal = config.model_type == "llama"
    backbone = Pretrained(str(folder), causal=causal, pooling="mean", max_length=2048, dtype="float32")
    tokens = backbone.tokenizer()([long_text()])
    assert tokens.reading.max_length == most
    assert most - 3 < int(tokens.lengths_M) <= most
    backbone.encode([long_text()], tmp_path / "features")
    noted = f"note: backbone.max_length=2048 is more than {folder} can read; it is {most} instead"
    assert capsys.readouterr().out.count(noted) == 1
    whole = Pretrained(str(folder), causal=causal, pooling="mean", max_length=most, dtype="float32")
    assert whole.tokenizer().fingerprint == backbone.tokenizer().fingerprint
    assert "note" not in capsys.readouterr().out


def test_texts_are_cut_where_the_tokenizer_ends(llama):
    from transformers import AutoTokenizer

    found = AutoTokenizer.from_pretrained(llama)
    found.model_max_length = 40
    found.save_pretrained(llama)
    assert Pretrained(str(llama), max_length=64).tokenizer().max_length == 40


def spoil(folder: Path, value: float) -> Path:
    """Makes one number of a model's output as large as this."""
    network = AutoModel.from_pretrained(folder)
    with torch.no_grad():
        network.norm.weight[3] = value
    network.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("value", "settings", "remedy"),
    [
        (float("nan"), {"dtype": "float32"}, "its weights are damaged"),
        (3e38, {"dtype": "bfloat16"}, "give backbone.dtype=float32"),
        (1e9, {"dtype": "float32", "store_dtype": "float16"}, "give backbone.store_dtype=bfloat16"),
    ],
)
def test_what_is_no_number_is_not_stored(llama, tmp_path, value, settings, remedy):
    spoil(llama, value)
    texts = make_data().texts
    starts = {(text.response or text.prompt[-1].content)[:20] for text in texts}
    with pytest.raises(UserError, match=remedy) as error:
        Pretrained(str(llama), max_length=64, **settings).encode(texts, tmp_path / "features")
    assert any(start in str(error.value) for start in starts)
    assert not list((tmp_path / "features").rglob("*.safetensors"))
    shutil.rmtree(tmp_path / "features")
