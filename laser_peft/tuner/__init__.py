"""The PEFT plug-in: importing it registers the method BITUNING."""

from .config import BiTuningConfig
from .model import BiTuningModel
from .output import BiTuningOutput
from .registration import register

register(BiTuningConfig, BiTuningModel)

__all__ = ["BiTuningConfig", "BiTuningModel", "BiTuningOutput"]
