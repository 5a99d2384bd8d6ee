"""Items that are added by their texts, and items that are taken out."""

import polars as pl
import pytest
import torch
from conftest import NUM_ITEMS
from recommenders import LIMITS, ids, make_reader_of_items, make_recommender, signed_encoder

from laser_peft import LaserRecommender
from laser_peft.comparison import evaluate
from laser_peft.data import Catalogue, LogSource
from laser_peft.experiment import Experiment
from laser_peft.item_encoding import encode_items
from laser_peft.item_texts import describe_items, lm_text_vectors
from laser_peft.recommender import RecommenderConfig, stock

NEW = [
    {"brand": "Alba", "item_id": "n1", "title": "Thing number 99", "colour": "red"},
    {"item_id": "n2", "title": "Thing number 3", "categories": ["Tools", "Kind 3"]},
]
HISTORIES = [["i3"], ["i1", "i7", "i5"], []]


@pytest.fixture(params=["fused", "text"])
def recommender(request, lm_folder, encoder_folder, shop, tokenizer, tmp_path):
    encoder = signed_encoder(encoder_folder, shop, tmp_path / "encoder")
    return make_recommender(lm_folder, encoder, shop, tokenizer, request.param)


def table_of(recommender):
    return recommender.model.base_model.layer.bituning_adapters["default"].items


def test_what_was_there_stays_as_it_is_to_the_last_bit(recommender):
    everything = {"k": 99, "exclude_seen": False, "allow": recommender.catalogue.item_ids}
    vectors = recommender.item_vectors.clone()
    text, events = table_of(recommender).text.clone(), table_of(recommender).events.clone()
    found = recommender.recommend(HISTORIES, **everything)
    prompts = [recommender.prompts([item]) for item in range(1, NUM_ITEMS + 1)]
    recommender.add_items(NEW)
    assert torch.equal(recommender.item_vectors[:NUM_ITEMS], vectors)
    assert torch.equal(table_of(recommender).text[:NUM_ITEMS], text)
    assert torch.equal(table_of(recommender).events[:NUM_ITEMS], events)
    assert recommender.recommend(HISTORIES, **everything) == found
    assert [recommender.prompts([item]) for item in range(1, NUM_ITEMS + 1)] == prompts
    torch.testing.assert_close(recommender.item_vectors, recommender.model.item_vectors())


def test_new_items_have_their_texts_vectors_by_the_very_map_of_training(recommender):
    recommender.add_items(NEW)
    assert recommender.catalogue.item_ids[-2:] == ["n1", "n2"]
    texts = [
        "Thing number 99 (brand: Alba; colour: red)",
        "Thing number 3 (category: Tools, Kind 3)",
    ]
    assert describe_items(recommender.catalogue)[-2:] == texts
    states, _ = lm_text_vectors(recommender.model, recommender.tokenizer, texts)
    text = table_of(recommender).text[-2:]
    torch.testing.assert_close(text, recommender.whitening(states))
    assert table_of(recommender).events[-2:].eq(0).all()
    if table_of(recommender).source == "fused":
        guess = table_of(recommender).from_text
        assert guess.any()
        expected = guess[0] + text @ guess[1:]
        torch.testing.assert_close(recommender.model.item_vectors()[-2:, :16], expected)


def test_new_items_are_recommended_and_stand_in_histories(recommender):
    recommender.add_items(NEW)
    assert {"n1", "n2"} <= set(ids(recommender.recommend(["i3"], k=99)))
    found = recommender.recommend([["n2", "i3", "n1"], ["n1"]], k=99)
    assert [len(items) for items in found] == [NUM_ITEMS + 2 - 3, NUM_ITEMS + 2 - 1]
    assert recommender.similar_items("n1", k=1)[0].item_id in recommender.catalogue.item_ids
    assert len(recommender.score(["i3"], ["n1", "n2"])) == 2
    prompt = recommender.tokenizer.decode(recommender.prompts([NUM_ITEMS + 1]))
    assert prompt.endswith("Thing number 99 (brand: Alba; colour: red)\n")


def test_an_item_of_the_same_text_as_another_new_one_ties_behind_it(recommender):
    recommender.add_items([{"item_id": name, "title": "Thing number 99"} for name in ("b", "a")])
    found = recommender.recommend(["i3"], k=99, allow=["a", "b"])
    assert ids(found) == ["b", "a"]
    assert found[0].score == found[1].score


