"""Puts a Bi-Tuning layer into a language model, so that calling the model goes through it.

The model's class is exchanged for a subclass of the same name whose ``forward`` and ``generate``
know the layer. Hooks on the model would not do: they cannot keep the vocabulary head from running.
Replacing ``forward`` on the object would not either: Accelerate keeps the one it finds there and
brings it back when it moves the model. This way every way in is the same, each of PEFT's task
wrappers and transformers' own ``load_adapter`` without any, and what others wrap around the model
(devices, precision, sharding) stays around it.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from accelerate.hooks import add_hook_to_module
from torch import Tensor, nn
from transformers import PreTrainedModel

from .generation import generate_with_prefix
from .inputs import RECOMMENDATION_ARGUMENTS, RecommendationInputs, wants_recommendation
from .language import forward_with_prefix
from .layer import ActiveAdapter, BiTuningLayer
from .preparing import undo_for_graphs
from .recommending import recommend

# Must not contain the method's prefix: PEFT skips such modules when it deletes an adapter.
MOUNT = "laser_layer"
# What an object may carry that leads back to the mounted model.
BOUND = ("forward", "_old_forward", "_hf_hook", "_compiled_call_impl")
_BI_TUNED_CLASSES: dict[type, type] = {}


class BiTuned(nn.Module):
    """What a language model's class is given to answer calls with its adapters in place."""

    # Trainer then averages over accumulated batches itself. What it would have us divide by counts
    # the labels of a text, each row without its first: of item ids, one user a batch too few.
    accepts_loss_kwargs = False

    def generate(self, inputs: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """Generates text with the user's prefix in place; the bare LM's without an adapter.

        Takes what the LM's ``generate`` takes, and a history as forward does.
        """
        bare, active = without_adapters(self), _active_adapter(self)
        if active is None or active.config.num_prefix_tokens == 0:
            return bare.generate(inputs, *args, **_for_the_bare_model(kwargs))
        kwargs.update(zip(["generation_config"], args, strict=False))
        return generate_with_prefix(bare, active, inputs, **kwargs)

    def set_attn_implementation(self, *args: Any, **kwargs: Any) -> None:
        """Switches the attention of the language model; adapters and their encoders keep theirs.

        Takes what the LM's own takes, which would ask every model within.
        """
        bare = without_adapters(self)
        bare._modules = {name: part for name, part in self._modules.items() if name != MOUNT}
        bare.set_attn_implementation(*args, **kwargs)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Copies, and moves to other processes, as the original class with a mounted layer."""
        return _rebuild, (_original_class(self),), self.__dict__


def mount(model: PreTrainedModel) -> BiTuningLayer:
    """Adds a :class:`BiTuningLayer` to a model in place, or returns the one it has."""
    if not hasattr(model, MOUNT):
        model.add_module(MOUNT, BiTuningLayer())
    if not isinstance(model, BiTuned):
        _become(model, _bi_tuned_class(type(model)))
    return getattr(model, MOUNT)


def unmount(model: PreTrainedModel) -> None:
    """Gives the model its own class back, and takes the layer out; nothing, if it is out."""
    if isinstance(model, BiTuned):
        _become(model, _original_class(model))
    if hasattr(model, MOUNT):
        delattr(model, MOUNT)
        undo_for_graphs(model)


def _forward(
    model: nn.Module, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Recommends, or runs the LM with the user's prefix; the bare LM without an adapter.

    Args:
        model: the language model.
        call: its original forward.
        args: arguments of its forward by position.
        kwargs: arguments by name, those of a recommendation too.
    """
    active = _active_adapter(model)
    if active is None:
        return call(*args, **_for_the_bare_model(kwargs))
    if args:
        kwargs.update(zip(inspect.signature(call).parameters, args, strict=False))
    arguments = {name: value for name, value in kwargs.items() if value is not None}
    if wants_recommendation(arguments):
        return recommend(call, model, active, RecommendationInputs.of(arguments))
    arguments.pop("return_user_vectors", None)
    return forward_with_prefix(call, model, active, arguments)


def _bi_tuned_class(original: Any) -> type:
    if original not in _BI_TUNED_CLASSES:

        @functools.wraps(original.forward)
        def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
            return _forward(self, functools.partial(original.forward, self), args, kwargs)

        # Trainer keeps the columns of a data set that forward names.
        forward.__signature__ = _with_recommendation_arguments(original.forward)  # type: ignore[attr-defined]
        # The same name: transformers writes it to config.json and finds output recorders by it.
        names = ("__module__", "__qualname__", "__doc__")
        same = {name: getattr(original, name) for name in names}
        own = {"forward": forward, **same}
        _BI_TUNED_CLASSES[original] = type(original.__name__, (BiTuned, original), own)
    return _BI_TUNED_CLASSES[original]


def _with_recommendation_arguments(forward: Callable[..., Any]) -> inspect.Signature:
    signature = inspect.signature(forward)
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None)
        for name in RECOMMENDATION_ARGUMENTS
    ]
    parameters = [*signature.parameters.values(), *added]
    return signature.replace(parameters=sorted(parameters, key=lambda parameter: parameter.kind))


def _become(model: PreTrainedModel, cls: Any) -> None:
    """Changes the class; what Accelerate keeps of its forward on the object follows."""
    model.__class__ = cls
    if inspect.ismethod(model.__dict__.get("forward")):  # left over where hooks were taken off
        del model.forward
    if "_old_forward" in model.__dict__:  # what the hooks call
        model._old_forward = cls.forward.__get__(model)


def _original_class(model: object) -> Any:
    classes = type(model).__mro__
    return classes[classes.index(BiTuned) + 1]


def _rebuild(original: type) -> object:
    return object.__new__(_bi_tuned_class(original))


def _active_adapter(model: nn.Module) -> ActiveAdapter | None:
    layer = getattr(model, MOUNT, None)  # none in a new model made with type(model)(...)
    return None if layer is None else layer.active


def _for_the_bare_model(arguments: dict[str, Any]) -> dict[str, Any]:
    """Leaves out whose history it is; what only an adapter can do is an error.

    Raises:
        ValueError: if a recommendation is asked for.
    """
    labels = arguments.get("labels")
    is_item_ids = labels is not None and getattr(labels, "ndim", 1) == 1
    if is_item_ids or arguments.get("return_logits") or arguments.get("return_user_vectors"):
        raise ValueError(
            "the adapters are disabled or deleted and the bare language model does not recommend; "
            "enable an adapter, or leave out labels of shape (B,), return_logits and "
            "return_user_vectors"
        )
    return {name: v for name, v in arguments.items() if name not in RECOMMENDATION_ARGUMENTS}


def without_adapters(model: nn.Module) -> Any:
    """A second object over the same weights, whose class is the original one."""
    bare: Any = object.__new__(_original_class(model))
    bare.__dict__.update({name: v for name, v in model.__dict__.items() if name not in BOUND})
    bare._compiled_call_impl = None
    if "_hf_hook" in model.__dict__:
        add_hook_to_module(bare, model._hf_hook)
    return bare
