"""Ids and texts of many items, against a dictionary and texts that are tokenised at once."""

import json
import pickle
from hashlib import sha256

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laser_peft import numbering
from laser_peft.data import Catalogue, PromptBuilder, id_index, item_tokens
from laser_peft.data.id_index import IdIndex

WORDS = st.text("ab0é", min_size=1, max_size=4)


class FewHashes(pl.Series):
    """Texts of which most share a hash."""

    def hash(self, *seeds):
        return pl.Series([len(text) for text in self.to_list()], dtype=pl.UInt64)


@settings(max_examples=80, deadline=None)
@given(
    ids=st.lists(WORDS, unique=True, max_size=40),
    more=st.lists(WORDS, unique=True, max_size=9),
    asked=st.lists(WORDS, max_size=50),
    kind=st.sampled_from([pl.Series, FewHashes]),
    few=st.sampled_from([0, 64]),
)
def test_rows_are_those_of_a_dictionary(ids, more, asked, kind, few):
    def texts(values):
        return kind(values=values, dtype=pl.String)

    more = [text for text in more if text not in ids]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(id_index, "FEW", few)
        index = IdIndex(texts(ids))
        grown = index.extended(texts(more), texts(ids + more))
        for looked_in, known in ((index, ids), (grown, ids + more)):
            rows = {text: row for row, text in enumerate(known)}
            expected = [rows.get(text, -1) for text in asked]
            assert looked_in.rows(texts(asked)).tolist() == expected


@settings(max_examples=60, deadline=None)
@given(ids=st.lists(WORDS, max_size=8), kind=st.sampled_from([pl.Series, FewHashes]))
def test_repeats_are_seen_and_shared_hashes_are_none(ids, kind):
    repeats = IdIndex(kind(values=ids, dtype=pl.String)).has_repeats()
    assert repeats == (len(set(ids)) < len(ids))


def test_what_is_no_text_is_not_in_the_catalogue():
    catalogue = Catalogue(pl.DataFrame({"item_id": ["1", "2"]}))
    with pytest.raises(ValueError, match=r"2 of 3 items are not in the catalogue of 2: \[1, None"):
        catalogue.dense_ids([1, "2", None])
    assert catalogue.dense_ids(iter(["2", "1", "2"])) == [2, 1, 2]
    assert catalogue.dense_ids([]) == []


def test_a_catalogue_that_grows_often_lies_in_few_pieces(catalogue):
    grown = catalogue
    for number in range(20):
        more = Catalogue(catalogue.frame[:1].with_columns(item_id=pl.lit(f"n{number}")))
        grown = grown.extended(more)
    assert grown.frame.n_chunks() <= 8
    assert grown.names([24, 43])[0] == ["n0", "n19"]
    assert grown.dense_ids(["n19", "i0"]) == [43, 1]


def test_names_of_some_items_are_those_of_all(catalogue):
    wanted = [5, 1, 5, len(catalogue)]
    ids, titles = catalogue.names(wanted)
    assert ids == [catalogue.item_ids[item - 1] for item in wanted]
    assert titles == [catalogue.titles[item - 1] for item in wanted]
    bare = Catalogue(pl.DataFrame({"item_id": ["a", "b"], "title": [" ", "B  b"]}))
    assert bare.names(np.array([1, 2])) == (["a", "b"], ["a", "B b"])
    assert Catalogue(bare.frame.drop("title")).names([2]) == (["b"], ["b"])


@pytest.mark.parametrize("at_once", [1, 3, 4096])
def test_lazy_prompts_are_those_of_texts_tokenised_at_once(
    catalogue, tokenizer, monkeypatch, at_once
):
    monkeypatch.setattr(item_tokens, "AT_ONCE", at_once)
    eager = PromptBuilder(tokenizer, catalogue, max_tokens=120)
    lazy = PromptBuilder(tokenizer, catalogue, max_tokens=120, lazy=True)
    sent = pickle.loads(pickle.dumps(lazy))  # as to a worker's process
    for history in ([3], [1, 2, 3], [], [7, 3, 7, 23], range(1, 24)):
        assert lazy(history) == sent(history) == eager(history)
    more = Catalogue(catalogue.frame[:2].with_columns(item_id=pl.Series(["x", "y"])))
    for prompts in (eager, lazy.extended(more), lazy.extended(more).extended(more)):
        assert prompts([4, 3, 22]) == eager([4, 3, 22])
    assert lazy.extended(more)([24, 25]) == eager([1, 2])
    with pytest.raises(IndexError):
        lazy([24])


def test_lazy_prompts_tokenise_what_a_history_names_once(catalogue, tokenizer, monkeypatch):
    said = []
    say = PromptBuilder._say

    def counting(self, catalogue, rows=None):
        said.extend(rows.tolist())
        return say(self, catalogue, rows)

    monkeypatch.setattr(PromptBuilder, "_say", counting)
    lazy = PromptBuilder(tokenizer, catalogue, max_items=3, lazy=True)
    assert said == []
    lazy([9, 9, 4, 5, 4])  # of which the newest three are read
    lazy([5, 4])
    assert sorted(said) == [3, 4]


def test_a_lazy_text_that_is_cut_is_warned_of_when_it_is_named(tokenizer):
    long = Catalogue(pl.DataFrame({"item_id": ["a", "b"], "title": ["Thing " * 99, "Tools"]}))
    lazy = PromptBuilder(tokenizer, long, max_tokens=120, lazy=True)
    lazy([2])
    with pytest.warns(UserWarning, match="1 items have more than the .* their texts are cut"):
        first = lazy([1])
    assert len(first) <= 120
    assert lazy([1]) == first  # and warns no more


@pytest.mark.parametrize("at_once", [1, 2, 3, 2**16])
def test_ids_hash_as_one_json_list_however_they_are_cut(monkeypatch, at_once):
    monkeypatch.setattr(numbering, "AT_ONCE", at_once)
    for ids in ([], ["a"], ["a", 'b"', "é, ]"]):
        expected = sha256(json.dumps(ids).encode()).hexdigest()
        assert numbering._hash(ids) == numbering._hash(pl.Series(ids, dtype=pl.String)) == expected
