"""What is recommended, whatever the adapter has learnt."""

import itertools

import polars as pl
import pytest
import torch
from conftest import NUM_ITEMS
from recommenders import LIMITS, ids, make_recommender

from laser_peft import LaserRecommender
from laser_peft.data import Catalogue
from laser_peft.recommender import RecommenderConfig


@pytest.fixture(scope="module")
def recommender(lm_folder, encoder_folder, shop, tokenizer):
    return make_recommender(lm_folder, encoder_folder, shop, tokenizer)


@pytest.fixture(scope="module")
def fused(lm_folder, encoder_folder, shop, tokenizer):
    return make_recommender(lm_folder, encoder_folder, shop, tokenizer, "fused")


HISTORIES = [["i3"], ["i1", "i2", "i5", "i1"], [f"i{n}" for n in range(20)], []]


def test_recommends_ids_titles_and_falling_scores(recommender):
    found = recommender.recommend(HISTORIES[1], k=5)
    assert [item.title for item in found] == [
        f"Thing number {item.item_id.removeprefix('i')}" for item in found
    ]
    scores = [item.score for item in found]
    assert scores == sorted(scores, reverse=True)
    assert not {item.item_id for item in found} & set(HISTORIES[1])


def test_scores_are_those_of_the_model(recommender):
    found = recommender.recommend(["i3"], k=23, exclude_seen=False)
    prompt = torch.tensor([recommender.prompts([4])])
    with torch.no_grad():
        logits = recommender.model(
            input_ids=prompt, history=torch.tensor([[4]]), return_logits=True
        ).logits[0]
    for item in found:
        row = recommender.catalogue.dense_ids([item.item_id])[0] - 1
        assert item.score == pytest.approx(logits[row].item(), abs=1e-4)


def test_many_users_get_what_each_gets_alone(recommender):
    together = list(recommender.recommend_many(HISTORIES, k=4, batch_size=2))
    for history, found in zip(HISTORIES, together, strict=True):
        alone = recommender.recommend(history, k=4)
        assert [item.item_id for item in found] == [item.item_id for item in alone]
        assert [item.score for item in found] == pytest.approx([i.score for i in alone], abs=1e-4)


def test_more_than_there_is_gives_all_that_is_left(recommender):
    assert len(recommender.recommend(HISTORIES[2], k=99)) == 3
    assert len(recommender.recommend(HISTORIES[2], k=99, exclude_seen=False)) == 23


def test_several_histories_give_a_list_each(recommender):
    together = recommender.recommend(HISTORIES, k=3)
    assert [ids(found) for found in together] == [
        ids(recommender.recommend(history, k=3)) for history in HISTORIES
    ]
    assert recommender.recommend([[]], k=3) == [recommender.recommend([], k=3)]
    once = recommender.recommend((name for name in HISTORIES[1]), k=3)
    assert ids(once) == ids(together[1])
    first, _ = recommender.recommend((("i3",), ["i4"]), k=5)
    assert ids(first) == ids(recommender.recommend(("i3",), k=5))


@pytest.mark.parametrize("source", ["recommender", "fused"])
def test_a_new_user_gets_what_the_prompt_without_items_gives(source, request):
    recommender = request.getfixturevalue(source)
    found = recommender.recommend([], k=99)
    assert sorted(ids(found)) == sorted(recommender.catalogue.item_ids)
    with torch.no_grad():
        logits = recommender.model(
            input_ids=torch.tensor([recommender.prompts([])]),
            history=torch.zeros(1, 3, dtype=torch.int64),
            return_logits=True,
        ).logits[0]
    for item in found:
        row = recommender.catalogue.item_ids.index(item.item_id)
        assert item.score == pytest.approx(logits[row].item(), abs=1e-4)


