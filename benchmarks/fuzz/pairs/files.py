"""Kinds of files, valid and damaged."""

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet

from benchmarks.fuzz.pairs import tables
from benchmarks.fuzz.pairs.drafts import Chance, Draft, bytes_of, fails, file_of, passes
from benchmarks.fuzz.pairs.rows import (
    NULLISH,
    records,
    rows_of,
    size,
    some_labels,
)


def plain(chance: Chance) -> Draft:
    """Texts that are difficult for readers, in every kind of file."""
    labels, kind = some_labels(chance), chance.choice(tables.KINDS)
    known = records(chance, size(chance), labels)
    write, named = file_of(rows_of(known, labels), kind, chance)
    return passes(f"{kind} with {', '.join(labels) or 'texts alone'}", write, named, train=known)


def nullish(chance: Chance) -> Draft:
    """Answers that look like missing values or numbers."""
    kind = chance.choice((*tables.CSVS, "jsonl", "parquet"))
    known = records(chance, size(chance), plain=True)
    known = [
        record._replace(**{chance.choice(("chosen", "rejected")): chance.choice(NULLISH)})
        if chance.random() < 0.5
        else record
        for record in known
    ]
    if chance.random() < 0.3:  # a whole column of them
        column = [chance.choice(NULLISH[:5]) for _ in known]
        known = [record._replace(rejected=each) for record, each in zip(known, column, strict=True)]
    known = [record if record.chosen != record.rejected else record._replace(chosen="other") for record in known]
    write, named = file_of(rows_of(known), kind, chance)
    return passes(f"{kind} with answers such as None", write, named, train=known)


def damaged(chance: Chance) -> Draft:
    """Files with the content of another format, or without content."""
    rows = rows_of(records(chance, size(chance), plain=True))
    header = b"prompt,chosen,rejected\n"
    twice = _parquet(pyarrow.table([["a"], ["b"], ["c"], ["d"]], names=["prompt", "chosen", "rejected", "chosen"]))
    whole_file = tables.lines(rows, chance)
    cases: dict[str, tuple[str, bytes, str]] = {
        "an empty file": (chance.choice(("a.jsonl", "a.csv", "a.json", "a.parquet", "a.tsv", "a.jsonl.gz")), b"", "a."),
        "white space alone": (chance.choice(("a.jsonl", "a.csv", "a.json")), b" \n\n \r\n", "a."),
        "a byte order mark alone": (chance.choice(("a.jsonl", "a.csv", "a.json")), b"\xef\xbb\xbf", "a."),
        "a header alone": (chance.choice(("a.csv", "a.csv.gz")), header, "no usable rows"),
        "a header and blank lines": ("a.csv", header + b"\n\r\n\n", "no usable rows"),
        "an empty list": ("a.json", b"[]", "no usable rows"),
        "an object alone": ("a.json", b'{"prompt": "a"}', "a.json"),
        "a list of texts": ("a.json", b'["a", "b"]', "a.json"),
        "a list cut short": ("a.json", b'[{"prompt": "a"', "broken JSON"),
        "an indented object": ("a.json", json.dumps({"data": rows}, indent=2).encode(), "a.json"),
        "a gzip file that is none": (chance.choice(("a.jsonl.gz", "a.csv.gz")), whole_file, "a."),
        "a parquet file that is none": ("a.parquet", whole_file, "parquet"),
        "random bytes": (chance.choice(("a.jsonl", "a.csv", "a.json", "a.parquet")), chance.randbytes(2000), "a."),
        "UTF-16": (chance.choice(("a.jsonl", "a.csv", "a.json")), whole_file.decode("utf-8-sig").encode("utf-16"), ""),
        "numbers as lines": ("a.jsonl", b"1\n2\n3\n", "no object"),
        "JSON lines named csv": ("a.csv", whole_file, "a.csv"),
        "a table named jsonl": ("a.jsonl", tables.table(rows, "csv", chance), "a.jsonl"),
        "a table with |": ("a.csv", b"prompt|chosen|rejected\na|b|c\nd|e|f\n", "no column"),
        "a table of commas named tsv": ("a.tsv", tables.table(rows, "csv", chance), "no column"),
        "two columns of one name": ("a.csv", b"prompt,chosen,rejected,chosen\na,b,c,d\n", "two columns"),
        "no header": ("a.csv", b"one,two,three\nfour,five,six\n", "no column"),
        "a table in cp1252": ("a.csv", (header + b"a,b,c\n" * 9).replace(b"b", b"\xe9"), "UTF-8"),
        "a header in cp1252": ("a.csv", b"pr\xe9,chosen,rejected\na,b,c\n", "row 1"),
        "a header of half a megabyte": ("a.csv", b"x" * 500_000 + b",chosen,rejected\na,b,c\n", "no column"),
        "a header of long names": ("a.csv", b"x" * 5000 + b',"cho\nsen",rejected\na,b,c\n', "no column 'chosen'"),
        "a quote that is never closed": ("a.csv", header + b"a,b,c\n" + b'd,e,"f\n' + b"g,h,i\n" * 9, "never closed"),
        "a quote that opens the header": ("a.csv", b'prompt,chosen,"rejected\n' + b"a,b,c\n" * 9, "no column"),
        "two columns of one name as parquet": ("a.parquet", twice, "two columns"),
        "NUL bytes": (chance.choice(("a.jsonl", "a.json", "a.parquet")), bytes(1000), "a."),
    }  # fmt: skip
    what = chance.choice(list(cases))
    name, content, note = cases[what]
    write, named = bytes_of(name, content)
    if what == "a gzip file that is none":
        return fails(f"{what} as {name}", note, lambda own, folder: (folder / name).write_bytes(content), named)
    return fails(f"{what} as {name}", note, write, named)


