"""The PEFT plug-in: importing it registers the method BITUNING."""

from .card import describe_adapter
from .config import BiTuningConfig
from .model import BiTuningModel
from .output import BiTuningOutput
from .registration import describe_what_is_pushed, register
from .text_memory import TextMemory

register(BiTuningConfig, BiTuningModel)
describe_what_is_pushed(BiTuningConfig, describe_adapter)

__all__ = ["BiTuningConfig", "BiTuningModel", "BiTuningOutput", "TextMemory"]
