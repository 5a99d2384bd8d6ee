"""The folder of a recommender: found, read, and written so that a half-written one is not read.

Tensors: H width of the LM's hidden states, X width of text vectors.
"""

import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from peft import PeftConfig, PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from laser_peft.checksums import check_checksums
from laser_peft.item_texts import Whitening
from laser_peft.tuner.one_adapter import keep_one

from .exchanging import exchanged, finish

CATALOGUE_FILE = "catalogue.parquet"
CONFIG_FILE = "recommender_config.json"
WHITENING_FILE = "text_map.safetensors"
REMOVED_FILE = "removed_items.json"
FACTS_FILE = "run_facts.json"
CARD_FILE = "README.md"
VECTORS_FILE = "item_vectors.safetensors"
CHAT_TEMPLATES = "additional_chat_templates"  # a folder, of tokenizers with several of them
# No others are read in their place: PEFT would take a pickle.
ADAPTER_FILE, ADAPTER_CONFIG_FILE = "adapter_model.safetensors", "adapter_config.json"
# What a folder may lack.
OPTIONAL_FILES = (WHITENING_FILE, REMOVED_FILE, FACTS_FILE, VECTORS_FILE, CHAT_TEMPLATES)
# Tables stay in their file until they are used; Windows replaces no file that is mapped.
MAPPED = os.name == "posix"
VECTOR_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SAVED_FILES = ["*.json", "*.safetensors", "*.parquet", "*.md", "*.jinja", "*.model", "*.txt"]


def local_folder(path: str | Path, revision: str | None, token: str | bool | None) -> Path:
    """Returns the folder itself, or a downloaded copy of it where ``path`` is a Hub id.

    Raises:
        FileNotFoundError: if there is neither, or a file is missing that every recommender has,
            or that was written with this one.
        ValueError: if a file is not as it was written.
    """
    folder = Path(path)
    if not folder.is_dir():
        try:
            found = snapshot_download(
                str(path), revision=revision, token=token, allow_patterns=SAVED_FILES
            )
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            raise FileNotFoundError(
                f"there is no folder {str(path)!r} here, and the Hub does not give one: {error}"
            ) from error
        folder = Path(found)
    else:
        finish(folder, optional=OPTIONAL_FILES)
    for name in (CATALOGUE_FILE, CONFIG_FILE, ADAPTER_FILE, ADAPTER_CONFIG_FILE):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} has no {name}; a recommender's folder is written by "
                "LaserRecommender.save_pretrained or laser-peft train"
                f"{_of_a_run(folder)}"
            )
    check_checksums(folder, advice="copy the recommender again from where it is whole")
    return folder


def _of_a_run(folder: Path) -> str:
    inner = folder / "recommender"
    return f"; did you mean {inner}?" if (inner / CONFIG_FILE).is_file() else ""


def no_such_model(name: str, error: Exception) -> FileNotFoundError:
    """Says that a language model that was asked for is not there."""
    return FileNotFoundError(
        f"there is no language model {name!r}: no such folder with one is here, and the Hub does "
        f"not give it; say where it is ({error})"
    )


def load_llm(config: PeftConfig, *, asked_for: bool = False, **options: Any) -> PreTrainedModel:
    """Loads the language model that a saved adapter refers to.

    Args:
        config: the adapter's.
        asked_for: whether its model is one that was asked for, and not the adapter's own.
        **options: of ``AutoModelForCausalLM.from_pretrained``.

    Raises:
        FileNotFoundError: if it is not where the adapter says.
        ValueError: if the adapter does not say.
    """
    name = config.base_model_name_or_path
    if not name:
        raise ValueError(
            "the adapter does not say which language model it was trained on; load it and pass "
            "from_pretrained(..., llm=...)"
        )
    if config.revision is not None:
        options["revision"] = config.revision
    try:
        # Said in so many words, or transformers would ask on the console.
        return AutoModelForCausalLM.from_pretrained(name, trust_remote_code=False, **options)
    except (OSError, KeyError) as error:
        if asked_for:
            raise no_such_model(name, error) from error
        raise FileNotFoundError(
            f"the adapter was trained on the language model {name!r}, which cannot be loaded from "
            "there; if you have it elsewhere, say where: from_pretrained(..., llm=...), or --llm "
            f"of a command ({error})"
        ) from error


def written_whole(folder: Path) -> AbstractContextManager[Path]:
    """Gives an empty folder to write into; all of it, or nothing, then takes the place of what is.

    A card that is there and is not ours is left alone.
    """
    return exchanged(folder, optional=OPTIONAL_FILES, may_change=(FACTS_FILE, CARD_FILE))


def save_adapter(model: PeftModel, folder: Path) -> None:
    """Writes the active adapter alone, whatever its name, where PEFT has the default one."""
    name = model.active_adapter
    # Asked to find out by itself whether embeddings were resized, PEFT would ask the Hub.
    model.save_pretrained(str(folder), selected_adapters=[name], save_embedding_layers=False)
    keep_one(folder, name)


def save_whitening(whitening: Whitening, folder: Path) -> None:
    """Writes ``mean (H,)`` and ``directions (H, X)``, both float32."""
    tensors = {name: tensor.contiguous() for name, tensor in whitening._asdict().items()}
    save_file(tensors, folder / WHITENING_FILE)


def load_whitening(folder: Path) -> Whitening | None:
    """Loads what :func:`save_whitening` wrote; None if there is nothing.

    Raises:
        ValueError: if the file is damaged.
    """
    file = folder / WHITENING_FILE
    if not file.is_file():
        return None
    try:
        tensors = load_file(file)
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{file} is damaged: {error}; save the recommender again") from error
    shapes = [tuple(tensors[name].shape) for name in Whitening._fields if name in tensors]
    if len(shapes) < 2 or [len(shape) for shape in shapes] != [1, 2] or shapes[0] != shapes[1][:1]:
        raise ValueError(f"{file} must hold mean (H,) and directions (H, X), got {shapes}")
    return Whitening(*(tensors[name].to(torch.float32) for name in Whitening._fields))


def save_vectors(vectors: Tensor, precision: str, folder: Path) -> None:
    """Writes ``(N, R)`` item vectors in one of :data:`VECTOR_TYPES`."""
    stored = vectors.to("cpu", VECTOR_TYPES[precision]).contiguous()
    save_file({"vectors": stored}, folder / VECTORS_FILE)


def load_vectors(folder: Path) -> Tensor | None:
    """Maps what :func:`save_vectors` wrote into memory; None if there is nothing.

    Raises:
        ValueError: if the file is damaged, or holds something else.
    """
    file = folder / VECTORS_FILE
    if not file.is_file():
        return None
    try:
        vectors = load_file(file)["vectors"]
        return vectors if MAPPED else vectors.clone()
    except (SafetensorError, ValueError, KeyError) as error:
        raise ValueError(f"{file} is damaged: {error!r}; save the recommender again") from error
