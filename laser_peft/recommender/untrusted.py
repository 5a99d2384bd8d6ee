"""Reads the files of a recommender that may come from anybody: right, or one clear error.

Nothing is run that a file brings along, and no file is read but those a recommender has.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import PeftConfig
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from laser_peft.tuner import BiTuningConfig
from laser_peft.wording import shortly


def read_json(path: Path, default: Any, kind: type) -> Any:
    """Reads a JSON file; the default if there is none.

    Args:
        path: of the file.
        default: what there is without it.
        kind: ``dict``, or ``list`` for a list of texts.

    Raises:
        ValueError: if it is damaged or holds something else.
    """
    if not path.is_file():
        return default
    try:
        told = json.loads(path.read_bytes())
        # Half a character of UTF-16, escaped, is JSON, and nothing can write it out again.
        json.dumps(told, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}; save the recommender again") from error
    texts = kind is dict or (isinstance(told, list) and all(isinstance(t, str) for t in told))
    if not isinstance(told, kind) or not texts:
        wanted = "an object" if kind is dict else "a list of texts"
        raise ValueError(f"{path} must hold {wanted}, got {shortly(told)}")
    return told


def read_adapter_config(path: Path) -> BiTuningConfig:
    """Reads ``adapter_config.json``.

    Raises:
        ValueError: if it is damaged, of another PEFT method, or says what cannot be.
    """
    told = read_json(path, {}, dict)
    if told.get("peft_type") != "BITUNING":
        raise ValueError(
            f"{path} must be of an adapter with peft_type 'BITUNING', got "
            f"{shortly(told.get('peft_type'))}"
        )
    encoder = told.get("collaborative_encoder_config")
    if encoder is not None and not isinstance(encoder, Mapping):
        raise ValueError(
            f"{path}: collaborative_encoder_config must be an object, got {shortly(encoder)}"
        )
    names = ("base_model_name_or_path", "revision", "collaborative_encoder")
    for name in (*names, "collaborative_encoder_revision"):
        if not isinstance(told.get(name), str | None):
            raise ValueError(f"{path}: {name} must be a text, got {shortly(told[name])}")
    try:
        config = PeftConfig.from_pretrained(str(path.parent))
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"{path}: {error}") from error
    assert isinstance(config, BiTuningConfig)
    return config


def load_tokenizer(name: str | Path, token: str | bool | None) -> PreTrainedTokenizerBase:
    """Loads a tokenizer; code that it brings along is neither run nor asked about.

    Raises:
        ValueError: if it cannot be read.
    """
    told = read_json(Path(name) / "tokenizer_config.json", {}, dict)
    longest = told.get("model_max_length")
    if not isinstance(longest, int | float | None):
        raise ValueError(
            f"{name}: model_max_length of tokenizer_config.json must be a number, got "
            f"{shortly(longest)}"
        )
    try:
        return AutoTokenizer.from_pretrained(name, token=token, trust_remote_code=False)
    except Exception as error:  # tokenizers raises nothing more special
        raise ValueError(
            f"the tokenizer of {name} cannot be read: {type(error).__name__}: {error}"
        ) from error
