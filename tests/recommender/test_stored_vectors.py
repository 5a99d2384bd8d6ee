"""Finished item vectors beside an adapter: stored, mapped, grown."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import NUM_ITEMS
from recommenders import ids, make_recommender
from safetensors.torch import load_file, save_file

from laser_peft import LaserRecommender
from laser_peft.checksums import CHECKSUMS
from laser_peft.recommender import vector_cache
from laser_peft.recommender.files import VECTORS_FILE

HISTORIES = [["i3"], ["i1", "i7", "i5"], []]
NEW = [{"item_id": "n1", "title": "Thing number 99"}, {"item_id": "n2", "title": "Tools"}]


@pytest.fixture(params=["fused", "text"])
def recommender(request, lm_folder, encoder_folder, shop, tokenizer):
    return make_recommender(lm_folder, encoder_folder, shop, tokenizer, request.param)


@pytest.fixture
def never_computed(monkeypatch):
    """Fails where more than a row of item vectors is computed at a time."""

    def watch(model):
        compute = type(model.base_model).item_vectors

        def one_row(self, rows=slice(None)):
            assert len(range(*rows.indices(NUM_ITEMS))) == 1
            return compute(self, rows)

        monkeypatch.setattr(type(model.base_model), "item_vectors", one_row)

    return watch


def test_stored_vectors_are_read_in_place_of_computed_ones(recommender, tmp_path, never_computed):
    found = recommender.recommend(HISTORIES, k=5)
    recommender.save_pretrained(tmp_path, item_vectors="float32")
    never_computed(recommender.model)
    loaded = LaserRecommender.from_pretrained(tmp_path)
    assert torch.equal(loaded.item_vectors, recommender.item_vectors)
    # Equal weights at another address may be summed in another order.
    assert [ids(items) for items in loaded.recommend(HISTORIES, k=5)] == [*map(ids, found)]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="Linux tells what is mapped")
def test_tables_stay_in_their_files(recommender, tmp_path):
    recommender.save_pretrained(tmp_path, item_vectors="float32")
    loaded = LaserRecommender.from_pretrained(tmp_path)
    mapped = Path("/proc/self/maps").read_text()
    for tensor, name in (
        (loaded.item_vectors, VECTORS_FILE),
        (loaded.model.collaborative_encoder.get_input_embeddings().weight, "adapter_model.saf"),
        (loaded.model.base_model.layer.bituning_adapters["default"].items.text, "adapter_model.s"),
    ):
        spans = [line.split()[0].split("-") for line in mapped.splitlines() if name in line]
        address = tensor.data_ptr()
        assert any(int(first, 16) <= address < int(last, 16) for first, last in spans)


def test_an_adapter_stays_with_its_model_where_there_is_a_gpu(recommender, tmp_path, monkeypatch):
    recommender.save_pretrained(tmp_path)
    monkeypatch.setattr("peft.peft_model.infer_device", lambda: "meta")  # for want of one
    loaded = LaserRecommender.from_pretrained(tmp_path)
    tensors = loaded.model.base_model.layer.state_dict(keep_vars=True).values()
    assert {tensor.device.type for tensor in tensors} == {"cpu"}


def test_halved_vectors_are_scored_as_they_are_stored(recommender, tmp_path):
    recommender.save_pretrained(tmp_path, item_vectors="bfloat16")
    loaded = LaserRecommender.from_pretrained(tmp_path)
    halved = recommender.item_vectors.bfloat16()
    assert torch.equal(loaded.item_vectors, halved)
    (item,) = loaded.recommend(["i3"], k=1)
    (user,) = loaded.read([np.array([4])]).double()
    (place,) = loaded.catalogue.dense_ids([item.item_id])
    assert item.score == float((user @ halved[place - 1].double()).float())
    loaded.add_items(NEW)
    assert loaded.item_vectors.dtype == torch.bfloat16
    assert torch.equal(loaded.item_vectors[:NUM_ITEMS], halved)


def test_stored_vectors_are_left_behind_when_the_adapter_changes(recommender, tmp_path):
    recommender.save_pretrained(tmp_path, item_vectors="float32")
    loaded = LaserRecommender.from_pretrained(tmp_path)
    width = recommender.model.peft_config["default"].item_text_dim
    loaded.model.set_item_text_vectors(torch.randn(NUM_ITEMS, width))
    assert torch.equal(loaded.item_vectors, loaded.model.item_vectors())
    assert not torch.equal(loaded.item_vectors, recommender.item_vectors)
    loaded.save_pretrained(tmp_path)
    assert not (tmp_path / VECTORS_FILE).exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: {"vectors": v[:-1]}, "stored item vectors are torch.float32 of shape"),
        (lambda v: {"vectors": v[:, :-1].contiguous()}, "of shape .* save the recommender again"),
        (lambda v: {"vectors": v.long()}, "stored item vectors are torch.int64 of shape"),
        (lambda v: {"vectors": v * 1.1}, "vector of item 1 is not the one that the adapter makes"),
        (lambda v: {"vectors": v * torch.nan}, "vector of item 1 is not the one that the adapter"),
        (lambda v: {"others": v}, "item_vectors.safetensors is damaged: KeyError"),
    ],
)
def test_vectors_that_are_not_the_adapters_are_refused(
    lm_folder, encoder_folder, shop, tokenizer, tmp_path, change, message
):
    made = make_recommender(lm_folder, encoder_folder, shop, tokenizer, "fused")
    made.save_pretrained(tmp_path, item_vectors="float32")
    vectors = load_file(tmp_path / VECTORS_FILE)["vectors"].clone()
    save_file(change(vectors), tmp_path / VECTORS_FILE)
    (tmp_path / CHECKSUMS).unlink()  # which would tell it sooner
    with pytest.raises(ValueError, match=message):
        LaserRecommender.from_pretrained(tmp_path)


def test_a_file_that_is_cut_short_and_an_unknown_precision_are_refused(recommender, tmp_path):
    with pytest.raises(ValueError, match="must be one of float32, bfloat16, or None .* 'int8'"):
        recommender.save_pretrained(tmp_path / "none", item_vectors="int8")
    assert not (tmp_path / "none").exists()
    recommender.save_pretrained(tmp_path, item_vectors="float32")
    whole = (tmp_path / VECTORS_FILE).read_bytes()
    (tmp_path / VECTORS_FILE).write_bytes(whole[:-9])
    (tmp_path / CHECKSUMS).unlink()
    with pytest.raises(ValueError, match=r"item_vectors.safetensors is damaged: .* save the rec"):
        LaserRecommender.from_pretrained(tmp_path)


@pytest.mark.parametrize("rows", [1, 7, 100])
def test_vectors_that_are_made_part_by_part_are_the_same(recommender, monkeypatch, rows):
    monkeypatch.setattr(vector_cache, "ROWS_AT_A_TIME", rows)
    made = vector_cache.VectorCache(recommender.model).vectors()
    torch.testing.assert_close(made, recommender.model.item_vectors())


def test_only_new_vectors_are_computed_when_items_come(recommender, monkeypatch):
    before = recommender.item_vectors
    compute, rows_made = type(recommender.model.base_model).item_vectors, []

    def counting(self, rows=slice(None)):
        made = compute(self, rows)
        rows_made.append(len(made))
        return made

    monkeypatch.setattr(type(recommender.model.base_model), "item_vectors", counting)
    recommender.add_items(NEW)
    recommender.recommend(HISTORIES)
    assert rows_made == [2]
    assert torch.equal(recommender.item_vectors[:NUM_ITEMS], before)
    monkeypatch.undo()
    torch.testing.assert_close(recommender.item_vectors, recommender.model.item_vectors())
