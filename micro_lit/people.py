"""`python -m micro_lit.people +experiment=people_planted`: what so many labels of a person are worth to each model."""

from typing import Any

from micro_lit import threads
from micro_lit.config import Settings, entry_point


@threads.by_settings
def run(settings: Settings) -> dict[str, Any]:
    """Trains the candidates that are missing, compares them all, writes and shows the tables. Returns what it measured.

    Raises `UserError` for what the user can mend.
    """
    # Imported here so that --help and a config error answer at once.
    from micro_lit.protocol.people import People
    from micro_lit.reporting import people, protocol

    protocol.folder_for(settings)  # now: that it cannot be written is better known before all is measured
    results = People(settings).results()
    people.write(results, settings)
    return results


main = entry_point("people")(run)

if __name__ == "__main__":
    main()
