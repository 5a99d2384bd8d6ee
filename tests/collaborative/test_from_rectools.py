"""examples/encoders/from_rectools.py, with RecTools; skipped where it is not installed."""

import importlib.util
import warnings
from pathlib import Path

import polars as pl
import pytest
import torch

from laser_peft.collaborative import check_encoder
from laser_peft.data import Catalogue

EXAMPLE = Path(__file__).parents[2] / "examples" / "encoders" / "from_rectools.py"

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # RecTools' and Lightning's, about other packages
    pytest.importorskip("rectools.models.nn")
    spec = importlib.util.spec_from_file_location("from_rectools", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)

pytestmark = pytest.mark.filterwarnings("ignore")
VARIANTS = {
    "as_it_comes": {},
    "padding_masked": {"use_key_padding_mask": True},
    "no_positions": {"use_pos_emb": False},
    "scaled": {"pos_encoding_kwargs": {"use_scale_factor": True}},
    "one_block_four_heads": {"n_blocks": 1, "n_heads": 4},
}


@pytest.fixture(scope="module", params=VARIANTS)
def trained(request, tmp_path_factory):
    """A log, and the model that RecTools loads from the checkpoint that it wrote."""
    log = example.make_log()
    checkpoint = tmp_path_factory.mktemp("rectools") / "sasrec.ckpt"
    example.train(log, checkpoint, **VARIANTS[request.param])
    model = example.SASRecModel.load_from_checkpoint(checkpoint)
    # Biases start at zero and norms at one: make every weight count.
    for parameter in model.torch_model.parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return log, model


@pytest.fixture
def catalogue_ids(trained):
    return sorted(trained[0]["item_id"].unique(), reverse=True)


def test_every_score_is_that_of_rectools(trained, catalogue_ids):
    log, model = trained
    assert catalogue_ids != list(model.data_preparator.get_known_item_ids())
    encoder = example.convert(model, catalogue_ids)
    assert example.largest_difference(model, log, encoder, catalogue_ids) < 1e-5


def test_item_features_become_part_of_the_table(tmp_path):
    log = example.make_log()
    features = example.pd.DataFrame(
        [(item, "kind", f"kind {place % 3}") for place, item in enumerate(log["item_id"].unique())],
        columns=["id", "feature", "value"],
    )
    dataset = example.Dataset.construct(log, item_features_df=features, cat_item_features=["kind"])
    model = example.SASRecModel(n_factors=32, session_max_len=example.PLACES, epochs=1)
    model.fit(dataset)
    ids = sorted(log["item_id"].unique())
    encoder = example.convert(model, ids)
    assert example.largest_difference(model, log, encoder, ids) < 1e-5


def test_another_order_of_items_would_show(trained, catalogue_ids):
    log, model = trained
    encoder = example.convert(model, catalogue_ids)
    assert example.largest_difference(model, log, encoder, catalogue_ids[::-1]) > 0.1


def test_it_is_an_encoder_that_an_adapter_can_hold(trained, catalogue_ids):
    check_encoder(example.convert(trained[1], catalogue_ids))


def test_items_that_rectools_never_saw_have_zero_vectors(trained, catalogue_ids):
    encoder = example.convert(trained[1], ["new", *catalogue_ids])
    assert torch.equal(encoder.item_vectors()[0], torch.zeros(32))
    known = example.convert(trained[1], catalogue_ids)
    assert torch.equal(encoder.item_vectors()[1:], known.item_vectors())


def test_an_adapter_that_reads_it_recommends(trained, catalogue_ids, lm_folder, tmp_path):
    example.convert(trained[1], catalogue_ids).save_pretrained(tmp_path)
    items = Catalogue(pl.DataFrame({"item_id": catalogue_ids, "title": catalogue_ids}))
    recommender = example.attach(tmp_path, items, lm_folder, example.PLACES)
    history = catalogue_ids[:3]
    recommended = [item.item_id for item in recommender.recommend(history, k=5)]
    assert len(set(recommended) - set(history)) == 5


def test_items_outside_the_catalogue_are_refused(trained, catalogue_ids):
    with pytest.raises(
        ValueError, match="2 of the model's 41 items are not in the catalogue of 39"
    ):
        example.convert(trained[1], catalogue_ids[2:])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"use_causal_attn": False}, "use_causal_attn must be True, got False"),
        ({"transformer_layers_type": int}, "transformer_layers_type must be .*SASRecTransformerL"),
        ({"pos_encoding_type": int}, "pos_encoding_type must be .*LearnableInverse"),
    ],
)
def test_other_arrangements_are_refused(trained, catalogue_ids, monkeypatch, changed, message):
    for name, value in changed.items():
        monkeypatch.setattr(trained[1], name, value)
    with pytest.raises(ValueError, match=message):
        example.convert(trained[1], catalogue_ids)


def test_a_cosine_is_refused(trained, catalogue_ids, monkeypatch):
    similarity = trained[1].torch_model.similarity_module
    monkeypatch.setattr(similarity, "distance", type(similarity.distance)("cosine"))
    with pytest.raises(ValueError, match="distance must be dot, got cosine"):
        example.convert(trained[1], catalogue_ids)
