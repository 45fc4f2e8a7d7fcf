"""Tests of `micro_lit.report.texts`: what a page shows of a text."""

import html

from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from micro_lit.data.records import Message
from micro_lit.report import texts


@given(st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=200))
@example("heads of C #")
def test_a_text_is_shown_as_it_is(text):
    """Whatever Markdown it holds, but for its white space."""
    rendered = MarkdownIt("commonmark").render(f"# {texts.excerpt(text)}")
    assert html.unescape(rendered) == f"<h1>{' '.join(text.split())}</h1>\n"


@given(st.text("ab *_|", max_size=2000))
def test_a_long_text_keeps_both_ends(text):
    text = " ".join(text.split())
    short = texts.shortened(text, texts.LONGEST_TEXT)
    assert len(short) <= texts.LONGEST_TEXT
    begin, *end = short.split(" … ")
    assert text.startswith(begin)
    assert not end or text.endswith(end[0])
    assert bool(end) == (len(text) > texts.LONGEST_TEXT)


def test_a_prompt_in_words_is_what_was_said():
    assert texts.in_words([Message("system", "Be brief."), Message("user", "Why?")]) == "Be brief.\nWhy?"
