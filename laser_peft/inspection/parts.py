"""What a recommender is made of."""

from typing import NamedTuple

from torch import nn

from laser_peft.recommender import LaserRecommender
from laser_peft.tuner.fusing import ViewWeights
from laser_peft.tuner.layer import ActiveAdapter

# Parts of an adapter by the names of its modules, and what they are called.
NAMES = {
    "m_former": "M-Former",
    "prefix": "prefix, the same for all",
    "suffix": "suffix",
    "head": "head",
    "items": "item vectors",
    "text_reader": "text reader",
}


class Part(NamedTuple):
    """One part."""

    name: str
    learns: bool  # whether training changes its parameters
    parameters: int
    table_entries: int  # numbers that are saved beside the parameters, like text vectors


def parts_of(recommender: LaserRecommender) -> list[Part]:
    """Counts the parameters of the language model, the encoder and the adapter's own parts."""
    active = active_of(recommender)
    parts = [Part("language model", False, _lm_parameters(recommender), 0)]
    if active.encoder is not None:
        parts.append(_part("encoder", active.encoder, learns=False))
    for name, module in active.adapter.named_children():
        parts.append(_part(NAMES.get(str(name), str(name)), module))
    return [part for part in parts if part.parameters or part.table_entries]


def view_weights(recommender: LaserRecommender) -> ViewWeights | None:
    """Returns how much the IDs' and the texts' part count; None where vectors are not fused."""
    if active_of(recommender).config.item_vectors != "fused":
        return None
    return recommender.model.base_model.view_weights


def active_of(recommender: LaserRecommender) -> ActiveAdapter:
    """Returns the adapter that recommends, with its encoder.

    Raises:
        ValueError: if no adapter is active.
    """
    active = recommender.model.base_model.layer.active
    if active is None:
        raise ValueError("no adapter is active; call set_adapter or enable_adapters first")
    return active


def _part(name: str, module: nn.Module, *, learns: bool = True) -> Part:
    parameters = sum(parameter.numel() for parameter in module.parameters())
    return Part(name, learns, parameters, sum(buffer.numel() for buffer in module.buffers()))


def _lm_parameters(recommender: LaserRecommender) -> int:
    ours = {id(parameter) for parameter in recommender.model.base_model.layer.parameters()}
    every = recommender.model.parameters()
    return sum(parameter.numel() for parameter in every if id(parameter) not in ours)
