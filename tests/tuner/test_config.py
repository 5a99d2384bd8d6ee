import copy
import json
import pickle
import re

import pytest
from peft import PeftConfig, PeftType, get_peft_config

from laser_peft import BiTuningConfig
from laser_peft.tuner.sizes import resolve

BROKEN = [
    ({"num_suffix_tokens": 0}, "needs num_suffix_tokens of at least 1, got 0.*'mean' or 'eos'"),
    ({"num_prefix_tokens": None}, "num_prefix_tokens must be a whole number .* got None"),
    ({"prefix_source": "mformer"}, "prefix_source must be one of 'm_former', 'plain', 'none', got"),
    ({"moe": "both"}, "moe must be one of 'ffn', 'query', 'none', got 'both'"),
    ({"suffix_reading": "last"}, "suffix_reading must be one of"),
    ({"item_vectors": "id"}, "item_vectors must be one of"),
    ({"similarity": "euclid"}, "similarity must be one of 'dot', 'cosine', got 'euclid'"),
    ({"bundle_encoder": 1}, "bundle_encoder must be True or False, got 1"),
    ({"user_projection": None}, "user_projection must be True or False, got None"),
    ({"collaborative_skip": "yes"}, "collaborative_skip must be True or False, got 'yes'"),
    ({"moe": "none", "num_experts": 4}, "moe='none' has no experts, got num_experts=4"),
    ({"moe": "query", "num_experts_per_user": 9}, r"\(9\) must be at most num_experts \(8\)"),
    ({"item_vectors": "fused"}, "there is no encoder; set collaborative_encoder="),
    (
        {"item_vectors": "fused", "collaborative_encoder": "x", "similarity": "cosine"},
        "weighed by their scores, which the cosine .* set similarity='dot'",
    ),
    ({"bundle_encoder": False}, "needs collaborative_encoder=.* to load it from, got None"),
    ({"collaborative_skip": True, "user_projection": False}, "needs user_projection=True"),
    ({"item_text_dim": 0}, "item_text_dim must be"),
    ({"num_text_items": -1}, "num_text_items must be a whole number of at least 0"),
    ({"temperature": "hot"}, "temperature must be positive, got 'hot'"),
    ({"m_former_dropout": None}, "m_former_dropout must lie in"),
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


def resolved(*, lm_dim=256, encoder_dim=None, **fields):
    return resolve(
        BiTuningConfig(collaborative_encoder="somewhere" if encoder_dim else None, **fields),
        embedding_dim=lm_dim,
        hidden_dim=lm_dim,
        encoder_config={"model_type": "sasrec"} if encoder_dim else None,
        encoder_dim=encoder_dim,
    )


def test_sizes_left_out_scale_with_the_language_model():
    small, large = resolved(lm_dim=256), resolved(lm_dim=4096)
    assert (small.m_former_hidden_size, small.m_former_num_heads) == (128, 2)
    assert (large.m_former_hidden_size, large.m_former_num_heads) == (768, 12)
    assert small.m_former_intermediate_size == 256


@pytest.mark.parametrize(
    ("moe", "num_experts", "expected"),
    [
        ("ffn", None, (4, 2)),
        ("query", None, (8, 1)),
        ("none", None, (1, 1)),
        ("ffn", 1, (1, 1)),
        ("query", 3, (3, 1)),
    ],
)
def test_experts_left_out_follow_the_kind_of_mixture(moe, num_experts, expected):
    config = resolved(moe=moe, num_experts=num_experts)
    assert (config.num_experts, config.num_experts_per_user) == expected


def test_vectors_live_in_the_encoders_space_unless_items_are_text():
    with_encoder = resolved(encoder_dim=16)
    assert (with_encoder.collaborative_dim, with_encoder.recommendation_dim) == (16, 16)
    assert with_encoder.collaborative_skip is True
    text = resolved(encoder_dim=16, item_vectors="text")
    assert (text.recommendation_dim, text.item_text_dim) == (256, 256)
    assert text.collaborative_skip is False
    fused = resolved(encoder_dim=16, item_vectors="fused")
    assert (fused.recommendation_dim, fused.item_text_dim) == (528, 512)
    alone = resolved()
    assert (alone.collaborative_dim, alone.recommendation_dim) == (256, 256)
    assert alone.collaborative_skip is False


def test_temperature_left_out_follows_the_similarity():
    assert resolved().temperature == 1.0
    assert resolved(similarity="cosine").temperature == 0.05
    assert resolved(similarity="cosine", temperature=1).temperature == 1


def test_a_part_that_is_switched_off_has_no_tokens():
    assert resolved(prefix_source="none").num_prefix_tokens == 0
    assert resolved(num_prefix_tokens=0).prefix_source == "none"
    assert resolved(suffix_reading="mean").num_suffix_tokens == 0


CLASHES = [
    ({"encoder_dim": 16, "collaborative_dim": 7}, r"collaborative_dim \(7\) must .* \(16\)"),
    ({"encoder_dim": 16, "recommendation_dim": 7}, r"recommendation_dim \(7\) must .* \(16\)"),
    ({"m_former_num_heads": 5}, "must be a multiple of m_former_num_heads"),
    ({"encoder_dim": 16, "user_projection": False}, r"own width \(256\), .* are 16 wide"),
    ({"item_vectors": "text", "item_text_dim": 5}, r"item_text_dim \(5\) must equal"),
    ({"collaborative_skip": True, "recommendation_dim": 7}, r"recommendation_dim \(7\) must"),
]


@pytest.mark.parametrize(("fields", "message"), CLASHES)
def test_widths_given_by_hand_must_fit_the_models(fields, message):
    with pytest.raises(ValueError, match=message):
        resolved(**fields)


def test_resolving_twice_changes_nothing_more():
    once = resolved(encoder_dim=16, moe="query", suffix_reading="mean")
    again = resolve(
        once,
        embedding_dim=256,
        hidden_dim=256,
        encoder_config={"model_type": "sasrec"},
        encoder_dim=16,
    )
    assert again == once


def test_every_field_is_documented():
    arguments = BiTuningConfig.__doc__.split("Raises:")[0]
    documented = set(re.findall(r"^ {8}(\w+):", arguments, re.MULTILINE))
    inherited = set(PeftConfig.__dataclass_fields__)
    assert set(BiTuningConfig.__dataclass_fields__) - inherited == documented
