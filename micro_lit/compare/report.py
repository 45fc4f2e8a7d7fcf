"""Report of a comparison: results as JSON, tables, all numbers as CSV, and a figure over the number of labels."""

import contextlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from rich.console import Console
from rich.table import Table as RichTable

from micro_lit import track
from micro_lit.compare import sections
from micro_lit.compare.sections import COLUMN_NAMES, SHOWN_SCORES, Results, Section
from micro_lit.config import Settings
from micro_lit.config.redaction import redact
from micro_lit.errors import UserError
from micro_lit.host.files import write_text, write_whole
from micro_lit.report import explanations, tables
from micro_lit.report.results import flatten
from micro_lit.run import checkpoints

try:
    from micro_lit.compare import figure
    from micro_lit.report import cards, figures
except ImportError:  # the extra `report` is not installed: everything but pictures is written
    cards, figure, figures = None, None, None

Heads = tuple[Mapping[str, Any], Sequence[tuple[str, str, str]] | None]

COMPARE_FILE, SCORES_FILE = "compare.json", "scores.parquet"
WIDE = 120  # characters
REPORT_PARTS = ("value", "low", "high", "sd")
SYSTEM = ["regime", "candidate", "method", "heads"]


def folder_for(settings: Settings) -> Path:
    """Creates the output folder: `out`, or the run folder. Raises `UserError` when it cannot be created."""
    with writable(settings) as folder:
        folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def writable(settings: Settings) -> Iterator[Path]:
    """Yields the output folder; turns an `OSError` inside the block into a `UserError` that names the setting."""
    key, folder = ("out", settings["out"]) if settings["out"] else ("paths.run_dir", settings["paths"]["run_dir"])
    try:
        yield Path(folder)
    except OSError as error:
        raise UserError(f"{key}={folder}: cannot be written ({error.strerror})") from error


def write_comparison(
    results: Results,
    settings: Settings,
    scores: pd.DataFrame | None = None,
    heads: Mapping[str, Heads] | None = None,
    explained: Mapping[str, Mapping[str, Any]] | None = None,
    file_name: str = COMPARE_FILE,
) -> Path:
    """Writes and prints the results of a `Comparison`, and passes tables and pictures to the loggers.

    Writes compare.json (all results), tables.md, systems.csv (a row per system), curves.csv (a row per point),
    scores.parquet (a row per system, number of labels, draw and subject) and folders `cards` and `explanations`. With
    matplotlib it also writes figure.png and figure.svg. config.yaml is written to the run folder.

    Args:
        results: `Comparison.results()`.
        settings: settings of `micro_lit.compare`.
        scores: `Comparison.scores()`.
        heads: by candidate the data of its head card: arguments of `cards.facts`, and texts.
        explained: by candidate the result of `explanations.explain`.
        file_name: name of the results file.

    Returns:
        The output folder: `out`, or the run folder.

    Raises:
        UserError: the folder cannot be written.
    """
    folder = folder_for(settings)
    judged = [Path(facts["run"]) for facts in results["candidates"].values()]
    results = redact(results)
    parts = sections_of(results, settings)
    with writable(settings):
        drawing = draw_figure(results, settings) if figure else None
        pictures = figures.save(drawing, folder) if drawing else []
        titled = {name: redact(f"{results['name']}: {name}") for name in results["candidates"]}
        drawn = {
            name: cards.write_cards(folder / "cards" / name, cards.facts(**known), titled[name], texts)
            for name, (known, texts) in (heads or {}).items()
            if cards
        }
        explanation_paths = {
            name: explanations.write_explanations(folder / "explanations" / name, found, titled[name])
            for name, found in (explained or {}).items()
        }
        written = _write_tables(results, parts, folder, scores, file_name, with_figure=bool(pictures))
        own = Path(settings["paths"]["run_dir"])
        own.mkdir(parents=True, exist_ok=True)
        write_text(own / "config.yaml", yaml.safe_dump(redact(settings), sort_keys=False))
    _show(results, parts)
    written += [path.name for path in pictures]
    written += [*(f"cards/{name}" for name in drawn), *(f"explanations/{name}" for name in explanation_paths)]
    _print_outcome(results, settings, folder, written)
    if settings.get("logger"):
        images = {"figure": pictures[0]} if pictures else {}
        images |= {f"heads/{name}": paths[0] for name, paths in drawn.items()}
        images |= {f"explanations/{name}": paths[0] for name, paths in explanation_paths.items() if cards}
        _publish(results, settings, folder, parts, images, judged)
    return folder


