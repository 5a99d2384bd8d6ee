"""Whether a saved adapter's file holds what its configuration says, before anything is allocated.

A configuration from the Hub may say any number: what it asks for is laid out on the meta device,
where nothing has a place, and compared with the names and shapes in the head of the file.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import PreTrainedModel

from .base_model import check_base_model
from .building import build
from .config import BiTuningConfig
from .mounting import MOUNT

ADAPTERS = f"base_model.model.{MOUNT}.bituning_adapters."
ENCODERS = f"base_model.model.{MOUNT}.bituning_encoders.model."
SHOWN = 3
Shapes = dict[str, tuple[tuple[int, ...], bool]]  # and whether it is of floats


def check_file(file: Path, config: BiTuningConfig, model: PreTrainedModel) -> bool:
    """Makes sure that an adapter's file is of its configuration.

    Args:
        file: ``adapter_model.safetensors``.
        config: read from beside it.
        model: the language model that the adapter is to be put into; it is not changed.

    Returns:
        Whether every tensor is there as it is now; False for an adapter of an older version.

    Raises:
        ValueError: if the file is damaged, or a tensor is missing, too many or of another shape,
            or the configuration asks for what cannot be.
    """
    held = _held(file)
    _check_counts(file, config, len(held))
    check_base_model(model)
    try:
        wanted = _wanted(config, model)
    except (AttributeError, KeyError, IndexError, TypeError, RuntimeError, OverflowError) as error:
        raise ValueError(
            f"{file.parent} has a configuration by which no adapter can be made: "
            f"{type(error).__name__}: {error}"
        ) from error
    if held == wanted:
        return True
    _as_older_ones(held, wanted)
    different = [
        f"{name}: {_say(held.get(name))} in the file, {_say(wanted.get(name))} by the configuration"
        for name in sorted(held.keys() | wanted.keys())
        if held.get(name) != wanted.get(name)
    ]
    if different:
        raise ValueError(
            f"{file} does not go with its adapter_config.json and this language model: "
            f"{len(different)} tensors differ, the first {'; '.join(different[:SHOWN])}; take both "
            "files, and the language model, from one training"
        )
    return False


def _held(file: Path) -> Shapes:
    try:
        with safe_open(file, "pt") as tensors:
            slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118
            return {
                name: (tuple(one.get_shape()), one.get_dtype().startswith(("F", "BF")))
                for name, one in slices.items()
            }
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{file} is damaged, or no safetensors file: {error}") from error


def _check_counts(file: Path, config: BiTuningConfig, num_tensors: int) -> None:
    """Refuses more layers than there are tensors: each would be made, one after another."""
    told: dict[str, Any] = {"m_former_num_layers": config.m_former_num_layers}
    told |= config.collaborative_encoder_config or {}
    for name, value in told.items():
        if isinstance(value, int) and "layer" in name and value > num_tensors:
            raise ValueError(
                f"{file.parent}: the configuration says {name}={value}, and {file.name} holds "
                f"{num_tensors} tensors in all"
            )


def _wanted(config: BiTuningConfig, model: PreTrainedModel) -> Shapes:
    with torch.device("meta"):
        built = build(config, model)
    told = _shapes(ADAPTERS, built.adapter)
    if built.encoder is not None and config.bundle_encoder:
        told |= _shapes(ENCODERS, built.encoder)
    return told


def _as_older_ones(held: Shapes, wanted: Shapes) -> None:
    """Lets pass what adapters lack that were saved before it was there."""
    weights, from_text = f"{ADAPTERS}view_weights", f"{ADAPTERS}items.from_text"
    if held.get(weights) == ((3,), True):
        held[weights] = ((4,), True)
    if from_text not in held:
        wanted.pop(from_text, None)


def _shapes(prefix: str, module: nn.Module) -> Shapes:
    return {
        f"{prefix}{name}": (tuple(tensor.shape), tensor.is_floating_point())
        for name, tensor in module.state_dict().items()
    }


def _say(told: tuple[tuple[int, ...], bool] | None) -> str:
    if told is None:
        return "none"
    shape, is_float = told
    return f"{'floats' if is_float else 'integers'} {shape}"