def test_histories_are_taken_as_they_come_a_batch_first_then_twice_as_many(recommender):
    taken = []

    def endless():
        for number in itertools.count():
            taken.append(number)
            yield [f"i{number % NUM_ITEMS}"]

    found = recommender.recommend_many(endless(), k=2, batch_size=5)
    assert taken == []
    first = list(itertools.islice(found, 5))
    assert len(taken) == 5
    first += itertools.islice(found, 2)
    assert len(taken) == 5 + 10
    expected = recommender.recommend([[f"i{number}"] for number in range(7)], k=2)
    assert [ids(items) for items in first] == [ids(items) for items in expected]


def test_those_with_prompts_of_like_length_are_read_together(recommender, monkeypatch):
    histories = [[f"i{n}" for n in range(1 + number % 7)] for number in range(15)]
    shapes = []
    forward = type(recommender.model.base_model).forward

    def noted(self, *args, **kwargs):
        shapes.append(tuple(kwargs["input_ids"].shape))
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(recommender.model.base_model), "forward", noted)
    found = list(recommender.recommend_many(histories, k=4, batch_size=5))
    assert [users for users, _ in shapes] == [5, 5, 5]  # a window of one batch, then of two
    assert shapes[1][1] > shapes[2][1]
    for history, items in zip(histories, found, strict=True):
        (alone,) = recommender.recommend([history], k=4)
        assert ids(items) == ids(alone)
        assert [i.score for i in items] == pytest.approx([i.score for i in alone], abs=1e-4)


def test_only_what_is_allowed_and_not_denied_is_recommended(recommender):
    everything = recommender.recommend(["i3"], k=99)
    some = {"i3", "i5", "i8", "i13", "i21"}

    def those(wanted):
        return [item for item in everything if item.item_id in wanted]

    def close(found, expected):
        assert ids(found) == ids(expected)
        assert [i.score for i in found] == pytest.approx([i.score for i in expected], abs=1e-5)

    close(recommender.recommend(["i3"], k=99, allow=some), those(some))
    close(recommender.recommend(["i3"], k=2, allow=some), those(some)[:2])
    close(recommender.recommend(["i3"], k=99, deny=some), those({*ids(everything)} - some))
    close(recommender.recommend(["i3"], k=99, allow=some, deny=["i5"]), those(some - {"i5"}))
    wide = [f"i{number}" for number in range(19)]  # most of the catalogue: another way inside
    close(recommender.recommend(["i3"], k=99, allow=wide), those(wide))
    seen = recommender.recommend(["i3"], k=99, allow=["i3"], exclude_seen=False)
    assert ids(seen) == ["i3"]


def test_lists_that_leave_nothing_give_nothing(recommender):
    assert recommender.recommend(["i3"], allow=[]) == []
    assert recommender.recommend(["i3"], allow=["i3"]) == []
    assert recommender.recommend([["i3"], []], allow=["i1"], deny={"i1": 1}) == [[], []]
    assert recommender.recommend(["i3"], deny=recommender.catalogue.item_ids) == []


def test_scores_of_candidates_are_those_that_recommend_gives(fused):
    for history in HISTORIES:
        found = fused.recommend(history, k=99, exclude_seen=False)
        scores = fused.score(history, ids(found))
        assert scores == pytest.approx([item.score for item in found], rel=1e-5, abs=1e-5)
    candidates = [["i1", "i1"], [], ["i22"], ["i4", "i0", "i7"]]
    together = fused.score(HISTORIES, candidates, batch_size=3)
    assert [len(scores) for scores in together] == [2, 0, 1, 3]
    assert together[0][0] == together[0][1]
    for history, own, scores in zip(HISTORIES, candidates, together, strict=True):
        assert scores == pytest.approx(fused.score(history, own), abs=1e-4)


def test_similar_items_are_those_of_the_largest_cosine(fused):
    vectors = torch.nn.functional.normalize(fused.model.item_vectors().detach().double())
    cosines = vectors[4] @ vectors.T
    order = [row for row in cosines.argsort(descending=True).tolist() if row != 4]
    found = fused.similar_items("i4", k=5)
    assert ids(found) == [f"i{row}" for row in order[:5]]
    assert [item.score for item in found] == pytest.approx(cosines[order[:5]].tolist(), abs=1e-5)
    assert len(fused.similar_items("i4", k=99)) == NUM_ITEMS - 1


