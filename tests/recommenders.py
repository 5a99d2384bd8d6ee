"""Recommenders with adapters that are not trained but do have an effect."""

from dataclasses import replace

import torch
from conftest import NUM_ITEMS
from peft import get_peft_model
from transformers import AutoModel, AutoModelForCausalLM

from laser_peft import BiTuningConfig, LaserRecommender, numbering
from laser_peft.data import Catalogue
from laser_peft.item_encoding import encode_items
from laser_peft.item_texts import give_text_vectors
from laser_peft.recommender import RecommenderConfig

LIMITS = RecommenderConfig(max_tokens=120)


def make_recommender(
    lm_folder, encoder_folder, shop, tokenizer, item_vectors="collaborative", **options
):
    """One over the tiny shop; with text, items i0 and i7 are new to the encoder."""
    torch.manual_seed(0)
    llm = AutoModelForCausalLM.from_pretrained(lm_folder)
    config = BiTuningConfig(
        collaborative_encoder=encoder_folder,
        item_vectors=item_vectors,
        init_weights=False,
        **options,
    )
    model = get_peft_model(llm, config).eval()
    adapter = model.base_model.layer.bituning_adapters["default"]
    torch.nn.init.normal_(adapter.head.projection.weight)
    catalogue = Catalogue.read(shop / "items.jsonl")
    whitening = None
    if item_vectors != "collaborative":
        events = torch.arange(NUM_ITEMS)
        events[[0, 7]] = 0
        whitening = give_text_vectors(model, tokenizer, catalogue, events=events)
    if item_vectors == "fused":
        torch.nn.init.normal_(adapter.text_reader.projection.weight)
    return LaserRecommender(model, tokenizer, catalogue, LIMITS, whitening=whitening)


def make_reader_of_items(lm_folder, encoder_folder, shop, tokenizer):
    """One whose adapter reads its items itself."""
    made = make_recommender(lm_folder, encoder_folder, shop, tokenizer, "text")
    model, config = made.model, replace(LIMITS, reads_items=True)
    events = model.base_model.layer.bituning_adapters["default"].items.events
    vectors = encode_items(model, made.prompts, range(1, NUM_ITEMS + 1))
    model.base_model.set_item_text_vectors(vectors, events)
    return LaserRecommender(model, tokenizer, made.catalogue, config)


def signed_encoder(encoder_folder, shop, folder):
    """The encoder, signed for the catalogue of the shop."""
    encoder = AutoModel.from_pretrained(encoder_folder)
    numbering.sign(encoder.config, Catalogue.read(shop / "items.jsonl").item_ids)
    encoder.save_pretrained(folder)
    return str(folder)


def ids(found):
    return [item.item_id for item in found]
