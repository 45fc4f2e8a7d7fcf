"""Folders, splits and leaks, and their settings."""

from collections.abc import Sequence
from pathlib import Path

import datasets

from benchmarks.fuzz.pairs import tables
from benchmarks.fuzz.pairs.drafts import Chance, Draft, fails, file_of, passes, warns
from benchmarks.fuzz.pairs.rows import (
    records,
    rows_of,
    size,
)
from micro_lit.data.records import Record


def folders(chance: Chance) -> Draft:
    """Folders of files, with the hub's names of splits."""
    kind = chance.choice(("parquet", "jsonl", "csv", "json", "jsonl.gz", "tsv"))
    style = chance.choice(("shards", "words", "prefs", "data", "splits", "dict", "parts"))
    train, test = records(chance, size(chance)), records(chance, 20, first=3)
    other = records(chance, 12, first=7)
    end = tables.ending(kind)
    overrides: tuple[str, ...] = ("data.train=all",)
    half = len(train) // 2
    files: dict[str, list[Record]] = {
        "shards": {f"train-00000-of-00002{end}": train[:half], f"train-00001-of-00002{end}": train[half:],
                   f"test-00000-of-00001{end}": test, f"validation-00000-of-00001{end}": other},
        "words": {f"my-train{end}": train, f"eval{end}": test, f"dev{end}": other},
        "prefs": {f"train_prefs-00000-of-00001{end}": train, f"test_prefs-00000-of-00001{end}": test,
                  f"train_sft-00000-of-00001{end}": other},
        "data": {f"data/train-00000-of-00001{end}": train, f"data/test-00000-of-00001{end}": test},
        "splits": {f"train/a{end}": train[:half], f"train/b{end}": train[half:], f"test/a{end}": test,
                   f"dev/a{end}": other},
        "dict": {"train": train, "test": test},
        "parts": {f"part-1{end}": train[:half], f"part-2{end}": train[half:]},
    }[style]  # fmt: skip
    if style == "prefs":
        overrides += ("data.train_split=train_prefs", "data.test_split=test_prefs")
    if style == "parts":
        test = []
    trouble = chance.choice((None, None, None, "no train", "a split that is not there", "an unnamed file"))
    if style in ("dict", "parts"):
        trouble = None
    if trouble == "no train":
        files = {name: rows for name, rows in files.items() if "train" not in name}
    elif trouble == "a split that is not there":
        overrides = ("data.train=all", "data.train_split=nix")
    elif trouble == "an unnamed file":
        first = next(iter(files))
        files = {**files, f"{first.rpartition('/')[0]}/more{end}".lstrip("/"): other}
        if style == "splits":
            trouble = None
            train = [*train, *other]

    def write(own: Chance, folder: Path) -> None:
        if style == "dict":
            made = {name: datasets.Dataset.from_list(rows_of(rows)) for name, rows in files.items()}
            datasets.DatasetDict(made).save_to_disk(str(folder / "all"))
            return
        for name, rows in files.items():
            tables.write(folder / "all" / name, rows_of(rows), kind, own)
        (folder / "all" / "README.md").write_text("notes")
        (folder / "all" / ".hidden.jsonl").write_text("{")
        (folder / "all" / "_more.csv").write_text("{")

    if trouble is not None:
        return fails(f"{style} of {kind} with {trouble}", "split", write, *overrides)
    return passes(f"{style} of {kind}", write, *overrides, train=train, test=test)


def unlike_files(chance: Chance) -> Draft:
    """A folder whose files differ in their columns or kinds."""
    what = chance.choice(
        ("a column less", "another order", "another kind", "another type", "no rejected", "an empty one")
    )
    kinds = chance.sample(("parquet", "jsonl", "csv", "json"), 2)
    one, two = records(chance, size(chance), ("user_id",)), records(chance, size(chance), ("user_id",), first=2)
    labels_two: Sequence[str] = ("user_id",)
    if what == "a column less":
        two, labels_two = [record._replace(user_id=None) for record in two], ()
    rows_one, rows_two = rows_of(one, ("user_id",)), rows_of(two, labels_two)
    if what == "another order":
        rows_two = [dict(reversed(row.items())) for row in rows_two]
    if what == "another type":
        rows_two = [row | {"user_id": number} for number, row in enumerate(rows_two)]
        two = [record._replace(user_id=str(number)) for number, record in enumerate(two)]
    if what == "no rejected":
        rows_two = [{name: value for name, value in row.items() if name != "rejected"} for row in rows_two]
    if what != "another kind":
        kinds = [kinds[0], kinds[0]]
    if what == "an empty one":
        kinds, two = ["csv", "csv"], []
    order = chance.choice((("1", "2"), ("2", "1")))

    def write(own: Chance, folder: Path) -> None:
        tables.write(folder / "all" / f"{order[0]}{tables.ending(kinds[0])}", rows_one, kinds[0], own)
        second = folder / "all" / f"{order[1]}{tables.ending(kinds[1])}"
        if what == "an empty one":
            second.write_text("prompt,chosen,rejected,user_id\n")
        else:
            tables.write(second, rows_two, kinds[1], own)

    if what == "no rejected":
        return fails(f"{what} in one of two {kinds[0]} files", "rejected", write, "data.train=all")
    train = [*one, *two] if order == ("1", "2") else [*two, *one]
    return passes(f"{what} of {' and '.join(kinds)}", write, "data.train=all", train=train)


