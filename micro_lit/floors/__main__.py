"""`python -m micro_lit.floors data=polis`: the irreducible error of a data set, before any model is trained."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from micro_lit.config import Settings, build, check_objects, entry_point
from micro_lit.errors import UserError
from micro_lit.host.files import write_text


def run(settings: Settings) -> dict[str, Any]:
    """Prints floors as tables and writes them to floors.json in the run folder; returns its content.

    Planted populations have exact floors; data sets whose pairs several raters judged have floors of their raters.

    Raises:
        UserError: a mistake that the user can correct, such as real data with one rater per pair.
    """
    from rich.console import Console

    from micro_lit.floors import raters
    from micro_lit.report import terminal

    check_objects(settings)
    data = build(settings["data"]).load(settings["seed"])
    pairs = data.pairs if settings["split"] == "all" else data.split(settings["split"])
    terminal.show_data(data, None)
    console = Console(highlight=False)
    found: dict[str, Any] = {}
    if data.population is not None:
        found["population"] = {
            "floors": data.population.floors,
            "gaps": data.population.gaps,
            "gradient_norms": data.population.certificates,
        }
        console.print("", terminal.population_floors(found["population"]))
    columns = (pairs.label_N("pair_id"), pairs.first_wins_N, pairs.label_N("user_id"))
    try:
        votes = raters.gather(*(column.numpy() for column in columns))
    except ValueError as error:
        if data.population is None:
            raise UserError(f"split={settings['split']}: {error}") from error
    else:
        estimated = raters.rater_floors(votes, settings["replicates"], settings["seed"])
        floors = {name: floor._asdict() for name, floor in estimated.floors.items()}
        found["raters"] = {**dataclasses.asdict(estimated), "floors": floors}
        console.print("", terminal.rater_table(estimated))
    path = Path(settings["paths"]["run_dir"]) / "floors.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(found, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"paths.run_dir={path.parent}: cannot be written ({error.strerror})") from error
    console.print(f"\nwrote {path}", soft_wrap=True, markup=False)
    return found


main = entry_point("floors")(run)

if __name__ == "__main__":
    main()
