"""What is remembered of a text stands for the text, whatever comes after it."""

import pytest
import torch
from adapters import make_model
from conftest import VOCABULARY, make_lm
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoConfig,
    LlamaConfig,
    MistralConfig,
)

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


def whole(model, tokens, history=HISTORY):
    return model(
        input_ids=torch.cat([tokens, ENDING[None]], 1), history=history, return_user_vectors=True
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


def test_many_short_pieces_read_as_one(llama, encoder_folder):
    model, memory = make_model(llama, encoder_folder).eval(), TextMemory()
    with torch.no_grad():
        for end in range(1, 25):  # more than are kept apart
            read = step(model, memory, TOKENS[:, end - 1 : end])
            torch.testing.assert_close(read, whole(model, TOKENS[:, :end]), atol=1e-4, rtol=1e-4)
    assert len(memory.pieces) < 24


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
        (
            {"input_ids": TOKENS, "attention_mask": torch.ones(1, 9)},
            r"expected \(1, 24\), got \(1, 9\)",
        ),
        ({"attention_mask": torch.ones(1, 9)}, r"no attention_mask, got \(1, 9\)"),
        ({"input_ids": TOKENS.expand(2, -1)}, r"shape \(1, T\), .* got \(2, 24\)"),
        ({}, "text_memory is empty"),
        ({"input_ids": TOKENS.expand(2, -1), "text_memory": [TextMemory()] * 2}, "for several"),
        ({"input_ids": TOKENS, "text_memory": []}, "at least one"),
        ({"input_ids": TOKENS, "text_memory": [None]}, "a list of them, one a user, got NoneType"),
    ],
)
def test_what_it_has_no_room_for_is_refused(llama, encoder_folder, arguments, message):
    model, memory = make_model(llama, encoder_folder).eval(), TextMemory()
    with pytest.raises((TypeError, ValueError), match=message):
        model(**{"text_memory": memory} | arguments, history=HISTORY)
    assert memory.num_tokens == 0


@pytest.mark.parametrize("layout", ["text_first", "prefix_first"])
@pytest.mark.parametrize("family", MAKERS)
def test_users_are_read_together_as_each_alone(family, layout, encoder_folder):
    model = make_model(MAKERS[family](), encoder_folder, layout=layout).eval()
    texts = torch.randint(1, VOCABULARY, (3, 24), generator=torch.Generator().manual_seed(5))
    histories = torch.tensor([[3, 1], [2, 0], [5, 4]])
    memories, had = [TextMemory() for _ in texts], [0, 0, 0]
    with torch.no_grad():
        for counts in ([5, 5, 5], [3, 0, 9], [2, 6, 0], [4, 4, 4], [0, 0, 0]):
            new = torch.zeros(3, max(*counts, 1), dtype=torch.int64)
            mask = torch.zeros_like(new)
            for row, count in enumerate(counts):
                side = (
                    slice(None, count) if row else slice(new.size(1) - count, None)
                )  # pads on any
                new[row, side] = texts[row, had[row] : had[row] + count]
                mask[row, side] = 1
                had[row] += count
            read = model(
                input_ids=new,
                attention_mask=mask,
                text_memory=memories,
                ending_ids=ENDING,
                history=histories,
            ).user_vectors
            for row, own in enumerate(read):
                alone = whole(model, texts[row : row + 1, : had[row]], histories[row : row + 1])
                torch.testing.assert_close(own[None], alone, atol=1e-4, rtol=1e-4)
            assert [memory.num_tokens for memory in memories] == had


def test_a_user_who_is_new_joins_others(llama, encoder_folder):
    model = make_model(llama, encoder_folder).eval()
    known = TextMemory()
    with torch.no_grad():
        step(model, known, TOKENS[:, :9])
        new = torch.stack([TOKENS[0, 9:15], TOKENS[0, :6]])
        read = model(
            input_ids=new,
            text_memory=[known, TextMemory()],
            ending_ids=ENDING,
            history=HISTORY.expand(2, -1),
        ).user_vectors
        for own, length in zip(read, (15, 6), strict=True):
            alone = whole(model, TOKENS[:, :length])
            torch.testing.assert_close(own[None], alone, atol=1e-4, rtol=1e-4)


def test_a_call_that_fails_leaves_the_memory_as_it_was(llama, encoder_folder):
    model, memory = make_model(llama, encoder_folder).eval(), TextMemory()
    head = model.base_model.layer.bituning_adapters["default"].head

    def fail(*_):
        raise RuntimeError("no memory left")

    with torch.no_grad():
        step(model, memory, TOKENS[:, :9])
        hook = head.register_forward_pre_hook(fail)
        with pytest.raises(RuntimeError, match="no memory left"):
            step(model, memory, TOKENS[:, 12:20])
        hook.remove()
        assert memory.num_tokens == 9
        read = step(model, memory, TOKENS[:, 9:])
        torch.testing.assert_close(read, whole(model, TOKENS), atol=1e-4, rtol=1e-4)


FULL = 40  # places that these models have, of which the longest text takes all


@pytest.mark.parametrize(
    "config",
    [
        GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, n_positions=FULL),
        GPTNeoConfig(
            **dict(vocab_size=VOCABULARY, hidden_size=16, num_layers=2, num_heads=2),
            **dict(attention_types=[[["global", "local"], 1]], window_size=FULL),
            max_position_embeddings=FULL,
        ),
        LlamaConfig(
            **SIZES,
            max_position_embeddings=FULL,
            rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0},
        ),
    ],
    ids=lambda config: config.model_type,
)
def test_pads_take_no_place_that_a_model_does_not_have(config, encoder_folder):
    torch.manual_seed(0)
    model = make_model(AutoModelForCausalLM.from_config(config).eval(), encoder_folder)
    texts = torch.randint(1, VOCABULARY, (2, 32), generator=torch.Generator().manual_seed(7))
    memories, histories = [TextMemory(), TextMemory()], torch.tensor([[3, 1], [2, 5]])
    with torch.no_grad():
        step(model, memories[0], texts[:1, :31])  # one remembers nearly all, the other nothing
        new = texts.clone()
        new[0, 0], mask = texts[0, 31], torch.ones(2, 32, dtype=torch.int64)
        mask[0, 1:] = 0
        read = model(
            input_ids=new,
            attention_mask=mask,
            text_memory=memories,
            ending_ids=ENDING,
            history=histories,
        ).user_vectors
        for row, own in enumerate(read):
            alone = whole(model, texts[row : row + 1], histories[row : row + 1])
            torch.testing.assert_close(own[None], alone, atol=1e-4, rtol=1e-4)