def test_added_and_removed_items_survive_saving_and_are_gone_on_with(recommender, tmp_path):
    recommender.add_items(NEW)
    recommender.remove_items(["i5", "n2"])
    recommender.save_pretrained(tmp_path / "saved")
    loaded = LaserRecommender.from_pretrained(tmp_path / "saved")
    assert loaded.catalogue.item_ids == recommender.catalogue.item_ids
    assert loaded.removed == ["i5", "n2"]
    assert torch.equal(table_of(loaded).text, table_of(recommender).text)
    assert torch.equal(table_of(loaded).events, table_of(recommender).events)
    for one, other in zip(loaded.whitening, recommender.whitening, strict=True):
        assert torch.equal(one, other)
    for one, other in zip(
        loaded.recommend(HISTORIES[1]), recommender.recommend(HISTORIES[1]), strict=True
    ):
        assert one[:2] == other[:2]
        assert one.score == pytest.approx(other.score, rel=1e-4)
    more = [{"item_id": "n3", "title": "Thing number 42"}]
    for each in (loaded, recommender):
        each.add_items(more)
    torch.testing.assert_close(table_of(loaded).text[-1], table_of(recommender).text[-1])
    assert not {"i5", "n2"} & set(ids(loaded.recommend([], k=99)))
    loaded.add_items([{"item_id": "n2"}])
    loaded.save_pretrained(tmp_path / "saved")
    assert LaserRecommender.from_pretrained(tmp_path / "saved").removed == ["i5"]


def test_the_encoder_still_answers_for_its_own_items_only(recommender, tmp_path):
    recommender.add_items(NEW)
    frame = recommender.catalogue.frame
    swapped = Catalogue(pl.concat([frame[1:2], frame[:1], frame[2:]]))
    with pytest.raises(ValueError, match="the encoder was trained on other items"):
        LaserRecommender(recommender.model, recommender.tokenizer, swapped, LIMITS)
    renamed = frame.with_columns(item_id=pl.col("item_id").replace("n1", "other"))
    other = LaserRecommender(recommender.model, recommender.tokenizer, Catalogue(renamed), LIMITS)
    assert other.catalogue.item_ids[-2:] == ["other", "n2"]


def test_what_comes_as_a_catalogue_is_added_as_mappings_are(recommender):
    recommender.add_items(Catalogue(pl.from_dicts(NEW)))
    assert recommender.catalogue.item_ids[-2:] == ["n1", "n2"]
    recommender.add_items(iter(()))
    recommender.add_items(Catalogue(pl.DataFrame({"item_id": []}, schema={"item_id": pl.String})))
    assert len(recommender.catalogue) == NUM_ITEMS + 2


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([*NEW, {"item_id": "i3"}, {"item_id": "n1"}], "2 items of the catalogue share an id"),
        ([*NEW, {"item_id": "i3"}], r"1 of 3 items are in the catalogue already: \['i3'\]"),
        ([*NEW, {"title": "Lamp"}], "1 items of the catalogue have no item_id"),
        ([{"title": "Lamp"}], "the catalogue needs a column 'item_id'"),
        (["n1"], "new items must be mappings such as .* got 'n1'"),
        ([NEW[0], {"item_id": "n4", "title": ["a", "b"]}], "attribute in ways that do not go"),
    ],
)
def test_items_that_cannot_be_added_change_nothing(recommender, items, message):
    before = recommender.recommend(HISTORIES)
    with pytest.raises(ValueError, match=message):
        recommender.add_items(items)
    assert len(recommender.catalogue) == len(recommender.model.item_vectors()) == NUM_ITEMS
    assert recommender.recommend(HISTORIES) == before


def test_a_test_beside_the_encoder_needs_the_items_of_training(recommender, shop):
    recommender.add_items(NEW)
    log = LogSource(path=str(shop / "interactions.csv.gz"))
    judge = Experiment.read(log, recommender.catalogue).judge
    with pytest.raises(ValueError, match="has 25 items and its encoder knows 23 of them"):
        evaluate(recommender, judge)


def test_without_the_whitening_nothing_can_be_added(recommender):
    recommender.whitening = None
    with pytest.raises(ValueError, match="cannot be added without the whitening"):
        recommender.add_items(NEW)


