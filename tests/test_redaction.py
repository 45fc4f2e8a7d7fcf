"""Tests of `micro_lit.config.redaction`: what is hidden, what is not, and where a planted secret must not be found."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import SMALL_FEATURES
from hypothesis import given
from hypothesis import strategies as st

from micro_lit.config import config_dir
from micro_lit.config.redaction import HIDDEN, hidden_in, redact, redact_yaml
from micro_lit.run import checkpoints


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ({"api_key": "x"}, {"api_key": HIDDEN}),
        ({"hf_token": "x", "accessToken": "x"}, {"hf_token": HIDDEN, "accessToken": HIDDEN}),
        ({"TOKENS": ["x", "y"]}, {"TOKENS": [HIDDEN, HIDDEN]}),
        ({"credentials": {"user": "me", "more": ["x", 1]}}, {"credentials": {"user": HIDDEN, "more": [HIDDEN, 1]}}),
        ({"tokenizer": "me/them", "token_budget": 8192, "keyboard": "x"}, None),
        ({"password": None, "secret": ""}, None),
        ("https://me:pass@host/path", f"https://{HIDDEN}@host/path"),
        ("git+https://ghp_x@github.com/a/b@v1", f"git+https://{HIDDEN}@github.com/a/b@v1"),
        ("https://host/a?x=1&access_token=y&z=2", f"https://host/a?x=1&access_token={HIDDEN}&z=2"),
        ("s3://bucket/folder/file@1.parquet", None),
        ("me@example.org", None),
        (["--x", "https://a:b@c"], ["--x", f"https://{HIDDEN}@c"]),
        ("https://me:pa@ss@host/x", f"https://{HIDDEN}@host/x"),
        ("https://host/a@b", None),
        ("https://host/a?sv=1&sig=abc%2B&se=2", f"https://host/a?sv=1&sig={HIDDEN}&se=2"),
        ("https://host/a?monkey=3#turkey=4", None),
        ({"https://me:pw@host": 1}, {f"https://{HIDDEN}@host": 1}),
        ("+callbacks.mine.api_key=abc", f"+callbacks.mine.api_key={HIDDEN}"),
        ("+callbacks.mine.apiKey='a b',seed=1", f"+callbacks.mine.apiKey='{HIDDEN}',seed=1"),
        ("+a={api_key:abc,more:1}", f"+a={{api_key:{HIDDEN},more:1}}"),
        ("loader.token_budget=8192", None),
        ("loader.token_budget=null", None),
        ("backbone.tokenizer=me/them", None),
        ('{"api_key": "a b"}', f'{{"api_key": "{HIDDEN}"}}'),
        ("{'accessToken': 'abc'}", f"{{'accessToken': '{HIDDEN}'}}"),
        ("api_key: abcdefg1", f"api_key: {HIDDEN}"),
        ("The key: be nice, and keep the secret: never tell it", None),
        ("Authorization: Bearer abcd.1234", f"Authorization: {HIDDEN}"),
        ("authorization: Basic dXNlcjpwdw==", f"authorization: {HIDDEN}"),
        ({"headers": {"Authorization": "Bearer x"}}, {"headers": {"Authorization": HIDDEN}}),
        ("curl -H 'X: bearer abcd1234efgh'", f"curl -H 'X: bearer {HIDDEN}'"),
        ("a bearer of certificates", None),
        (f"hf_{'a' * 34} x", f"{HIDDEN} x"),
        ("sk-proj-0123456789abcdefghij", HIDDEN),
        ("risk-averse-and-other-long-words-1234", None),
        (f"ghp_{'a1' * 18}", HIDDEN),
        ("0123456789abcdef" * 3, None),  # a digest, or a revision
        ("aAAKIAIOSFODNN7EXAMPLE", None),
        ("AKIAIOSFODNN7EXAMPLE", HIDDEN),
        ("-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----\n", f"{HIDDEN}\n"),
        (("a", {"token": ("b",)}), ("a", {"token": (HIDDEN,)})),
        ({"author": "me", "authors": ["x"], "key_of": 1}, None),
    ],
)  # fmt: skip
def test_what_looks_like_a_secret_is_hidden(node, expected):
    assert redact(node) == (node if expected is None else expected)
    assert redact(redact(node)) == redact(node)


def test_a_secret_of_the_environment_is_hidden_wherever_it_stands(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghij")
    monkeypatch.setenv("SHORT_KEY", "true")
    assert redact({"a": ["x hf_abcdefghij y"], "b": "true"}) == {"a": [f"x {HIDDEN} y"], "b": "true"}


def test_of_secrets_in_the_environment_the_longer_goes_first_and_a_path_is_none(monkeypatch, tmp_path):
    monkeypatch.setenv("A_TOKEN", "abcdefgh")
    monkeypatch.setenv("B_TOKEN", "abcdefghij")
    monkeypatch.setenv("KEY_FILE", str(tmp_path))
    assert redact(f"abcdefghij {tmp_path}") == f"{HIDDEN} {tmp_path}"


def test_names_that_differ_in_a_secret_alone_stay_two():
    assert redact({"https://a:b@c": 1, "https://d:e@c": 2}) == {f"https://{HIDDEN}@c": 1, f"https://{HIDDEN}@c*": 2}


@pytest.mark.parametrize("text", ["a", "a.", "a=", "://", "eyJabcdefgh.", "?", "--", "a:'", "key:'", "?key"])
def test_a_long_text_takes_linear_time(text):
    """Hours, where it is quadratic."""
    redact(text * (10**5 // len(text)))


def test_hidden_settings_are_named():
    settings = {"a": {"b": "x", "c": [f"https://{HIDDEN}@host"]}, "d": HIDDEN, "e": 1}
    assert hidden_in(settings) == ["a.c", "d"]


def test_a_yaml_file_is_redacted_in_place_and_one_without_secrets_is_not_touched(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("a: 1 # as it was\n")
    redact_yaml(path)
    assert path.read_text() == "a: 1 # as it was\n"
    path.write_text("- +x.api_key=abc\n- seed=1\n")
    redact_yaml(path)
    assert yaml.safe_load(path.read_text()) == [f"+x.api_key={HIDDEN}", "seed=1"]


@pytest.mark.full
@pytest.mark.parametrize("path", sorted((config_dir() / "experiment").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_experiment_passes_as_it_is(path, settings):
    command = re.search(r"micro_lit\.(\w+)", path.read_text())[1]
    composed = settings(f"+experiment={path.stem}", config=command)
    assert redact(composed) == composed


def test_all_our_settings_pass_as_they_are(settings):
    for overrides in (["logger=wandb"], ["data=pairs", "data.train=x", "backbone=minilm"], ["model=sparse_moe"]):
        composed = settings(*overrides)
        assert redact(composed) == composed


NODES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(NODES, st.sampled_from(["key", "my_password", "HF_TOKEN", "client-secret"]))
def test_hiding_keeps_the_shape_and_hides_every_text_below_such_a_name(node, name):
    def texts(found):
        if isinstance(found, dict | list):
            return [text for each in (found.values() if isinstance(found, dict) else found) for text in texts(each)]
        return [found] if isinstance(found, str) and found else []

    hidden = redact({name: node})
    assert set(texts(hidden)) <= {HIDDEN}
    assert len(texts(hidden)) == len(texts({name: node}))
    assert redact(hidden) == hidden


# Where none must be found

BY_VALUE, BY_NAME, BY_ADDRESS = "value-of-the-environment", "value-of-a-setting", "value-of-an-address"
SECRETS = (BY_VALUE, BY_NAME, BY_ADDRESS)
PLANTED = (
    "packages=[micro_lit_testing]", "+callbacks.keeps._target_=micro_lit_testing.Keeps",
    f"+callbacks.keeps.api_key={BY_NAME}",
    f"+callbacks.keeps.address='https://me:{BY_ADDRESS}@host/a?token={BY_ADDRESS}'", f"name='a run of {BY_VALUE}'",
)  # fmt: skip
FEATURES = ("+experiment=planted_floors_k8", *SMALL_FEATURES, "trainer.max_epochs=1")


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Runs the command in a folder, with a secret in its environment."""
    support = str(Path(__file__).parent / "support")
    paths = os.pathsep.join(filter(None, [support, os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": paths, "MY_SECRET": BY_VALUE, "WANDB_MODE": "offline"}
    command = [sys.executable, "-m", "micro_lit.train", *arguments, *FEATURES, *PLANTED]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def found_in(folder: Path) -> dict[str, list[str]]:
    """Files that hold a secret, in their bytes or in their path, and which."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    read = {str(path.relative_to(folder)): path.read_bytes() for path in files}
    found = {name: [each for each in SECRETS if each.encode() in name.encode() + held] for name, held in read.items()}
    assert len(files) > 5
    return {name: secrets for name, secrets in found.items() if secrets}


def test_a_secret_is_in_no_file_of_a_run(tmp_path):
    """In the name of the run, its tags, the settings of a callback and the environment; W&B is offline."""
    ended = run(
        tmp_path, "logger=wandb", f"logger.wandb.tags=[{BY_VALUE}]", f"logger.wandb.group={BY_VALUE}",
        "paths.run_dir=run",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert found_in(tmp_path) == {}
    folder = tmp_path / "run"
    assert list(folder.glob("wandb/offline-run-*/*.wandb"))
    assert {path.name for path in (folder / ".hydra").iterdir()} >= {"hydra.yaml", "overrides.yaml"}
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    assert settings["name"] == json.loads((folder / "results.json").read_text())["experiment"] == f"a run of {HIDDEN}"
    assert settings["callbacks"]["keeps"]["api_key"] == HIDDEN
    assert settings["callbacks"]["keeps"]["address"] == f"https://{HIDDEN}@host/a?token={HIDDEN}"
    kept = checkpoints.read_checkpoint(checkpoints.tested(folder))["settings"]
    assert kept["callbacks"]["keeps"] == settings["callbacks"]["keeps"]


@pytest.mark.full
def test_a_secret_is_in_no_file_of_a_sweep_whose_job_fails(tmp_path):
    """Nor in the name of the job's folder, which holds its overrides."""
    ended = run(
        tmp_path, "-m", "+study=resumable", "seed=0", "+callbacks.keeps.fails=true", "paths.output_dir=out",
        "hydra.sweep.dir=sweep",
    )  # fmt: skip
    assert ended.returncode == 1, ended.stderr
    assert found_in(tmp_path) == {}
    [note] = tmp_path.rglob("error.txt")
    assert f"no answer from https://{HIDDEN}@host/a?token={HIDDEN}" in note.read_text()
