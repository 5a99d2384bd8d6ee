"""Pytest plugin that puts our configurations in the place of PEFT's in PEFT's own tests."""

from collections import defaultdict
from typing import Any

import pytest
import torch
from datasets import Dataset, DatasetDict
from models import DECODERS
from peft import PeftConfig, ShadowConfig

from laser_peft import BiTuningConfig
from tests import testing_common, testing_utils

SMALL = {"num_prefix_tokens": 3, "m_former_hidden_size": 16, "m_former_num_layers": 1}
CONFIGS: list[tuple[type[PeftConfig], dict[str, Any]]] = [
    (BiTuningConfig, SMALL | {"moe": "ffn"}),
    (BiTuningConfig, SMALL | {"moe": "query"}),
    (BiTuningConfig, SMALL | {"moe": "none"}),
    (BiTuningConfig, SMALL | {"moe": "ffn", "suffix_reading": "mean"}),
    (BiTuningConfig, SMALL | {"moe": "query", "suffix_reading": "mean"}),
]

# Everything that is asked of ours less strictly than of other methods, by test.
NOT_MERGEABLE = "skipped: tokens and a head cannot be merged; upstream skips Shadow likewise"
NEEDS_HUB = "skipped: downloads a LoRA configuration into a new folder; no code of ours takes part"
SOME_GRADIENTS = (
    "some adapter parameters must get gradients instead of all, as upstream asks of Shadow: "
    "the LM's logits do not depend on the suffix and the head"
)
RELAXATIONS = {
    "test_merge_layers": NOT_MERGEABLE,
    "test_merge_layers_fp16": NOT_MERGEABLE,
    "test_merge_layers_multi": NOT_MERGEABLE,
    "test_merge_layers_nan": NOT_MERGEABLE,
    "test_from_pretrained_cache_dir": NEEDS_HUB,
    "test_training": SOME_GRADIENTS,
    "test_training_decoders": SOME_GRADIENTS,
    "test_training_decoders_gradient_checkpointing": SOME_GRADIENTS,
    "test_training_gradient_checkpointing": SOME_GRADIENTS,
}

# Lists of PEFT's methods, and of models, in the tests' modules.
CONFIG_LISTS = ("ALL_CONFIGS", "ALL_CONFIG_CLASSES")
ENCODERS = "PEFT_FEATURE_EXTRACTION_MODELS_TO_TEST"
# Has a list of its own, of prompt learning methods, which ours resembles.
TRAINER_TEST = "test_prompt_learning_with_gradient_checkpointing"
# Loops over every registered method, so also over ours.
KEPT = {"test_from_peft_type"}


class _Everything(defaultdict):
    """Model ids of which ``hub_online_once`` thinks that it has downloaded them."""

    def __contains__(self, key: object) -> bool:
        return True


def pytest_configure() -> None:
    """Puts what tests would download within reach."""
    testing_utils._HUB_MODEL_ACCESSES = _Everything(int)
    testing_utils.load_dataset_english_quotes = lambda: DatasetDict(
        train=Dataset.from_dict({"quote": [f"Quote number {n}." for n in range(12)]})
    )
    # Stricter than upstream: ours wraps no layers, so none that it could not.
    testing_common._skip_if_conv1d_not_supported = lambda *args: None


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Swaps the values of ``parametrize`` marks."""
    marks = metafunc.definition.own_markers
    for index, mark in enumerate(marks):
        if mark.name == "parametrize":
            names, values = mark.args
            if _is_list_of_configs(metafunc, values):
                upstream = getattr(metafunc.module, "ALL_CONFIGS", [(None, {})])
                ours = our_configs(upstream[0][1].get("task_type"))
            elif values is getattr(metafunc.module, ENCODERS, None):
                ours = list(DECODERS)
            else:
                continue
            marks[index] = pytest.mark.parametrize(names, ours).mark


def _is_list_of_configs(metafunc: pytest.Metafunc, values: object) -> bool:
    if any(values is getattr(metafunc.module, name, None) for name in CONFIG_LISTS):
        return True
    return metafunc.function.__name__ == TRAINER_TEST and isinstance(values[0], tuple)


def our_configs(task: str | None) -> list[Any]:
    """Our values for ``config_cls, config_kwargs``, with the task that upstream's tell."""
    return [
        pytest.param(kind, kwargs | ({"task_type": task} if task else {}), id=_name(kwargs))
        for kind, kwargs in CONFIGS
    ]


def _name(kwargs: dict[str, Any]) -> str:
    return "-".join(str(value) for name, value in kwargs.items() if name not in SMALL)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Function]) -> None:
    """Leaves out the tests of other methods and marks the inapplicable."""
    ours, others = [], []
    for item in items:
        (ours if _runs_over_configs(item) or item.originalname in KEPT else others).append(item)
        reason = RELAXATIONS.get(item.originalname, "")
        if reason.startswith("skipped"):
            item.add_marker(pytest.mark.skip(reason=reason))
    config.hook.pytest_deselected(items=others)
    items[:] = ours


def _runs_over_configs(item: pytest.Function) -> bool:
    values = getattr(item, "callspec", None) and item.callspec.params.values()
    return any(value is kind for value in values or () for kind, _ in CONFIGS)


@pytest.fixture(autouse=True)
def _seeded_and_relaxed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)  # upstream does not; here a failure shall be repeatable
    # Stricter than upstream: ours must take embeddings for features, too.
    monkeypatch.setattr(
        request.module, "skip_non_prompt_learning", lambda kind: None, raising=False
    )
    if RELAXATIONS.get(request.node.originalname) == SOME_GRADIENTS:
        monkeypatch.setattr(testing_common, "ShadowConfig", (ShadowConfig, BiTuningConfig))
