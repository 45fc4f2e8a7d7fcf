"""`python -m micro_lit.compare +experiment=micro`: models, routers and adaptations on the same rows."""

from typing import Any

from micro_lit.config import Settings, entry_point
from micro_lit.errors import ImpossibleResult
from micro_lit.host import threads


@threads.by_settings
def run(settings: Settings, file_name: str = "compare.json") -> dict[str, Any]:
    """Trains the missing candidates, compares all candidates, writes and prints the tables.

    Args:
        settings: composed settings of `micro_lit.compare`.
        file_name: name of the results file, in the folder of the tables.

    Returns:
        All results, as plain JSON types.

    Raises:
        UserError: the settings or the files have an error that the user can correct.
        ImpossibleResult: some results cannot be true; all results are written before it is raised.
    """
    # Imported here so that --help and a config error answer at once.
    from micro_lit.compare import report
    from micro_lit.compare.comparison import Comparison

    report.folder_for(settings)  # early: a folder that cannot be written fails before the measurements
    this = Comparison(settings)
    results = this.results()
    heads = {name: this.attributes.card(name) for name in settings["cards"] if this.attributes}
    explained = {name: this.attributes.explanation(name) for name in settings["explained"] if this.attributes}
    report.write_comparison(results, settings, this.scores(), heads, explained, file_name)
    if bad := report.invalid(results):
        names = ", ".join(dict.fromkeys(row["candidate"] for row in bad))
        raise ImpossibleResult(f"results that cannot be true: {names}; all is written, and marked")
    return results


main = entry_point("compare")(run)

if __name__ == "__main__":
    main()
