"""Writes a Hub cache of tiny random models under the ids that PEFT's tests load."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import LoraConfig
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import (
    Gemma3TextConfig,
    GPT2Config,
    GPTJConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

SPECIAL_TOKENS = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
# After the bytes, so that the small ids in the tests' inputs are ordinary tokens.
COMMON = {
    "vocab_size": len(BYTES) + len(SPECIAL_TOKENS),
    "pad_token_id": len(BYTES),
    "bos_token_id": len(BYTES) + 1,
    "eos_token_id": len(BYTES) + 2,
}
LLAMA_LIKE = COMMON | {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
GPT_LIKE = COMMON | {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}

# What TestDecoderModels loads, one of each architecture.
DECODERS: dict[str, PreTrainedConfig] = {
    "peft-internal-testing/tiny-random-OPTForCausalLM": OPTConfig(
        **COMMON,
        hidden_size=32,
        word_embed_proj_dim=32,
        ffn_dim=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=256,
    ),
    "peft-internal-testing/tiny-random-GPT2LMHeadModel": GPT2Config(**GPT_LIKE),
    "peft-internal-testing/tiny-random-GPTJForCausalLM": GPTJConfig(**GPT_LIKE, rotary_dim=4),
    "trl-internal-testing/tiny-random-LlamaForCausalLM": LlamaConfig(**LLAMA_LIKE),
    "peft-internal-testing/tiny-dummy-qwen2": Qwen2Config(**LLAMA_LIKE),
    "hf-internal-testing/tiny-random-Gemma3ForCausalLM": Gemma3TextConfig(
        **LLAMA_LIKE, head_dim=8, layer_types=["sliding_attention", "full_attention"]
    ),
}
# What only its Trainer test loads.
TRAINER_DECODERS: dict[str, PreTrainedConfig] = {
    "hf-internal-testing/tiny-random-gpt2": GPT2Config(**GPT_LIKE),
    "hf-internal-testing/tiny-random-MistralForCausalLM": MistralConfig(**LLAMA_LIKE),
}
SAVED_CONFIG = ("peft-internal-testing/tiny-opt-lora-revision", "test")  # TestPeftConfig's


def write_hub(hub: Path) -> None:
    """Fills the folder ``$HF_HOME/hub``."""
    disable_progress_bar()
    torch.manual_seed(0)
    tokenizer = _byte_tokenizer()
    for name, config in (DECODERS | TRAINER_DECODERS).items():
        with _snapshot(hub, name) as folder:
            AutoModelForCausalLM.from_config(config).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    name, revision = SAVED_CONFIG
    with _snapshot(hub, name, revision) as folder:
        LoraConfig().save_pretrained(str(folder))


@contextmanager
def _snapshot(hub: Path, name: str, revision: str = "main") -> Iterator[Path]:
    """Gives the folder for a repository's files and names it as the Hub's client would."""
    commit = "0" * 40
    repository = hub / f"models--{name.replace('/', '--')}"
    folder = repository / "snapshots" / commit
    folder.mkdir(parents=True, exist_ok=True)
    yield folder
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / revision).write_text(commit)


def _byte_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = [*BYTES, *SPECIAL_TOKENS.values()]
    tokenizer = Tokenizer(BPE(vocab={t: i for i, t in enumerate(vocabulary)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL_TOKENS)
