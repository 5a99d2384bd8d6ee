"""The main job: raw logs to a SASRec, to an adapter that reads it, to an honest table.

A run's folder holds ``run.json`` (settings, versions, data counts and hash), ``sasrec/``,
``recommender/``, ``metrics.json`` and the Trainer's ``checkpoints/``.
"""

import hashlib
import json
import os
import platform
import shutil
import time
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from peft import get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, set_seed

from laser_peft.collaborative import SASRecModel
from laser_peft.comparison import evaluate
from laser_peft.data import (
    Catalogue,
    Histories,
    PromptTemplate,
    Split,
    leave_one_out,
    read_interactions,
)
from laser_peft.recommender import LaserRecommender, RecommenderConfig
from laser_peft.training import (
    LaserSettings,
    SASRecSettings,
    train_laser,
    train_sasrec,
)
from laser_peft.tuner import BiTuningConfig

PACKAGES = ("laser-peft", "torch", "transformers", "peft", "accelerate")
DEFAULT_MAX_TOKENS = 512


@dataclass(frozen=True)
class LogSource:
    """Where a log of interactions is, and what its columns are called."""

    path: str
    user_column: str = "user_id"
    item_column: str = "item_id"
    time_column: str | None = "timestamp"

    def histories(self, catalogue: Catalogue) -> Histories:
        """Reads the log; raises what :func:`laser_peft.data.read_interactions` raises."""
        interactions = read_interactions(
            self.path,
            user_column=self.user_column,
            item_column=self.item_column,
            time_column=self.time_column,
        )
        return Histories.from_interactions(interactions, catalogue)


@dataclass(frozen=True)
class TrainRun:
    """Everything that decides a training run."""

    interactions: LogSource
    items: str
    llm: str
    seed: int = 0
    max_tokens: int | None = None  # longest prompt; None: 512, or what the LM has room for
    max_items: int = 50  # longest history that the encoder reads
    prompt: PromptTemplate = PromptTemplate()
    chat_template: bool = False  # put the prompt into the tokenizer's chat template
    adapter: dict[str, Any] = field(default_factory=dict)  # fields of BiTuningConfig
    sasrec: SASRecSettings = SASRecSettings()
    laser: LaserSettings = LaserSettings()


def train(run: TrainRun, output: str | Path, *, resume: bool = False) -> dict[str, Any]:
    """Runs the whole path; returns what :func:`laser_peft.comparison.evaluate` says of the test.

    Args:
        run: what to train on and how.
        output: folder of the run; must be new or empty unless resuming.
        resume: go on with an interrupted run of the same settings on the same data.

    Raises:
        FileExistsError: if the folder holds something and ``resume`` is False.
        FileNotFoundError: if an input file is missing.
        ValueError: for settings or input that cannot work, or a run that differs from the one
            to resume.
    """
    output = Path(output)
    if output.is_dir() and any(output.iterdir()):
        if not resume:
            raise FileExistsError(
                f"{output} is not empty; choose another folder, or resume the run in it (--resume)"
            )
        if not (output / "run.json").is_file():
            raise FileExistsError(
                f"{output} is not empty and holds no run to resume (no run.json); choose another"
            )
    # All that cannot work is found here, before a SASRec is trained for nothing.
    adapter = BiTuningConfig(**run.adapter)
    llm_name = _absolute_if_local(run.llm)
    max_tokens = _prompt_limit(llm_name, adapter, run.max_tokens)
    tokenizer = AutoTokenizer.from_pretrained(llm_name)
    config = RecommenderConfig(
        max_tokens=max_tokens,
        max_items=run.max_items,
        prompt=run.prompt.in_chat(tokenizer) if run.chat_template else run.prompt,
        dtype="bfloat16" if run.laser.bf16 else "float32",
    )
    catalogue = Catalogue.read(run.items, item_column=run.interactions.item_column)
    histories = run.interactions.histories(catalogue)
    split = leave_one_out(histories)
    if not split.num_training_pairs:
        raise ValueError(
            f"none of {len(histories)} users has two items left to train on after leave-one-out; "
            "training needs users with at least 4 events"
        )
    prompts = config.prompt_builder(tokenizer, catalogue)
    _start_or_check(output, run, describe_data(catalogue, histories, split))

    started = time.monotonic()
    sasrec_folder = _sasrec(run, catalogue, split, output)
    sasrec_done = time.monotonic()
    folder = output / "recommender"
    if folder.is_dir():
        recommender = LaserRecommender.from_pretrained(folder)
    else:
        set_seed(run.seed)
        llm = AutoModelForCausalLM.from_pretrained(llm_name, dtype=config.dtype)
        model = get_peft_model(llm, replace(adapter, collaborative_encoder=str(sasrec_folder)))
        checkpoints = output / "checkpoints" / "laser"
        train_laser(
            model,
            split,
            prompts,
            checkpoints,
            run.laser,
            max_items=run.max_items,
            seed=run.seed,
            resume_from_checkpoint=_last_checkpoint(checkpoints),
        )
        recommender = LaserRecommender(model, tokenizer, catalogue, config)
        _save_whole(recommender, folder)
    laser_done = time.monotonic()
    metrics = evaluate(recommender, split)
    metrics["seconds"] = {
        "sasrec": round(sasrec_done - started, 1),
        "laser": round(laser_done - sasrec_done, 1),
        "test": round(time.monotonic() - laser_done, 1),
    }
    _write_json(output / "metrics.json", metrics)
    return metrics


