"""docs/architecture.md is compared with the code: which package imports which, what there is, and where things are."""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from conftest import REPOSITORY

PAGE = (REPOSITORY / "docs" / "architecture.md").read_text()
PACKAGE, PLUGINS = "micro_lit", "hydra_plugins"
QUOTED = re.compile(r"`([^`]+)`")


def diagram() -> dict[str, list[str]]:
    """The lines of the diagram, from the top down: name -> the names that it imports."""
    [block] = re.findall(r"```imports\n(.*?)```", PAGE, flags=re.DOTALL)
    lines = [line.split("->") for line in block.splitlines()]
    return {name.strip(): targets.split() for name, targets in lines}


def rows(header: str) -> list[list[str]]:
    """The cells of the table whose first row begins so."""
    [table] = re.findall(rf"^\| {header} \|.*\n\|[-|]+\n((?:\|.*\n)+)", PAGE, flags=re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()]


def homes() -> dict[str, str]:
    """The path of each package and module that the table names, from the root of the repository -> its line."""
    found = {}
    for line, files, _ in rows("line"):
        for path in QUOTED.findall(files):
            full = path if path.startswith(PLUGINS) else f"{PACKAGE}/{path}"
            assert full not in found, f"{full} has two lines"
            found[full] = line
    return found


def line_of(path: str, homes: Mapping[str, str]) -> str | None:
    """The line of a file, by its own name or else by that of its folder; None where the table names neither."""
    top = path.split("/")[0]
    folder = f"{PLUGINS}/" if top == PLUGINS else path[: path.find("/", len(top) + 1) + 1]
    return homes.get(path) or homes.get(folder)


def file_of(module: str, root: Path) -> str:
    """The file that a dotted name is imported from: `micro_lit.a.b` is a module, or a name in `micro_lit.a`."""
    parts = module.split(".")
    while parts:
        path = "/".join(parts)
        for file in (f"{path}.py", f"{path}/__init__.py"):
            if (root / file).is_file():
                return file
        if (root / path).is_dir():
            return f"{path}/__init__.py"
        parts.pop()
    raise AssertionError(f"{module} is imported from nowhere")


def imports(root: Path) -> Iterator[tuple[str, int, str]]:
    """Every import of micro_lit below a folder, inside functions too: the file, the line number, the imported file."""
    for path in sorted([*root.glob(f"{PACKAGE}/**/*.py"), *root.glob(f"{PLUGINS}/**/*.py")]):
        here = path.relative_to(root)
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = ".".join([*here.parts[: len(here.parts) - node.level], *filter(None, [node.module])])
                module = base if node.level else node.module
                names = [f"{module}.{alias.name}" for alias in node.names]
            for name in names:
                if name.split(".")[0] == PACKAGE:
                    yield here.as_posix(), node.lineno, file_of(name, root)


def undrawn(root: Path, drawn: Mapping[str, list[str]], homes: Mapping[str, str]) -> tuple[list[str], set]:
    """Imports that the diagram does not show, and pairs of lines that some import joins."""
    missing, found = [], set()
    for importer, number, imported in imports(root):
        here, there = line_of(importer, homes), line_of(imported, homes)
        if here != there:
            found.add((here, there))
            if there not in drawn.get(here, []):
                missing.append(f"{importer}:{number}: {here} -> {there} ({imported})")
    return missing, found


def test_every_import_is_drawn_and_everything_drawn_is_imported():
    drawn = diagram()
    missing, found = undrawn(REPOSITORY, drawn, homes())
    assert not missing, "draw these in docs/architecture.md, or import the other way round:\n" + "\n".join(missing)
    assert {(line, target) for line, targets in drawn.items() for target in targets} == found


def test_imports_point_down():
    lines = list(diagram())
    for line, targets in diagram().items():
        below = lines[lines.index(line) + 1 :]
        assert targets == [each for each in below if each in targets]


def test_every_package_and_module_has_one_line_of_the_diagram():
    named = homes()
    assert set(named.values()) == set(diagram())
    assert [path for path in named if not (REPOSITORY / path).exists()] == []
    packages = [f"{PACKAGE}/{path.parent.name}/" for path in (REPOSITORY / PACKAGE).glob("*/__init__.py")]
    modules = [f"{PACKAGE}/{path.name}" for path in (REPOSITORY / PACKAGE).glob("*.py")]
    assert [path for path in [*packages, *modules] if path not in named] == []


def defined(path: str) -> set[str]:
    """The functions and classes of a file, and methods as Class.method."""
    found = set()
    for node in ast.parse((REPOSITORY / path).read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{each.name}" for each in node.body if isinstance(each, ast.FunctionDef)}
    return found


@pytest.mark.parametrize(
    ("guess", "place"), [row[1:] for row in rows("question")], ids=[r[0] for r in rows("question")]
)
def test_the_index_names_files_and_functions_that_exist(guess, place):
    path = None
    assert (REPOSITORY / QUOTED.fullmatch(guess)[1]).exists()
    for each in QUOTED.findall(place):
        if "/" in each:
            path = each
            assert (REPOSITORY / path).is_file()
        else:
            assert each in defined(path)
    assert path is not None
    assert path != QUOTED.fullmatch(guess)[1]


@pytest.mark.parametrize(
    "code",
    [
        "from micro_lit.upper import thing",
        "from micro_lit import upper",
        "import micro_lit.upper.part",
        "from ..upper import thing",
        "def later():\n    from micro_lit.upper.part import thing",
        "if TYPE_CHECKING:\n    from micro_lit.upper import part",
    ],
)
def test_an_import_that_is_not_drawn_is_found(code, tmp_path):
    for name in ("upper", "lower"):
        (tmp_path / PACKAGE / name).mkdir(parents=True)
        (tmp_path / PACKAGE / name / "__init__.py").touch()
        (tmp_path / PACKAGE / name / "part.py").touch()
    (tmp_path / PACKAGE / "__init__.py").touch()
    (tmp_path / PACKAGE / "lower" / "part.py").write_text(code)
    named = {f"{PACKAGE}/{name}/": name for name in ("upper", "lower")}
    missing, _ = undrawn(tmp_path, {"upper": ["lower"], "lower": []}, named)
    assert len(missing) == 1
    assert "micro_lit/lower/part.py" in missing[0]