def test_an_adapter_that_reads_its_items_reads_new_ones_too(
    lm_folder, encoder_folder, shop, tokenizer, tmp_path
):
    encoder = signed_encoder(encoder_folder, shop, tmp_path / "encoder")
    recommender = make_reader_of_items(lm_folder, encoder, shop, tokenizer)
    vectors = recommender.model.item_vectors()
    recommender.add_items([*NEW, {"item_id": "n3", "title": NEW[1]["title"], "categories": []}])
    after = recommender.model.item_vectors()
    assert torch.equal(after[:NUM_ITEMS], vectors)
    # To the encoder a new item is as one it never saw: it could have been there from the start.
    table = encode_items(recommender.model, recommender.prompts, range(1, NUM_ITEMS + 4))
    torch.testing.assert_close(after, table)
    assert not torch.allclose(after[-1], after[-2])
    assert {"n1", "n2"} <= set(ids(recommender.recommend(["i3"], k=99)))
    recommender.save_pretrained(tmp_path / "saved")
    loaded = LaserRecommender.from_pretrained(tmp_path / "saved")
    for each in (loaded, recommender):
        each.add_items([{"item_id": "n4", "title": "Thing number 42"}])
    torch.testing.assert_close(loaded.model.item_vectors(), recommender.model.item_vectors())


def test_only_an_adapter_of_text_vectors_reads_its_items(recommender):
    if table_of(recommender).source == "fused":
        parts = recommender.model, recommender.tokenizer, recommender.catalogue
        with pytest.raises(ValueError, match="this one has item_vectors='fused'; leave it out"):
            LaserRecommender(*parts, RecommenderConfig(reads_items=True))


def test_a_whitening_of_another_width_is_refused(recommender):
    narrow = recommender.whitening._replace(directions=torch.zeros(64, 5))
    width = table_of(recommender).text_dim
    match = f"maps to 5 directions and the adapter's .* are {width} wide"
    with pytest.raises(ValueError, match=match):
        LaserRecommender(
            recommender.model, recommender.tokenizer, recommender.catalogue, whitening=narrow
        )


def test_an_adapter_without_texts_takes_no_new_items(lm_folder, encoder_folder, shop, tokenizer):
    recommender = make_recommender(lm_folder, encoder_folder, shop, tokenizer)
    with pytest.raises(ValueError, match="no row for a new item; .* item_vectors='fused'"):
        recommender.add_items(NEW)
    recommender.remove_items(["i4"])
    recommender.add_items([{"item_id": "i4"}])  # needs no text
    assert recommender.removed == []


def test_removed_items_are_not_recommended_and_may_still_be_named(recommender):
    before = recommender.recommend(["i5", "i3"], k=99)
    recommender.remove_items(["i5", "i9", "i5"])
    recommender.remove_items(iter(["i9"]))
    assert recommender.removed == ["i5", "i9"]
    after = recommender.recommend(["i5", "i3"], k=99, exclude_seen=False)
    assert [i for i in after if i.item_id != "i3"] == [i for i in before if i.item_id != "i9"]
    assert recommender.recommend(["i3"], allow=["i9"]) == []
    assert "i9" not in ids(recommender.similar_items("i5", k=99))
    assert len(recommender.score(["i3"], ["i9"])) == 1
    with pytest.raises(ValueError, match=r"not in the catalogue of 23: \['x'\]"):
        recommender.remove_items(["i1", "x"])
    with pytest.raises(ValueError, match="item ids come as a list, got the text 'i1'"):
        recommender.remove_items("i1")
    assert recommender.removed == ["i5", "i9"]


def test_a_removed_item_comes_back_as_it_was(recommender):
    before = recommender.recommend(["i3"], k=99)
    recommender.remove_items(["i5", "i9"])
    recommender.add_items([{"item_id": "i9", "title": "Thing number 9"}, {"item_id": "i5"}])
    assert recommender.recommend(["i3"], k=99) == before
    recommender.remove_items(["i9"])
    with pytest.raises(ValueError, match="title 'Thing number 9', not 'Lamp'; leave its attrib"):
        recommender.add_items([{"item_id": "i9", "title": "Lamp"}])
    with pytest.raises(ValueError, match=r"in the catalogue already: \['i5'\]"):
        recommender.add_items([{"item_id": "i5"}, {"item_id": "i9"}])
    assert recommender.removed == ["i9"]


def test_an_error_late_in_adding_leaves_everything_as_it_was(recommender, monkeypatch):
    before = recommender.recommend(HISTORIES)

    def no_room(self, known):
        raise MemoryError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(stock.Stock, "grow", no_room)
        with pytest.raises(MemoryError):
            recommender.add_items(NEW)
    assert len(recommender.catalogue) == len(recommender.item_vectors) == NUM_ITEMS
    assert recommender.recommend(HISTORIES) == before
    recommender.add_items(NEW[1:])
    assert len(recommender.catalogue) == len(recommender.item_vectors) == NUM_ITEMS + 1
