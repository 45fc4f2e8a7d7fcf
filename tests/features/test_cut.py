"""Chats that are too long, and templates that take less than every chat."""

import copy
import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from micro_lit.data.pairs import Text, with_criterion
from micro_lit.data.records import Message
from micro_lit.errors import UserError
from micro_lit.features.tiny import CHAT_TEMPLATE, Tiny
from micro_lit.features.tokens import TextTokenizer

NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system turns') }}{% endif %}" + CHAT_TEMPLATE
DROPS_SYSTEM = CHAT_TEMPLATE.replace("for message in messages", "for message in messages if message.role != 'system'")


def words(letter: str, count: int) -> str:
    return " ".join(f"{letter}{number}" for number in range(count))


def chat(*contents: str, system: str | None = None) -> tuple[Message, ...]:
    """Turns of user and assistant by turns."""
    turns = tuple(Message(("user", "assistant")[at % 2], content) for at, content in enumerate(contents))
    return turns if system is None else (Message("system", system), *turns)


@pytest.fixture(scope="module")
def learned():
    return Tiny(vocabulary=400).learn_tokenizer([Text(chat(words("p", 60)), words("r", 60))])


@pytest.fixture(scope="module", params=["learned", "no system"])
def tokenizer(request, learned):
    learned = copy.deepcopy(learned)
    if request.param == "no system":
        learned.chat_template = NO_SYSTEM
    return learned


def read(tokenizer, text: Text, max_length: int) -> tuple[str, list[bool]]:
    """The text as it is read, and whether its prompt and its response were cut."""
    table = TextTokenizer(tokenizer, max_length)([text])
    assert len(table.flat_ids) <= max_length
    return tokenizer.decode(table.flat_ids), table.reading.cut_M2[0].tolist()


def whole(tokenizer, text: Text) -> str:
    return TextTokenizer(tokenizer, 10_000).render(text)[0]


def test_whole_turns_go_first_oldest_first_and_the_system_turn_stays(tokenizer):
    contents = [words(letter, 12) for letter in "abcde"]
    text = Text(chat(*contents, system="Be kind."), "Yes.")
    length = len(TextTokenizer(tokenizer, 10_000)([text]).flat_ids)
    for max_length, first in ((length, 0), (length - 1, 2), (length // 2, 4)):
        left = Text(chat(*contents[first:], system="Be kind."), "Yes.")
        assert read(tokenizer, text, max_length) == (whole(tokenizer, left), [first > 0, False])


def test_then_the_last_user_turn_loses_its_beginning(tokenizer):
    prompt = with_criterion(chat("Hello.", "Hello!", words("p", 60), system="Be kind."), "Prefer short answers.")
    for text in (Text(prompt), Text(prompt, "Yes.")):
        shown, cut = read(tokenizer, text, 80)
        assert cut == [True, False]
        content = re.search(r"(p\d+[ p\d]*)\n\nPrefer short answers\.", shown)[1]
        assert prompt[-1].content.startswith(content, prompt[-1].content.index(content))
        left = Text(chat(f"{content}\n\nPrefer short answers.", system="Be kind."), text.response)
        assert shown == whole(tokenizer, left)
        assert len(TextTokenizer(tokenizer, 80)([text]).flat_ids) > 70


def test_a_response_that_is_cut_keeps_its_beginning_and_the_end_of_its_turn(tokenizer):
    shown, cut = read(tokenizer, Text(chat("Why?"), words("r", 200)), 40)
    assert cut == [False, True]
    response = shown.removeprefix("<|user|>Why?<|end|><|assistant|>").removesuffix("<|end|>")
    assert words("r", 200).startswith(response)
    assert shown == whole(tokenizer, Text(chat("Why?"), response))
    shown, cut = read(tokenizer, Text(chat(words("p", 200)), words("r", 200)), 40)
    assert cut == [True, True]
    assert re.fullmatch(r"<\|user\|>[p\d ]*p199<\|end\|><\|assistant\|>r0 [r\d ]*<\|end\|>", shown)


def test_prompts_of_two_long_responses_are_cut_alike(tokenizer):
    prompt = chat(words("p", 200))
    table = TextTokenizer(tokenizer, 64)([Text(prompt, words("r", 200)), Text(prompt, words("s", 200))])
    assert table.prompts_M.tolist() == [0, 0]


def test_turns_behind_the_last_user_turn_are_cut_last(tokenizer):
    """As of a tool that has answered at length."""
    prompt = (*chat("Hello.", "Hello!", "What does it cost?", "I look."), Message("tool", words("t", 200)))
    shown, _ = read(tokenizer, Text(prompt, "Much."), 64)
    assert re.fullmatch(
        r"<\|user\|>\S*\?<\|end\|><\|assistant\|>\S*\.<\|end\|><\|tool\|>[t\d ]* t199<\|end\|>"
        r"<\|assistant\|>Much.<\|end\|>",
        shown,
    )


@pytest.mark.parametrize(("system_words", "stays"), [(0, True), (9, True), (12, False)])
def test_a_system_turn_stays_while_it_needs_half_of_the_tokens_or_less(learned, system_words, stays):
    system = words("s", system_words)
    shown, cut = read(learned, Text(chat(words("p", 60), system=system), words("r", 60)), 64)
    assert cut == [True, True]
    assert (f"<|system|>{system}<|end|>" in shown) == stays
    assert "59<|end|><|assistant|>r0" in shown
    if not stays:  # for nothing a response loses nothing
        assert shown == read(learned, Text(chat(words("p", 60)), words("r", 60)), 64)[0]


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=7).filter(lambda sizes: len(sizes) % 2),
    st.none() | st.integers(1, 8),
    st.none() | st.integers(1, 60),
    st.integers(64, 200),
)
def test_what_is_left_is_a_chat(learned, sizes, system, response, max_length):
    prompt = chat(*(words("u", size) for size in sizes), system=None if system is None else words("s", system))
    text = Text(prompt, None if response is None else words("r", response))
    shown, cut = read(learned, text, max_length)
    turn = r"<\|user\|>[^<]*<\|end\|><\|assistant\|>"
    begin = "" if system is None else re.escape(f"<|system|>{words('s', system)}<|end|>")
    found = re.fullmatch(f"{begin}({turn}[^<]*<\\|end\\|>)*{turn}([^<]*<\\|end\\|>)?", shown)
    assert found is not None
    assert (found[2] is None) == (response is None)
    assert (shown == whole(learned, text)) == (cut == [False, False])