def describe_data(catalogue: Catalogue, histories: Histories, split: Split) -> dict[str, int | str]:
    """Counts what was read, with a hash of it that does not depend on file format or path."""
    digest = hashlib.sha256()
    for item in zip(catalogue.item_ids, catalogue.attributes(), strict=True):
        digest.update(json.dumps(item).encode())
    digest.update(histories.items.tobytes() + histories.offsets.tobytes())
    return {
        "users": len(histories),
        "items": len(catalogue),
        "interactions": len(histories.items),
        "test_users": len(split.test),
        "users_too_short_to_test": len(histories) - len(split.test),
        "items_without_training_events": len(catalogue)
        - len(np.unique(np.concatenate(split.train_histories))),
        "sha256": digest.hexdigest(),
    }


def _prompt_limit(llm_name: str, adapter: BiTuningConfig, wanted: int | None) -> int:
    """Returns the longest prompt in tokens that leaves the LM room for the virtual tokens."""
    context = getattr(
        AutoConfig.from_pretrained(llm_name).get_text_config(), "max_position_embeddings", None
    )
    virtual = adapter.num_prefix_tokens + adapter.num_suffix_tokens
    room = DEFAULT_MAX_TOKENS if context is None else context - virtual
    if room < 1:
        raise ValueError(
            f"{virtual} virtual tokens leave no room in the {context} tokens that {llm_name} "
            "reads; use fewer prefix and suffix tokens"
        )
    if wanted is None:
        return min(DEFAULT_MAX_TOKENS, room)
    if context is not None and wanted > room:
        raise ValueError(
            f"max_tokens ({wanted}) with {virtual} virtual tokens is more than the {context} "
            f"tokens that {llm_name} reads; use at most {room}"
        )
    return wanted


def _sasrec(run: TrainRun, catalogue: Catalogue, split: Split, output: Path) -> Path:
    """Trains the SASRec, unless an interrupted run had finished it, and returns its folder."""
    folder = output / "sasrec"
    if folder.is_dir():
        return folder
    checkpoints = output / "checkpoints" / "sasrec"
    sasrec: SASRecModel = train_sasrec(
        split,
        len(catalogue),
        checkpoints,
        run.sasrec,
        max_items=run.max_items,
        seed=run.seed,
        resume_from_checkpoint=_last_checkpoint(checkpoints),
    )
    _save_whole(sasrec, folder)
    return folder


def _save_whole(saved: SASRecModel | LaserRecommender, folder: Path) -> None:
    """Saves beside the folder first: one with this name is always whole."""
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    saved.save_pretrained(unfinished)
    os.replace(unfinished, folder)


def _start_or_check(output: Path, run: TrainRun, data: dict[str, int | str]) -> None:
    """Writes ``run.json``, or makes sure that the one there says the same."""
    wanted = json.loads(json.dumps({"settings": asdict(run), "data": data}))
    file = output / "run.json"
    if file.is_file():
        written = json.loads(file.read_text("utf-8"))
        for part in wanted:
            different = [
                name for name in wanted[part] if written[part].get(name) != wanted[part][name]
            ]
            if different:
                raise ValueError(
                    f"the run in {output} has other {part}: {', '.join(different)} changed; resume "
                    "it as it was started (run.json says how), or choose another folder"
                )
        return
    versions = {name: version(name) for name in PACKAGES} | {"python": platform.python_version()}
    output.mkdir(parents=True, exist_ok=True)
    _write_json(file, wanted | {"versions": versions})


def _last_checkpoint(folder: Path) -> str | None:
    """Returns the newest whole checkpoint; the Trainer writes ``trainer_state.json`` last."""
    whole = folder.glob("checkpoint-*/trainer_state.json")
    by_step = {int(file.parent.name.removeprefix("checkpoint-")): file.parent for file in whole}
    return str(by_step[max(by_step)]) if by_step else None


def _absolute_if_local(name: str) -> str:
    """Makes a folder's name good from everywhere: the adapter remembers its LM by it."""
    return str(Path(name).resolve()) if Path(name).is_dir() else name


def _write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes beside the file first, so that no half-written one is ever taken for whole."""
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    os.replace(unfinished, path)
