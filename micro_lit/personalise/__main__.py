"""`python -m micro_lit.personalise run=<run> profile=me.sqlite user=ada pairs=my.jsonl`: adapt a run to a user."""

import json
from pathlib import Path
from typing import Any

from micro_lit.config import Settings, entry_point
from micro_lit.errors import UserError
from micro_lit.host import threads
from micro_lit.host.files import write_text

RESULT_FILE = "personalised.json"


def run(settings: Settings) -> dict[str, Any]:
    """Updates profiles with labels, ranks responses, prints and writes the results.

    Labels are stored last, after everything else has succeeded. Without pairs and responses the command deletes a user
    or exports profiles.

    Args:
        settings: composed settings of `micro_lit.personalise`.

    Returns:
        The content of personalised.json; without pairs and responses what was deleted and exported.

    Raises:
        UserError: the settings or the files have an error that the user can correct.
    """
    if settings["pairs"] is None and settings["responses"] is None:
        return maintain_store(settings)
    if settings["forget"] is not None:
        raise UserError(f"forget={settings['forget']}: not together with pairs or responses; forget first")
    if settings["run"] is None:
        raise UserError("run: no value given; set it on the command line or in your YAML")
    return personalise(settings)


@threads.by_settings
def personalise(settings: Settings) -> dict[str, Any]:
    """Runs one session: learns labels and ranks responses. See `run`."""
    from micro_lit.personalise import learning
    from micro_lit.report import personal

    folder, written = Path(settings["paths"]["run_dir"]), [RESULT_FILE]
    with learning.personalising(settings) as found:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_text(folder / RESULT_FILE, json.dumps(found, indent=2) + "\n")
            if "stream" in found:
                written += personal.write_figure(found["stream"], folder)
                written += personal.write_explanation(found, folder)
        except OSError as error:
            raise UserError(f"paths.run_dir={folder}: cannot be written ({error.strerror})") from error
    personal.show(found)
    print(f"wrote {folder}/: {', '.join(written)}" + (f"; and {found['store']}" if "stream" in found else ""))
    return found


def maintain_store(settings: Settings) -> dict[str, Any]:
    """Deletes a user, exports profiles, or both; no run is needed."""
    if settings["forget"] is None and settings["export"] is None:
        raise UserError(
            "nothing to do: give pairs=<labels to learn from>, responses=<candidates to rank>, export=<file.json> or "
            "forget=<user>"
        )

    from micro_lit.adapt.profile_files import export, open_store, profile_paths
    from micro_lit.report import personal

    profile, done = Path(str(settings["profile"])).expanduser(), {}
    with open_store(profile, None, make=settings["forget"] is not None) as store:
        if settings["forget"] is not None:
            user, users = str(settings["forget"]), store.users
            if user not in users:
                like = ", ".join(map(personal.printable_user, personal.close_names(user, users)))
                raise UserError(f"forget={user}: no such user in {store.path}" + (f"; known: {like}" if like else ""))
            count = store.forget(user)
            done["forgotten"] = {"user": user, "labels": count}
            print(
                f"forgot {personal.printable_user(user)} and {count:,} labels; folders of earlier runs stay as they are"
            )
            source = profile_paths(profile).json
            if source is not None and source.exists():
                print(f"{source} is left as it is, and may hold this user still: delete it, or add export={source}")
        if settings["export"] is not None:
            export(store, profile, Path(settings["export"]).expanduser())
            done["exported"] = settings["export"]
    return done


main = entry_point("personalise")(run)

if __name__ == "__main__":
    main()
