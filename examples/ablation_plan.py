"""Reads which variants an ablation trains, and checks each before anything is trained.

Settings come in groups, each of the fields of one dataclass. A variant changes some of the base's.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from huggingface_hub.dataclasses import type_validator
from peft import PeftConfig

from laser_peft import BiTuningConfig
from laser_peft.data import LogSource, PromptTemplate
from laser_peft.pipeline import TrainRun
from laser_peft.recommender.prompt_limit import prompt_limit
from laser_peft.training import LaserSettings, SASRecSettings

REFERENCE = "full"
ENCODER_FOLDER, COMMITS_FOLDER = "encoder", "commits"  # beside the folders of the variants
GROUPS = {
    "run": TrainRun,
    "sasrec": SASRecSettings,
    "prompt": PromptTemplate,
    "adapter": BiTuningConfig,
    "laser": LaserSettings,
}
OF_RUN = ("max_items", "max_tokens", "chat_template")  # the others are options or groups
CHECK_THEIR_TYPES = ("prompt", "adapter")

Settings = dict[str, dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What all variants learn from.

    Args:
        interactions: the log.
        items: file of the items.
        llm: folder or Hub id of the language model.
        bf16: compute in bfloat16, whatever the file says.
    """

    interactions: LogSource
    items: str
    llm: str
    bf16: bool = False


def read_plan(file: Path, inputs: Inputs) -> dict[str, TrainRun]:
    """Reads a file of variants and makes the run of each, of seed 0 and without an encoder.

    Args:
        file: a YAML mapping of ``base`` (groups of settings) and ``variants`` (name to groups).
        inputs: what to train on.

    Returns:
        The run by the name of its variant, in the order of the file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no such mapping, has no variant ``full``, names what is not there, or
            settings cannot work; the message names the variant.
    """
    try:
        told = yaml.safe_load(file.read_text("utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is no YAML file: {error}") from error
    if not isinstance(told, dict):
        raise ValueError(f"{file} must hold 'base' and 'variants', got a {type(told).__name__}")
    _check_names(str(file), told, ("base", "variants"))
    variants = told.get("variants")
    if not isinstance(variants, dict) or REFERENCE not in variants:
        raise ValueError(
            f"{file}: variants must be names with settings, one of them {REFERENCE!r} with which "
            f"the others are compared, got {variants!r:.80}; add '{REFERENCE}: {{}}'"
        )
    for name in variants:
        is_taken = name in (ENCODER_FOLDER, COMMITS_FOLDER)
        if is_taken or not re.fullmatch(r"[\w.-]*\w", str(name)):
            raise ValueError(
                f"{file}: a variant's name is also its folder's: letters, digits, '-', '_' and "
                f"'.', and neither {ENCODER_FOLDER!r} nor {COMMITS_FOLDER!r}; got {name!r}"
            )
    base = _groups(f"{file}: base", told.get("base"))
    return {
        str(name): _variant(f"{file}: variant {name!r}", base, changes, inputs)
        for name, changes in variants.items()
    }


def adapter_of(run: TrainRun) -> BiTuningConfig:
    """Returns the configuration of a run's adapter; checks it."""
    return BiTuningConfig(**run.adapter, collaborative_encoder=run.encoder or "sasrec")


def _variant(where: str, base: Settings, changes: object, inputs: Inputs) -> TrainRun:
    """Makes and checks one run."""
    changed = _groups(where, changes)
    if "sasrec" in changed or "max_items" in changed.get("run", {}):
        raise ValueError(
            f"{where} changes the SASRec (sasrec or max_items), which all variants of a seed "
            "share; set it in base"
        )
    settings = {group: base.get(group, {}) | changed.get(group, {}) for group in GROUPS}
    try:
        run = TrainRun(
            interactions=inputs.interactions,
            items=inputs.items,
            llm=inputs.llm,
            sasrec=SASRecSettings(**settings["sasrec"]),
            prompt=PromptTemplate(**settings["prompt"]),
            adapter=settings["adapter"],
            laser=LaserSettings(**settings["laser"] | ({"bf16": True} if inputs.bf16 else {})),
            **settings["run"],
        )
        prompt_limit(run.llm, adapter_of(run), run.max_tokens)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error
    return run


def _groups(where: str, told: object) -> Settings:
    """Checks names and types of groups of settings."""
    told = {} if told is None else told
    if not isinstance(told, dict):
        raise ValueError(f"{where} must be groups of settings, like 'laser: {{epochs: 1}}'")
    _check_names(where, told, GROUPS)
    groups = {}
    for group, values in told.items():
        if not isinstance(values, dict):
            raise ValueError(
                f"{where}: {group} must be names with values, like '{{name: 1}}', got {values!r}"
            )
        _check_names(f"{where}: {group}", values, _names_of(group))
        groups[group] = values if group in CHECK_THEIR_TYPES else _typed(where, group, values)
    return groups


def _names_of(group: str) -> list[str]:
    if group == "run":
        return list(OF_RUN)
    inherited = {field.name for field in fields(PeftConfig)}
    names = [field.name for field in fields(GROUPS[group]) if field.name not in inherited]
    return [name for name in names if not name.startswith("collaborative_encoder")]


def _typed(where: str, group: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Checks values against the types of their fields; takes whole numbers for what they are."""
    hints = get_type_hints(GROUPS[group])
    typed = {
        name: float(value) if hints[name] is float and type(value) is int else value
        for name, value in values.items()
    }
    for name, value in typed.items():
        try:
            type_validator(name, value, hints[name])
        except TypeError as error:
            raise ValueError(
                f"{where}: {group}: {error}; YAML reads 1.0e-3 as a number, 1e-3 as a text"
            ) from error
    return typed


def _check_names(where: str, told: Mapping[Any, Any], known: Iterable[str]) -> None:
    known = list(known)
    for name in told:
        if name not in known:
            near = get_close_matches(str(name), known, n=1, cutoff=0.5)
            advice = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            raise ValueError(f"{where} has no {name!r}; {advice}")
