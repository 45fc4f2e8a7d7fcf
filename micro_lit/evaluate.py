"""`python -m micro_lit.evaluate +experiment=protocol_dsp`: models, routers and adaptations under one protocol."""

from typing import Any

from micro_lit import threads
from micro_lit.config import Settings, entry_point


@threads.by_settings
def run(settings: Settings) -> dict[str, Any]:
    """Trains the candidates that are missing, compares them all, writes and shows the tables. Returns what it measured.

    Raises `UserError` for what the user can mend.
    """
    # Imported here so that --help and a config error answer at once.
    from micro_lit.protocol.measure import Protocol
    from micro_lit.reporting import protocol

    protocol.folder_for(settings)  # now: that it cannot be written is better known before all is measured
    this = Protocol(settings)
    results = this.results()
    heads = {name: this.card(name) for name in settings["cards"]}
    protocol.write(results, settings, heads, {name: this.explanation(name) for name in settings["explained"]})
    return results


main = entry_point("evaluate")(run)

if __name__ == "__main__":
    main()
