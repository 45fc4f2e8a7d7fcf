"""A loaded model scores texts as the run's own test judged them, and names what it cannot score."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from small_models import save_llama

import micro_lit
from micro_lit import config
from micro_lit.errors import UserError
from micro_lit.run import codes
from micro_lit.run.restored import read_settings, restore
from micro_lit.score.fitting import FinishedFit

WORDS = ("short", "kind", "dry", "long")


@pytest.fixture(scope="module")
def labels(tmp_path_factory) -> Path:
    """Labels of four users under two criteria."""
    path = tmp_path_factory.mktemp("labels") / "labels.jsonl"
    rows = [
        {
            "prompt": f"question {n % 9}",
            "chosen": f"a {WORDS[n % 4]} answer {n}",
            "rejected": f"a {WORDS[(n + 1) % 4]} reply {n}",
            "user_id": f"user {n % 4}",
            "attribute": WORDS[n % 2],
            "criterion": f"Be {WORDS[n % 2]}.",
        }
        for n in range(160)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture(scope="module")
def fitted(labels, tmp_path_factory):
    """Finished runs, each trained once."""
    known = {}

    def fit(*overrides: str) -> FinishedFit:
        if overrides not in known:
            folder = tmp_path_factory.mktemp("run")
            small = [f"data.train={labels}", "trainer.max_epochs=1", "trainer.limit_train_batches=3"]
            paths = [f"paths.run_dir={folder}/run", f"paths.features_dir={labels.parent}/features"]
            known[overrides] = micro_lit.fit(["data=pairs", *small, *paths, *overrides])
        return known[overrides]

    return fit


MODELS = {
    "single_bt": ("model=single_bt",),
    "mixture": ("model.num_heads=3",),
    "sparse_moe": ("model=sparse_moe", "model.num_heads=3", "model.top_k=1"),
    "attribute_bt": ("model=attribute_bt",),
    "tied": ("model=tied", "model.num_heads=3"),
    "maxmin": ("model=maxmin", "model.num_heads=3"),
    "lore": ("model=lore", "model.num_heads=3"),
    "pal_a": ("model=pal_a", "model.num_heads=3"),
    "pal_b": ("model=pal_b", "model.num_heads=3"),
    "vpl": ("model=vpl",),
    "mlp": ("model.num_heads=3", "model/head=mlp", "model/gate=linear"),
}


def judged(folder: Path, tmp_path: Path) -> tuple[list, np.ndarray, np.ndarray]:
    """Test records of a run, with the log-probabilities and rewards that its restored model gives them."""
    settings = read_settings(folder)
    source = config.build(settings["data"])
    data = source.load(settings["seed"])
    records, splits, _ = source.read(settings["seed"])
    model = restore(folder, data, tmp_path / "features")
    pairs = data.split("test")
    if model.by_user:
        ids, known = data.names["user_id"], codes.read_users(folder)
        codes_BC = torch.stack([known[ids[code]] for code in pairs.label_N("user_id").tolist()])
        judgment = model(pairs, codes_BC)
    else:
        judgment = model(pairs)
    own = [record for record, split in zip(records, splits, strict=True) if split == "test"]
    return own, model.log_prob(judgment).detach().numpy(), judgment.chosen_BK.detach().numpy()


@pytest.mark.parametrize("backbone", ["minilm backbone.dtype=float32", "tiny"])
@pytest.mark.parametrize("name", MODELS)
def test_texts_get_the_rewards_and_probabilities_of_the_runs_own_test(name, backbone, fitted, tmp_path):
    done = fitted(*f"backbone={backbone}".split(), *MODELS[name])
    records, log_prob_B, rewards_BK = judged(done.folder, tmp_path)
    prompts = [[message.as_turn() for message in record.prompt] for record in records]
    chosen, rejected = [record.chosen for record in records], [record.rejected for record in records]
    known = {"criterion": [record.criterion for record in records]}
    if done.model.users:
        known["user"] = [record.user_id for record in records]
    elif name == "attribute_bt":
        known["weights"] = np.array([[record.attribute == head for head in done.model.heads] for record in records])
    np.testing.assert_allclose(done.model.prefer(prompts, chosen, rejected, **known), np.exp(log_prob_B), atol=1e-5)
    if not done.model.users:
        assert done.model.score(prompts, chosen).shape == rewards_BK.shape
    if name == "attribute_bt":
        return
    nll = -np.log(done.model.prefer(prompts, chosen, rejected, **known)).mean()
    assert nll == pytest.approx(done.results["test"]["nll"]["value"], abs=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("backbone.frozen=false",),
        ("backbone.frozen=false", "backbone.lora.rank=2"),
        ("backbone.store_dtype=float16",),
        ("backbone.standardise=false", "backbone.pooling=mean"),
    ],
)
def test_a_causal_backbone_scores_as_it_was_tested(options, labels, tmp_path):
    """Frozen, trained, and with low-rank updates, of a chat model whose pad token ends a turn too."""
    if "backbone.lora.rank=2" in options:
        pytest.importorskip("peft", reason="the extra peft is not installed")
    backbone = ["backbone=hf", f"backbone.model={save_llama(tmp_path / 'llama')}", "backbone.dtype=float32", *options]
    small = [f"data.train={labels}", "trainer.max_epochs=1", "trainer.limit_train_batches=2", "model.num_heads=3"]
    paths = [f"paths.run_dir={tmp_path}/run", f"paths.features_dir={tmp_path}/features"]
    done = micro_lit.fit(["data=pairs", *backbone, *small, "model/gate=linear", *paths])
    records, log_prob_B, rewards_BK = judged(done.folder, tmp_path)
    prompts = [[message.as_turn() for message in record.prompt] for record in records]
    criterion = [record.criterion for record in records]
    chosen, rejected = [record.chosen for record in records], [record.rejected for record in records]
    found = done.model.prefer(prompts, chosen, rejected, criterion=criterion)
    np.testing.assert_allclose(found, np.exp(log_prob_B), atol=1e-5)
    np.testing.assert_allclose(done.model.score(prompts, chosen), rewards_BK, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["tied", "lore", "pal_a", "vpl"])
def test_a_user_of_the_run_is_scored_by_id_and_others_are_named_as_unknown(name, fitted):
    model = fitted("backbone=minilm", *MODELS[name]).model
    assert sorted(model.users) == [f"user {n}" for n in range(4)]
    one = model.for_user("user 1")
    np.testing.assert_array_equal(one.score("hm", ["a", "b"]), model.score("hm", ["a", "b"], user="user 1"))
    several = model.score("hm", ["a", "a"], user=["user 1", "user 2"])
    assert several[0] == pytest.approx(one.score("hm", ["a"])[0], abs=1e-5)
    with pytest.raises(UserError, match="user='nobody': not among the 4 users"):
        model.score("hm", ["a"], user="nobody")
    with pytest.raises(UserError, match="user='nobody'"):
        model.for_user("nobody")


def test_codes_stay_away_where_they_are_not_to_be_shared(fitted):
    done = fitted("backbone=minilm", *MODELS["tied"], "share_codes=false")
    assert not (done.folder / codes.FILE_NAME).exists()
    assert done.model.users == []
    with pytest.raises(UserError, match="share_codes=false"):
        done.model.score("hm", ["a"], user="user 1")


def test_a_router_reads_the_criterion(fitted):
    stage1 = fitted("backbone=minilm", *MODELS["mixture"])
    router = fitted("backbone=minilm", "model=router", f"stage1={stage1.folder}").model
    plain = stage1.model.score("hm", ["a", "b"])
    np.testing.assert_allclose(router.score("hm", ["a", "b"]), plain, atol=1e-6)
    short, kind = (router.score("hm", ["a"], criterion=f"Be {word}.") for word in ("short", "kind"))
    assert short != kind


def test_rewards_are_mixed_as_asked_for(fitted):
    model = fitted("backbone=minilm", *MODELS["mixture"]).model
    rewards_NK = model.score(["x", "y"], ["a", "b"])
    assert rewards_NK.shape == (2, 3)
    np.testing.assert_allclose(model.score(["x", "y"], ["a", "b"], head=1), rewards_NK[:, 1])
    np.testing.assert_allclose(model.score(["x", "y"], ["a", "b"], head="head 2"), rewards_NK[:, 2])
    np.testing.assert_allclose(model.score(["x", "y"], ["a", "b"], weights=[1, -1, 0]), rewards_NK @ [1, -1, 0])
    own = model.score(["x", "y"], ["a", "b"], weights="gate")
    assert (own >= rewards_NK.min(axis=1)).all()
    assert (own <= rewards_NK.max(axis=1)).all()
    first, swapped = model.prefer("x", ["a"], ["b"]), model.prefer("x", ["b"], ["a"])
    np.testing.assert_allclose(first + swapped, 1.0, atol=1e-6)
    np.testing.assert_allclose(model.prefer("x", ["a"], ["a"]), 0.5, atol=1e-6)


@pytest.mark.parametrize("name", ["mixture", "tied"])
def test_scores_do_not_depend_on_what_is_scored_beside(name, fitted):
    """Padding, the size of passes and the memory of recent texts change nothing beyond rounding."""
    model = fitted("backbone=minilm", "backbone.dtype=float32", *MODELS[name]).model
    texts = ["a", "a longer answer " * 30, "b"]
    alone = np.concatenate([model.score("hm", [text]) for text in texts])
    np.testing.assert_allclose(model.score("hm", texts), alone, atol=1e-5)
    np.testing.assert_array_equal(model.score("hm", texts), model.score("hm", texts))


def test_nothing_is_written_and_a_known_text_is_not_encoded_again(fitted, monkeypatch):
    done = fitted("backbone=minilm", *MODELS["mixture"])
    model = micro_lit.load(done.folder)
    before = sorted(path for path in done.folder.parent.rglob("*"))
    model.score("hm", ["a", "b"])
    monkeypatch.setattr(model._model.backbone.live, "_encode", lambda texts: 1 / 0)
    model.score("hm", ["b", "a"])
    assert sorted(path for path in done.folder.parent.rglob("*")) == before


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: model.score("hm", []), "responses: give a list of one text or more"),
        (lambda model: model.score("hm", "abc"), "responses: give a list"),
        (lambda model: model.score(["a", "b"], ["c"]), "prompts: 2 given for 1 responses"),
        (lambda model: model.score("hm", ["a", None]), "row 1: 'response' is no text"),
        (lambda model: model.score("hm", ["a", float("nan")]), "row 1: 'response' is no text"),
        (lambda model: model.score("hm", ["a", "  "]), "row 1: 'response' is empty"),
        (lambda model: model.score("", ["a"]), "row 0: the prompt is empty"),
        (lambda model: model.score(5, ["a"]), "prompts: a int for 1 responses"),
        (lambda model: model.score("hm", ["a"], head=3), "head=3: give a number from 0 to 2"),
        (lambda model: model.score("hm", ["a"], head="nix"), "head='nix'"),
        (lambda model: model.score("hm", ["a"], head=True), "head=True"),
        (lambda model: model.score("hm", ["a"], weights=[1.0]), r"weights: of shape \[1\]; give 3 finite numbers"),
        (lambda model: model.score("hm", ["a"], weights=[1, 2, float("nan")]), "give 3 finite numbers"),
        (lambda model: model.score("hm", ["a"], weights="own"), "weights: give 3 numbers"),
        (lambda model: model.score("hm", ["a"], weights=[1, 0, 0], head=0), "head or weights, not both"),
        (lambda model: model.score("hm", ["a"], user="ada"), "user: this model learned no users"),
        (lambda model: model.score("hm", ["a"], criterion=["x", "y"]), "criterion: give one text, or one for each"),
        (lambda model: model.prefer("hm", ["a"], ["b", "c"]), "first has 1 responses and second 2"),
        (lambda model: model.prefer("hm", ["a"], ["b"], weights=[2, 0, 0]), "sum to one"),
    ],
)
def test_what_cannot_be_scored_is_named(call, message, fitted):
    with pytest.raises(UserError, match=message):
        call(fitted("backbone=minilm", *MODELS["mixture"]).model)


ODD = st.sampled_from(
    ["", " ", "a", "\x00", "\ud800", "é" * 3, "a\nb", "<|end|>", None, 5, 1.5, float("nan"), True, b"a", [], {}, ["a"],
     ("a",), [{"role": "user", "content": "hm"}], [{"role": "nix"}], [{"content": None}], {"role": "user"}]
)  # fmt: skip


@given(
    prompts=ODD | st.lists(ODD, max_size=3),
    responses=ODD | st.lists(ODD, max_size=3),
    named=st.dictionaries(st.sampled_from(["user", "criterion", "weights", "head"]), ODD | st.lists(ODD, max_size=3)),
)
@hypothesis_settings(deadline=None, max_examples=300, suppress_health_check=list(HealthCheck))
def test_whatever_is_given_there_are_finite_rewards_or_one_line(prompts, responses, named, fitted):
    model = fitted("backbone=minilm", *MODELS["mixture"]).model
    reason = None
    try:
        found = model.score(prompts, responses, **named)
    except UserError as error:
        reason = str(error)
    if reason is None:
        assert len(found) == len(responses)
        assert np.isfinite(found).all()
    else:
        assert "\n" not in reason


def test_a_text_of_ten_million_characters_is_cut_as_in_training(fitted):
    model = fitted("backbone=minilm", *MODELS["mixture"]).model
    assert np.isfinite(model.score("hm", ["word " * 2_000_000])).all()


def test_a_run_on_vectors_is_refused_in_words(settings, tmp_path):
    small = ["data.train=64", "data.validation=16", "data.test=16", "trainer.max_epochs=1"]
    done = micro_lit.fit(settings("+experiment=planted_floors_k8", *small))
    with pytest.raises(UserError, match="reads no texts"):
        micro_lit.load(done.folder)


def test_a_profile_of_personalise_gives_the_weights_of_a_person(fitted, labels, tmp_path):
    from micro_lit.personalise import __main__ as personalise

    done = fitted("backbone=minilm", "backbone.dtype=float32", *MODELS["mixture"])
    asked = tmp_path / "asked.jsonl"
    asked.write_text("\n".join(json.dumps({"prompt": "hm", "response": text}) for text in ("a", "b b b")))
    paths = [f"paths.run_dir={tmp_path}/out", f"paths.features_dir={tmp_path}/features"]
    given = [f"run={done.folder}", f"profile={tmp_path}/me.sqlite", *paths]
    personalise.run(config.compose("personalise", [*given, f"pairs={labels}"]))
    ranked = [*given, "user=user 1", f"responses={asked}"]
    found = personalise.run(config.compose("personalise", ranked))
    one = done.model.for_user("user 1", profile=tmp_path / "me.sqlite")
    expected = [row["rewards"]["after"] for row in found["responses"]]
    np.testing.assert_allclose(one.score("hm", ["a", "b b b"]), expected, atol=1e-5)
    assert one.prefer("hm", ["a"], ["a"])[0] == pytest.approx(0.5)
    with pytest.raises(UserError, match="no profile"):
        done.model.for_user("nobody", profile=tmp_path / "me.sqlite")
    with pytest.raises(UserError, match="of other heads"):
        fitted("backbone=minilm", *MODELS["sparse_moe"]).model.for_user("user 1", profile=tmp_path / "me.sqlite")
    with pytest.raises(UserError, match="no such file"):
        done.model.for_user("user 1", profile=tmp_path / "none.sqlite")