def test_a_model_in_training_recommends_without_dropout_and_stays_in_training(fused):
    expected = fused.recommend(HISTORIES[1])
    fused.model.train()
    found = fused.recommend(HISTORIES[1])
    assert fused.model.training
    fused.model.eval()
    assert found == expected


def test_item_vectors_are_those_of_a_model_that_does_not_train(
    lm_folder, encoder_folder, shop, tokenizer
):
    fused = make_recommender(lm_folder, encoder_folder, shop, tokenizer, "fused")
    fused.model.set_view_weights(1.0, 1.0, 2.0)  # texts of rare items count more, but in training
    expected = fused.item_vectors.clone()
    made = LaserRecommender(fused.model.train(), fused.tokenizer, fused.catalogue, LIMITS)
    assert torch.equal(made.item_vectors, expected)
    made.model.train()
    made.model.set_view_weights(1.0, 1.0, 1.0)
    made.model.set_view_weights(1.0, 1.0, 2.0)
    assert torch.equal(made.item_vectors, expected)


def test_item_vectors_are_computed_once(fused, monkeypatch):
    fused.recommend(["i3"])
    computed = []
    monkeypatch.setattr(type(fused.model.base_model), "item_vectors", computed.append)
    fused.recommend(["i4"])
    fused.score(["i4"], ["i1"])
    fused.similar_items("i4")
    assert not computed


@torch.no_grad()
def test_item_vectors_that_are_kept_follow_every_change(lm_folder, encoder_folder, shop, tokenizer):
    fused = make_recommender(lm_folder, encoder_folder, shop, tokenizer, "fused")
    items = fused.model.base_model.layer.bituning_adapters["default"].items
    table = fused.model.collaborative_encoder.get_input_embeddings().weight

    def kept():
        vectors = fused.item_vectors
        assert torch.equal(vectors, fused.model.item_vectors())
        return vectors.clone()

    before = kept()
    for change in (
        lambda: fused.model.set_view_weights(1.0, 1.0, 2.0),
        lambda: fused.model.set_view_weights(1.0, 1.0, 0.5),
        lambda: table[1:].add_(1),
        lambda: items.events.add_(1),
        lambda: fused.model.set_item_text_vectors(torch.randn(NUM_ITEMS, 64)),
        lambda: fused.model.set_item_text_vectors(torch.randn(NUM_ITEMS, 64)),
    ):
        change()
        after = kept()
        assert not torch.equal(before, after)
        before = after
    fused.model.double()
    assert kept().dtype == torch.float64


@pytest.mark.parametrize(
    ("history", "k", "message"),
    [
        (["i1", "nowhere"], 10, r"1 of 2 items are not in the catalogue of 23: \['nowhere'\]"),
        ("i1", 10, r"for one item pass \['i1'\]"),
        (["i1"], 0, "k must be at least 1, got 0"),
        ([["i1"], ["i2", "nowhere"]], 10, r"history 1: 1 of 2 items are not .*\['nowhere'\]"),
        (["i1", ["i2"]], 10, "give one list of item ids, or a list of such lists; .* 'i1' stands"),
        ([3], 10, r"1 of 1 items are not in the catalogue of 23: \[3\]"),
    ],
)
def test_bad_requests_say_what_is_wrong(recommender, history, k, message):
    with pytest.raises(ValueError, match=message):
        recommender.recommend(history, k)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"allow": ["i1", "x"]}, r"allow: 1 of 2 items are not in the catalogue .*\['x'\]"),
        ({"deny": {"x"}}, r"deny: 1 of 1 items are not in the catalogue .*\['x'\]"),
        ({"deny": "i1"}, r"deny: item ids come as a list, got the text 'i1'"),
    ],
)
def test_bad_options_say_what_is_wrong_before_a_history_is_read(recommender, options, message):
    with pytest.raises(ValueError, match=message):
        recommender.recommend_many(iter(()), **options)


