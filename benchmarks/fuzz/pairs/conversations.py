"""Conversations in all supported forms."""

import json
from collections.abc import Callable
from typing import Any

from benchmarks.fuzz.pairs import tables
from benchmarks.fuzz.pairs.drafts import Chance, Draft, fails, file_of, passes
from benchmarks.fuzz.pairs.rows import (
    FORMS,
    Row,
    as_text,
    json_text,
    records,
    row_of,
    size,
    stripped,
    transcript,
    turns,
    whole,
    with_turns,
)
from micro_lit.data.messages import Message


def conversations(chance: Chance) -> Draft:
    """Conversations in every form, as objects or as text."""
    form = chance.choice(list(FORMS))
    how = chance.choice(("objects", "objects", "JSON", "Python"))
    kind = chance.choice(tables.NESTED if how == "objects" else tables.KINDS)
    known = [with_turns(record, chance) for record in records(chance, size(chance))]
    rows = [FORMS[form](record) for record in known]
    if how != "objects":
        rows = [as_text(row, json_text if how == "JSON" else str) for row in rows]
    write, named = file_of(rows, kind, chance)
    return passes(f"{form} as {how} in {kind}", write, named, train=known)


def transcripts(chance: Chance) -> Draft:
    """Dialogues in the format of HH-RLHF."""
    kind = chance.choice(tables.KINDS)
    known = [stripped(with_turns(record, chance)) for record in records(chance, size(chance))]
    rows = [{name: transcript(each, getattr(each, name)) for name in ("chosen", "rejected")} for each in known]
    if chance.random() < 0.3:
        trouble = chance.choice(("words before", "no answer", "another history"))
        bad = rows[chance.randrange(len(rows))]
        if trouble == "words before":
            bad["chosen"] = "Note: " + bad["chosen"]
        elif trouble == "no answer":
            bad["rejected"] += "\n\nHuman: And?"
        else:
            bad["chosen"] = bad["chosen"].replace("\n\nHuman:", "\n\nHuman: So,", 1)
        write, named = file_of(rows, kind, chance)
        return fails(f"transcripts with {trouble}", "there is no prompt", write, named)
    write, named = file_of(rows, kind, chance)
    return passes(f"transcripts in {kind}", write, named, train=known)


def mixed_forms(chance: Chance) -> Draft:
    """Texts and conversations in one file."""
    kind = chance.choice(("jsonl", "json", "jsonl.gz"))
    known, rows = [], []
    for record in records(chance, size(chance)):
        form = chance.choice((None, None, *FORMS))
        if form is None:
            rows.append(row_of(record))
        else:
            record = with_turns(record, chance)
            rows.append(FORMS[form](record))
        known.append(record)
    if chance.random() < 0.5:  # the first lines have another form than the others
        order = sorted(range(len(rows)), key=lambda at: not isinstance(rows[at].get("prompt"), str))
        known, rows = [known[at] for at in order], [rows[at] for at in order]
    write, named = file_of(rows, kind, chance)
    return passes(f"forms in turn in {kind}", write, named, train=known)


def beside_prompt(chance: Chance) -> Draft:
    """Conversations that differ from the prompt column beside them."""
    what = chance.choice(("a system turn", "a trailing space", "system column", "another prompt", "two system turns"))
    kind = chance.choice(("jsonl", "json", "parquet", "saved"))
    known, rows = [], []
    for record in records(chance, size(chance), plain=True):
        asked = record.prompt[0].content
        if what == "a trailing space":
            row = {
                "prompt": f"{asked} \n",
                "chosen": whole(record, record.chosen),
                "rejected": whole(record, record.rejected),
            }
        elif what == "system column":
            system = chance.choice((None, "", " ", "Be brief."))
            row = row_of(record) | {"system": system}
            if system and system.strip():
                record = record._replace(prompt=(Message("system", system), *record.prompt))
        else:
            record = record._replace(prompt=(Message("system", "Be brief."), *record.prompt))
            row = {"prompt": asked, "chosen": whole(record, record.chosen), "rejected": whole(record, record.rejected)}
            if what == "another prompt":
                row["prompt"] = "Something else?"
            elif what == "two system turns":
                row = {**row_of(record), "prompt": turns(record.prompt), "system": "Be long."}
        known.append(record)
        rows.append(row)
    write, named = file_of(rows, kind, chance)
    if what == "another prompt":
        return fails(what, "not those of the prompt", write, named)
    if what == "two system turns":
        return fails(what, "system", write, named)
    return passes(f"{what} in {kind}", write, named, train=known)


