import copy
import json
import pickle
import re

import pytest
from peft import PeftConfig, PeftType, get_peft_config

from laser_peft import BiTuningConfig

BROKEN = [
    ({"num_prefix_tokens": 0}, "num_prefix_tokens must be a whole number of at least 1, got 0"),
    ({"num_suffix_tokens": -1}, "num_suffix_tokens must be .* got -1"),
    ({"num_prefix_tokens": 2.5}, "num_prefix_tokens must be a whole number .* got 2.5"),
    ({"num_prefix_tokens": True}, "num_prefix_tokens must be a whole number .* got True"),
    ({"m_former_num_layers": 0}, "m_former_num_layers must be"),
    ({"m_former_cross_attention_frequency": 0}, "m_former_cross_attention_frequency must be"),
    ({"m_former_hidden_size": 0}, "m_former_hidden_size must be"),
    ({"m_former_num_heads": 0}, "m_former_num_heads must be"),
    ({"m_former_intermediate_size": 0}, "m_former_intermediate_size must be"),
    ({"collaborative_dim": 0}, "collaborative_dim must be"),
    ({"recommendation_dim": 0}, "recommendation_dim must be"),
    ({"num_experts": 0}, "num_experts must be"),
    ({"num_experts_per_user": 0}, "num_experts_per_user must be"),
    ({"num_experts": 2, "num_experts_per_user": 3}, r"\(3\) must be at most num_experts \(2\)"),
    ({"m_former_dropout": 1.0}, r"m_former_dropout must lie in \[0, 1\), got 1.0"),
    ({"m_former_dropout": -0.1}, "m_former_dropout must lie in"),
    ({"router_balance_weight": -1.0}, "router_balance_weight must not be negative, got -1.0"),
    ({"router_balance_weight": float("nan")}, "router_balance_weight must not be negative"),
    ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
    ({"m_former_hidden_size": 10, "m_former_num_heads": 3}, "try m_former_hidden_size=12"),
]


@pytest.mark.parametrize(("fields", "message"), BROKEN)
def test_a_broken_rule_says_what_and_got(fields, message):
    with pytest.raises(ValueError, match=message):
        BiTuningConfig(**fields)


def test_defaults_are_valid_and_round_trip(tmp_path):
    config = BiTuningConfig()
    json.dumps(config.to_dict())
    config.save_pretrained(str(tmp_path))
    assert PeftConfig.from_pretrained(str(tmp_path)) == config
    assert get_peft_config(config.to_dict()) == config
    assert pickle.loads(pickle.dumps(config)) == copy.deepcopy(config) == config
    assert config.peft_type is PeftType("BITUNING")


def test_sizes_left_out_scale_with_the_language_model():
    small = BiTuningConfig().resolved(lm_dim=256, encoder_config=None, encoder_dim=None)
    large = BiTuningConfig().resolved(lm_dim=4096, encoder_config=None, encoder_dim=None)
    assert (small.m_former_hidden_size, small.m_former_num_heads) == (128, 2)
    assert (large.m_former_hidden_size, large.m_former_num_heads) == (768, 12)
    assert small.m_former_intermediate_size == 256


def test_width_given_by_hand_must_be_the_encoders():
    for name in ("collaborative_dim", "recommendation_dim"):
        with pytest.raises(ValueError, match=rf"{name} \(7\) must equal .* encoder \(16\)"):
            BiTuningConfig(**{name: 7}).resolved(lm_dim=32, encoder_config={}, encoder_dim=16)


def test_heads_given_by_hand_must_divide_the_default_width():
    with pytest.raises(ValueError, match="must be a multiple of m_former_num_heads"):
        BiTuningConfig(m_former_num_heads=5).resolved(
            lm_dim=256, encoder_config=None, encoder_dim=None
        )


def test_resolving_does_not_touch_the_original():
    config = BiTuningConfig()
    config.resolved(lm_dim=256, encoder_config={"model_type": "sasrec"}, encoder_dim=16)
    assert config == BiTuningConfig()


def test_every_field_is_documented():
    arguments = BiTuningConfig.__doc__.split("Raises:")[0]
    documented = set(re.findall(r"^ {8}(\w+):", arguments, re.MULTILINE))
    inherited = set(PeftConfig.__dataclass_fields__)
    assert set(BiTuningConfig.__dataclass_fields__) - inherited == documented