def test_a_bad_history_is_named_by_its_number_when_it_comes(recommender):
    found = recommender.recommend_many([["i1"], "i2"], batch_size=1)
    assert len(next(found)) == 10
    with pytest.raises(ValueError, match=r"history 1: item ids come as a list, got the text 'i2'"):
        next(found)


def test_bad_candidates_say_what_is_wrong(recommender):
    with pytest.raises(ValueError, match="candidates: 1 of 1 items are not in the catalogue"):
        recommender.score(["i1"], ["x"])
    with pytest.raises(ValueError, match="candidates of history 1: 1 of 1 items are not"):
        recommender.score([["i1"], ["i2"]], [["i1"], ["x"]])
    with pytest.raises(ValueError, match="each of 2 histories needs its own list .* got 1 lists"):
        recommender.score([["i1"], ["i2"]], [["i1"]])
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        recommender.score(["i1"], ["i2"], batch_size=0)
    with pytest.raises(ValueError, match="1 of 1 items are not in the catalogue"):
        recommender.similar_items("x")
    with pytest.raises(ValueError, match="k must be at least 1, got -1"):
        recommender.similar_items("i1", k=-1)


@torch.no_grad()
def test_scores_that_are_no_numbers_are_refused(lm_folder, encoder_folder, shop, tokenizer):
    recommender = make_recommender(lm_folder, encoder_folder, shop, tokenizer)
    head = recommender.model.base_model.layer.bituning_adapters["default"].head
    head.projection.bias.fill_(torch.nan)
    for ask in (recommender.recommend, lambda history: recommender.score(history, ["i1"])):
        with pytest.raises(ValueError, match="the adapter's scores are not all finite numbers"):
            ask(["i1"])


def test_another_catalogue_is_refused(recommender):
    fewer = Catalogue(recommender.catalogue.frame.head(7))
    with pytest.raises(ValueError, match="scores 23 items and the catalogue has 7"):
        LaserRecommender(recommender.model, recommender.tokenizer, fewer)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_history_of_no_item_is_refused(limit):
    message = f"RecommenderConfig: max_items must be at least 1, got {limit}"
    with pytest.raises(ValueError, match=message):
        RecommenderConfig(max_items=limit)


def test_a_batch_may_be_as_large_as_anybody_says(recommender):
    histories = [["i3"], [], ["i1", "i5"]]
    assert recommender.recommend(histories, batch_size=10**30) == recommender.recommend(histories)


def test_half_a_character_is_no_id(recommender):
    with pytest.raises(ValueError, match="are not in the catalogue of"):
        recommender.recommend(["i1", "\ud800"])


def test_a_set_is_no_history(recommender):
    for asked in ({"i1", "i2"}, frozenset(["i1"]), [{"i1"}, ["i2"]]):
        with pytest.raises(TypeError, match="a history has an order.* pass a list"):
            recommender.recommend(asked)
    with pytest.raises(TypeError, match="pass a list"):
        list(recommender.recommend_many([["i2"], {"i1"}]))
    with pytest.raises(TypeError, match="pass a list"):
        recommender.session({"i1"})
    assert recommender.recommend(["i1"], deny={"i2"})


def test_frames_are_told_from_lists_of_items(recommender):
    frame = pl.DataFrame({"item_id": ["new"], "title": ["Thing"]})
    with pytest.raises(TypeError, match=r"got a DataFrame; of one of polars give Catalogue\(frame"):
        recommender.add_items(frame)
    with pytest.raises(TypeError, match="new items come as a list of mappings, got {"):
        recommender.add_items({"item_id": "new"})
    with pytest.raises(TypeError, match=r"got dict; of one of pandas .*from_pandas\(frame"):
        Catalogue({"item_id": ["new"]})
