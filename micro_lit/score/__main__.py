"""`python -m micro_lit.score run=<run> responses=candidates.jsonl`: rewards of responses from a trained model."""

from pathlib import Path

from micro_lit.config import Settings, entry_point
from micro_lit.errors import UserError
from micro_lit.host import threads


@threads.by_settings
def run(settings: Settings) -> Path:
    """Scores a file, or one part of it; returns the written file.

    A part that exists already is not scored again, so that the same command continues an array of jobs.

    Raises:
        UserError: the run, the rows or the output have an error that the user can correct.
    """
    from micro_lit.score.files import part_of, score_file
    from micro_lit.score.loaded import load

    part, parts = settings["part"], settings["parts"]
    if part >= parts:
        raise UserError(f"part={part}: parts are numbered from 0, and parts={parts}")
    out = Path(settings["out"] or Path(settings["paths"]["run_dir"]) / "scores.parquet").expanduser()
    own = part_of(out, part, parts)
    if own.exists() and parts > 1 and not settings["overwrite"]:
        print(f"finished before: {own}")
        return own
    if own.exists() and not settings["overwrite"]:
        raise UserError(f"out={own}: exists already; give another name, or overwrite=true")
    model = load(str(settings["run"]), settings["packages"], settings["trust_remote_code"])
    table = score_file(model, str(settings["responses"]), own, part, parts, settings["columns"], settings["select"])
    print(f"wrote {own}: {len(table):,} rows; reward, rank among responses to a prompt, and {', '.join(model.heads)}")
    return own


main = entry_point("score")(run)

if __name__ == "__main__":
    main()
