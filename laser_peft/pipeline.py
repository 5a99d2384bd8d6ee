"""The main job: raw logs to a SASRec, to an adapter that reads it, to an honest table.

A run's folder holds ``run.json`` (settings, versions, data counts and hash), ``sasrec/``,
``recommender/``, ``metrics.json`` and the Trainer's ``checkpoints/``.
"""

import hashlib
import json
import os
import platform
import time
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from peft import get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, set_seed
from transformers.trainer_utils import get_last_checkpoint

from laser_peft.collaborative import SASRecModel
from laser_peft.data import (
    Catalogue,
    Histories,
    LeaveOneOut,
    PromptBuilder,
    leave_one_out,
    read_interactions,
)
from laser_peft.evaluation import PROTOCOLS, hr_at, ndcg_at, paired_bootstrap, summarise
from laser_peft.recommender import LaserRecommender, RecommenderConfig
from laser_peft.training import (
    HistoryDataset,
    LaserSettings,
    PromptDataset,
    SASRecSettings,
    rank_dataset,
    train_laser,
    train_sasrec,
)
from laser_peft.tuner import BiTuningConfig

PACKAGES = ("laser-peft", "torch", "transformers", "peft", "accelerate")
DEFAULT_MAX_TOKENS = 512
COMPARED = {"hr@10": hr_at, "ndcg@10": ndcg_at}


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
    adapter: dict[str, Any] = field(default_factory=dict)  # fields of BiTuningConfig
    sasrec: SASRecSettings = SASRecSettings()
    laser: LaserSettings = LaserSettings()


def train(run: TrainRun, output: str | Path, *, resume: bool = False) -> dict[str, Any]:
    """Runs the whole path and returns what :func:`evaluate` says of the test split.

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
    if output.is_dir() and any(output.iterdir()) and not resume:
        raise FileExistsError(
            f"{output} is not empty; choose another folder, or resume the run in it (--resume)"
        )
    # All that cannot work is found here, before a SASRec is trained for nothing.
    adapter = BiTuningConfig(**run.adapter)
    llm_name = _absolute_if_local(run.llm)
    config = RecommenderConfig(
        max_tokens=_prompt_limit(llm_name, adapter, run.max_tokens), max_items=run.max_items
    )
    catalogue = Catalogue.read(run.items, item_column=run.interactions.item_column)
    histories = run.interactions.histories(catalogue)
    split = leave_one_out(histories)
    tokenizer = AutoTokenizer.from_pretrained(llm_name)
    prompts = PromptBuilder(tokenizer, catalogue, **asdict(config))
    _start_or_check(output, run, describe_data(catalogue, histories, split))

    started = time.monotonic()
    sasrec_folder = _sasrec(run, catalogue, split, output)
    sasrec_done = time.monotonic()
    set_seed(run.seed)
    llm = AutoModelForCausalLM.from_pretrained(llm_name)
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
    recommender.save_pretrained(output / "recommender")
    laser_done = time.monotonic()
    metrics = evaluate(recommender, split)
    metrics["seconds"] = {
        "sasrec": round(sasrec_done - started, 1),
        "laser": round(laser_done - sasrec_done, 1),
        "test": round(time.monotonic() - laser_done, 1),
    }
    _write_json(output / "metrics.json", metrics)
    return metrics


def evaluate(
    recommender: LaserRecommender, split: LeaveOneOut, *, batch_size: int = 64
) -> dict[str, Any]:
    """Ranks every test target over the whole catalogue, with Laser and with its own SASRec.

    Returns:
        ``users``; ``models``: name to protocol to metric; ``difference``: protocol to metric to
        Laser minus SASRec with its 95 % interval over users.
    """
    model, max_items = recommender.model, recommender.config.max_items
    ranks = {
        "sasrec": rank_dataset(
            model.collaborative_encoder, HistoryDataset(split.test, max_items), batch_size=256
        ),
        "laser": rank_dataset(
            model,
            PromptDataset(split.test, recommender.prompts, max_items=max_items, ranked=True),
            batch_size=batch_size,
        ),
    }
    return {
        "users": len(split.test),
        "models": {
            name: {
                protocol: summarise(columns[:, column]) for column, protocol in enumerate(PROTOCOLS)
            }
            for name, columns in ranks.items()
        },
        "difference": {
            protocol: {
                name: paired_bootstrap(
                    metric(10, ranks["sasrec"][:, column]), metric(10, ranks["laser"][:, column])
                )._asdict()
                for name, metric in COMPARED.items()
            }
            for column, protocol in enumerate(PROTOCOLS)
        },
    }


def describe_data(
    catalogue: Catalogue, histories: Histories, split: LeaveOneOut
) -> dict[str, int | str]:
    """Counts what was read, with a hash of it that does not depend on file format or path."""
    digest = hashlib.sha256("\n".join(catalogue.item_ids).encode())
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
    if wanted is None:
        return min(DEFAULT_MAX_TOKENS, room)
    if context is not None and wanted > room:
        raise ValueError(
            f"max_tokens ({wanted}) with {virtual} virtual tokens is more than the {context} "
            f"tokens that {llm_name} reads; use at most {room}"
        )
    return wanted


def _sasrec(run: TrainRun, catalogue: Catalogue, split: LeaveOneOut, output: Path) -> Path:
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
        seed=run.seed,
        resume_from_checkpoint=_last_checkpoint(checkpoints),
    )
    unfinished = output / "sasrec.unfinished"
    sasrec.save_pretrained(unfinished)
    os.replace(unfinished, folder)  # a folder with this name is always whole
    return folder


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
    return get_last_checkpoint(str(folder)) if folder.is_dir() else None


def _absolute_if_local(name: str) -> str:
    """Makes a folder's name good from everywhere: the adapter remembers its LM by it."""
    return str(Path(name).resolve()) if Path(name).is_dir() else name


def _write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes beside the file first, so that no half-written one is ever taken for whole."""
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    os.replace(unfinished, path)
