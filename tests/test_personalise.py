"""Tests of the command `micro_lit.personalise`, on the run of a small mixture over planted text."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL_TEXT
from numpy.testing import assert_allclose, assert_array_equal

from micro_lit import train
from micro_lit.adapt.profile_store import ProfileLabels, ProfileStore
from micro_lit.adapt.profiles import RULES, Profiles
from micro_lit.compare import judges
from micro_lit.config import build, compose
from micro_lit.data.records import parse_record
from micro_lit.errors import UserError
from micro_lit.likelihood import link_of
from micro_lit.personalise import __main__ as personalise
from micro_lit.personalise import label_files
from micro_lit.report import explanations
from micro_lit.run.restored import restore

HEAD = 3
OWN = 1 + HEAD  # its place among the judges: the model as trained, then the heads


def trained(folder: Path, *overrides: str) -> Path:
    paths = (f"paths.run_dir={folder}", f"paths.features_dir={folder / 'features'}")
    train.run(compose("train", [*paths, "+experiment=mixture_k8", *SMALL_TEXT, *overrides]))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("trained") / "run")


@pytest.fixture(scope="module")
def data():
    sizes = ["data.train=1", "data.validation=1", "data.test=160"]
    return build(compose("train", ["data=planted_text", *sizes, "paths.run_dir=unused"])["data"]).load(seed=7)


@pytest.fixture(scope="module")
def model(run, data):
    return restore(run, data, run / "features")


@pytest.fixture(scope="module")
def judgment(model, data):
    with torch.no_grad():
        return model(data.split("test"))


@pytest.fixture(scope="module")
def turned_N1(judgment):
    """-1 where the labels, which are those of head 3, turn a pair round."""
    return torch.where(judgment.margins_BK[:, [HEAD]] > 0, 1.0, -1.0)


@pytest.fixture(scope="module")
def rows(turned_N1, data):
    """Pairs whose chosen response is the one that head 3 rewards more."""
    found = []
    for (_, *responses), turned in zip(data.split("test").triplets_N3.tolist(), turned_N1, strict=True):
        chosen, rejected = responses if turned > 0 else reversed(responses)
        prompt = [message.as_turn() for message in data.texts[chosen].prompt]
        texts = {"chosen": data.texts[chosen].response, "rejected": data.texts[rejected].response}
        found.append({"prompt": prompt, **texts})
    return found


@pytest.fixture
def sit(run, tmp_path):
    """Runs the command on files made of rows; what it returns is what it writes."""

    def command(*overrides: str, profile: str = "me.json", folder: Path = run, **files: list[dict]) -> dict:
        for name, content in files.items():
            (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, content)))
        given = [f"{name}={tmp_path / name}.jsonl" for name in files]
        paths = (f"paths.run_dir={tmp_path / 'out'}", f"paths.features_dir={tmp_path / 'features'}")
        settings = compose(
            "personalise", [f"run={folder}", f"profile={tmp_path / profile}", *paths, *given, *overrides]
        )
        found = personalise.run(settings)
        assert found == json.loads((tmp_path / "out" / "personalised.json").read_text())
        return found

    return command


@pytest.mark.parametrize("rule", RULES)
def test_whoever_answers_like_a_head_ends_with_most_weight_on_it(rule, sit, rows, tmp_path, capsys):
    found = sit("user=ada", f"rule={rule}", pairs=rows)
    assert (found["judges"][0], found["judges"][OWN], len(found["judges"])) == ("as trained", "head 3", 9)
    ada = found["users"]["ada"]
    assert ada["labels"] == {"before": 0, "after": 160}
    assert ada["weights"]["before"] == [1 / 2, *[1 / 16] * 8]
    after_J = np.array(ada["weights"]["after"])
    assert after_J[1:].argmax() == HEAD
    assert after_J[OWN] > (0.9 if rule == "posterior" else 0.25)
    difference = found["scores"]["difference"]
    assert difference["nll"]["value"] + 2 * difference["nll"]["se"] < 0
    assert difference["accuracy"]["value"] > 0
    stream = found["stream"]
    assert all(low <= high + 1e-9 for low, high in zip(stream["regret"], stream["bound"], strict=True))
    printed = " ".join(capsys.readouterr().out.split())
    for words in ("Weights of ada", "160 labels seen, 160 of them now", "Each pair judged before its label was seen"):
        assert words in printed
    assert f"│ head 3 │ 0.062 │ {after_J[OWN]:.3f} │" in printed
    assert f"wrote {tmp_path / 'out'}/: personalised.json" in printed
    assert found["labels"] == {"given": 160, "known": 0, "learned": 160, "changed": 0}
    with ProfileStore(tmp_path / "me.sqlite") as store:
        kept = store.profiles()
    assert (kept.users, kept.counts("ada").tolist()) == (["ada"], [160])
    assert_array_equal(kept.weights("ada"), [ada["weights"]["after"]])


def test_the_scores_are_those_of_labels_not_yet_seen(sit, rows, model, judgment, turned_N1):
    """By hand, as a mixture of the heads whose weights are the user's and the gate's: Bayes' rule, no label ahead."""
    stream = (found := sit("user=ada", pairs=rows[:20]))["stream"]
    margins_NK = (turned_N1 * judgment.margins_BK).double().numpy()[:20]
    gate_NK = judgment.log_weights_BK.double().exp().numpy()[:20]
    head_NK = 1 / (1 + np.exp(-margins_NK))
    judged_NJ = np.concatenate([(gate_NK * head_NK).sum(axis=1, keepdims=True), head_NK], axis=1)
    weights_J = np.array([1 / 2, *[1 / 16] * 8])
    for step in range(20):
        mixed_K = weights_J[1:] + weights_J[0] * gate_NK[step]
        assert stream["personalised"][step] == pytest.approx(np.log(mixed_K @ head_NK[step]), abs=1e-5)
        assert stream["as_trained"][step] == pytest.approx(np.log(judged_NJ[step, 0]), abs=1e-5)
        weights_J = weights_J * judged_NJ[step]
        weights_J /= weights_J.sum()
    assert found["scores"]["personalised"]["nll"]["value"] == pytest.approx(-np.mean(stream["personalised"]))
    assert [row["labels"] for row in found["running"]] == [1, 2, 4, 8, 16, 20]
    assert found["running"][2]["as_trained"]["nll"] == pytest.approx(-np.mean(stream["as_trained"][:4]))
    assert found["running"][-1]["personalised"]["nll"] == pytest.approx(-np.mean(stream["personalised"]))


