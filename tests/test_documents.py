"""The documents at the root of the repository agree with the code and with each other."""

import re
import tomllib

import pytest
import yaml
from conftest import REPOSITORY

import micro_lit

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "docs/architecture.md"]


def read(name: str) -> str:
    return (REPOSITORY / name).read_text()


def test_there_is_one_version():
    [newest, *_] = re.findall(r"^## \[(\d[^]]*)\]", read("CHANGELOG.md"), flags=re.MULTILINE)
    cited = yaml.safe_load(read("CITATION.cff"))["version"]
    assert {PROJECT["version"], micro_lit.__version__, newest, cited} == {PROJECT["version"]}


def test_the_citation_has_what_its_format_requires():
    citation = yaml.safe_load(read("CITATION.cff"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["cff-version"] == "1.2.0"
    assert citation["authors"] == [{"name": "The micro_lit authors"}]
    assert citation["keywords"]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_to_files(name):
    folder = (REPOSITORY / name).parent
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", read(name))
    assert [link for link in links if "://" not in link and not (folder / link).exists()] == []


def test_contributing_names_files_that_exist():
    text = read("CONTRIBUTING.md")
    paths = re.findall(r"`((?:micro_lit|tests|conf|docs)/[\w./]*)`", text)
    contracts = re.findall(r"`((?:reader/|logger/)?(?:test|own)_\w+\.py)`", text)
    assert len(paths) > 15
    assert len(contracts) > 10
    named = [*paths, *(f"tests/contracts/{each}" for each in contracts)]
    assert [path for path in named if not (REPOSITORY / path).exists()] == []
    written = {path.name for path in (REPOSITORY / "tests" / "contracts").rglob("test_*.py")}
    assert written == {each.split("/")[-1] for each in contracts if "test_" in each}


def test_contributing_names_contracts_where_they_are():
    rows = re.findall(r"\| `(\w+)`, `(micro_lit/[\w/]+\.py)` \|", read("CONTRIBUTING.md"))
    assert len(rows) == 10
    for name, path in rows:
        assert re.search(rf"^(class {name}\b|{name} = )", read(path), flags=re.MULTILINE), (name, path)


def test_the_workflow_begins_at_the_lowest_python():
    jobs = yaml.safe_load(read(".github/workflows/tests.yml"))["jobs"]
    assert PROJECT["requires-python"] == f">={jobs['pinned']['strategy']['matrix']['python'][0]}"
    assert f"uv venv --python {PROJECT['requires-python'].removeprefix('>=')}" in str(jobs["floors"])


def test_hooks_use_the_environment_of_the_project():
    [local] = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
    assert local["repo"] == "local"
    assert {hook["entry"].split()[0] for hook in local["hooks"]} == {".venv/bin/ruff"}
