"""Gives the items of a run their text vectors, by one map from its beginning to its end."""

from pathlib import Path

import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from laser_peft.data import PromptTemplate
from laser_peft.data.sequences import training_events
from laser_peft.experiment import Experiment
from laser_peft.item_texts import Whitening, give_text_vectors
from laser_peft.processes import by_one, of_one
from laser_peft.recommender.files import load_whitening, save_whitening
from laser_peft.whole import new_whole


def give_run_texts(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    experiment: Experiment,
    template: PromptTemplate,
    kept: Path,
    *,
    reads_items: bool,
) -> Whitening | None:
    """Gives an adapter that scores items by their texts the text vectors; None to any other.

    Fitted anew by another version or on another machine their map may turn by rounding, and what
    was learnt before would not fit any more.

    Args:
        model: the adapter.
        tokenizer: the language model's.
        experiment: whose catalogue and training events.
        template: how an item is said.
        kept: folder of the map, beside the run's checkpoints; made if it is not there.
        reads_items: whether the adapter's own training fills the table first.
    """
    adapter, catalogue = model.peft_config[model.active_adapter], experiment.catalogue
    if adapter.item_vectors == "collaborative":
        return None
    counted = training_events(experiment.split.train_histories, len(catalogue))[1:]
    events = torch.from_numpy(counted)
    if reads_items:
        empty = torch.zeros(len(catalogue), adapter.item_text_dim)
        model.set_item_text_vectors(empty, events)
        return None
    is_kept = of_one(kept.is_dir)
    whitening = load_whitening(kept) if is_kept else None
    whitening = give_text_vectors(
        model, tokenizer, catalogue, template, events=events, whitening=whitening
    )
    if not is_kept:
        by_one(_keep, whitening, kept)
    return whitening


def _keep(whitening: Whitening, folder: Path) -> None:
    with new_whole(folder) as unfinished:
        save_whitening(whitening, unfinished)
