"""`python -m micro_lit.report runs=runs/sweeps/mine`: one table and one figure of any set of runs."""

from pathlib import Path

from micro_lit.config import Settings, entry_point


def run(settings: Settings) -> int:
    """Collects runs, prints and writes their report; returns the number of runs.

    Raises:
        UserError: the settings or the files have an error that the user can correct.
    """
    from micro_lit.report import runs

    paths = [settings["runs"]] if isinstance(settings["runs"], str) else settings["runs"]
    folder = Path(settings["report"]["out"] or settings["paths"]["run_dir"])
    return runs.write_report(paths, settings["report"], folder, settings)


main = entry_point("report")(run)

if __name__ == "__main__":
    main()