def few(chance: Chance) -> Draft:
    """Few rows, and few prompts."""
    kind = chance.choice(("jsonl", "csv", "parquet"))
    if chance.random() < 0.5:
        known = records(chance, size(chance), plain=True)
        known = [record._replace(prompt=known[0].prompt) for record in known]
        write, named = file_of(rows_of(known), kind, chance)
        if chance.random() < 0.5:
            return passes(
                "one prompt, split by pair", write, named, "data.split_by=pair_id", train=known, by_prompt=False
            )
        return fails("one prompt", "", write, named)
    known = records(chance, 4, plain=True)[: chance.randrange(1, 5)]
    write, named = file_of(rows_of(known), kind, chance)
    if len(known) < 3:
        return fails(f"{len(known)} rows", "", write, named)
    return passes(f"{len(known)} rows", write, named, train=known)


def leaks(chance: Chance) -> Draft:
    """Test files that contain rows of the training file."""
    train, test = records(chance, 40), records(chance, 20, first=3)
    share = chance.choice((0, 5, 9, 12, 15, 20))
    test = [*train[:share], *test[share:]]
    leak = chance.choice((None, None, "warn", "allow"))
    as_file = share == 20 and chance.random() < 0.5
    if as_file:
        test = train

    def write(own: Chance, folder: Path) -> None:
        tables.write(folder / "train.csv", rows_of(train), "csv", own)
        if as_file:
            (folder / "test.csv").write_bytes((folder / "train.csv").read_bytes())
        else:
            tables.write(folder / "test.jsonl", rows_of(test), "jsonl", own)

    given = ("data.train=train.csv", f"data.test={'test.csv' if as_file else 'test.jsonl'}")
    given += () if leak is None else (f"data.leak={leak}",)
    what = f"{share} of {len(test)} test rows known, leak={leak}"
    if leak is None and 2 * share > 20:
        return fails(what, "one file" if as_file else "training rows", write, *given)
    if leak != "allow" and share:
        return warns(what, "test rows are training rows", write, *given, train=train, test=test)
    return passes(what, write, *given, train=train, test=test)


def settings(chance: Chance) -> Draft:
    """Settings that limit or change the rows read."""
    kind = chance.choice(tables.KINDS)
    known = records(chance, size(chance), ("user_id", "attribute"), plain=True)
    write, named = file_of(rows_of(known, ("user_id", "attribute")), kind, chance)
    limit = chance.randrange(5, 12)
    right = {f"data.limit={limit}": known[:limit], "data.limit=100000": known, "data.split_by=pair_id": known}
    wrong = (
        "data.limit=0",
        "data.limit=abc",
        "data.split_by=user",
        "data.leak=maybe",
        "data.ties=both",
        "data.on_bad_row=stop",
        "data.validation_fraction=1.5",
        "data.test_fraction=-1",
        "data.criteria=nix",
        "data.columns=[a]",
        "data.columns=abc",
        "data.validation_fraction=abc",
        "+data.columns.prompt=7",
        "+data.columns.prompt=[a]",
        "data.winner=[a]",
        "data.winner=abc",
        "+data.nix=7",
        "data.unanimous=yes",
        "data.criterion_of={nix: Be kind.}",
        "data.test_fraction=1.0",
        "data.limit=1.5",
        "+data.columns.user_id=attribute.nix",
    )
    if chance.random() < 0.5:
        override = chance.choice(list(right))
        train = right[override]
        counts = {"rows": len(train)}
        return passes(
            f"{override} of {kind}",
            write,
            named,
            override,
            train=train,
            counts=counts,
            by_prompt="pair_id" not in override,
        )
    override = chance.choice(wrong)
    return fails(override, "", write, named, override)
