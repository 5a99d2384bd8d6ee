"""What is remembered of a text stands for the text, whatever comes after it."""

import pytest
import torch
from adapters import make_model
from conftest import VOCABULARY, make_lm
from transformers import AutoModelForCausalLM, Gemma3TextConfig, MistralConfig

from laser_peft.tuner import TextMemory

SIZES = dict(
    **dict(vocab_size=VOCABULARY, hidden_size=16, intermediate_size=32, num_hidden_layers=2),
    **dict(num_attention_heads=2, num_key_value_heads=1, head_dim=8),
)
TOKENS = torch.randint(1, VOCABULARY, (1, 24), generator=torch.Generator().manual_seed(3))
HISTORY = torch.tensor([[3, 1, 7]])
ENDING = torch.tensor([5, 6])


def windowed(config):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config(**SIZES, sliding_window=40)).eval()


MAKERS = {
    "llama": lambda: make_lm("llama"),
    "gpt2": lambda: make_lm("gpt2"),
    "mistral": lambda: windowed(MistralConfig),
    "gemma3": lambda: windowed(Gemma3TextConfig),
}


def whole(model, tokens):
    return model(
        input_ids=torch.cat([tokens, ENDING[None]], 1), history=HISTORY, return_user_vectors=True
    ).user_vectors


def step(model, memory, tokens=None):
    output = model(input_ids=tokens, text_memory=memory, ending_ids=ENDING, history=HISTORY)
    return output.user_vectors


@pytest.mark.parametrize("layout", ["text_first", "prefix_first"])
@pytest.mark.parametrize("family", MAKERS)
def test_in_pieces_it_reads_as_in_one(family, layout, encoder_folder):
    model = make_model(MAKERS[family](), encoder_folder, layout=layout).eval()
    memory, start = TextMemory(), 0
    with torch.no_grad():
        for end in (1, 9, 12, 24):
            read = step(model, memory, TOKENS[:, start:end])
            torch.testing.assert_close(read, whole(model, TOKENS[:, :end]), atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(step(model, memory), read, atol=1e-4, rtol=1e-4)
            assert memory.num_tokens == end
            start = end


def test_where_a_window_ends_the_text_is_read_anew(encoder_folder):
    model = make_model(windowed(MistralConfig), encoder_folder).eval()
    memory = TextMemory()
    with torch.no_grad():
        step(model, memory, TOKENS)
        longer = torch.cat([TOKENS, TOKENS], 1)
        read = step(model, memory, TOKENS)
        torch.testing.assert_close(read, whole(model, longer), atol=1e-4, rtol=1e-4)


def test_gradients_are_those_of_the_whole(llama, encoder_folder):
    model, memory = make_model(llama, encoder_folder).eval(), TextMemory()
    learning = [p for p in model.parameters() if p.requires_grad]
    with torch.no_grad():
        step(model, memory, TOKENS[:, :9])
    found = torch.autograd.grad(step(model, memory, TOKENS[:, 9:]).sum(), learning)
    again = torch.autograd.grad(step(model, memory).sum(), learning)
    wanted = torch.autograd.grad(whole(model, TOKENS).sum(), learning)
    for kept, repeated, expected in zip(found, again, wanted, strict=True):
        torch.testing.assert_close(kept, expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(repeated, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_ids": TOKENS, "attention_mask": torch.ones(1, 24)}, "go with attention_mask"),
        ({"input_ids": TOKENS.expand(2, -1)}, r"shape \(1, T\), got \(2, 24\)"),
        ({}, "text_memory is empty"),
    ],
)
def test_what_it_has_no_room_for_is_refused(llama, encoder_folder, arguments, message):
    model, memory = make_model(llama, encoder_folder).eval(), TextMemory()
    with pytest.raises(ValueError, match=message):
        model(**arguments, text_memory=memory, history=HISTORY)
    assert memory.num_tokens == 0
