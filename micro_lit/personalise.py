"""`python -m micro_lit.personalise run=<run> profile=me.json user=ada pairs=mine.jsonl`: learn what a person likes."""

import json
from pathlib import Path
from typing import Any

from micro_lit import threads
from micro_lit.config import Settings, entry_point
from micro_lit.errors import UserError

FILE_NAME = "personalised.json"


@threads.by_settings
def run(settings: Settings) -> dict[str, Any]:
    """Teaches profiles, ranks responses, prints what came of it; returns what it writes to personalised.json.

    The file of profiles is written last: labels count once all else has gone well. Raises `UserError` for what the user
    can mend.
    """
    from micro_lit import profiles
    from micro_lit.reporting import personal

    found, kept = profiles.sit(settings)
    folder, path = Path(settings["paths"]["run_dir"]), Path(found["profile"])
    writing, written = f"paths.run_dir={folder}", [FILE_NAME]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILE_NAME).write_text(json.dumps(found, indent=2) + "\n")
        if "stream" in found:
            written += personal.write_figure(found["stream"], folder)
            written += personal.write_explanation(found, folder)
            writing = f"profile={path}"
            kept.save(path)
    except OSError as error:
        raise UserError(f"{writing}: cannot be written ({error.strerror})") from error
    personal.show(found)
    print(f"wrote {folder}/: {', '.join(written)}" + (f"; and {path}" if "stream" in found else ""))
    return found


main = entry_point("personalise")(run)

if __name__ == "__main__":
    main()
