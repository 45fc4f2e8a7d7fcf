"""Tests of `micro_lit.data.records`."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from micro_lit.data.records import BadRow, Message, parse_record

GOOD = {"prompt": "Tea or coffee?", "chosen": "Tea.", "rejected": "Coffee."}
USER = {"role": "user", "content": "Tea or coffee?"}
TEA = {"role": "assistant", "content": "Tea."}
COFFEE = {"role": "assistant", "content": "Coffee."}


def test_a_plain_row_becomes_a_record():
    record = parse_record(GOOD)
    assert record.prompt == (Message("user", "Tea or coffee?"),)
    assert (record.chosen, record.rejected) == ("Tea.", "Coffee.")
    assert record[3:] == (None,) * 9


def test_optional_fields_are_kept_and_whole_numbers_become_text():
    row = GOOD | {
        "criterion": "Be short.",
        "attribute": "short",
        "group": 3,
        "user_id": 17,
        "rating_gap": 2,
        "source": "mine",
        "pair_id": "p1",
        "label_id": 5,
        "unrelated": object(),
    }
    record = parse_record(row)
    assert record.criterion == "Be short."
    assert (record.attribute, record.group, record.user_id) == ("short", "3", "17")
    assert (record.source, record.pair_id, record.label_id) == ("mine", "p1", "5")
    assert record.rating_gap == 2.0
    assert isinstance(record.rating_gap, float)


def test_a_rating_gap_of_zero_is_a_tie_and_no_error():
    assert parse_record(GOOD | {"rating_gap": 0}).rating_gap == 0.0


@pytest.mark.parametrize("name", ["chosen", "rejected"])
@pytest.mark.parametrize(
    ("value", "trouble"),
    [
        (None, "column '{name}' is missing or null"),
        ("", "'{name}' is empty"),
        (" \n\t", "'{name}' is empty"),
        (7, "'{name}' is no text and no list of messages (it is of type int)"),
        (math.nan, "'{name}' is no text and no list of messages (it is of type float)"),
        ({"role": "assistant"}, "'{name}' has a message without content"),
        ([], "'{name}' does not end with a message of the assistant"),
        ([USER], "'{name}' does not end with a message of the assistant"),
        ([USER, {"role": "assistant"}], "'{name}' has a message without content"),
        ([USER, "Tea."], "'{name}' holds a message without role and content"),
        ([{"role": "robot", "content": "Tea."}], "'{name}' has a role that is unknown"),
        ([{"role": "assistant", "content": None}], "'{name}' has a message without content"),
        ([{"role": "assistant", "content": 5}], "'{name}' has a message whose content is no text (it is of type int)"),
        (
            [{"role": "assistant", "content": [{"type": "image_url"}]}],
            "'{name}' has a message with a part that is no text ('image_url')",
        ),
        ([{"role": "assistant", "content": "x", "tool_calls": [{"name": "look_up"}]}], "'{name}' calls tools"),
        ([{"role": "assistant", "content": " "}], "'{name}' is empty"),
    ],
)
def test_a_bad_response_is_named(name, value, trouble):
    check_trouble(GOOD | {name: value}, trouble.format(name=name))


@pytest.mark.parametrize("name", ["chosen", "rejected"])
def test_a_missing_response_is_named(name):
    check_trouble({key: value for key, value in GOOD.items() if key != name}, f"column {name!r} is missing or null")


@pytest.mark.parametrize(
    ("changes", "trouble"),
    [
        ({"prompt": ""}, "the prompt is empty"),
        ({"prompt": "  "}, "the prompt is empty"),
        ({"prompt": []}, "the prompt is empty"),
        ({"prompt": [{"role": "user", "content": "\n"}]}, "the prompt is empty"),
        ({"prompt": 5}, "'prompt' is no text and no list of messages (it is of type int)"),
        ({"prompt": [{"role": "guest", "content": "Hi"}]}, "'prompt' has a role that is unknown"),
        ({"prompt": [{"content": "Hi"}]}, "'prompt' holds a message without role and content"),
        ({"prompt": None}, "there is no prompt, and 'chosen' is not a conversation"),
        ({"rejected": "Tea."}, "chosen and rejected are the same text"),
        ({"chosen": [USER, COFFEE]}, "chosen and rejected are the same text"),
        ({"rating_gap": math.inf}, "'rating_gap' is no finite number or null (it is inf)"),
        ({"rating_gap": -1.0}, "rated below"),
        ({"rating_gap": "two"}, "'rating_gap' is no finite number or null (it is 'two')"),
        ({"rating_gap": True}, "'rating_gap' is no finite number or null (it is True)"),
        ({"user_id": 1.5}, "'user_id' is no text, whole number or null; +data.columns.user_id=null leaves it unread"),
        ({"group": ["a"]}, "'group' is no text, whole number or null; +data.columns.group=null leaves it unread"),
    ],
)
def test_a_bad_row_is_named(changes, trouble):
    check_trouble(GOOD | changes, trouble)


def check_trouble(row, trouble):
    with pytest.raises(BadRow) as caught:
        parse_record(row)
    assert trouble in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_prompt_of_messages_keeps_every_turn_and_responses_may_repeat_it():
    prompt = [{"role": "system", "content": "Be brief."}, USER, COFFEE, {"role": "user", "content": "Sure?"}]
    record = parse_record({"prompt": prompt, "chosen": [*prompt, TEA], "rejected": [COFFEE]})
    assert record.prompt == tuple(Message(**message) for message in prompt)
    assert (record.chosen, record.rejected) == ("Tea.", "Coffee.")


def test_the_prompt_is_what_two_conversations_share():
    record = parse_record({"chosen": [USER, TEA], "rejected": [USER, COFFEE]})
    assert record == parse_record(GOOD)


def test_conversations_that_differ_earlier_share_no_prompt():
    other = {"role": "user", "content": "Something else?"}
    check_trouble({"chosen": [USER, TEA], "rejected": [other, COFFEE]}, "differ before their last message")


def test_transcripts_become_messages():
    shared = "\n\nHuman: Tea or coffee?\n\nAssistant: Coffee.\n\nHuman: Really?"
    record = parse_record({"chosen": f"{shared}\n\nAssistant: No, tea.", "rejected": f"{shared}\n\nAssistant: Yes."})
    assert record.prompt == (
        Message("user", "Tea or coffee?"),
        Message("assistant", "Coffee."),
        Message("user", "Really?"),
    )
    assert (record.chosen, record.rejected) == ("No, tea.", "Yes.")


@pytest.mark.parametrize(
    ("transcript", "trouble"),
    [
        ("Tea.", "not a conversation that ends with the assistant"),
        ("\n\nHuman: Tea?", "not a conversation that ends with the assistant"),
        ("\n\nHuman: Tea?\n\nAssistant: Yes.\n\nHuman: Thanks.", "not a conversation that ends with the assistant"),
        ("\n\nHuman: Tea?\n\nAssistant:", "'chosen' is empty"),
    ],
)
def test_a_transcript_without_a_last_answer_is_refused(transcript, trouble):
    check_trouble({"chosen": transcript, "rejected": "\n\nHuman: Tea?\n\nAssistant: No."}, trouble)


def test_a_transcript_does_not_lose_words_before_its_first_turn():
    """A first turn without its blank line would vanish from the prompt."""
    start = "Human: Hello.\n\nAssistant: Hi.\n\nHuman: Tea?\n\nAssistant:"
    check_trouble({"chosen": f"{start} Yes.", "rejected": f"{start} No."}, "not a conversation")


words = st.text(st.characters(exclude_categories=("Cs",)), min_size=1).filter(str.strip)


@given(prompt=words, chosen=words, rejected=words)
def test_text_is_never_altered(prompt, chosen, rejected):
    row = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    if chosen == rejected:
        check_trouble(row, "the same text")
    else:
        assert parse_record(row)[:3] == ((Message("user", prompt),), chosen, rejected)


@given(
    st.dictionaries(
        st.sampled_from(["prompt", "chosen", "rejected", "rating_gap", "group"]),
        st.recursive(
            st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=4),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content"]), inner, max_size=2)
            ),
            max_leaves=6,
        ),
    )
)
def test_any_row_of_json_is_a_record_or_a_bad_row(row):
    record, trouble = parse_or_trouble(row)
    if record is None:
        assert trouble
        assert "\n" not in trouble
    else:
        assert record.chosen.strip()
        assert record.rejected.strip()
        assert record.chosen != record.rejected


def parse_or_trouble(row):
    try:
        return parse_record(row), None
    except BadRow as error:
        return None, str(error)
