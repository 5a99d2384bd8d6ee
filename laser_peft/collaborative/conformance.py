"""Checks that a model can be the frozen encoder of an adapter.

Axes: B users, L items in a history, C width, N items in the catalogue.
"""

import tempfile
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, MODEL_MAPPING, AutoConfig, AutoModel, PreTrainedModel

USERS, LENGTH = 2, 3
TOLERANCE = 1e-4  # of the largest state


@torch.no_grad()
def check_encoder(model: PreTrainedModel) -> None:
    """Tries what an adapter relies on, on a few short histories, and says what is wrong.

    The model is left as it was, except that it is in eval mode.

    Args:
        model: the encoder, with the weights it is to be saved with.

    Raises:
        ValueError: naming the first requirement that is not met; ``docs/encoders.md`` lists them.
    """
    check_registered(model)
    check_table(model)
    model.eval()
    histories = sample_histories(model)
    states = encode(model, histories)
    check_padding(model, histories, states)
    check_batch(model, histories, states)
    check_round_trip(model, histories, states)
    warn_if_not_causal(model, histories, states)


def check_registered(model: PreTrainedModel) -> None:
    """An adapter rebuilds its encoder by ``model_type`` through the Auto classes."""
    if not isinstance(model, PreTrainedModel):
        raise ValueError(
            f"an encoder must be a transformers PreTrainedModel, got {type(model).__name__}; "
            "subclass it and give it a PretrainedConfig"
        )
    config = type(model.config)
    known = model.config.model_type in CONFIG_MAPPING  # its .get() knows no registered ones
    if not known or CONFIG_MAPPING[model.config.model_type] is not config:
        raise ValueError(
            f"AutoConfig does not know {config.__name__} by its model_type "
            f"{model.config.model_type!r}; register it there where your package is imported"
        )
    if config not in MODEL_MAPPING or MODEL_MAPPING[config] is not type(model):
        raise ValueError(
            f"AutoModel does not build a {type(model).__name__} from a {config.__name__}; register "
            "the two there where your package is imported"
        )


def check_table(model: PreTrainedModel) -> None:
    """Items are scored with the rows of the table: one an item after the one for padding."""
    table = model.get_input_embeddings()
    if not isinstance(table, nn.Embedding):
        raise ValueError(
            "get_input_embeddings() must return an nn.Embedding with a row an item, got "
            f"{type(table).__name__}"
        )
    if table.num_embeddings < 3:
        raise ValueError(
            "the item table needs a row for padding and at least two items, got "
            f"{table.num_embeddings} rows"
        )
    if table.weight.dtype != torch.float32:
        raise ValueError(
            f"an encoder is kept in float32, got an item table in {table.weight.dtype}; check "
            "model.float()"
        )
    num_items = getattr(model.config, "num_items", table.num_embeddings - 1)
    if table.num_embeddings != num_items + 1:
        raise ValueError(
            f"the item table must have num_items + 1 = {num_items + 1} rows, row 0 for padding, "
            f"got {table.num_embeddings}"
        )
    width = getattr(model.config, "hidden_size", None)
    if width != table.embedding_dim:
        raise ValueError(
            f"config.hidden_size must be the width of the item table ({table.embedding_dim}) and "
            f"of the states, got {width}"
        )
    bad = int((~table.weight.isfinite().all(1)).sum())
    if bad:
        raise ValueError(f"the item table must hold finite numbers; {bad} rows do not")


def sample_histories(model: PreTrainedModel) -> Tensor:
    """Gives ``(B, L)`` ids of items spread over the catalogue, the first and the last with them."""
    num_items = model.get_input_embeddings().num_embeddings - 1
    spread = torch.linspace(1, num_items, USERS * LENGTH, dtype=torch.float64).round().long()
    return spread.view(LENGTH, USERS).T.contiguous()


