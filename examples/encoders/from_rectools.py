r"""Turns a SASRec that RecTools trained into an encoder that an adapter reads.

    pip install "rectools[torch]>=0.19"
    python examples/encoders/from_rectools.py --output runs/from_rectools
    python examples/encoders/from_rectools.py --output runs/mine --checkpoint sasrec.ckpt \
        --items items.parquet

Without ``--checkpoint`` it makes a small log, trains on it with RecTools and saves the checkpoint
the RecTools way. Then, and with a checkpoint of yours, it writes ``encoder/`` (safetensors). For
its own log it also compares every score with RecTools'; with ``--llm`` it goes on to attach the
encoder to that language model and to recommend.

A checkpoint of RecTools is a pickle: its own loader reads it here, on your machine, so open only
files that you trust. laser_peft itself reads none.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import torch
from peft import get_peft_model
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel
from rectools.models.nn.transformers.net_blocks import LearnableInversePositionalEncoding
from rectools.models.nn.transformers.sasrec import SASRecTransformerLayers
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from laser_peft import BiTuningConfig, LaserRecommender
from laser_peft.collaborative import (
    RecToolsSASRecConfig,
    RecToolsSASRecModel,
    align_item_vectors,
    check_encoder,
)
from laser_peft.data import Catalogue
from laser_peft.recommender import RecommenderConfig

USERS, ITEMS, PLACES = 60, 41, 11


def convert(model: SASRecModel, catalogue_ids: Sequence[str]) -> RecToolsSASRecModel:
    """Copies RecTools' weights, with the item table in the order of our catalogue.

    Args:
        model: a fitted model of RecTools.
        catalogue_ids: our catalogue's item ids in the order of its dense ids. RecTools' items
            are found by ``str(external id)``; those that it never saw get zero vectors.

    Raises:
        ValueError: if the model is arranged otherwise than RecTools' own SASRec, or an item of it
            is not in the catalogue.
    """
    check_arrangement(model)
    own_ids = [str(item_id) for item_id in model.data_preparator.get_known_item_ids()]
    unknown = sorted(set(own_ids) - set(catalogue_ids))
    if unknown:
        raise ValueError(
            f"{len(unknown)} of the model's {len(own_ids)} items are not in the catalogue of "
            f"{len(catalogue_ids)}: {unknown[:5]}; is it the catalogue of this model's log?"
        )
    theirs = model.torch_model.eval().cpu()
    with torch.no_grad():
        table = theirs.item_model.get_all_embeddings()[-len(own_ids) :]  # item features added in
        vectors = align_item_vectors(own_ids, table, catalogue_ids, missing="zero")
    positions = theirs.pos_encoding_layer
    encoder = RecToolsSASRecModel(
        RecToolsSASRecConfig(
            num_items=len(catalogue_ids),
            hidden_size=model.n_factors,
            num_hidden_layers=model.n_blocks,
            num_attention_heads=model.n_heads,
            max_position_embeddings=model.session_max_len,
            mask_padding=model.use_key_padding_mask,
            scale_embeddings=positions.use_scale_factor,
        )
    )
    weights = {
        "item_embeddings.weight": torch.cat([torch.zeros_like(vectors[:1]), vectors]),
        "position_embeddings.weight": (
            torch.zeros(model.session_max_len, model.n_factors)
            if positions.pos_emb is None
            else positions.pos_emb.weight
        ),
        **layer_weights(theirs.transformer_layers.state_dict()),
    }
    encoder.load_state_dict(weights)
    return encoder.eval()


def check_arrangement(model: SASRecModel) -> None:
    """Refuses models whose scores the encoder would not give."""
    wanted = {
        "transformer_layers_type": (model.transformer_layers_type, SASRecTransformerLayers),
        "pos_encoding_type": (model.pos_encoding_type, LearnableInversePositionalEncoding),
        "use_causal_attn": (model.use_causal_attn, True),
        "distance": (model.torch_model.similarity_module.distance.value, "dot"),
    }
    for name, (actual, expected) in wanted.items():
        if actual != expected:
            raise ValueError(
                f"only RecTools' own SASRec can be converted: {name} must be {expected}, got "
                f"{actual}"
            )


def layer_weights(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Renames the weights of the blocks; query, key and value are one matrix in RecTools."""
    names = {
        "q_layer_norm": "query_norm",
        "multi_head_attn.out_proj": "attention_out",
        "ff_layer_norm": "feed_forward_norm",
        "feed_forward.ff_linear_1": "feed_forward.0",
        "feed_forward.ff_linear_2": "feed_forward.2",
    }
    ours = {}
    for name, values in theirs.items():
        if name.startswith("last_layernorm."):
            ours[name.replace("last_layernorm", "final_norm")] = values
            continue
        _, block, rest = name.split(".", 2)
        if rest.startswith("multi_head_attn.in_proj_"):
            kind = rest.rsplit("_", 1)[1]
            for part, chunk in zip(("query", "key", "value"), values.chunk(3), strict=True):
                ours[f"blocks.{block}.{part}.{kind}"] = chunk
            continue
        module, kind = rest.rsplit(".", 1)
        ours[f"blocks.{block}.{names[module]}.{kind}"] = values
    return ours


