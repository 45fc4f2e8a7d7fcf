"""`python -m micro_lit.compare +experiment=micro`: models, routers and adaptations on the same rows."""

from typing import Any

from micro_lit.config import Settings, entry_point
from micro_lit.errors import ImpossibleResult
from micro_lit.host import threads


@threads.by_settings
def run(settings: Settings, file_name: str = "compare.json") -> dict[str, Any]:
    """Trains the candidates that are missing, compares them all, writes and shows the tables.

    Args:
        file_name: of all that was measured, in the folder of the tables.

    Returns:
        What it measured.

    Raises:
        UserError: for what the user can mend; `ImpossibleResult` for results, written by then, that cannot be true.
    """
    # Imported here so that --help and a config error answer at once.
    from micro_lit.compare import report
    from micro_lit.compare.comparison import Comparison

    report.folder_for(settings)  # now: that it cannot be written is better known before all is measured
    this = Comparison(settings)
    results = this.results()
    heads = {name: this.attributes.card(name) for name in settings["cards"] if this.attributes}
    explained = {name: this.attributes.explanation(name) for name in settings["explained"] if this.attributes}
    report.write(results, settings, this.scores(), heads, explained, file_name)
    if bad := report.invalid(results):
        names = ", ".join(dict.fromkeys(row["candidate"] for row in bad))
        raise ImpossibleResult(f"results that cannot be true: {names}; all is written, and marked")
    return results


main = entry_point("compare")(run)

if __name__ == "__main__":
    main()
