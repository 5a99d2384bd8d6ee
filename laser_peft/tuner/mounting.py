"""Puts a Bi-Tuning layer into a language model, so that calling the model goes through it.

The model's class is exchanged for a subclass of the same name that answers calls and ``generate``.
Hooks on the model would not do: they cannot keep the vocabulary head from running. Replacing its
``forward`` would not either: Accelerate keeps the old one and brings it back when it moves the
model. With the call itself in our hands, every way in is the same: each of PEFT's task wrappers,
and transformers' own ``load_adapter`` without any.
"""

import inspect
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from .generation import generate_with_prefix
from .language import forward_with_prefix
from .layer import ActiveAdapter, BiTuningLayer
from .recommending import (
    RECOMMENDATION_ARGUMENTS,
    RecommendationInputs,
    recommend,
    wants_recommendation,
)

# Must not contain the method's prefix: PEFT skips such modules when it deletes an adapter.
MOUNT = "laser_layer"
_BI_TUNED_CLASSES: dict[type, type] = {}


class BiTuned(nn.Module):
    """What a language model's class is given to answer calls with its adapters in place."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Recommends, or runs the LM with the user's prefix; the bare LM without an adapter."""
        active = _active_adapter(self)
        if active is None:
            return super().__call__(*args, **_for_the_bare_model(kwargs))
        if args:
            names = inspect.signature(self.forward).parameters
            kwargs.update(zip(names, args, strict=False))
        arguments = {name: value for name, value in kwargs.items() if value is not None}
        if wants_recommendation(arguments):
            inputs = RecommendationInputs.of(arguments)
            return recommend(super().__call__, self, active, inputs)
        arguments.pop("return_user_vectors", None)
        return forward_with_prefix(super().__call__, self, active, arguments)

    def generate(self, inputs: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """Generates text with the user's prefix in place; the bare LM's without an adapter.

        Takes what the LM's ``generate`` takes, and a history as forward does.
        """
        bare, active = _without_adapters(self), _active_adapter(self)
        if active is None or active.config.num_prefix_tokens == 0:
            return bare.generate(inputs, *args, **_for_the_bare_model(kwargs))
        kwargs.update(zip(["generation_config"], args, strict=False))
        return generate_with_prefix(bare, active, inputs, **kwargs)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Copies, and moves to other processes, as the original class with a mounted layer."""
        return _rebuild, (_original_class(self),), self.__dict__


def mount(model: PreTrainedModel) -> BiTuningLayer:
    """Adds a :class:`BiTuningLayer` to a model in place, or returns the one it has."""
    if not hasattr(model, MOUNT):
        model.add_module(MOUNT, BiTuningLayer())
        if not isinstance(model, BiTuned):
            model.__class__ = _bi_tuned_class(type(model))
    return getattr(model, MOUNT)


def unmount(model: PreTrainedModel) -> None:
    """Gives the model its own class back, and takes the layer out."""
    model.__class__ = _original_class(model)
    delattr(model, MOUNT)


def _bi_tuned_class(original: type) -> type:
    if original not in _BI_TUNED_CLASSES:
        # The same name: transformers writes it to config.json and finds output recorders by it.
        names = ("__module__", "__qualname__", "__doc__")
        same = {name: getattr(original, name) for name in names}
        _BI_TUNED_CLASSES[original] = type(original.__name__, (BiTuned, original), same)
    return _BI_TUNED_CLASSES[original]


def _original_class(model: object) -> type:
    classes = type(model).__mro__
    return classes[classes.index(BiTuned) + 1]


def _rebuild(original: type) -> object:
    return object.__new__(_bi_tuned_class(original))


def _active_adapter(model: nn.Module) -> ActiveAdapter | None:
    layer = getattr(model, MOUNT, None)  # none in a new model made with type(model)(...)
    return None if layer is None else layer.active


def _for_the_bare_model(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: v for name, v in arguments.items() if name not in RECOMMENDATION_ARGUMENTS}


def _without_adapters(model: nn.Module) -> Any:
    """A second object over the same weights, whose class is the original one."""
    bare: Any = object.__new__(_original_class(model))
    bare.__dict__.update(model.__dict__)
    return bare
