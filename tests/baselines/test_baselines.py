import numpy as np
import polars as pl
import pytest
import torch
from conftest import NUM_ITEMS, make_lm

from laser_peft import SASRecModel
from laser_peft.baselines import Cooccurrence, Encoder, Popularity, TextNeighbours, rank_examples
from laser_peft.baselines.cooccurrence import WEIGHT, WINDOW
from laser_peft.baselines.text import catalogue_vectors
from laser_peft.data import Catalogue
from laser_peft.data.sequences import Example
from laser_peft.training import HistoryDataset, rank_dataset

EMPTY = np.zeros(0, dtype=np.int64)


def histories_of(users=17, items=NUM_ITEMS, longest=29):
    generator = np.random.default_rng(0)
    lengths = generator.integers(1, longest, users)
    return [generator.integers(1, items + 1, length) for length in lengths]


def whole(baseline, histories):
    """Scores of the whole catalogue, put together of pieces and checked against single ones."""
    scores, items = baseline.scores(histories), baseline.num_items
    parts = [scores.of_range(start, min(start + 5, items)) for start in range(0, items, 5)]
    found = torch.cat(parts, dim=1)
    assert torch.equal(found, scores.of_range(0, items))
    for item in range(1, items + 1):
        single = scores.of_items(torch.full((len(histories),), item))
        assert torch.equal(single, found[:, item - 1])
    return found


def test_popularity_counts_training_events_the_same_for_everyone():
    baseline = Popularity([np.array([1, 2, 2]), np.array([2, 3]), EMPTY], 4)
    scores = whole(baseline, [np.array([3]), EMPTY])
    assert scores.tolist() == [[1, 3, 1, 0], [1, 3, 1, 0]]


def test_items_as_popular_as_the_target_are_placed_before_it():
    baseline = Popularity([np.array([1, 2, 3])], 4)
    ranks = rank_examples(baseline, [Example(np.array([2]), 1, 0), Example(np.array([2]), 4, 1)])
    assert ranks.tolist() == [[2, 1], [3, 2]]


def test_cooccurrence_adds_one_over_the_distance_after_the_newest_item():
    trained = [np.array([1, 2, 3]), np.array([1, 3]), np.array([2, 2])]
    scores = whole(Cooccurrence(trained, 4), [np.array([4, 1]), np.array([2]), EMPTY])
    in_units = [[0, 1, 1 / 2 + 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    assert (scores / WEIGHT).tolist() == in_units


def test_cooccurrence_equals_a_plain_double_loop():
    trained = histories_of()
    expected = np.zeros((NUM_ITEMS + 1, NUM_ITEMS + 1))
    for history in trained:
        for place, item in enumerate(history):
            for distance, other in enumerate(history[place + 1 : place + 1 + WINDOW], start=1):
                expected[item, other] += WEIGHT / distance
    newest = [np.array([item]) for item in range(1, NUM_ITEMS + 1)]
    np.testing.assert_array_equal(whole(Cooccurrence(trained, NUM_ITEMS), newest), expected[1:, 1:])


def test_every_distance_has_a_whole_weight():
    assert all(WEIGHT % distance == 0 for distance in range(1, WINDOW + 1))


def test_without_pairs_every_score_is_a_tie():
    baseline = Cooccurrence([np.array([1]), EMPTY], 3)
    ranks = rank_examples(baseline, [Example(np.array([1]), 2, 0)])
    assert ranks.tolist() == [[2, 1]]


def test_ranks_come_back_in_order_and_do_not_depend_on_the_batch():
    baseline = Cooccurrence(histories_of(), NUM_ITEMS)
    examples = [Example(history, 1 + place, place) for place, history in enumerate(histories_of())]
    ranks = rank_examples(baseline, examples)
    for place, example in enumerate(examples):
        np.testing.assert_array_equal(rank_examples(baseline, [example])[0], ranks[place])
    np.testing.assert_array_equal(rank_examples(baseline, examples, batch_size=3), ranks)


def test_very_long_histories_come_in_small_batches(monkeypatch):
    sizes = []

    class Counting(Cooccurrence):
        def scores(self, histories):
            sizes.append((len(histories), max(map(len, histories))))
            return super().scores(histories)

    monkeypatch.setattr("laser_peft.baselines.ranking.EVENTS_A_BATCH", 12)
    baseline = Counting(histories_of(), NUM_ITEMS)
    examples = [Example(np.ones(n, dtype=np.int64), 2, 0) for n in (1, 20, 3, 3, 3, 3, 3, 0)]
    ranks = rank_examples(baseline, examples, batch_size=5)
    assert sizes == [(1, 20), (4, 3), (3, 3)]
    assert len(ranks) == len(examples)


@pytest.fixture
def encoder(encoder_folder):
    return Encoder.from_pretrained(encoder_folder, NUM_ITEMS)


def test_an_encoder_ranks_as_the_trainer_does(encoder, encoder_folder):
    histories = histories_of(longest=70)  # longer than it has positions
    examples = [Example(history, 1 + place, place) for place, history in enumerate(histories)]
    model = SASRecModel.from_pretrained(encoder_folder).eval()
    expected = rank_dataset(model, HistoryDataset(examples, max_items=50), batch_size=5)
    np.testing.assert_array_equal(rank_examples(encoder, examples), expected)


def test_an_encoder_gives_users_without_history_ties(encoder):
    assert whole(encoder, [EMPTY, np.array([3])])[0].eq(0).all()
    assert whole(encoder, [EMPTY, EMPTY]).eq(0).all()


def test_an_encoder_reads_as_many_items_as_it_is_told(encoder_folder):
    model = SASRecModel.from_pretrained(encoder_folder)
    short = Encoder(model, NUM_ITEMS, max_items=2)
    histories = [np.array([1, 2, 3]), np.array([4, 2, 3])]
    first, second = whole(short, histories)
    assert torch.equal(first, second)
    assert not torch.equal(*whole(Encoder(model, NUM_ITEMS), histories))


def test_an_encoder_of_another_catalogue_is_refused(encoder_folder):
    with pytest.raises(ValueError, match="the encoder knows 23 items and the catalogue has 29"):
        Encoder.from_pretrained(encoder_folder, 29)


def test_text_neighbours_are_near_by_cosine():
    vectors = torch.tensor([[2.0, 0.0], [0.1, 0.1], [0.0, 5.0], [3.0, 0.0]])
    scores = whole(TextNeighbours(vectors), [np.array([3, 1]), EMPTY])
    torch.testing.assert_close(scores[0], torch.tensor([1.0, 0.5**0.5, 0.0, 1.0]))
    assert scores[1].eq(0).all()


def test_items_of_one_text_are_ties(tokenizer):
    titles = ["Thing number 1", "Tools", "Thing number 1", "Alba", "Thing number 1"]
    catalogue = Catalogue(pl.DataFrame({"item_id": list("abcde"), "title": titles}))
    lm = make_lm("llama", vocabulary=len(tokenizer)).model
    vectors = catalogue_vectors(lm, tokenizer, catalogue)
    assert torch.equal(vectors[0], vectors[2])
    scores = whole(TextNeighbours(vectors), [np.array([2]), np.array([1])])
    assert torch.equal(scores[:, 0], scores[:, 2])
    assert torch.equal(scores[:, 0], scores[:, 4])
    assert not torch.equal(scores[:, 0], scores[:, 3])
