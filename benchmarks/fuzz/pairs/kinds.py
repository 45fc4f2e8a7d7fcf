"""All kinds of generated pairs, in the order in which they alternate."""

from benchmarks.fuzz.pairs.bad_rows import bad_rows, broken_lines, odd_json, parquet_bytes
from benchmarks.fuzz.pairs.columns import (
    bad_gaps,
    bad_labels,
    fields,
    gaps,
    other_names,
    scores,
    sources,
    types_of_parquet,
    users,
    verdicts,
)
from benchmarks.fuzz.pairs.conversations import (
    bad_conversations,
    beside_prompt,
    conversations,
    mixed_forms,
    tools,
    transcripts,
)
from benchmarks.fuzz.pairs.files import cut_short, damaged, nullish, paths, plain
from benchmarks.fuzz.pairs.splits import few, folders, leaks, settings, unlike_files

KINDS = (
    plain, conversations, damaged, verdicts, users, bad_rows, gaps, folders, other_names, broken_lines, mixed_forms,
    transcripts, nullish, bad_labels, scores, leaks, odd_json, unlike_files, bad_gaps, paths, beside_prompt, sources,
    few, fields, bad_conversations, types_of_parquet, tools, cut_short, parquet_bytes, settings,
)  # fmt: skip