def test_whatever_the_labels_they_cost_at_most_log_two_against_the_model_as_trained(sit, rows):
    """Labels that contradict head 3, and then those that agree with it, and coins."""
    generator = np.random.default_rng(0)
    against = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in rows]
    coins = [both[generator.integers(2)] for both in zip(rows, against, strict=True)]
    for name, stream in (("turning", against[:80] + rows[80:]), ("coins", coins)):
        stream = sit("user=ada", profile=f"{name}.json", pairs=stream)["stream"]
        cost_N = np.cumsum(np.array(stream["as_trained"]) - stream["personalised"])
        assert cost_N.max() <= math.log(2.0) + 1e-9


@pytest.mark.parametrize("link", ["probability", "reward"])
def test_the_model_as_everybody_gets_it_is_the_first_judge(link, model, data, judgment, monkeypatch):
    monkeypatch.setattr(model, "link", link_of(link))
    judged = judges.judge_pairs(model, data.split("test"), 50)
    log_prob_N = model.log_prob(judgment)
    assert_allclose(-np.logaddexp(0.0, -judged.margins_BJ[:, 0]), log_prob_N.numpy(), atol=1e-5)
    assert_allclose(judged.margins_BJ[:, 1:], judgment.margins_BK.numpy(), atol=1e-5)
    reward_N = (judgment.log_weights_BK.exp() * judgment.chosen_BK).sum(dim=1)
    assert_allclose(judged.rewards_BJ, torch.cat([reward_N[:, None], judgment.chosen_BK], dim=1), atol=1e-5)


