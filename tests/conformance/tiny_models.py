"""A tiny random model of every causal language model class that transformers maps.

Every configuration starts from `SMALL`, a table of small values by attribute name; a configuration
takes those it declares, and so do its nested configurations (text, vision, audio). What its own
constructor derives (layer types, rotary parameters) is left to it. `OVERRIDES` holds the rest.
"""

from copy import deepcopy
from dataclasses import dataclass, fields
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
)

VOCAB_SIZE = 99

SMALL: dict[str, Any] = {
    # Vocabulary and special tokens
    "vocab_size": VOCAB_SIZE,
    "unpadded_vocab_size": VOCAB_SIZE,
    "vocab_size_per_layer_input": VOCAB_SIZE,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "cls_token_id": 1,
    "sep_token_id": 2,
    "decoder_start_token_id": 1,
    "forced_eos_token_id": 2,
    "max_position_embeddings": 128,
    "n_positions": 128,
    "max_seq_len": 128,
    "context_length": 128,
    "max_target_positions": 128,
    # Width
    "hidden_size": 32,
    "d_model": 32,
    "n_embd": 32,
    "emb_dim": 32,
    "hidden_size_per_layer_input": 8,
    "intermediate_size": 64,
    "moe_intermediate_size": 32,
    "shared_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "moe_shared_expert_intermediate_size": 32,
    "dense_intermediate_size": 64,
    "ffn_hidden_size": 64,
    "expert_ffn_hidden_size": 32,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "ffn_dim": 64,
    "n_inner": 64,
    # Depth
    "num_hidden_layers": 2,
    "n_layer": 2,
    "n_layers": 2,
    "num_layers": 2,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "num_encoder_layers": 2,
    "num_decoder_layers": 2,
    # Attention
    "num_attention_heads": 4,
    "n_head": 4,
    "n_heads": 4,
    "num_heads": 4,
    "attention_heads": 4,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "num_encoder_attention_heads": 4,
    "num_decoder_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "sliding_window": 16,
    "rotary_dim": 4,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "index_head_dim": 16,
    "index_n_heads": 2,
    "index_topk": 16,
    # Mixtures of experts
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_topk": 2,
    "moe_k": 2,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "num_dense_layers": 1,
    # Image towers
    "image_size": 32,
    "patch_size": 8,
    # State space and linear attention
    "mamba_d_state": 8,
    "mamba_n_heads": 4,
    "mamba_chunk_size": 8,
    "state_size": 8,
    "ssm_state_size": 8,
    "mamba_num_heads": 4,
    "mamba_head_dim": 16,
    "n_groups": 1,
    "chunk_size": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_head_dim": 8,
    "linear_num_heads": 4,
    # Weights large enough that every token matters to every later logit
    "initializer_range": 0.15,
    "init_std": 0.15,
    "initializer_factor": 0.15,
    # Encoder classes (BERT, ...) are causal only as decoders
    "is_decoder": True,
}

SLIDING_THEN_FULL = {"layer_types": ["sliding_attention", "full_attention"]}
LINEAR_THEN_FULL = {"layer_types": ["linear_attention", "full_attention"]}
CONV_THEN_FULL = {"layer_types": ["conv", "full_attention"]}
# Gemma 4 looks its media tokens up in the embedding even for text alone, so they must be in it.
MEDIA_AS_PADDING = {"image_token_id": 0, "video_token_id": 0, "audio_token_id": 0}