def encode(model: PreTrainedModel, item_ids: Tensor) -> Tensor:
    """Calls the model as an adapter does, and checks the states' shape and that they are numbers.

    Args:
        model: the encoder.
        item_ids: ``(B, L)`` int64, 0 = padding.

    Returns:
        ``(B, L, C)`` float.
    """
    device = model.get_input_embeddings().weight.device
    item_ids = item_ids.to(device)
    output = model(input_ids=item_ids, attention_mask=item_ids != 0, return_dict=True)
    states = getattr(output, "last_hidden_state", None)
    if not isinstance(states, Tensor):
        raise ValueError(
            "forward must return an output with last_hidden_state, got "
            f"{type(output).__name__} without one"
        )
    wanted = (*item_ids.shape, model.config.hidden_size)
    if tuple(states.shape) != wanted:
        raise ValueError(
            f"last_hidden_state must have one state an item, {wanted}, got {tuple(states.shape)}"
        )
    if not states.isfinite().all():
        where = "padding" if states[item_ids != 0].isfinite().all() else "items"
        raise ValueError(
            f"last_hidden_state must hold finite numbers, and does not at {where}; does attention "
            "find no key in a row of padding?"
        )
    return states


def check_padding(model: PreTrainedModel, histories: Tensor, states: Tensor) -> None:
    """Padding must not vote, on either side, and an empty history must pass."""
    empty = torch.zeros_like(histories)
    padding = empty[:, :2]
    for side, parts in (("left", [padding, histories]), ("right", [histories, padding])):
        padded = encode(model, torch.cat(parts, 1))
        real = padded[:, 2:] if side == "left" else padded[:, :LENGTH]
        if not _close(real, states):
            raise ValueError(
                f"padding on the {side} changes the states of items, by up to "
                f"{_difference(real, states):.2g}; attention_mask is True where an item is real: "
                "mask padding in attention, and count positions over real items"
            )
    encode(model, empty)


def check_batch(model: PreTrainedModel, histories: Tensor, states: Tensor) -> None:
    """A user's states must not depend on chance or on the users beside them."""
    again = encode(model, histories)
    if not _close(again, states):
        raise ValueError(
            "the same call gives other states the second time, by up to "
            f"{_difference(again, states):.2g}; is dropout on in eval mode?"
        )
    alone = encode(model, histories[:1])
    if not _close(alone, states[:1]):
        raise ValueError(
            "a user's states depend on the other users of the batch, by up to "
            f"{_difference(alone, states[:1]):.2g}"
        )


def check_round_trip(model: PreTrainedModel, histories: Tensor, states: Tensor) -> None:
    """The encoder must come back from its folder, and from its configuration and weights."""
    values = model.config.to_diff_dict()
    rebuilt = AutoModel.from_config(AutoConfig.for_model(**values))
    try:
        rebuilt.load_state_dict(model.state_dict())
    except RuntimeError as error:
        raise ValueError(
            f"a model built from the encoder's config, {values}, does not take its weights: "
            f"{error}; every size must be an attribute of the config"
        ) from error
    ways = {"a round through its config and state_dict": rebuilt}
    is_alone = not (dist.is_available() and dist.is_initialized())
    if is_alone or dist.get_rank() == 0:  # of several processes this one writes
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            kinds = {file.suffix for file in Path(folder).iterdir()}
            if not kinds <= {".json", ".safetensors"}:
                raise ValueError(f"save_pretrained must write .json and .safetensors, got {kinds}")
            ways["save_pretrained"] = AutoModel.from_pretrained(folder)
    for way, copy in ways.items():
        copied = encode(copy.eval(), histories).to(states.device)
        if not _close(copied, states):
            raise ValueError(
                f"the encoder gives other states after {way}, by up to "
                f"{_difference(copied, states):.2g}; every weight must be a parameter or a "
                "persistent buffer, and every setting an attribute of the config"
            )


def warn_if_not_causal(model: PreTrainedModel, histories: Tensor, states: Tensor) -> None:
    """An adapter works with states that see later items; evaluation of single steps would not."""
    shorter = encode(model, histories[:, :-1])
    if not _close(shorter, states[:, :-1]):
        warnings.warn(
            "states of earlier items change when an item follows them, by up to "
            f"{_difference(shorter, states[:, :-1]):.2g}: the encoder is not causal. An adapter "
            "works with it, but one call cannot serve every position of a history",
            stacklevel=4,
        )


def _close(first: Tensor, second: Tensor) -> bool:
    return _difference(first, second) <= TOLERANCE * float(second.abs().max().clamp(min=1e-6))


def _difference(first: Tensor, second: Tensor) -> float:
    return float((first - second).abs().max())