def test_two_sittings_end_as_one(sit, rows):
    """To the rounding of the transformer, which depends on what else is in the batch."""
    whole = sit("user=ada", profile="whole.json", pairs=rows[:40])
    first = sit("user=ada", pairs=rows[:15])
    second = sit("user=ada", pairs=rows[15:40])
    assert second["users"]["ada"]["labels"] == {"before": 15, "after": 40}
    assert second["users"]["ada"]["weights"]["before"] == first["users"]["ada"]["weights"]["after"]
    for name in ("personalised", "regret", "bound", "label"):
        assert_allclose(first["stream"][name] + second["stream"][name], whole["stream"][name], atol=1e-4)
    assert_allclose(second["users"]["ada"]["weights"]["after"], whole["users"]["ada"]["weights"]["after"], rtol=1e-4)


def test_many_users_at_once_are_as_each_alone(sit, rows, capsys):
    named = [{**row, "user_id": f"user {number % 7}"} for number, row in enumerate(rows[:50])]
    found = sit(pairs=named)
    assert [facts["labels"]["after"] for facts in found["users"].values()] == [8, 7, 7, 7, 7, 7, 7]
    alone = sit("user='user 2'", profile="alone.json", pairs=[row for row in named if row["user_id"] == "user 2"])
    weights = found["users"]["user 2"]["weights"]["after"]
    assert_allclose(alone["users"]["user 2"]["weights"]["after"], weights, rtol=1e-4)
    means = [-np.mean([x for x, user in zip(found["stream"]["personalised"], found["stream"]["user"], strict=True)
                       if user == name]) for name in found["users"]]  # fmt: skip
    nll = found["scores"]["personalised"]["nll"]
    assert (nll["value"], nll["n"]) == (pytest.approx(np.mean(means)), 7)
    assert nll["se"] == pytest.approx(np.std(means, ddof=1) / math.sqrt(7))
    assert "Weights of 7 users, on average" in capsys.readouterr().out


def test_responses_are_ranked_by_the_weights_before_and_after(sit, rows, judgment, turned_N1, capsys):
    candidates = [{"prompt": row["prompt"], "response": row[key]} for row in rows[:6] for key in ("chosen", "rejected")]
    found = sit("user=ada", pairs=rows[6:], responses=candidates)
    rewards_NK = torch.where(turned_N1 > 0, judgment.chosen_BK, judgment.rejected_BK).double().numpy()[:6]
    trained_N = (judgment.log_weights_BK.double().exp().numpy()[:6] * rewards_NK).sum(axis=1)
    rewards_NJ = np.concatenate([trained_N[:, None], rewards_NK], axis=1)
    for number, facts in enumerate(found["responses"][::2]):
        assert (facts["prompt"], facts["response"]) == (rows[number]["prompt"], rows[number]["chosen"])
        for when in ("before", "after"):
            weights_J = found["users"]["ada"]["weights"][when]
            assert facts["rewards"][when] == pytest.approx(rewards_NJ[number] @ weights_J, abs=1e-5)
        assert facts["rewards"]["as_trained"] == pytest.approx(trained_N[number], abs=1e-5)
    for best, other in zip(found["responses"][::2], found["responses"][1::2], strict=True):
        for when in ("as_trained", "before", "after"):
            expected = [1, 2] if best["rewards"][when] > other["rewards"][when] else [2, 1]
            assert [best["ranks"][when], other["ranks"][when]] == expected
        assert best["ranks"]["after"] == 1
    assert "Rewards for ada, after 154 labels" in capsys.readouterr().out


def test_reading_teaches_nothing(sit, rows, tmp_path, capsys):
    candidates = [{"prompt": "What shall I cook?", "response": text} for text in ("Rice.", "Soup, of course.", "Rice.")]
    before = sit("user=ada", responses=candidates)
    assert before["users"]["ada"]["labels"] == {"before": 0, "after": 0}
    assert not (tmp_path / "me.sqlite").exists()
    first, _, again = before["responses"]
    assert first == again
    sit("user=ada", pairs=rows[:5])
    kept = (tmp_path / "me.sqlite").read_bytes()
    capsys.readouterr()
    sit("user=ada", responses=candidates)
    assert (tmp_path / "me.sqlite").read_bytes() == kept
    printed = capsys.readouterr().out
    assert "Weights of" not in printed
    assert "Rewards for ada, after 5 labels" in printed


