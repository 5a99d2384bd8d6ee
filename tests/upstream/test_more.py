"""Upstream's checks of any method that its decoder tests do not call."""

from typing import Any

import pytest
from models import DECODERS
from peft import PeftConfig
from plugin import our_configs
from tests.testing_common import PeftCommonTester
from transformers import AutoModelForCausalLM


@pytest.mark.parametrize("model_id", list(DECODERS))
@pytest.mark.parametrize(("config_cls", "config_kwargs"), our_configs("CAUSAL_LM"))
class TestMore(PeftCommonTester):
    transformers_class = AutoModelForCausalLM

    @pytest.mark.parametrize(
        "check",
        [
            "_test_load_model_low_cpu_mem_usage",
            "_test_load_multiple_adapters",
            "_test_save_pretrained_adapter_name_substring",
            "_test_delete_unknown_adapter_raises",
        ],
    )
    def test_more(
        self, check: str, model_id: str, config_cls: type[PeftConfig], config_kwargs: dict[str, Any]
    ) -> None:
        getattr(self, check)(model_id, config_cls, config_kwargs.copy())
