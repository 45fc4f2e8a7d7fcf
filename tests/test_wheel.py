import os
import subprocess
import sys
import zipfile

from conftest import REPOSITORY


def test_the_wheel_works_from_any_directory(tmp_path):
    """The configs travel inside the package: nothing of the checkout is needed."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")]
    subprocess.run(build, cwd=REPOSITORY, check=True, capture_output=True)
    [wheel] = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
        names = set(archive.namelist())
    assert "hydra_plugins/micro_lit_plugins.py" in names
    assert {"micro_lit/data/planted/phrases.yaml", "micro_lit/config/rules.json"} <= names
    assert "micro_lit/py.typed" in names  # type checkers read the annotations of an installed package only with it
    assert "hydra_plugins/__init__.py" not in names  # others have plugins there too
    assert {path.relative_to(REPOSITORY).as_posix() for path in REPOSITORY.glob("conf/**/*.yaml")} == {
        name.removeprefix("micro_lit/") for name in names if name.startswith("micro_lit/conf/")
    }
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shown = subprocess.run(
        [sys.executable, "-m", "micro_lit.train", "+experiment=mixture_k8", "--cfg", "job"],
        cwd=elsewhere,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        check=True,
        capture_output=True,
        text=True,
    )
    assert "num_heads: ${if_planted:8}" in shown.stdout