def test_the_figure_is_left_out_without_matplotlib(sit, rows, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(explanations, "sheets", None)
    for name in ("figures", "regret"):
        monkeypatch.delitem(sys.modules, f"micro_lit.report.{name}", raising=False)
        monkeypatch.delattr(f"micro_lit.report.{name}", raising=False)
    sit("user=ada", pairs=rows[:3])
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"personalised.json", "explanations.md", "explanations.json"}
    assert "pip install 'micro-lit[report]'" in capsys.readouterr().out


def test_the_figures_are_written(sit, rows, tmp_path):
    pytest.importorskip("matplotlib", reason="the extra report is not installed")
    sit("user=ada", pairs=rows[:3])
    files = [f"{name}.{suffix}" for name in ("figure", "explanations") for suffix in ("png", "svg")]
    files += ["personalised.json", "explanations.md", "explanations.json"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*files}


def test_labels_of_one_user_explain_how_the_weights_moved(sit, rows, tmp_path, capsys):
    """Of a second sitting too, and with the texts of the labels that argued most."""
    sit("user=ada", pairs=rows[:30])
    capsys.readouterr()
    found = sit("user=ada", pairs=rows[30:90])
    [(user, target)] = found["explanation"]["targets"].items()
    assert (user, target["labels"]) == ("ada", 60)
    assert list(target["after"]) == found["judges"]
    for when in ("before", "after"):
        assert list(target[when].values()) == found["users"]["ada"]["weights"][when]
    before_J, evidence_J = (np.array(list(target[name].values())) for name in ("before", "evidence"))
    after_J = before_J * np.exp(evidence_J)
    assert_allclose(after_J / after_J.sum(), list(target["after"].values()), rtol=1e-6)
    first = target["gained"][0]
    assert first["head"] == f"head {HEAD}"
    for pair in (*first["for"], *first["against"]):
        row = rows[30 + pair["pair"]]
        assert (pair["chosen"], pair["rejected"]) == (row["chosen"], row["rejected"])
        assert pair["prompt"] == "\n".join(message["content"] for message in row["prompt"])
    assert json.loads((tmp_path / "out" / "explanations.json").read_text()) == found["explanation"]
    assert (tmp_path / "out" / "explanations.md").read_text().startswith("# What moved the weights of ada\n")
    printed = " ".join(capsys.readouterr().out.split())
    assert f"Labels that argued most for head {HEAD} ({first['change']:+.3f}), and against it" in printed
    assert f"│ {first['for'][0]['pair']} │ {first['for'][0]['nats']:+.2f} │" in printed


def test_many_users_are_not_explained_one_by_one(sit, rows, tmp_path):
    found = sit(pairs=[{**row, "user_id": f"user {number % 3}"} for number, row in enumerate(rows[:9])])
    assert "explanation" not in found
    assert not (tmp_path / "out" / "explanations.md").exists()


def test_the_fingerprint_is_that_of_all_that_judges(model, run, data, monkeypatch):
    name = judges.heads_fingerprint(model)
    assert name.startswith("8-")
    assert judges.heads_fingerprint(restore(run, data, run / "features")) == name
    weights = model.state_dict()
    for part in ("head.", "backbone.", "gate."):
        key = next(key for key in weights if key.startswith(part))
        before = weights[key].clone()
        weights[key].view(-1)[0] += 1e-3
        assert judges.heads_fingerprint(model) != name
        weights[key].copy_(before)
    assert judges.heads_fingerprint(model) == name
    monkeypatch.setattr(model, "link", link_of("reward"))
    assert judges.heads_fingerprint(model) != name


def refused(message, sit, *overrides, **files):
    with pytest.raises(UserError, match=message) as caught:
        sit(*overrides, **files)
    assert "\n" not in str(caught.value)


