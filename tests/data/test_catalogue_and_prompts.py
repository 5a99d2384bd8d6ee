import numpy as np
import polars as pl
import pytest

from laser_peft.data import Catalogue, PromptBuilder


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
    assert catalogue.attributes() == [
        {"title": "Red lamp", "brand": "Alba", "categories": "Home, Lamps"},
        {"brand": "Borun"},
        {"title": "Blue chair"},
    ]
    assert catalogue.titles == ["Red lamp", "y7", "Blue chair"]


def test_a_few_items_are_said_as_all_are():
    spaces = "".join(chr(code) for code in range(0x3100) if chr(code).isspace())
    titles = [f"{space}red{space} {space}lamp{other}" for space in spaces for other in " \u200bz"]
    titles += [None, "", spaces]
    parts = [[title, "", None, title] for title in titles] + [[], None]
    frame = pl.DataFrame({"title": [*titles, None, None], "parts": parts}).with_columns(
        item_id=pl.int_range(pl.len()).cast(pl.String)
    )
    catalogue = Catalogue(frame)
    few = [
        attributes
        for row in range(len(frame))
        for attributes in catalogue.iter_attributes(np.array([row]))
    ]
    assert few == catalogue.attributes()
    dense = np.array([7, 1, len(frame)])
    assert catalogue.names(dense)[1] == [catalogue.titles[row - 1] for row in dense]


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


@pytest.mark.parametrize("value", [{"price": 3, "asin": "B00"}, [{"a": 1}], b"bytes"])
def test_columns_that_cannot_be_said_are_left_out_and_named(value):
    with pytest.warns(UserWarning, match="numbers or lists of them; left out, .* them: offer "):
        catalogue = Catalogue(pl.DataFrame({"item_id": ["a"], "offer": [value], "title": ["b"]}))
    assert catalogue.attributes() == [{"title": "b"}]


def test_parts_may_disagree_on_what_is_left_out(tmp_path):
    (tmp_path / "0.jsonl").write_text('{"item_id": "a", "offer": {"price": 3}}\n')
    (tmp_path / "1.jsonl").write_text('{"item_id": "b", "offer": {"size": [1]}, "title": "c"}\n')
    with pytest.warns(UserWarning, match="left out, .* them: offer ") as caught:
        catalogue = Catalogue.read(tmp_path)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert catalogue.attributes() == [{}, {"title": "c"}]


def test_numbers_are_said_as_they_were_stored_and_not_a_number_is_unknown():
    price = [19.99, float("nan"), None]
    for kind in (pl.Float32, pl.Float64):
        prices = pl.Series(price, dtype=kind)
        for column, said in (
            (prices, [{"price": "19.99"}, {}, {}]),
            (prices.implode().extend_constant(None, 2), [{"price": "19.99"}, {}, {}]),
            (prices.reshape((3, 1)), [{"price": "19.99"}, {}, {}]),
        ):
            frame = pl.DataFrame({"item_id": ["a", "b", "c"], "price": column})
            assert Catalogue(frame).attributes() == said


def test_another_id_column_does_not_get_into_the_prompts(tmp_path):
    (tmp_path / "items.csv").write_text("item_id,asin,title\n7,a,lamp\n")
    catalogue = Catalogue.read(tmp_path / "items.csv", item_column="asin")
    assert catalogue.item_ids == ["a"]
    assert catalogue.attributes() == [{"title": "lamp"}]
    for columns in (["item_id", "asin"], ["asin", "item_id"], ["item_id", "title", "asin"]):
        frame = pl.DataFrame({name: [name] for name in columns})
        read = Catalogue.read(frame, item_column="asin").frame
        kept = [name for name in columns if name != "item_id"]
        assert read.columns == ["item_id" if name == "asin" else name for name in kept]
        assert read["item_id"].to_list() == ["asin"]


def test_numbers_are_ids_and_texts_too(tmp_path):
    (tmp_path / "items.jsonl").write_text('{"item_id": 71, "title": 1984, "price": 2.5}')
    catalogue = Catalogue.read(tmp_path / "items.jsonl")
    assert catalogue.dense_ids(["71"]) == [1]
    assert catalogue.titles == ["1984"]
    assert catalogue.attributes() == [{"title": "1984", "price": "2.5"}]


def test_an_extended_catalogue_says_its_own_items_as_before():
    own = Catalogue(
        pl.DataFrame(
            {
                "item_id": ["a", "b"],
                "title": ["Red lamp", None],
                "price": [3, None],
                "weight": pl.Series([0.1, 2.5], dtype=pl.Float32),
                "tags": [["x", "y"], []],
                "maker": [None, None],
            }
        )
    )
    more = Catalogue(
        pl.DataFrame(
            {
                "maker": ["Alba"],
                "item_id": ["c"],
                "title": ["Blue lamp"],
                "price": [2.5],
                "weight": [0.1],
                "tags": ["z"],
                "colour": ["blue"],
            }
        )
    )
    both = own.extended(more)
    assert both.item_ids == ["a", "b", "c"]
    assert both.attributes()[:2] == own.attributes()
    assert both.attributes()[2] == more.attributes()[0]
    assert both.frame.columns[:6] == own.frame.columns
    assert own.extended(
        Catalogue(own.frame[:1].with_columns(item_id=pl.lit("d")))
    ).frame.schema == (own.frame.schema)
    unknown = Catalogue(pl.DataFrame({"item_id": ["d"], "tags": [None], "price": [None]}))
    kept = own.extended(unknown).frame.schema
    assert (kept["tags"], kept["price"]) == (own.frame["tags"].dtype, own.frame["price"].dtype)
    with pytest.raises(ValueError, match=r"1 of 1 items are in the catalogue already: \['a'\]"):
        own.extended(Catalogue(own.frame[:1]))


def test_extended_prompts_are_those_of_the_extended_catalogue(tokenizer):
    own = Catalogue(pl.DataFrame({"item_id": ["a", "b"], "title": ["Thing", "Tools"]}))
    more = Catalogue(pl.DataFrame({"item_id": ["c"], "title": ["Thing " * 99]}))
    prompts = PromptBuilder(tokenizer, own, max_tokens=120)
    with pytest.warns(UserWarning, match="1 items have more than the .* their texts are cut"):
        extended = prompts.extended(more)
    with pytest.warns(UserWarning, match="1 items have more than the"):
        whole = PromptBuilder(tokenizer, own.extended(more), max_tokens=120)
    for history in ([1], [2, 1], [3]):
        assert extended(history) == whole(history)
    with pytest.raises(IndexError):
        prompts([3])
