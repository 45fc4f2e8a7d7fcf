"""Location of the Hydra config tree."""

from pathlib import Path

PACKAGE = Path(__file__).parent.parent


def config_dir() -> Path:
    """The folder of the Hydra config tree: inside the installed package, or beside it in a checkout."""
    installed = PACKAGE / "conf"
    return installed if installed.is_dir() else PACKAGE.parent / "conf"
