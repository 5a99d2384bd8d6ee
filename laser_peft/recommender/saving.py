"""Saves, loads and uploads a recommender.

A folder holds what PEFT writes of the adapter, the tokenizer, ``catalogue.parquet``,
``recommender_config.json`` and a model card; and if there are any, ``text_map.safetensors`` (the
whitening), ``removed_items.json``, ``run_facts.json`` and ``item_vectors.safetensors``.
"""

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from laser_peft import tuner as _tuner  # noqa: F401  (registers BITUNING)
from laser_peft.data import Catalogue
from laser_peft.item_texts import Whitening
from laser_peft.tuner.file_check import check_file
from laser_peft.whole import write_json

from . import files
from .card import RunFacts, is_ours, what_is_tested, write_card
from .config import RecommenderConfig
from .untrusted import load_tokenizer, read_adapter_config, read_json

if TYPE_CHECKING:
    from .recommender import LaserRecommender


class Loaded(NamedTuple):
    """What a recommender is made of."""

    model: PeftModel
    tokenizer: PreTrainedTokenizerBase
    catalogue: Catalogue
    config: RecommenderConfig
    whitening: Whitening | None
    facts: RunFacts | None
    removed: list[str]
    vectors: Tensor | None


def load(
    path: str | Path,
    llm: PreTrainedModel | str | None,
    revision: str | None,
    token: str | bool | None,
    *,
    dtype: str | torch.dtype | None,
    device_map: Any,
) -> Loaded:
    """Loads what a recommender is made of; see :meth:`LaserRecommender.from_pretrained`."""
    if isinstance(llm, PreTrainedModel) and (dtype is not None or device_map is not None):
        raise ValueError(
            "dtype and device_map say how the language model is loaded, and llm is loaded already; "
            "leave them out"
        )
    folder = files.local_folder(path, revision, token)
    config = _read_config(folder / files.CONFIG_FILE)
    adapter = read_adapter_config(folder / files.ADAPTER_CONFIG_FILE)
    if isinstance(llm, str):
        adapter.base_model_name_or_path, adapter.revision = llm, None
    catalogue = Catalogue.load(folder / files.CATALOGUE_FILE)
    whitening = files.load_whitening(folder)
    facts = RunFacts.of(read_json(folder / files.FACTS_FILE, None, dict))
    removed = read_json(folder / files.REMOVED_FILE, [], list)
    vectors = files.load_vectors(folder)
    has_tokenizer = (folder / "tokenizer_config.json").is_file()
    tokenizer = load_tokenizer(
        folder if has_tokenizer else adapter.base_model_name_or_path or "", token
    )
    base = llm
    if base is None or isinstance(base, str):
        options = {"dtype": dtype or config.dtype, "token": token}
        if device_map is not None:
            options["device_map"] = device_map
        base = files.load_llm(adapter, asked_for=llm is not None, **options)
    is_whole = check_file(folder / files.ADAPTER_FILE, adapter, base)
    # PEFT would leave mapped tensors where it has read them, on the first GPU if there is one.
    is_here = base.device.type == "cpu" and getattr(base, "hf_device_map", None) is None
    is_mapped = is_whole and is_here and files.MAPPED
    # Last: a model that was passed must not be left with an adapter of which the rest is damaged.
    device = {"torch_device": "cpu"} if is_mapped else {}
    model = PeftModel.from_pretrained(base, str(folder), low_cpu_mem_usage=is_mapped, **device)
    return Loaded(model, tokenizer, catalogue, config, whitening, facts, removed, vectors)


def _read_config(path: Path) -> RecommenderConfig:
    try:
        return RecommenderConfig.from_dict(read_json(path, {}, dict))
    except TypeError as error:
        raise ValueError(f"{path}: {error}") from error


def save(
    recommender: "LaserRecommender",
    folder: Path,
    repository: str | None = None,
    item_vectors: str | None = None,
) -> None:
    """Writes a recommender; see :meth:`LaserRecommender.save_pretrained`."""
    if item_vectors not in (None, *files.VECTOR_TYPES):
        raise ValueError(
            f"item_vectors must be one of {', '.join(files.VECTOR_TYPES)}, or None to leave them "
            f"out, got {item_vectors!r}"
        )
    with files.written_whole(folder) as scratch:
        files.save_adapter(recommender.model, scratch)
        recommender.tokenizer.save_pretrained(scratch)
        recommender.catalogue.save(scratch / files.CATALOGUE_FILE)
        if recommender.whitening is not None:
            files.save_whitening(recommender.whitening, scratch)
        if item_vectors is not None:
            files.save_vectors(recommender.item_vectors, item_vectors, scratch)
        if recommender.removed:
            write_json(scratch / files.REMOVED_FILE, recommender.removed)
        _write_facts(recommender, scratch, repository)
        if not is_ours(folder / files.CARD_FILE):
            (scratch / files.CARD_FILE).unlink()
        write_json(scratch / files.CONFIG_FILE, asdict(recommender.config))


def save_card(recommender: "LaserRecommender", folder: Path) -> None:
    """Writes facts and card alone; see :meth:`LaserRecommender.save_card`."""
    if is_ours(folder / files.CARD_FILE):
        _write_facts(recommender, folder, None)
    else:
        _facts_to(recommender, folder)


def push(
    recommender: "LaserRecommender",
    repo_id: str,
    private: bool | None,
    token: str | bool | None,
    message: str,
) -> str:
    """Uploads a recommender; see :meth:`LaserRecommender.push_to_hub`."""
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    with tempfile.TemporaryDirectory() as folder:
        save(recommender, Path(folder), repo_id)
        paths = [path for path in Path(folder).rglob("*") if path.is_file()]
        written = {path.relative_to(folder).as_posix(): path for path in paths}
        # Those of an earlier upload would be taken for this one's.
        old = [name for name in files.OPTIONAL_FILES if name not in written]
        commit = api.create_commit(
            repo_id,
            [
                *(CommitOperationAdd(name, path) for name, path in written.items()),
                *(
                    CommitOperationDelete(name)
                    for name in api.list_repo_files(repo_id)
                    if name in old
                ),
            ],
            commit_message=message,
        )
    return str(commit.commit_url)


def _write_facts(recommender: "LaserRecommender", folder: Path, repository: str | None) -> None:
    card, model = folder / files.CARD_FILE, recommender.model
    if not card.is_file():
        model.create_or_update_model_card(str(folder))
    facts = _facts_to(recommender, folder)
    write_card(
        *(card, model, recommender.catalogue, facts),
        removed=recommender.removed,
        repository=repository,
    )


def _facts_to(recommender: "LaserRecommender", folder: Path) -> RunFacts | None:
    """Writes the facts, if there are any, with what was tested; returns them."""
    if recommender.facts is None:
        return None
    there = what_is_tested(recommender.model, recommender.catalogue, recommender.removed)
    facts = recommender.facts = recommender.facts.of_what_is(there)  # later changes are changes
    write_json(folder / files.FACTS_FILE, facts.to_dict())
    return facts
