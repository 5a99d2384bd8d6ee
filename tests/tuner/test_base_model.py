"""What is asked of a language model, beyond the table of tests/conformance."""

import pytest
import torch
from adapters import make_batch, make_model
from conftest import VOCABULARY
from peft import get_peft_model
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    Gemma3nTextConfig,
    OpenAIGPTConfig,
    OPTConfig,
    T5Config,
    T5ForConditionalGeneration,
)

from laser_peft import BiTuningConfig

SMALL = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2}


def test_an_encoder_decoder_is_refused():
    t5 = T5ForConditionalGeneration(
        T5Config(vocab_size=VOCABULARY, d_model=8, d_ff=8, num_layers=1, num_heads=1, d_kv=8)
    )
    with pytest.raises(ValueError, match="T5ForConditionalGeneration is an encoder-decoder"):
        get_peft_model(t5, BiTuningConfig())


@pytest.mark.filterwarnings("ignore")
def test_a_model_that_reads_in_both_directions_is_refused():
    config = BertConfig(**SMALL, num_attention_heads=2, intermediate_size=8)
    with pytest.raises(ValueError, match="BertLMHeadModel reads in both .* with is_decoder=True"):
        get_peft_model(AutoModelForCausalLM.from_config(config), BiTuningConfig())


def test_what_is_no_model_of_transformers_is_refused():
    with pytest.raises(ValueError, match="a language model of transformers, got a Sequential"):
        get_peft_model(torch.nn.Sequential(), BiTuningConfig(task_type=None))


def test_states_may_be_narrower_than_the_hidden_size(encoder_folder):
    """OPT-350m projects its embeddings in and its states out."""
    sizes = {"ffn_dim": 19, "num_attention_heads": 2, "max_position_embeddings": 64}
    config = OPTConfig(**SMALL, **sizes, word_embed_proj_dim=16)
    model = make_model(AutoModelForCausalLM.from_config(config).eval(), encoder_folder)
    batch = make_batch()
    assert model(**batch).user_vectors.isfinite().all()
    assert model(input_ids=batch["input_ids"]).logits.shape[-1] == VOCABULARY


def test_token_ids_are_asked_for_where_embeddings_do_not_suffice(encoder_folder):
    config = Gemma3nTextConfig(
        **SMALL | {"num_hidden_layers": 4},
        vocab_size_per_layer_input=VOCABULARY,
        hidden_size_per_layer_input=8,
        intermediate_size=19,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        num_kv_shared_layers=2,
        layer_types=["sliding_attention", "full_attention"] * 2,
        pad_token_id=0,
        initializer_range=0.15,
    )
    lm = AutoModelForCausalLM.from_config(config).eval()
    for parameter in lm.parameters():  # some gates start at zero
        torch.nn.init.normal_(parameter, std=0.2)
    model, ids = make_model(lm, encoder_folder), make_batch()["input_ids"]
    # Its second table of embeddings is read for text tokens, not only passed over.
    before = model(input_ids=ids, return_user_vectors=True).user_vectors
    torch.nn.init.normal_(lm.model.embed_tokens_per_layer.weight)
    assert not torch.allclose(model(input_ids=ids, return_user_vectors=True).user_vectors, before)
    with pytest.raises(ValueError, match="needs input_ids, inputs_embeds do not suffice"):
        model(inputs_embeds=lm.get_input_embeddings()(ids), return_user_vectors=True)
    options = {"max_new_tokens": 3, "num_beams": 2, "pad_token_id": 0, "eos_token_id": None}
    together = model.generate(ids, **options)
    for user in range(len(ids)):  # each beam keeps its user's
        assert torch.equal(model.generate(ids[user : user + 1], **options)[0], together[user])


def test_a_model_that_writes_without_memory_needs_ids(encoder_folder):
    config = OpenAIGPTConfig(vocab_size=VOCABULARY, n_positions=64, n_embd=32, n_layer=1, n_head=2)
    model = make_model(AutoModelForCausalLM.from_config(config).eval(), encoder_folder)
    with pytest.raises(ValueError, match="OpenAIGPTLMHeadModel generates from input_ids only"):
        model.generate(inputs_embeds=torch.zeros(1, 3, 32), max_new_tokens=1)
