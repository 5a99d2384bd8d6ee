import polars as pl
import pytest

from laser_peft.data import Catalogue, PromptBuilder
from laser_peft.data.prompts import INSTRUCTION, SHORTEST_ITEM, describe_item


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


def test_missing_attributes_leave_no_trace(catalogue):
    assert [describe_item(attributes) for attributes in catalogue.attributes()] == [
        "Red lamp (brand: Alba; category: Home, Lamps)",
        "brand: Borun",
        "Blue chair",
    ]
    assert catalogue.titles == ["Red lamp", "y7", "Blue chair"]


def test_catalogue_is_saved_and_loaded_whole(catalogue, tmp_path):
    catalogue.save(tmp_path / "catalogue.parquet")
    loaded = Catalogue.load(tmp_path / "catalogue.parquet")
    assert loaded.frame.equals(catalogue.frame)
    assert loaded.dense_ids(["z7", "x7"]) == [3, 1]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["a", "b", "a"], "2 items of the catalogue share an id; the first: row 1 "),
        (["a", None], "1 items of the catalogue have no item_id"),
        (["a", ""], "1 items of the catalogue have no item_id"),
    ],
)
def test_bad_ids_are_said(ids, message):
    with pytest.raises(ValueError, match=message):
        Catalogue(pl.DataFrame({"item_id": ids}))


def test_a_wrong_id_column_is_said(tmp_path):
    (tmp_path / "items.csv").write_text("asin,title\na,b\n")
    with pytest.raises(ValueError, match="items.csv has no column 'item_id'; it has 'asin'"):
        Catalogue.read(tmp_path / "items.csv")
    assert len(Catalogue.read(tmp_path / "items.csv", item_column="asin")) == 1


def test_a_prompt_is_token_for_token_the_text(tokenizer, catalogue):
    text = f"{INSTRUCTION}1. Blue chair\n2. brand: Borun\n"
    tokens = PromptBuilder(tokenizer, catalogue)([3, 2])
    assert tokens == [tokenizer.bos_token_id, *tokenizer(text)["input_ids"]]
    assert "7" not in tokenizer.decode(tokens)  # item ids leak order; they stay out


def test_truncation_drops_the_oldest_items_whole(tokenizer, catalogue):
    whole = PromptBuilder(tokenizer, catalogue)
    history = [3, 2, 1, 3, 2]  # item 1 is the longest
    for kept in (3, 4, 5):
        newest = whole(history[-kept:])
        for spare in (0, 1):
            limit = len(newest) + spare
            assert PromptBuilder(tokenizer, catalogue, max_tokens=limit)(history) == newest


def test_a_limit_of_items_keeps_the_newest(tokenizer, catalogue):
    limited = PromptBuilder(tokenizer, catalogue, max_items=2)
    assert limited([1, 2, 3]) == PromptBuilder(tokenizer, catalogue)([2, 3])


def test_one_token_less_costs_a_whole_item(tokenizer, catalogue):
    whole = PromptBuilder(tokenizer, catalogue)
    history = [1, 3, 2, 3]
    limit = len(whole(history)) - 1
    assert PromptBuilder(tokenizer, catalogue, max_tokens=limit)(history) == whole(history[1:])


def test_an_empty_history_is_the_instruction_alone(tokenizer, catalogue):
    expected = [tokenizer.bos_token_id, *tokenizer(INSTRUCTION)["input_ids"]]
    assert PromptBuilder(tokenizer, catalogue)([]) == expected


def test_too_small_a_limit_says_how_much_is_needed(tokenizer, catalogue):
    needed = len(PromptBuilder(tokenizer, catalogue)([])) + len(tokenizer("1.")["input_ids"])
    message = rf"\({needed} tokens\) and an item; use at least {needed + SHORTEST_ITEM}"
    with pytest.raises(ValueError, match=message):
        PromptBuilder(tokenizer, catalogue, max_tokens=needed + SHORTEST_ITEM - 1)


def test_an_item_longer_than_a_prompt_is_cut_and_said(tokenizer, catalogue):
    whole = PromptBuilder(tokenizer, catalogue)([1])
    limit = len(whole) - 2
    with pytest.warns(UserWarning, match="1 items have more than the .* their texts are cut"):
        cut = PromptBuilder(tokenizer, catalogue, max_tokens=limit)([3, 1])
    assert cut == whole[:limit]


@pytest.mark.parametrize("value", [{"price": 3, "asin": "B00"}, [{"a": 1}], b"bytes"])
def test_columns_that_cannot_be_said_are_named(value):
    with pytest.raises(ValueError, match="texts, numbers or lists of them; offer cannot be said"):
        Catalogue(pl.DataFrame({"item_id": ["a"], "offer": [value]}))


def test_another_id_column_does_not_get_into_the_prompts(tmp_path):
    (tmp_path / "items.csv").write_text("item_id,asin,title\n7,a,lamp\n")
    catalogue = Catalogue.read(tmp_path / "items.csv", item_column="asin")
    assert catalogue.item_ids == ["a"]
    assert catalogue.attributes() == [{"title": "lamp"}]


def test_numbers_are_ids_and_texts_too(tmp_path):
    (tmp_path / "items.jsonl").write_text('{"item_id": 71, "title": 1984, "price": 2.5}')
    catalogue = Catalogue.read(tmp_path / "items.jsonl")
    assert catalogue.dense_ids(["71"]) == [1]
    assert catalogue.titles == ["1984"]
    assert catalogue.attributes() == [{"title": "1984", "price": "2.5"}]