def _write_tables(
    results: Results,
    parts: Sequence[Section],
    folder: Path,
    scores: pd.DataFrame | None,
    file_name: str,
    with_figure: bool,
) -> list[str]:
    """Writes the results, the tables and the scores; returns the names of the files."""
    texts = {
        file_name: json.dumps(results, indent=2) + "\n",
        "systems.csv": systems(results).to_csv(index=False),
        "curves.csv": curves(results).to_csv(index=False),
        "tables.md": comparison_markdown(results, parts, with_figure=with_figure),
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    if scores is None:
        return list(texts)
    frame = redact_frame(scores)
    write_whole(folder / SCORES_FILE, lambda path: frame.to_parquet(path, index=False))
    return [*texts, SCORES_FILE]


def _publish(
    results: Results,
    settings: Settings,
    folder: Path,
    parts: Sequence[Section],
    images: Mapping[str, Path],
    judged: Sequence[Path],
) -> None:
    """Passes the outcome to the loggers: tables, pictures, and the models that were judged."""
    frames = {each.key: pd.concat([each.fair, each.apart]) for part in parts for each in part.tables}
    used = [track.Artifact("model", path, checkpoint=checkpoints.shareable(path)) for path in judged]
    summary = comparison_summary(results)
    track.publish(track.RunRecord("compare", results["name"], folder, settings, summary, frames, images, used))


def comparison_summary(results: Results) -> dict[str, float]:
    """Accuracy and NLL by `<part>/<candidate>/<method>/<score>`; for users after the largest number of labels."""
    rows = [(part, row) for part, rows in results.get("tables", {}).items() for row in rows]
    rows += [(part, row) for part, found in results.get("regimes", {}).items() for row in found["systems"]]
    found = {}
    for part, row in rows:
        for score in SHOWN_SCORES:
            point = row[score] if part not in results.get("regimes", {}) else row[score][-1]
            found[f"{part}/{row['candidate']}/{row['method']}/{score}"] = point["value"]
    return found


def draw_figure(results: Results, settings: Settings) -> Any:
    """The figure of all parts; None when nothing was measured over the number of labels."""
    return figure.draw_curves(results, _leaders(results, settings), _first_method(settings))


def redact_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """Removes secrets from the candidate and subject names of a table."""
    return frame.assign(**{name: frame[name].map(redact) for name in ("candidate", "subject")})


def sections_of(results: Results, settings: Settings) -> list[Section]:
    """Returns the report sections of attributes and of users, as far as they were measured."""
    found = []
    if "tables" in results:
        found += sections.of_attributes(results, _leaders(results, settings), _first_method(settings))
    return found + (sections.of_users(results) if "regimes" in results else [])


def systems(results: Results) -> pd.DataFrame:
    """A row per system, for users after the largest number of labels.

    Columns are the dotted keys of compare.json, with scores of single attributes last.
    """
    rows = [
        {"table": table, "check": False, "turned": None, **flatten(row)}
        for table, rows in results.get("tables", {}).items()
        for row in rows
    ]
    frame = pd.DataFrame(rows, dtype=object)
    first = ["table", "candidate", "method", "heads", "oracle", "check", "turned"] if rows else []
    scores = sorted((column for column in frame if column not in first), key=lambda column: "_by." in column)
    points = _points(results)
    last = points.groupby(SYSTEM, sort=False).tail(1) if len(points) else points
    return _joined(frame[[*first, *scores]], last)


def curves(results: Results) -> pd.DataFrame:
    """A row per point of a curve. kind: `curve` (labels at random) or `elicitation` (selected labels).

    Rows of users have a regime instead of a kind.
    """
    rows = []
    for kind, name in (("curve", "curves"), ("elicitation", "elicitation")):
        for curve in results.get(name) or ():
            for labels, *points in zip(curve["labels"], *(curve[score] for score in SHOWN_SCORES), strict=True):
                system = {"kind": kind, "candidate": curve["candidate"], "method": curve["method"], "labels": labels}
                rows.append(system | flatten(dict(zip(SHOWN_SCORES, points, strict=True))))
    columns = ["kind", *SYSTEM[1:3], "labels", *(f"{score}.{part}" for score in SHOWN_SCORES for part in REPORT_PARTS)]
    drawn = pd.DataFrame(rows, columns=columns if "tables" in results else None, dtype=object)
    return _joined(drawn, _points(results))


def _joined(*frames: pd.DataFrame) -> pd.DataFrame:
    """Concatenates tables, ignoring those without columns."""
    return pd.concat([frame for frame in frames if frame.columns.size], ignore_index=True)


def _points(results: Results) -> pd.DataFrame:
    """A row per regime, number of labels and system of users."""
    rows = []
    for regime, found in results.get("regimes", {}).items():
        for system in [*found["systems"], *sections.bayes(found)]:
            measured = {key: points for key, points in system.items() if isinstance(points, list)}
            for place, (size, given) in enumerate(zip(found["labels"], found["given"], strict=True)):
                known = {"regime": regime, **{key: system[key] for key in SYSTEM[1:]}}
                known |= {"labels": sections.size_name(size), "given": given}
                rows.append(known | flatten({key: points[place] for key, points in measured.items()}))
    empty = [*SYSTEM, "labels", "given"] if "regimes" in results else None
    return pd.DataFrame(rows, columns=None if rows else empty, dtype=object)


def comparison_markdown(results: Results, parts: Sequence[Section], with_figure: bool) -> str:
    """All sections as a Markdown page. with_figure: whether to include figure.png."""
    page = [f"# {escaped_prose(results['name'])}", *map(escaped_prose, _facts_line(results))]
    if with_figure:
        page.append("![Accuracy and NLL over the number of labels](figure.png)")
    for part in parts:
        page += [f"## {part.title}", part.caption]
        for table in part.tables:
            page += [f"{table.heading}:"] if table.heading else []
            for frame, words in ((table.fair, ""), (table.apart, part.apart)):
                if len(frame):
                    page += [words] if words else []
                    page.append(tables.markdown(escaped_names(frame)).rstrip())
    named = _words(results) | {"baseline": escaped_prose(results["baseline"])}
    page += [
        "## Columns",
        "\n".join(f"- {name}: {text.format(**named)}" for name, text in _column_notes(results).items()),
    ]
    if "tables" in results:
        many = len(results["attributes"]) > sections.MAX_ATTRIBUTES
        by_attribute = "is in systems.csv" if many else "has a column here, and its interval and NLL are in systems.csv"
        page.append(f"The accuracy of each attribute {by_attribute}.")
    return "\n\n".join(page) + "\n"


def _column_notes(results: Results) -> dict[str, str]:
    """Descriptions of columns; a column of users gets the suffix ` (users)` if that of attributes differs."""
    attribute = sections.ATTRIBUTE_COLUMNS if "tables" in results else {}
    user = sections.USER_COLUMNS if "regimes" in results else {}
    shared = {f"{name} (users)": text for name, text in user.items() if attribute.get(name, text) != text}
    return attribute | {name: text for name, text in user.items() if name not in attribute} | shared


def _words(results: Results) -> dict[str, str]:
    """Values for the placeholders in column descriptions."""
    number, units = sections.units(results) if "tables" in results else (0, "users")
    return {"baseline": results["baseline"], "units": f"{number:,} {units}"}


def invalid(results: Results) -> list[Mapping[str, Any]]:
    """Rows of systems whose results cannot be true."""
    rows = [row for rows in results.get("tables", {}).values() for row in rows]
    rows += [row for found in results.get("regimes", {}).values() for row in found["systems"]]
    return [row for row in rows if not row.get("valid", True)]


def _facts_line(results: Results) -> list[str]:
    """Lines on what was measured: attributes, labels, baseline, seed and time."""
    end = f"Baseline: {results['baseline']}. Seed {results['seed']}. Measured in {results['seconds']:.0f} s."
    lines = []
    if "tables" in results:
        from_test = results["budget_from"] == "test"
        judged = "test rows judged, on average over draws" if from_test else "test rows judged"
        source = "test rows, which nobody is judged on in that draw" if from_test else "training rows"
        counts = ", ".join(f"{name} {count:,}" for name, count in results["attributes"].items())
        lines = [
            f"{len(results['attributes'])} attributes ({judged}): {counts}.",
            f"Budget: {results['budget']} labels of each attribute, drawn {results['draws']} times from the {source}. "
            f"{end}",
        ]
    if "regimes" in results:
        left_out = [f"{count:,} {name}" for name, count in results["left_out"].items() if count]
        lines += [
            f"Labels of each user were drawn {results['draws']} times. {end}",
            f"Left out: {', '.join(left_out) or 'nobody'}.",
        ]
    return lines


def _show(results: Results, parts: Sequence[Section]) -> None:
    """Prints the terminal version of all sections, column descriptions and invalid results."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:  # files and pipes have no width
        console.width = max(console.width, WIDE)
    console.print("", *_facts_line(results), "", sep="\n")
    for part in parts:
        if not any(table.terminal for table in part.tables):
            console.print(part.title, part.caption, "", sep="\n")
        for table in part.tables:
            if table.terminal is not None:
                console.print(on_terminal(part.title, *table.terminal), "")
    named = {column for part in parts for each in part.tables if each.terminal for column in each.terminal[1]}
    wanted = [name for name in _column_notes(results) if name in named or name not in sections.ATTRIBUTE_COLUMNS]
    console.print(*(f"{name}: {_column_notes(results)[name].format(**_words(results))}" for name in wanted), sep="\n")
    for row in invalid(results):
        console.print(f"INVALID: {row['candidate']}, {row['method']}: {row['invalid_because']}", style="bold red")
    console.print("tables.md has more columns and the NLL after each number of labels, the CSV files every number", "")


def on_terminal(title: str, caption: str, fair: pd.DataFrame, apart: pd.DataFrame) -> RichTable:
    """Builds a table of two blocks with the same columns: rivals (`fair`), then the others (`apart`), dimmed."""
    table = RichTable(title=title, caption=caption, title_justify="left", caption_justify="left")
    for column in fair:
        named = column in COLUMN_NAMES
        table.add_column(column, justify="left" if named else "right", overflow="fold", no_wrap=column == "model")
    for block in (fair, apart):
        table.add_section()
        for cells in block.to_numpy().tolist():
            table.add_row(*cells, style="dim" if block is apart else None)
    return table


def _print_outcome(results: Results, settings: Settings, folder: Path, written: Sequence[str]) -> None:
    """Prints the written files, the reason for a missing figure, and a next command."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if "figure.png" not in written:
        drawable = any(results.get(key) for key in ("curves", "elicitation", "regimes"))
        missing = "matplotlib is not installed (pip install 'micro-lit[report]')"
        console.print(f"no figure: {missing if drawable else 'nothing was measured over the number of labels'}")
    console.print(f"wrote {folder}/ in {results['seconds']:.0f} s: {', '.join(sorted(written))}")
    console.print(f"next: {_next_step(results, settings)}")


def _next_step(results: Results, settings: Settings) -> str:
    if "tables" not in results:
        rows = [row for found in results["regimes"].values() for row in found["systems"]]
        if not any(row["method"] == "its own" for row in rows):
            return "the same command with a model of people among the candidates, such as one with model=tied"
        return "the same command with another seed and out, to see how much of this is luck"
    leaders = _leaders(results, settings)
    if not leaders:
        return "the same command with a mixture among the candidates, to compare"
    if not results.get("elicitation"):
        return f"the same command with elicited=[{leaders[0]}], to see which labels are worth asking for"
    run = results["candidates"][leaders[0]]["run"]
    return f"python -m micro_lit.personalise run={run} profile=me.json user=me pairs=<your labelled pairs>"


def _leaders(results: Results, settings: Settings) -> list[str]:
    """Candidates shown with every method: those with routers, else the first with several heads, baseline last."""
    if "tables" not in results:
        return []
    oracles = {row["candidate"] for row in results["tables"]["none"] if row["oracle"]}
    several = [name for name, facts in results["candidates"].items() if facts["heads"] > 1 and name not in oracles]
    rivals = [name for name in several if name != results["baseline"]]
    return settings["routed"] or (rivals or several)[:1]


def _first_method(settings: Settings) -> list[str]:
    """The first adaptation, used when only one is shown; empty when there is none."""
    return list(settings["subjects"].get("attribute", {}).get("adaptation", {}))[:1]


def escaped_prose(text: str) -> str:
    """Escapes Markdown, except `|`, which tables escape, and underscores inside words, which need none."""
    return re.sub(r"[\\`*\[\]<>~$&#]|(?<!\w)_|_(?!\w)", r"\\\g<0>", text)


def escaped_names(frame: pd.DataFrame) -> pd.DataFrame:
    """Escapes Markdown in the column names, models and adaptations of a table."""
    names = {column: frame[column].map(escaped_prose) for column in COLUMN_NAMES}
    return frame.assign(**names).rename(columns=escaped_prose)
