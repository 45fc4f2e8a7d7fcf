"""`python -m micro_lit.people`: now `python -m micro_lit.compare subjects=user`."""

from typing import Any

from micro_lit.config import Settings, entry_point


def run(settings: Settings) -> dict[str, Any]:
    """Runs the comparison with settings of this command, and writes its results under the old name."""
    from micro_lit.compare.aliases import run_as

    return run_as("people", settings)


main = entry_point("people")(run)

if __name__ == "__main__":
    main()
