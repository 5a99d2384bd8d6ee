"""Prompts, token for token, with several kinds of tokenizers made on the spot."""

from dataclasses import replace

import polars as pl
import pytest
from tokenizer_kinds import (
    EXACT_KINDS,
    bpe_across_spaces,
    byte_bpe,
    encode,
    trained_tokenizer,
    unigram,
)
from transformers import PreTrainedTokenizerFast

from laser_peft.data import Catalogue, PromptBuilder, PromptTemplate
from laser_peft.data.prompt_template import INSTRUCTION
from laser_peft.data.prompts import SHORTEST_ITEM


@pytest.fixture(scope="module", params=EXACT_KINDS)
def any_tokenizer(request):
    return trained_tokenizer(request.param)


@pytest.fixture
def catalogue():
    return Catalogue(
        pl.DataFrame(
            {
                "item_id": ["x7", "y7", "z7"],
                "title": ["Red  lamp", "", "Blue chair"],
                "brand": ["Alba", "Borun", None],
                "categories": [["Home", "Lamps"], [], None],
            }
        )
    )


# Token for token


def test_a_prompt_is_token_for_token_the_text(any_tokenizer, catalogue):
    text = (
        f"{INSTRUCTION}1. Blue chair\n2. brand: Borun\n"
        "3. Red lamp (brand: Alba; category: Home, Lamps)\n"
    )
    tokens = PromptBuilder(any_tokenizer, catalogue)([3, 2, 1])
    assert tokens == [any_tokenizer.bos_token_id, *encode(any_tokenizer, text)]


def test_item_ids_stay_out(tokenizer, catalogue):
    assert "7" not in tokenizer.decode(PromptBuilder(tokenizer, catalogue)([3, 2, 1]))


def test_where_words_go_across_pieces_the_text_is_the_same_but_for_spaces(catalogue):
    tokenizer = trained_tokenizer(bpe_across_spaces)
    text = f"{INSTRUCTION}1. Blue chair\n2. brand: Borun\n"
    tokens = PromptBuilder(tokenizer, catalogue)([3, 2])[1:]
    assert tokens != encode(tokenizer, text)
    assert tokenizer.decode(tokens).split() == text.split()


# How byte-level BPE splits a text in the families of Qwen (digit by digit) and of Llama 3.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,DIGITS}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@pytest.fixture(scope="module", params=["1", "3"])
def modern_tokenizer(request):
    """As those of Qwen and Llama 3, trained where it could learn to join lines."""
    return trained_tokenizer(lambda: byte_bpe(WORDS.replace("DIGITS", request.param)))


def whole_text(template, items):
    lines = (template.item.format(number=n, item=text) for n, text in enumerate(items, 1))
    return template.instruction + "".join(lines) + template.ending


@pytest.mark.parametrize(
    ("template", "exact"),
    [
        (PromptTemplate(), True),
        (PromptTemplate(item="- {item}\n", ending="Taste:"), True),
        (PromptTemplate(item="{item}, "), False),
        (PromptTemplate(item="{number}{item}; ", ending="Taste:"), False),
        (PromptTemplate(item="{number}. {item}\n\n", ending="\n"), False),
    ],
)
def test_whether_tokens_are_those_of_the_whole_text_depends_on_the_template(
    modern_tokenizer, catalogue, template, exact
):
    tokens = PromptBuilder(modern_tokenizer, catalogue, template=template)([3, 2, 3])[1:]
    text = whole_text(template, ["Blue chair", "brand: Borun", "Blue chair"])
    assert (tokens == encode(modern_tokenizer, text)) == exact
    assert modern_tokenizer.decode(tokens) == text


def test_another_template_is_token_for_token_the_text(any_tokenizer, catalogue):
    template = PromptTemplate(
        instruction="Taste:\n",
        item="- {item} /{{no {{end\n",
        attributes={"brand": "", "categories": "in", "title": "is"},
        ending="Taste:",
    )
    text = "Taste:\n- Alba (in: Home, Lamps; is: Red lamp) /{no {end\n- Borun /{no {end\nTaste:"
    tokens = PromptBuilder(any_tokenizer, catalogue, template=template)([1, 2])
    decoded = any_tokenizer.decode(tokens[1:])
    assert decoded == any_tokenizer.decode(encode(any_tokenizer, text))


def test_no_space_is_put_before_pieces(catalogue):
    tokenizer = trained_tokenizer(unigram)
    prompts = PromptBuilder(tokenizer, catalogue, template=PromptTemplate(item="{number}.{item}\n"))
    assert tokenizer.decode(prompts([3, 2])[1:]) == f"{INSTRUCTION}1.Blue chair\n2.brand: Borun\n"


def test_a_text_is_tokenised_once(any_tokenizer, catalogue, monkeypatch):
    seen = []
    call = PreTrainedTokenizerFast.__call__

    def counted(self, texts, **kwargs):
        seen.extend(texts)
        return call(self, texts, **kwargs)

    monkeypatch.setattr(PreTrainedTokenizerFast, "__call__", counted)
    prompts = PromptBuilder(any_tokenizer, catalogue)
    first = prompts([1, 3, 2])
    assert sum("Red lamp" in text for text in seen) == 1
    seen.clear()
    assert prompts([1, 3, 2]) == first
    assert prompts([2, 2]) != first
    assert not seen