def make_log(seed: int = 0) -> pd.DataFrame:
    """Makes a log with histories shorter and longer than the model's places."""
    random = np.random.default_rng(seed)
    rows = [
        (f"user {user}", f"item {item}", 1.0, pd.Timestamp(2024, 1, 1 + day))
        for user in range(USERS)
        for day, item in enumerate(random.permutation(ITEMS)[: 2 + user % 17])
    ]
    return pd.DataFrame(
        rows, columns=[Columns.User, Columns.Item, Columns.Weight, Columns.Datetime]
    )


def train(log: pd.DataFrame, checkpoint: Path, **settings: object) -> SASRecModel:
    """Trains a small SASRec with RecTools and saves its checkpoint."""
    sizes = {"n_blocks": 2, "n_heads": 2, "n_factors": 32, "session_max_len": PLACES, "epochs": 2}
    model = SASRecModel(**(sizes | settings))
    model.fit(Dataset.construct(log))
    model.fit_trainer.save_checkpoint(checkpoint)
    return model


@torch.no_grad()
def largest_difference(
    model: SASRecModel, log: pd.DataFrame, encoder: RecToolsSASRecModel, catalogue_ids: list[str]
) -> float:
    """Compares the score of every item for every user with what RecTools recommends with.

    Returns:
        The largest absolute difference of two scores.

    Raises:
        ValueError: if RecTools did not score every item for every user.
    """
    users = log[Columns.User].unique()
    theirs = model.recommend(
        users,
        Dataset.construct(log),
        k=len(model.data_preparator.get_known_item_ids()),
        filter_viewed=False,
    ).pivot(index=Columns.User, columns=Columns.Item, values=Columns.Score)
    if theirs.isna().to_numpy().any() or len(theirs) != len(users):
        raise ValueError("RecTools did not score every item for every user; is the log its own?")
    dense = {item_id: row + 1 for row, item_id in enumerate(catalogue_ids)}
    histories = log.sort_values(Columns.Datetime, kind="stable").groupby(Columns.User)[Columns.Item]
    largest = 0.0
    for user, items in histories:
        ids = torch.tensor([[dense[str(item)] for item in items][-model.session_max_len :]])
        ours = encoder(ids).user_vectors[0] @ encoder.get_input_embeddings().weight.T
        columns = [dense[str(item)] for item in theirs.columns]
        difference = ours[columns] - torch.tensor(theirs.loc[user].to_numpy())
        largest = max(largest, float(difference.abs().max()))
    return largest


def attach(encoder_folder: Path, catalogue: Catalogue, llm: str, places: int) -> LaserRecommender:
    """Puts a new, untrained adapter that reads the encoder on a language model."""
    config = BiTuningConfig(collaborative_encoder=str(encoder_folder))
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(llm), config)
    limits = RecommenderConfig(max_items=places, max_tokens=200)
    return LaserRecommender(model, AutoTokenizer.from_pretrained(llm), catalogue, limits)


def main() -> None:
    """Runs the example."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder to write into")
    parser.add_argument("--checkpoint", type=Path, help="of RecTools' SASRecModel; with --items")
    parser.add_argument("--items", type=Path, help="your catalogue, with the column item_id")
    parser.add_argument("--llm", help="folder or Hub id of a language model to attach to")
    arguments = parser.parse_args()
    if (arguments.checkpoint is None) != (arguments.items is None):
        parser.error("--checkpoint and --items go together")
    arguments.output.mkdir(parents=True, exist_ok=True)

    log = None
    if arguments.checkpoint is None:
        log = make_log()
        arguments.checkpoint = arguments.output / "sasrec.ckpt"
        train(log, arguments.checkpoint)
        ids = sorted(log[Columns.Item].unique())  # not RecTools' order, which is that of the log
        catalogue = Catalogue(pl.DataFrame({"item_id": ids, "title": ids}))
    else:
        catalogue = Catalogue.read(arguments.items)
    model = SASRecModel.load_from_checkpoint(arguments.checkpoint)
    encoder = convert(model, catalogue.item_ids)
    check_encoder(encoder)
    encoder.save_pretrained(arguments.output / "encoder")
    known = len(model.data_preparator.get_known_item_ids())
    print(f"{arguments.output / 'encoder'}: {known} of {len(catalogue)} items known to RecTools")
    if log is not None:
        difference = largest_difference(model, log, encoder, catalogue.item_ids)
        print(f"largest difference to a score of RecTools: {difference:.1e}")
    if arguments.llm:
        recommender = attach(
            arguments.output / "encoder", catalogue, arguments.llm, model.session_max_len
        )
        history = [str(i) for i in model.data_preparator.get_known_item_ids()[:3]]
        print(f"after {history}, by an adapter that is not trained yet:")
        for item in recommender.recommend(history, k=3):
            print(f"  {item.item_id}  {item.score:.3f}")


if __name__ == "__main__":
    main()