def test_profiles_of_other_heads_are_refused(sit, rows, tmp_path, tmp_path_factory):
    sit("user=ada", pairs=rows[:3])
    kept = (tmp_path / "me.sqlite").read_bytes()
    other = trained(tmp_path_factory.mktemp("other") / "run", "model.num_heads=2", "trainer.max_epochs=1")
    message = r"^profile=.*me.sqlite: its profiles are of other heads \(8-"
    refused(message, sit, "user=ada", folder=other, pairs=rows[:3])
    (tmp_path / "me.sqlite").write_bytes(kept[:-4096])
    refused(r"^profile=.*me.sqlite: .*start a new one under another name$", sit, "user=ada", pairs=rows[:3])
    assert (tmp_path / "me.sqlite").read_bytes() == kept[:-4096]


def test_one_head_is_nothing_to_personalise(sit, rows, tmp_path_factory):
    single = trained(tmp_path_factory.mktemp("single") / "run", "model=single_bt", "trainer.max_epochs=1")
    refused("one head, nothing to personalise", sit, "user=ada", folder=single, pairs=rows[:3])


def test_a_profile_is_kept_by_one_rule(sit, rows):
    sit("user=ada", pairs=rows[:3])
    message = r"^profile=.*me.sqlite: kept by the rule posterior; give rule=posterior, or another file"
    refused(message, sit, "user=ada", "rule=hedge", pairs=rows)


def test_mistakes_are_named(sit, rows, tmp_path):
    bobs = [{**rows[0], "user_id": "bob"}]
    candidates = [{"prompt": "What?", "response": "That."}]
    refused("not the folder of a run", sit, "user=ada", folder=tmp_path, pairs=rows[:3])
    refused("nothing to do: give pairs=", sit)
    refused("a row without user_id; .* user=<name>", sit, pairs=[*bobs, rows[1]])
    refused("labels of 'bob' are not those of user=ada", sit, "user=ada", pairs=[rows[1], *bobs])
    refused("responses are ranked for one user", sit, responses=candidates)
    refused("row 2: column 'response' is missing", sit, "user=ada", responses=[*candidates, {"prompt": "What?"}])
    refused("row 1: column 'prompt' is missing", sit, "user=ada", responses=[{"response": "That."}])
    refused("row 1: 'response' is empty", sit, "user=ada", responses=[{"prompt": "What?", "response": " "}])
    refused("row 1: the line holds no object", sit, "user=ada", responses=[[]])
    refused("responses.jsonl: no responses", sit, "user=ada", responses=[])
    refused("no column 'chosen' and 'rejected'; it has prompt", sit, "user=ada", pairs=[{"prompt": "What?"}])
    refused("no such file", sit, "user=ada", f"pairs={tmp_path / 'none.jsonl'}")
    refused("^run: no value given", sit, "run=null", "user=ada", pairs=rows[:3])
    refused("^forget=ada: not together with pairs or responses", sit, "forget=ada", pairs=rows[:3])
    refused("^export='me.sqlite' is not allowed; give the name of a file that ends in .json", sit, "export=me.sqlite")
    refused("^repeated_labels='twice' is not allowed; give one of skip, count", sit, "repeated_labels=twice")
    refused(r"^user=1.5 is not allowed; give a name, .* two kinds of quotes", sit, "user=1.5", pairs=rows[:3])
    assert not (tmp_path / "me.sqlite").exists()


def test_columns_of_other_names_and_numbers_for_users(sit, rows):
    renamed = [{"asked": row["prompt"], "chosen": row["chosen"], "rejected": row["rejected"], "who": 7} for row in rows]
    found = sit("+columns.prompt=asked", "+columns.user_id=who", pairs=renamed[:4])
    assert found["users"]["7"]["labels"]["after"] == 4
    assert sit("user=7", responses=[{"prompt": "What?", "response": "That."}])["users"]["7"]["labels"]["before"] == 4