def test_a_tokenizer_without_bos_begins_with_the_instruction(any_tokenizer, catalogue):
    without = PreTrainedTokenizerFast(
        tokenizer_object=any_tokenizer.backend_tokenizer, unk_token="<unk>"
    )
    assert PromptBuilder(without, catalogue)([]) == encode(without, INSTRUCTION)


def test_bos_is_not_doubled(any_tokenizer, catalogue):
    by_hand = PromptTemplate(instruction="<s>Taste:\n")
    added = PromptTemplate(instruction="Taste:\n")
    one, other = (PromptBuilder(any_tokenizer, catalogue, template=t)([]) for t in (by_hand, added))
    bos = any_tokenizer.bos_token_id
    assert one.count(bos) == other.count(bos) == 1
    assert one[0] == other[0] == bos
    never = PromptBuilder(any_tokenizer, catalogue, template=replace(added, add_bos=False))([])
    assert never == other[1:]


def test_special_tokens_in_items_are_plain_characters(any_tokenizer):
    nasty = ["a <s>b</s>", "<|im_end|>\n<|im_start|>", "<<s>s><pad><|im_end|>", "red <s"]
    catalogue = Catalogue(pl.DataFrame({"item_id": [*"abcd"], "title": nasty}))
    plain = PromptTemplate(instruction="Taste:\n")
    tokens = PromptBuilder(any_tokenizer, catalogue, template=plain)([1, 2, 3, 4])
    special = set(any_tokenizer.all_special_ids) - {any_tokenizer.unk_token_id}
    assert not special & set(tokens[1:])


def test_of_special_tokens_in_items_no_character_is_lost():
    tokenizer = trained_tokenizer(byte_bpe)
    title = "a <s>b</s> <<s>s><pad><|im_end|><|im_start|> <s"
    catalogue = Catalogue(pl.DataFrame({"item_id": ["a"], "title": [title]}))
    tokens = PromptBuilder(tokenizer, catalogue)([1])
    assert tokenizer.decode(tokens[1:]) == f"{INSTRUCTION}1. {title}\n"


# Truncation


def test_truncation_drops_the_oldest_items_whole(any_tokenizer, catalogue):
    template = PromptTemplate(ending="Taste:")
    whole = PromptBuilder(any_tokenizer, catalogue, template=template)
    history = [3, 2, 1, 3, 2]  # item 1 is the longest
    for kept in (3, 4, 5):
        newest = whole(history[-kept:])
        for spare in (0, 1):
            prompts = PromptBuilder(
                any_tokenizer, catalogue, max_tokens=len(newest) + spare, template=template
            )
            assert prompts(history) == newest


def test_a_limit_of_items_keeps_the_newest(tokenizer, catalogue):
    limited = PromptBuilder(tokenizer, catalogue, max_items=2)
    assert limited([1, 2, 3]) == PromptBuilder(tokenizer, catalogue)([2, 3])


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_of_no_item_is_refused(tokenizer, catalogue, limit):
    message = f"max_items must be at least 1, or None for no limit, got {limit}"
    with pytest.raises(ValueError, match=message):
        PromptBuilder(tokenizer, catalogue, max_items=limit)


def test_one_token_less_costs_a_whole_item(tokenizer, catalogue):
    whole = PromptBuilder(tokenizer, catalogue)
    history = [1, 3, 2, 3]
    limit = len(whole(history)) - 1
    assert PromptBuilder(tokenizer, catalogue, max_tokens=limit)(history) == whole(history[1:])


def test_an_empty_history_is_the_instruction_and_the_ending(tokenizer, catalogue):
    expected = [tokenizer.bos_token_id, *encode(tokenizer, INSTRUCTION)]
    assert PromptBuilder(tokenizer, catalogue)([]) == expected
    with_ending = PromptTemplate(ending="So:")
    assert PromptBuilder(tokenizer, catalogue, template=with_ending)([]) == [
        *expected,
        *encode(tokenizer, "So:"),
    ]


def test_too_small_a_limit_says_how_much_is_needed(tokenizer, catalogue):
    template = PromptTemplate(ending="So:")
    words = PromptBuilder(tokenizer, catalogue, template=template)([])
    needed = len(words) + len(encode(tokenizer, "1."))
    message = rf"ending \({needed} tokens\) and an item; use at least {needed + SHORTEST_ITEM}"
    limit = needed + SHORTEST_ITEM - 1
    with pytest.raises(ValueError, match=message):
        PromptBuilder(tokenizer, catalogue, max_tokens=limit, template=template)


def test_an_item_longer_than_a_prompt_is_cut_and_said(tokenizer, catalogue):
    whole = PromptBuilder(tokenizer, catalogue)([1])
    limit = len(whole) - 2
    with pytest.warns(UserWarning, match="1 items have more than the .* their texts are cut"):
        cut = PromptBuilder(tokenizer, catalogue, max_tokens=limit)([3, 1])
    assert cut == whole[:limit]


def test_numbers_are_right_whoever_asks_for_them_first(catalogue, tokenizer):
    prompts = PromptBuilder(tokenizer, catalogue, max_tokens=400)
    known = prompts._number_tokens
    wanted = [list(numbers) for numbers in prompts._numbers(9)]
    prompts._number_tokens = known  # as if another thread had begun with these
    assert prompts._numbers(5) == wanted[:6]
    assert prompts._numbers(9) == wanted
    assert len(known) == 2  # nobody else's list has grown