@pytest.mark.parametrize(("template", "stays"), [(CHAT_TEMPLATE, True), (NO_SYSTEM, True), (DROPS_SYSTEM, False)])
def test_the_fingerprint_changes_where_whole_texts_are_read_otherwise_than_before(learned, template, stays):
    """Their features, stored before chats were cut as chats, stay valid; without a system turn that was lost, not."""
    tokenizer = TextTokenizer(copy.deepcopy(learned), 64, template)
    parts = (learned.backend_tokenizer.to_str(), template, 64)
    assert (tokenizer.fingerprint == hashlib.sha256(repr(parts).encode()).hexdigest()) == stays


@pytest.mark.parametrize("template", [NO_SYSTEM, DROPS_SYSTEM])
def test_a_template_without_system_turns_gets_them_in_the_first_user_turn(learned, template):
    folding = copy.deepcopy(learned)
    folding.chat_template = template
    tokenizer = TextTokenizer(folding, 128)
    assert tokenizer.show(Text(chat("Why?", system="Be kind."), "So.")) == (
        "<|user|>Be kind.\n\nWhy?<|end|><|assistant|>So.<|end|>"
    )
    assert tokenizer.show(Text((Message("system", "Be kind."),), "So.")) == (
        "<|user|>Be kind.<|end|><|assistant|>So.<|end|>"
    )
    before = TextTokenizer(learned, 128)
    assert "<|system|>" in before.show(Text(chat("Why?", system="Be kind.")))


def test_a_text_that_a_template_refuses_is_named(learned):
    strict = copy.deepcopy(learned)
    strict.chat_template = (
        "{% for message in messages if message.role == 'tool' %}{{ raise_exception('no tools here') }}{% endfor %}"
        + CHAT_TEMPLATE
    )
    text = Text((*chat("What does it cost?", "I look."), Message("tool", "7")), "Seven.")
    with pytest.raises(UserError, match=r"'What does it cost\?'.*no tools here.*backbone.chat_template=") as refused:
        TextTokenizer(strict, 64)([text])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("template", ["{% for %}", "{{ nothing.at.all }}", "{{ raise_exception('never') }}"])
def test_a_template_that_renders_nothing_is_refused_at_once(learned, template):
    with pytest.raises(UserError, match=r"cannot be rendered .*backbone.chat_template="):
        TextTokenizer(copy.deepcopy(learned), 64, template)


def test_a_chat_template_is_a_name_a_file_or_a_text(learned, tmp_path):
    other = CHAT_TEMPLATE.replace("<|assistant|>", "<|assistant|>So: ")
    file = tmp_path / "mine.jinja"
    file.write_text(other)
    named = copy.deepcopy(learned)
    named.chat_template = {"default": CHAT_TEMPLATE, "so": other}
    for tokenizer, wanted in ((named, "so"), (copy.deepcopy(learned), other), (copy.deepcopy(learned), str(file))):
        found = TextTokenizer(tokenizer, 64, wanted)
        assert found.show(Text(chat("Why?"))) == "<|user|>Why?<|end|><|assistant|>So: "
        assert found.fingerprint != TextTokenizer(learned, 64).fingerprint
    named.chat_template = {"default": CHAT_TEMPLATE, "so": other}
    with pytest.raises(UserError, match=r"backbone.chat_template=sow: .*its templates are default, so"):
        TextTokenizer(named, 64, "sow")
    named.chat_template = {"so": other}
    with pytest.raises(UserError, match=r"backbone.chat_template="):
        TextTokenizer(named, 64)


def test_equal_tokens_have_equal_digests(learned):
    prompt = chat("Why?")
    same, short = words("r", 200), "r0"
    texts = [Text(prompt, f"{same} first"), Text(prompt, f"{same} second"), Text(prompt, short), Text(prompt)]
    digests = TextTokenizer(learned, 64)(texts).reading.digests_M.tolist()
    assert digests[0] == digests[1]
    assert len({*digests, 0}) == 4
