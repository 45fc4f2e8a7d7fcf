"""What the backbone of a run reads: texts that were cut, and pairs of which it reads two equal responses."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import save_llama

from micro_lit import encode, train
from micro_lit.config import build
from micro_lit.data.pairs import Counts, Text, from_records
from micro_lit.data.records import Message, Record
from micro_lit.errors import UserError
from micro_lit.features.pretrained import Pretrained
from micro_lit.features.store import FeatureStore, _checksum, _shard_name
from micro_lit.report import terminal
from micro_lit.run import run_folder
from micro_lit.run.run import Run

COMMON = "It depends on the cat, and on the day, and on you. " * 40
FAST = ("data=pairs", "loader.batch_size=8", "trainer.max_epochs=1", "data.validation_fraction=0.2",
        "data.test_fraction=0.2")  # fmt: skip


def rows(count: int, same: int) -> list[dict[str, str]]:
    """So many pairs, of which some differ only at the end of long responses."""
    return [
        {"prompt": f"What is {number}?", "chosen": f"{long}A number.", "rejected": f"{long}Rain."}
        for number in range(count)
        for long in [COMMON if number < same else ""]
    ]


def write(path: Path, count: int, same: int) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(count, same)))
    return path


@pytest.fixture(params=["tiny", "frozen", "trained"])
def backbone(request, tmp_path) -> list[str]:
    if request.param == "tiny":
        return ["backbone=tiny", "backbone.hidden=16", "backbone.max_length=64"]
    model = save_llama(tmp_path / "llama")
    frozen = f"backbone.frozen={str(request.param == 'frozen').lower()}"
    return ["backbone=hf", f"backbone.model={model}", "backbone.max_length=64", "backbone.dtype=float32", frozen]


def test_pairs_of_the_same_tokens_are_dropped_and_counted(settings, tmp_path, backbone, capsys):
    test = write(tmp_path / "test.jsonl", 9, 4)
    files = (f"data.train={write(tmp_path / 'train.jsonl', 60, 20)}", f"data.test={test}")
    run = settings(*FAST, *files, *backbone)
    train.run(run)
    found = json.loads((tmp_path / "run" / "results.json").read_text())["data"]
    assert found["test"] == 5
    assert found["train"] + found["validation"] == 40
    assert found["same_tokens"] == 24
    assert sum(each["same_tokens"] for each in found["sets"].values()) == 24
    assert found["truncated"] >= 40
    shown = capsys.readouterr().out
    assert "pairs dropped: both responses are the same tokens" in shown
    assert "cut to backbone.max_length=64: 0 lost the beginning of their prompt" in shown
    with Run(settings(*FAST, *files, *backbone, "overwrite=true")) as again:
        texts = again.data.texts
        for pairs in (again.datamodule.train_pairs, *map(again.data.split, ("train", "validation", "test"))):
            assert not any(COMMON in texts[row].response for row in pairs.chosen_N.tolist())


def test_a_split_of_the_same_tokens_alone_is_an_error(settings, tmp_path, backbone):
    path = write(tmp_path / "train.jsonl", 12, 12)
    with pytest.raises(UserError, match=r"the train split is empty: .*backbone.max_length=64.*; raise") as error:
        Run(settings(*FAST, f"data.train={path}", *backbone))
    assert "same tokens" in str(error.value)


def test_a_backbone_is_standardised_over_the_pairs_that_are_left(tmp_path):
    model = save_llama(tmp_path / "llama")
    prompt = (Message("user", "What is it?"),)
    records = [
        Record(prompt, "A number.", "Rain."),
        Record((Message("user", "Why?"),), f"{COMMON}A.", f"{COMMON}B."),
    ]
    both, first = (from_records(each, ["train"] * len(each), {}) for each in (records, records[:1]))
    made = [
        Pretrained(str(model), max_length=64, dtype="float32").prepare(data, tmp_path / "features")
        for data in (both, first)
    ]
    assert torch.equal(made[0].response_scale, made[1].response_scale)
    assert torch.equal(made[0].response_shift, made[1].response_shift)


def forget(folder: Path) -> None:
    """Makes shards those of an earlier version, which did not hold what became of a text."""
    store = FeatureStore(folder.parent, json.loads((folder / "manifest.json").read_text())["spec"])
    tensors = [load_file(path) for path in folder.glob("*.safetensors")]
    for path in [*folder.glob("*.safetensors"), folder / "manifest.json"]:
        path.unlink()
    for number, found in enumerate(tensors):
        path = folder / f"{number}.safetensors"
        save_file({name: found[name] for name in ("features", "digests", "truncated")}, path)
        path.rename(folder / _shard_name(_checksum(path)))
    store._tidy()


def test_features_of_before_are_used_as_far_as_they_hold(tmp_path):
    """Of a chat: whole texts, for what is cut has changed; of a plain text all. Their tokens are made again."""
    chat = save_llama(tmp_path / "chat")
    plain = save_llama(tmp_path / "plain")
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        path = plain / name
        if path.suffix == ".jinja":
            path.unlink(missing_ok=True)
        else:
            found = json.loads(path.read_text())
            found.pop("chat_template", None)
            path.write_text(json.dumps(found))
    texts = [Text((Message("user", "What is it?"),), response) for response in ("Rain.", f"{COMMON}A.", f"{COMMON}B.")]
    for model, again in ((chat, [False, True, True]), (plain, [False, False, False])):
        made = Pretrained(str(model), max_length=64, dtype="float32")
        assert made.tokenizer().is_chat == (model == chat)
        before = made.encode(texts, tmp_path / "features")
        expected = made.reading(texts, before)
        assert expected.digests_M[1] == expected.digests_M[2]
        assert expected.cut_M2.tolist() == [[False, False], [False, True], [False, True]]
        forget(before.folder)
        [old] = before.folder.glob("*.safetensors")
        table = made.encode(texts, tmp_path / "features")
        found = made.reading(texts, table)
        assert torch.equal(found.digests_M, expected.digests_M)
        assert torch.equal(found.cut_M2, expected.cut_M2)
        assert (table.tokens_M != 0).tolist() == again
        assert old.exists()


def test_encoding_counts_them_too(settings, tmp_path, capsys):
    path = write(tmp_path / "train.jsonl", 12, 4)
    model = save_llama(tmp_path / "llama")
    backbone = ("backbone=hf", f"backbone.model={model}", "backbone.max_length=64")
    encode.run(settings("data=pairs", f"data.train={path}", *backbone, config="encode"))
    assert "4 pairs dropped: both responses are the same tokens" in capsys.readouterr().out


def test_the_table_says_at_which_end_texts_were_cut(capsys):
    records = [Record((Message("user", "Why?"),), "a", "b"), Record((Message("user", "How?"),), "a", "b")]
    data = from_records(records, ["train"] * 2, {"made": Counts(rows=2)})
    cut_M2 = torch.zeros(len(data.texts), 2, dtype=torch.bool)
    cut_M2[0, 0] = cut_M2[1, 0] = cut_M2[1, 1] = cut_M2[2, 1] = cut_M2[4, 1] = True
    data.count_cut(cut_M2, 256)
    terminal.show_data(data, None)
    assert (
        "4 texts cut to backbone.max_length=256: 2 lost the beginning of their prompt, 3 the end of their response"
        in capsys.readouterr().out
    )
    data.count_cut(torch.zeros_like(cut_M2), 256)
    terminal.show_data(data, None)
    assert "max_length" not in capsys.readouterr().out


def test_a_chat_template_is_a_setting(settings, tmp_path):
    """What its file holds counts, as the content of data does."""
    model, path = save_llama(tmp_path / "llama"), tmp_path / "mine.jinja"
    common = ("data=pairs", "data.train=none", "backbone=hf", f"backbone.model={model}")
    run = settings(*common, f"backbone.chat_template={path}")
    assert settings(*common)["backbone"]["chat_template"] is None
    found = []
    for template in ("Q: {{ messages[0].content }}", "Question: {{ messages[0].content }}"):
        path.write_text(template)
        as_text = settings(*common, f"backbone.chat_template='{template}'")
        for each in (run, as_text):
            assert build(each["backbone"]).tokenizer().render(Text((Message("user", "Why?"),)))[0] == (
                template.replace("{{ messages[0].content }}", "Why?")
            )
        found.append(run_folder.digests(run)["backbone.chat_template"])
        assert "backbone.chat_template" not in run_folder.digests(as_text)
    assert found[0] != found[1]