def tools(chance: Chance) -> Draft:
    """Tool calls, in the prompt or in a response."""
    kind = chance.choice(("jsonl", "json", "parquet"))
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"for": "a"}'}}
    known, rows = [], []
    for record in records(chance, size(chance), plain=True):
        asked = record.prompt[0].content
        messages: list[Row] = [
            {"role": "user", "content": asked, "tool_calls": None, "tool_call_id": None},
            {"role": "assistant", "content": None, "tool_calls": [call], "tool_call_id": None},
            {"role": chance.choice(("tool", "function")), "content": "found", "tool_calls": None, "tool_call_id": "c1"},
        ]
        prompt = (
            Message("user", asked),
            Message("assistant", "", json.dumps([call])),
            Message("tool", "found", None, "c1"),
        )
        known.append(record._replace(prompt=prompt))
        rows.append({"prompt": messages, "chosen": record.chosen, "rejected": record.rejected})
    if chance.random() < 0.5:
        for row in rows:
            end: Row = {"role": "assistant", "content": row["rejected"], "tool_calls": None}
            row["rejected"] = [end]
            row["chosen"] = [{"role": "assistant", "content": row["chosen"], "tool_calls": [call]}]
        write, named = file_of(rows, kind, chance)
        return fails(f"a response that calls tools in {kind}", "calls tools", write, named)
    write, named = file_of(rows, kind, chance)
    return passes(f"calls of tools in {kind}", write, named, train=known)


def bad_conversations(chance: Chance) -> Draft:
    """Invalid conversations."""
    known = records(chance, size(chance), plain=True)
    rows = [FORMS["conversations and no prompt"](record) for record in known]
    bad = rows[chance.randrange(len(rows))]
    images = [{"type": "image_url", "image_url": {"url": "x"}}]
    changes: dict[str, Callable[[], Any]] = {
        "a long role": lambda: bad["chosen"][0].update(role="x" * 10_000),
        "calls of tools that are deep": lambda: bad["chosen"][0].update(tool_calls=json.loads("[" * 900 + "]" * 900)),
        "half a character in the id of a call": lambda: bad.update(
            prompt=[*turns(known[0].prompt), {"role": "tool", "content": "a", "tool_call_id": "\ud800"}],
            chosen="a",
            rejected="b",
        ),
        "an unknown role": lambda: bad["chosen"][0].update(role="wizard"),
        "a role of null": lambda: bad["chosen"][0].update(role=None),
        "a role that is a list": lambda: bad["chosen"][0].update(role=["user"]),
        "a number as content": lambda: bad["chosen"][-1].update(content=7),
        "content of null": lambda: bad["chosen"][-1].update(content=None),
        "an image": lambda: bad["chosen"][0].update(content=images),
        "no content": lambda: bad["chosen"][-1].pop("content"),
        "an empty list": lambda: bad.update(chosen=[]),
        "a list in a list": lambda: bad.update(chosen=[bad["chosen"]]),
        "text among messages": lambda: bad["chosen"].append("bye"),
        "no last answer": lambda: bad["rejected"].pop(),
        "another history": lambda: bad["rejected"][0].update(content="else"),
        "a number": lambda: bad.update(chosen=7),
        "true": lambda: bad.update(chosen=True),
        "an object of other keys": lambda: bad.update(chosen={"text": "a"}),
        "null": lambda: bad.update(rejected=None),
        "one text and one conversation": lambda: bad.update(chosen="A text."),
    }
    what = chance.choice([*changes, "no turns in the prompt"])
    kind = chance.choice(("jsonl", "json"))
    if what in changes:
        changes[what]()
    else:
        rows = [FORMS["a prompt of messages"](record) for record in known]
        bad = rows[chance.randrange(len(rows))]
        bad["prompt"], kind = [], chance.choice(("jsonl", "json", "parquet", "saved"))
    write, named = file_of(rows, kind, chance)
    if chance.random() < 0.3:
        good = [record for record, row in zip(known, rows, strict=True) if row is not bad]
        counts = {"rows": len(rows), "dropped": 1}
        return passes(f"{what}, skipped", write, named, "data.on_bad_row=skip", train=good, counts=counts)
    return fails(what, "row ", write, named)