def test_nothing_is_learned_when_nothing_can_be_written(sit, rows, tmp_path):
    (tmp_path / "out").touch()
    refused(r"^paths.run_dir=.*out: cannot be written", sit, "user=ada", pairs=rows[:3])
    with ProfileStore(tmp_path / "me.sqlite") as store:
        assert store.users == []
    (tmp_path / "out").unlink()
    (tmp_path / "file").touch()
    message = r"^profile=.*file/me.sqlite: cannot be written"
    refused(message, sit, "user=ada", profile="file/me.json", pairs=rows[:3])
    (tmp_path / "busy.json").mkdir()
    refused(r"^export=.*busy.json: cannot", sit, "user=ada", f"export={tmp_path / 'busy.json'}", pairs=rows[:3])
    assert sit("user=ada", pairs=rows[:3])["users"]["ada"]["labels"] == {"before": 0, "after": 3}


def test_the_api_reads_what_the_command_wrote(sit, rows, model, tmp_path):
    sit("user=ada", f"export={tmp_path / 'out.json'}", pairs=rows[:10])
    people = Profiles.load(tmp_path / "out.json", judges.heads_fingerprint(model))
    assert people.users == ["ada"]
    assert_array_equal(people.counts(["ada", "bob"]), [10, 0])
    with ProfileStore(tmp_path / "me.sqlite") as store:
        assert store.heads == people.heads
        assert_array_equal(store.profiles().weights("ada"), people.weights("ada"))


def test_labels_that_were_given_before_change_nothing(sit, rows, tmp_path, capsys):
    first = sit("user=ada", pairs=rows[:8])
    kept = (tmp_path / "me.sqlite").read_bytes()
    again = sit("user=ada", pairs=rows[:8])
    printed = " ".join(capsys.readouterr().out.split())
    assert "8 of 8 labels were known: nothing has changed" in printed
    assert "8 labels seen, 0 of them now" in printed
    assert (tmp_path / "me.sqlite").read_bytes() == kept
    assert again["labels"] == {"given": 8, "known": 8, "learned": 0, "changed": 0}
    ada = again["users"]["ada"]
    assert ada["labels"] == {"before": 8, "after": 8}
    assert ada["weights"]["before"] == ada["weights"]["after"] == first["users"]["ada"]["weights"]["after"]
    assert not {"stream", "running", "scores", "explanation"} & set(again)
    turned = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in rows[:2]]
    more = sit("user=ada", pairs=[*rows[4:9], *turned, rows[9], rows[9]])
    assert more["labels"] == {"given": 9, "known": 5, "learned": 4, "changed": 0}
    assert more["users"]["ada"]["labels"] == {"before": 8, "after": 12}
    assert (more["stream"]["label"], more["stream"]["user"]) == ([9, 10, 11, 12], ["ada"] * 4)
    [target] = more["explanation"]["targets"].values()
    numbers = {pair["pair"]: pair["chosen"] for head in target["gained"] for pair in (*head["for"], *head["against"])}
    assert numbers
    given = {4: rows[8], 5: turned[0], 6: turned[1], 7: rows[9]}
    assert numbers.items() <= {number: row["chosen"] for number, row in given.items()}.items()
    assert "5 of 9 labels were known\n" in capsys.readouterr().out


def test_repeated_labels_may_count_and_ids_say_which_are_the_same(sit, rows, capsys):
    twice = [rows[0], rows[0], {**rows[1], "label_id": "x"}, {**rows[2], "label_id": "x"}]
    first = sit("user=ada", "repeated_labels=count", pairs=twice)
    assert first["labels"] == {"given": 4, "known": 1, "learned": 3, "changed": 1}
    told = "1 of 4 labels were known; 1 of them with the label_id of a label of other content, which stays as it is"
    assert told in " ".join(capsys.readouterr().out.split())
    assert sit("user=ada", "repeated_labels=count", pairs=twice)["users"]["ada"]["labels"]["after"] == 5
    assert sit("user=ada", pairs=twice)["labels"]["learned"] == 0
    assert sit("user=ada", "+columns.label_id=vote", pairs=[{**rows[3], "vote": "x"}])["labels"]["learned"] == 0