def _parquet(table: pyarrow.Table) -> bytes:
    stream = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(table, stream)
    return stream.getvalue().to_pybytes()


def cut_short(chance: Chance) -> Draft:
    """Truncated compressed files and parquet files."""
    kind = chance.choice(("jsonl.gz", "json.zst", "parquet", "csv.gz", "tsv.zst"))
    rows = rows_of(records(chance, 70, plain=True))
    name = f"a{tables.ending(kind)}"
    share = chance.uniform(0.2, 0.9)

    def write(own: Chance, folder: Path) -> None:
        tables.write(folder / name, rows, kind, own)
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(share * len(content))])

    return fails(f"{kind} cut at {share:.2f}", name, write, f"data.train={name}")


def paths(chance: Chance) -> Draft:
    """Paths that cannot be read."""

    def write(own: Chance, folder: Path) -> None:
        (folder / "empty").mkdir()
        (folder / "notes.txt").write_text("prompt,chosen,rejected\na,b,c\n")
        (folder / "folder.jsonl").mkdir()
        (folder / "loop.jsonl").symlink_to("loop.jsonl")
        (folder / "gone.jsonl").symlink_to("nowhere.jsonl")
        (folder / "bad").mkdir()
        (folder / "bad" / "state.json").write_text("{}")
        (folder / "dict").mkdir()
        (folder / "dict" / "dataset_dict.json").write_text(own.choice(("", "[]", "{}", '{"splits": ["train"]}')))

    values = (
        "''", "' '", "nix.jsonl", "empty", "notes.txt", "folder.jsonl", "loop.jsonl", "gone.jsonl", "bad", "dict",
        "7", "[a]", "{a: 1}", "null", "true", "1.5", "/dev/null", "'/'", f"{'x' * 300}.jsonl", f"{'x/' * 3000}a.jsonl",
        "'a\\x00b.jsonl'", "'~nobody/a.jsonl'", "https://nowhere.example/a.jsonl", "empty/", "./nix", "nix/nix.parquet",
        "hf://datasets/", "hf://datasets/a",
        "s3://a/b.jsonl", "'a b/c'",
    )  # fmt: skip
    value = chance.choice(values)
    if chance.random() < 0.25:
        rows = rows_of(records(chance, 20, plain=True))
        good = bytes_of("good.jsonl", tables.lines(rows, chance))[0]
        test = chance.choice([each for each in values if each != "null"])

        def both(own: Chance, folder: Path) -> None:
            write(own, folder)
            good(own, folder)

        return fails(f"data.test={test:.50}", "", both, "data.train=good.jsonl", f"data.test={test}")
    return fails(f"data.train={value:.50}", "", write, f"data.train={value}")
