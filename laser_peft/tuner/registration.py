"""Makes BITUNING a PEFT method like any other; the only place that changes PEFT itself.

PEFT has no plug-in discovery and its ``PeftType`` is a closed enum, so a member is added to it
before the ordinary ``register_peft_method``. A plain string in PEFT's tables is not enough: PEFT
and transformers both read ``peft_type.value``.
"""

import functools
from collections.abc import Callable
from typing import Any

from peft import PeftConfig, PeftModel, PeftType
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.tuners_utils import BaseTuner
from peft.utils import register_peft_method

NAME = "BITUNING"
PREFIX = "bituning_"


def peft_type() -> PeftType:
    """Returns the enum member of this method, adding it to ``PeftType`` at the first call.

    Raises:
        RuntimeError: if this PEFT builds its enum in another way than the supported versions do.
    """
    if NAME in PeftType.__members__:
        return PeftType[NAME]
    member = str.__new__(PeftType, NAME)
    member._name_ = NAME
    member._value_ = NAME
    member._sort_order_ = len(PeftType)
    member.__objclass__ = PeftType
    type.__setattr__(PeftType, NAME, member)
    PeftType._member_names_.append(NAME)
    PeftType._member_map_[NAME] = member
    PeftType._value2member_map_[NAME] = member
    if hasattr(PeftType, "_hashable_values_"):  # Python 3.12.5 and later look values up here
        PeftType._hashable_values_.append(NAME)
    try:
        works = PeftType(NAME) is member and PeftType[NAME] is member and member in PeftType
    except (KeyError, ValueError):
        works = False
    if not works:
        raise RuntimeError(
            "laser_peft could not add BITUNING to peft.PeftType: this PEFT or Python builds enums "
            "differently; install peft>=0.21,<0.22 and report the versions you have"
        )
    return member


def register(config_cls: type[PeftConfig], model_cls: type[BaseTuner]) -> None:
    """Registers the method with PEFT; a second call with the same classes does nothing.

    Raises:
        RuntimeError: if another package, or PEFT itself, already owns the name.
    """
    owner = PEFT_TYPE_TO_CONFIG_MAPPING.get(peft_type())
    if owner is not None:
        if owner.__module__ == config_cls.__module__:  # a reload of this package
            return
        raise RuntimeError(
            f"PEFT already has a method called {NAME}, from {owner.__module__}; "
            "laser_peft cannot be used beside it"
        )
    register_peft_method(
        name=NAME.lower(), config_cls=config_cls, model_cls=model_cls, prefix=PREFIX
    )


def describe_what_is_pushed(config_cls: type[PeftConfig], describe: Callable[..., None]) -> None:
    """Has ``push_to_hub`` upload a model card of this method.

    ``save_pretrained`` writes one, but transformers' ``push_to_hub``, which PEFT inherits, puts
    an empty template in its place just before the upload.

    Args:
        config_cls: only models whose active adapter has such a configuration are concerned.
        describe: called with the folder that is uploaded and that configuration.
    """
    upload = PeftModel._upload_modified_files
    if getattr(upload, "describes", None) == NAME:
        return

    @functools.wraps(upload)
    def described_upload(self: PeftModel, working_dir: str, *args: Any, **kwargs: Any) -> Any:
        config = self.active_peft_config
        if isinstance(config, config_cls):
            describe(working_dir, config)
        return upload(self, working_dir, *args, **kwargs)

    described_upload.describes = NAME  # type: ignore[attr-defined]
    PeftModel._upload_modified_files = described_upload