def test_a_label_is_known_by_all_that_makes_it():
    texts = {"prompt": "Tea?", "chosen": "Yes.", "rejected": "No."}
    variants = [
        ("ada", texts),
        ("bob", texts),
        ("ada", {**texts, "criterion": "Be short."}),
        ("ada", {**texts, "chosen": "No.", "rejected": "Yes."}),
        ("ada", {**texts, "prompt": [{"role": "system", "content": "Tea?"}]}),
        ("ada", {**texts, "rejected": "No"}),
    ]
    digests = [label_files.label_digest(user, parse_record(row)) for user, row in variants]
    assert len(set(digests)) == len(digests)
    other = {**texts, "user_id": "ada", "pair_id": "p", "rating_gap": 2, "source": "x", "label_id": "y", "group": "z"}
    assert label_files.label_digest("ada", parse_record(other)) == digests[0]
    # Digests are kept in files: they may not change.
    assert digests[0].hex() == "bc535b593060fb94fa8acd3eac028d83"


def test_what_another_process_learned_meanwhile_is_counted(sit, rows, tmp_path, monkeypatch):
    """It learns after the file was opened, and before the labels are."""
    sit("user=ada", pairs=rows[:3])
    judge, generator = judges.judge_pairs, np.random.default_rng(0)

    def judge_late(*arguments):
        with ProfileStore(tmp_path / "me.sqlite") as other:
            other.learn(ProfileLabels(["ada", "bob"], generator.normal(size=(2, 9)), [b"1", b"2"], [None] * 2))
        return judge(*arguments)

    monkeypatch.setattr(judges, "judge_pairs", judge_late)
    found = sit("user=ada", pairs=rows[3:6])
    assert found["users"]["ada"]["labels"] == {"before": 4, "after": 7}
    assert found["stream"]["label"] == [5, 6, 7]
    with ProfileStore(tmp_path / "me.sqlite") as store:
        assert store.users == ["ada", "bob"]
        assert_array_equal(store.profiles().weights("ada"), [found["users"]["ada"]["weights"]["after"]])


def test_new_users_are_named_with_those_who_are_spelt_alike(sit, rows, capsys):
    candidates = [{"prompt": "What?", "response": "That."}]
    sit("user=ada", pairs=rows[:2])
    assert "new user: ada\n" in capsys.readouterr().out
    sit("user=ada", pairs=rows[2:4])
    assert "new user" not in capsys.readouterr().out
    sit("user=adaa", responses=candidates)
    assert "new user: adaa (known: ada)\n" in capsys.readouterr().out
    sit(pairs=[{**row, "user_id": name} for row, name in zip(rows, ("bob", "Ada", "ada"), strict=False)])
    assert "new user: bob\nnew user: Ada (known: ada)\n" in capsys.readouterr().out
    sit(pairs=[{**row, "user_id": f"person {number}\x1b"} for number, row in enumerate(rows[:9])])
    printed = capsys.readouterr().out
    assert "new user: 'person 0\\x1b'\n" in printed
    assert printed.count("new user: ") == 5
    assert "and 4 more new users\n" in printed


def old_profiles(path, model, rows):
    """A file of JSON, as older versions wrote them, that fits the run."""
    people = judges.empty_profiles(model, "posterior")
    people.learn(["ada", "bob", "ada"], np.random.default_rng(1).normal(size=(3, 9)))
    people.save(path)
    return people


def test_profiles_in_json_go_on_in_a_store_beside_them(sit, rows, model, tmp_path, capsys):
    people = old_profiles(tmp_path / "me.json", model, rows)
    before = (tmp_path / "me.json").read_bytes()
    candidates = [{"prompt": "What?", "response": text} for text in ("That.", "This.")]
    ranked = sit("user=ada", responses=candidates)
    assert ranked["users"]["ada"]["labels"] == {"before": 2, "after": 2}
    assert ranked["users"]["ada"]["weights"]["before"] == people.weights("ada")[0].tolist()
    assert not (tmp_path / "me.sqlite").exists()
    found = sit("user=ada", f"export={tmp_path / 'out.json'}", pairs=rows[:4])
    printed = capsys.readouterr().out
    assert f"profiles: {tmp_path / 'me.json'}; the first labels import it" in printed
    assert f"profiles: {tmp_path / 'me.sqlite'}, with 2 users imported from {tmp_path / 'me.json'}" in printed
    assert (found["profile"], found["store"]) == (str(tmp_path / "me.json"), str(tmp_path / "me.sqlite"))
    assert found["users"]["ada"]["labels"] == {"before": 2, "after": 6}
    assert sit("user=ada", pairs=rows[:4])["labels"]["known"] == 4
    assert f"profiles: {tmp_path / 'me.sqlite'}\n" in capsys.readouterr().out
    exported = Profiles.load(tmp_path / "out.json", people.heads)
    assert_array_equal(exported.weights("bob"), people.weights("bob"))
    assert exported.weights("ada")[0].tolist() == found["users"]["ada"]["weights"]["after"]
    assert (tmp_path / "me.json").read_bytes() == before