# By the model type of the configuration, nested ones too. Where a family mixes kinds of layers, its
# tiny model has one of each.
OVERRIDES: dict[str, dict[str, Any]] = {
    "afmoe": SLIDING_THEN_FULL,
    "bailing_hybrid": {"layer_group_size": 2},
    "bamba": {"attn_layer_indices": [1]},
    "beam": {"mlp_layer_types": ["dense", "sparse"]},
    "blt": {"encoder_hash_byte_group_vocab": 64, "num_hidden_layers": 2},  # its cache counts layers
    "blt_global_transformer": {"hidden_size": 64},
    "blt_local_decoder": {"hidden_size_global": 64},
    "cohere2": SLIDING_THEN_FULL,
    "cohere2_moe": SLIDING_THEN_FULL,
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}}
    },
    "cpmant": {"dim_ff": 64},
    "dbrx": {"attn_config": {"clip_qkv": 8, "kv_n_heads": 2, "rope_theta": 10000.0}},
    "deepseek_v4": {
        "layer_types": ["compressed_sparse_attention", "heavily_compressed_attention"],
        "mlp_layer_types": ["hash_moe", "moe"],
    },
    "dots3_note_audio_encoder": {"adapter_input_size": 32, "adapter_out_dim": 32},
    "dots3_note_vision_encoder": {
        "adapter_in_dim": 32,
        "adapter_out_dim": 32,
        "mlp_layer_types": ["dense", "sparse"],
    },
    "exaone4": SLIDING_THEN_FULL,
    "exaone_moe": SLIDING_THEN_FULL,
    "flint": SLIDING_THEN_FULL,
    "gemma3_text": SLIDING_THEN_FULL,
    "gemma3n_text": {
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    },
    "gemma4": MEDIA_AS_PADDING,
    "gemma4_text": SLIDING_THEN_FULL,
    "gemma4_unified": MEDIA_AS_PADDING,
    "gemma4_unified_text": SLIDING_THEN_FULL,
    "gemma4_unified_vision": {"mm_embed_dim": 32},
    "got_ocr2_vision": {"output_channels": 16},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": LINEAR_THEN_FULL,
    "hy_v4": {"indexer_types": ["full", "shared"]},
    "inkling2_text": {"layer_types": ["hybrid_sliding", "hybrid"]},
    "inkling_text": {"layer_types": ["hybrid_sliding", "hybrid"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": LINEAR_THEN_FULL,
    "kolibri1": SLIDING_THEN_FULL,
    "lfm2": CONV_THEN_FULL,
    "lfm2_moe": CONV_THEN_FULL,
    "lfm3": {"layer_types": ["conv", "sliding_attention"]},
    "llama4_text": {"layer_types": ["chunked_attention", "full_attention"]},
    "mamba2": {"head_dim": 16},
    "musicgen_decoder": {"num_codebooks": 1},
    "musicgen_melody_decoder": {"num_codebooks": 1},
    "olmo3": SLIDING_THEN_FULL,
    "phi4_multimodal_audio": {"num_blocks": 2, "nemo_conv_channels": 32},
    "qwen3_5_moe_text": LINEAR_THEN_FULL,
    "qwen3_5_text": LINEAR_THEN_FULL,
    "qwen3_next": LINEAR_THEN_FULL,
    "qwen4_exp_text": {
        **LINEAR_THEN_FULL,
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 16,
        "indexer_compress_ratio": 4,
    },
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "reformer": {
        "attn_layers": ["local", "lsh"],
        "axial_pos_embds_dim": [16, 16],
        "hash_seed": 0,
    },
    "roc_bert": {"shape_vocab_size": VOCAB_SIZE},
    "xlm": {"causal": True},
    "xlnet": {"attn_type": "uni"},
    "xlstm": {"hidden_size": 128},  # its kernels round widths up to a multiple of 64
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "num_hidden_layers": 3,
        "layers_block_type": ["linear_attention", "hybrid", "hybrid"],  # one is tied to the other
    },
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"]},
    "zaya": {"num_experts_per_tok": 1},
}

CANNOT_BUILD: dict[str, str] = {
    "gemma3n": "its vision tower is a timm model, and timm is not installed",
    "gemma4_assistant": "every layer reads another model's keys and values; takes no input ids",
    "gemma4_unified_assistant": "every layer reads another model's keys and values; takes no ids",
}


@dataclass(frozen=True)
class Family:
    """One entry of transformers' mapping of causal language models."""

    model_type: str
    config_class: type[PreTrainedConfig]
    model_class: type[PreTrainedModel]


def causal_lm_families() -> list[Family]:
    """Return every entry of the mapping, sorted by model type, those of `CANNOT_BUILD` too."""
    families = []
    for model_type in sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES):
        config_class = CONFIG_MAPPING[model_type]
        model_class = MODEL_FOR_CAUSAL_LM_MAPPING[config_class]
        if isinstance(model_class, tuple):
            model_class = model_class[0]
        families.append(Family(model_type, config_class, model_class))
    return families


def _small_config(
    config_class: type[PreTrainedConfig], overrides: dict[str, Any]
) -> PreTrainedConfig:
    names = {field.name for field in fields(config_class)}
    values = {name: value for name, value in SMALL.items() if name in names}
    if "kv_lora_rank" in names:
        values["num_key_value_heads"] = 4  # latent attention rebuilds one key for every query head
    overrides = OVERRIDES.get(config_class.model_type, {}) | overrides
    nested = {}
    for name, nested_class in config_class.sub_configs.items():
        if nested_class is AutoConfig:
            nested_class = type(getattr(config_class(), name))
        nested[name] = _small_config(nested_class, overrides.get(name, {}))
    # Some constructors edit the lists that they are given.
    return config_class(**deepcopy(values | overrides) | nested)


def tiny_config(family: Family) -> PreTrainedConfig:
    """Return a tiny configuration of the family."""
    return _small_config(family.config_class, {})


def tiny_lm(family: Family) -> PreTrainedModel:
    """Return a tiny random model of the family: seeded, in evaluation mode, float32, on CPU."""
    config = tiny_config(family)
    if not isinstance(config, family.model_class.config_class):
        config = config.get_text_config(decoder=True)
    torch.manual_seed(0)
    return family.model_class(config).float().eval()