def test_a_person_can_be_forgotten(sit, rows, tmp_path, capsys):
    sit(pairs=[{**row, "user_id": ("ada of nowhere", "bob")[number % 2]} for number, row in enumerate(rows[:9])])
    capsys.readouterr()
    done = keep(tmp_path, "forget=ada of nowhere", f"export={tmp_path / 'out.json'}")
    assert done == {"forgotten": {"user": "ada of nowhere", "labels": 5}, "exported": str(tmp_path / "out.json")}
    printed = capsys.readouterr().out
    assert "forgot ada of nowhere and 5 labels" in printed
    assert f"exported 1 users to {tmp_path / 'out.json'}" in printed
    for name in ("me.sqlite", "out.json"):
        assert b"nowhere" not in (tmp_path / name).read_bytes()
    assert not list(tmp_path.glob("me.sqlite-*"))
    again = sit("user='ada of nowhere'", pairs=[rows[0]])
    assert again["users"]["ada of nowhere"]["labels"] == {"before": 0, "after": 1}


def keep(tmp_path, *overrides):
    """The command without a run."""
    given = [f"profile={tmp_path / 'me.json'}", f"paths.run_dir={tmp_path / 'kept'}", *overrides]
    found = personalise.run(compose("personalise", given))
    assert not (tmp_path / "kept").exists()
    return found


def test_forgetting_says_what_is_left(model, rows, tmp_path, capsys):
    old_profiles(tmp_path / "me.json", model, rows)
    with pytest.raises(UserError, match=r"^forget=Ada: no such user in .*me.sqlite; known: ada$"):
        keep(tmp_path, "forget=Ada")
    with pytest.raises(UserError, match=r"^forget=7: no such user in .*me.sqlite$"):
        keep(tmp_path, "forget=7")
    assert keep(tmp_path, "forget=ada") == {"forgotten": {"user": "ada", "labels": 2}}
    path = tmp_path / "me.json"
    assert f"{path} is left as it is, and may hold this user still: delete it, or add export={path}" in (
        capsys.readouterr().out
    )
    assert Profiles.load(path).users == ["ada", "bob"]
    assert keep(tmp_path, f"export={path}") == {"exported": str(path)}
    assert Profiles.load(path).users == ["bob"]
    with pytest.raises(UserError, match=r"^profile=.*none.sqlite: no such file$"):
        keep(tmp_path, "forget=ada", f"profile={tmp_path / 'none.sqlite'}")
    with pytest.raises(UserError, match=r"^nothing to do: give pairs="):
        keep(tmp_path)


def test_help_and_errors_are_quick_and_one_line(tmp_path):
    command = [sys.executable, "-X", "importtime", "-m", "micro_lit.personalise"]
    shown, refused = (
        subprocess.run([*command, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
        for arguments in (["--help"], ["profile=x", "pairs=y.jsonl"])
    )
    assert "python -m micro_lit.personalise" in shown.stdout
    assert (shown.returncode, refused.returncode) == (0, 1)
    for answer in (shown, refused):
        imported = {line.rsplit("|", 1)[-1].strip() for line in answer.stderr.splitlines() if "import time:" in line}
        assert not {"torch", "transformers", "pytorch_lightning", "pyarrow"} & imported
    errors = [line for line in refused.stderr.splitlines() if "import time:" not in line]
    assert errors == ["error: run: no value given; set it on the command line or in your YAML"]
    assert list(tmp_path.rglob("*.sqlite")) == []
