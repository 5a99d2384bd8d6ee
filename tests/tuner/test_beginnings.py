"""Users who share texts are read as if each had a text of its own."""

import pytest
import torch
from adapters import adapter_of, make_batch, make_model, padded
from conftest import NUM_ITEMS, VOCABULARY
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    GPT2Config,
    GPTNeoConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MistralConfig,
)

from laser_peft.tuner import beginnings, reading
from laser_peft.tuner.beginnings import can_share, read_beginnings

SIZES = dict(
    vocab_size=60, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
)
D = 16


def make_lm(config, attention="sdpa", dtype=torch.float32):
    torch.manual_seed(0)
    lm = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
    for parameter in lm.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return lm.requires_grad_(False).to(dtype)


def llama(**options):
    return make_lm(LlamaConfig(**SIZES, num_key_value_heads=1), **options)


def gpt2(**options):
    config = GPT2Config(vocab_size=60, n_embd=D, n_layer=2, n_head=2, n_positions=64)
    return make_lm(config, **options)


def gpt_neo(**fields):
    """It masks by a token's place among all that is remembered, in a table of fixed size."""
    kinds = [[[fields.pop("kind", "local")], 2]]
    config = GPTNeoConfig(
        **dict(vocab_size=VOCABULARY, hidden_size=D, num_layers=2, num_heads=2),
        attention_types=kinds,
        **dict(max_position_embeddings=64, window_size=64) | fields,
    )
    return make_lm(config, "eager")


def alone(lm, text, rows, lengths, tokens):
    """The plain twin: every user in a call of its own, nothing shared and nothing padded."""
    backbone = getattr(lm, lm.base_model_prefix)
    states = []
    for row, length, own in zip(rows.tolist(), lengths.tolist(), tokens, strict=True):
        whole = torch.cat([text[row, :length], own])[None]
        states.append(backbone(inputs_embeds=whole).last_hidden_state[0, length:])
    return torch.stack(states)


def all_of_beginnings(lm, text, rows, lengths, tokens):
    return read_beginnings(lm, text, rows, lengths, tokens, num_read=tokens.size(1))


def shared_texts():
    generator = torch.Generator().manual_seed(1)
    text = torch.randn(3, 9, D, generator=generator)
    rows = torch.tensor([0, 2, 0, 0, 2, 1])  # in no order, more of some texts than of others
    lengths = torch.tensor([2, 9, 9, 5, 1, 4])
    tokens = torch.randn(6, 4, D, generator=generator)
    return text, rows, lengths, tokens


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("make", [llama, gpt2])
def test_states_and_gradients_are_those_of_users_read_alone(make, attention):
    lm = make(attention=attention)
    text, rows, lengths, tokens = shared_texts()
    assert can_share(lm, 13)
    results = []
    for read in (alone, all_of_beginnings):
        own = tokens.clone().requires_grad_()
        states = read(lm, text, rows, lengths, own)
        weights = torch.linspace(-1, 1, states.numel()).view_as(states)
        (states * weights).sum().backward()
        results.append((states.detach(), own.grad))
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_what_stands_behind_a_beginning_does_not_reach_its_user():
    lm, (text, rows, lengths, tokens) = llama(), shared_texts()
    expected = all_of_beginnings(lm, text, rows, lengths, tokens)
    changed = text.clone()
    changed[0, 5:] += 1.0
    actual = all_of_beginnings(lm, changed, rows, lengths, tokens)
    reads_it = (rows == 0) & (lengths > 5)
    torch.testing.assert_close(actual[~reads_it], expected[~reads_it])
    assert (actual[reads_it] - expected[reads_it]).abs().max() > 1e-3


def test_a_model_that_cannot_share_is_told_apart():
    alibi = make_lm(BloomConfig(vocab_size=60, hidden_size=D, n_layer=2, n_head=2), "eager")
    no_attention = make_lm(MambaConfig(vocab_size=60, hidden_size=D, num_hidden_layers=2), "eager")
    assert not can_share(alibi, 13)
    assert not can_share(no_attention, 13)
    window = make_lm(MistralConfig(**SIZES, num_key_value_heads=1, sliding_window=12))
    assert can_share(window, 12)
    assert not can_share(window, 13)


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_.+able. is deprecated")
def test_a_model_that_learns_or_forgets_is_not_shared():
    lm = llama()
    assert can_share(lm, 13)
    lm.gradient_checkpointing_enable()
    assert not can_share(lm, 13)
    lm.gradient_checkpointing_disable()
    lm.get_input_embeddings().weight.requires_grad_()
    assert not can_share(lm, 13)


def test_half_precision_shares_too():
    assert can_share(llama(dtype=torch.bfloat16), 13)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 7 bytes"),
        RuntimeError("HIP out of memory"),
    ],
)
def test_too_little_memory_says_nothing_about_a_model(monkeypatch, error):
    lm = llama()

    def fail(*_, **__):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(beginnings, "read_beginnings", fail)
        with pytest.raises(type(error), match="memory"):
            can_share(lm, 13)
    assert can_share(lm, 13)


def test_a_model_is_tried_anew_in_another_precision(monkeypatch):
    lm, answers = llama(), iter([True, False])
    monkeypatch.setattr(beginnings, "_reads_alike", lambda _: next(answers))
    assert can_share(lm, 13)
    assert can_share(lm, 13)
    assert not can_share(lm.to(torch.bfloat16), 13)


def rows_of(batch, rows):
    return {name: values[rows] for name, values in batch.items()}


BEGINNINGS = dict(
    text_rows=torch.tensor([0, 0, 1, 2, 1]), text_lengths=torch.tensor([2, 7, 7, 3, 1])
)
LABELS = torch.tensor([1, NUM_ITEMS, 3, 2, 5])
ENDING = torch.tensor([4, 9])


def one_text_each(batch):
    """The same users with a text each, the ending written out."""
    rows, lengths = BEGINNINGS.values()
    ids = [
        batch["input_ids"][r, :n].tolist() + ENDING.tolist()
        for r, n in zip(rows, lengths, strict=True)
    ]
    longest = max(map(len, ids))
    padded_ids = torch.tensor([row + [0] * (longest - len(row)) for row in ids])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids])
    return {"input_ids": padded_ids, "attention_mask": mask}


def equal_users_with_a_text_each(model, side="right"):
    batch = make_batch()
    users = {name: batch[name][BEGINNINGS["text_rows"]] for name in ("history", "history_mask")}
    users["history_mask"] = users["history_mask"].clone()
    users["history_mask"][0, 3:] = 0
    texts = {name: batch[name] for name in ("input_ids", "attention_mask")}
    shared = padded(texts, side) | users | BEGINNINGS | {"ending_ids": ENDING}
    gradients = []
    for inputs in (shared, one_text_each(batch) | users):
        model.zero_grad()
        output = model(**inputs, labels=LABELS)
        output.loss.backward()
        learnt = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        gradients.append((output.user_vectors.detach(), output.loss.detach(), learnt))
    (vectors, loss, learnt), (expected_vectors, expected_loss, expected) = gradients
    torch.testing.assert_close(vectors, expected_vectors, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(loss, expected_loss)
    assert learnt.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(learnt[name], gradient, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("layout", ["text_first", "prefix_first"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_users_who_share_texts_equal_users_with_a_text_each(lm, encoder_folder, layout, side):
    equal_users_with_a_text_each(make_model(lm, encoder_folder, layout=layout), side)


@pytest.mark.parametrize("room", [18, 25, 26])
@pytest.mark.parametrize("fields", [{"kind": "local"}, {"kind": "global"}])
def test_a_model_that_masks_by_place_counts_the_tokens_of_all_users(encoder_folder, fields, room):
    # 7 tokens and 3 pads of a text; 2 of the ending and 6 virtual ones of each of its two users.
    name = "window_size" if fields["kind"] == "local" else "max_position_embeddings"
    lm = gpt_neo(**fields, **{name: room})
    assert can_share(lm, 10 + 2 * (2 + 6)) == (room == 26)
    equal_users_with_a_text_each(make_model(lm, encoder_folder))


@pytest.mark.parametrize("first", [25, 26])
def test_a_model_whose_angles_change_with_the_longest_text_shares_below_that(encoder_folder, first):
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "factor": 4.0}
    rope |= {"short_factor": [1.0] * 4, "long_factor": [8.0] * 4}
    sizes = dict(vocab_size=VOCABULARY, hidden_size=16, intermediate_size=8, num_hidden_layers=2)
    torch.manual_seed(0)
    config = LlamaConfig(
        **sizes,
        num_attention_heads=2,
        max_position_embeddings=4 * first,
        rope_parameters=rope | {"original_max_position_embeddings": first},
    )
    lm = LlamaForCausalLM(config).requires_grad_(False).eval()
    assert can_share(lm, 10 + 2 * (2 + 6)) == (first == 26)
    equal_users_with_a_text_each(make_model(lm, encoder_folder))


def test_training_reads_no_text_with_gradients(llama, encoder_folder, monkeypatch):
    model, asked = make_model(llama, encoder_folder), []
    backbone = llama.model

    def watch(module, args, kwargs):
        asked.append((kwargs["inputs_embeds"].size(1), torch.is_grad_enabled()))

    backbone.register_forward_pre_hook(watch, with_kwargs=True)
    can_share(llama, 20)
    asked.clear()
    model(**make_batch(), labels=torch.tensor([1, 2, 3])).loss.backward()
    num_virtual = 4 + 2
    assert asked == [(7, False), (num_virtual, True)]
    assert adapter_of(model).suffix.tokens.grad.abs().max() > 0


def test_with_and_without_sharing_an_adapter_reads_the_same(lm, encoder_folder, monkeypatch):
    model, batch = make_model(lm, encoder_folder), make_batch()
    shared = model(**batch).user_vectors
    monkeypatch.setattr(reading, "can_share", lambda *_: False)
    torch.testing.assert_close(model(**batch).user_vectors, shared, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"text_rows": None}, "give both"),
        ({"text_rows": torch.tensor([0])}, "same shape"),
        ({"text_rows": torch.tensor([0, 0, 1, 3, 1])}, "0..2, the rows of the text, got 0..3"),
        ({"text_lengths": torch.tensor([2, 8, 7, 3, 1])}, "0..7, the tokens of a text, got 1..8"),
        ({"ending_ids": ENDING[None]}, "shape (E,)"),
        ({"text_lengths": torch.ones(5)}, "whole numbers"),
    ],
)
def test_wrong_beginnings_are_refused(llama, encoder_folder, wrong, message):
    model, batch = make_model(llama, encoder_folder), make_batch()
    batch = batch | rows_of({"history": batch["history"]}, BEGINNINGS["text_rows"])
    batch["history_mask"] = batch["history"] != 0
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")):
        model(**batch | BEGINNINGS | wrong, labels=LABELS)


def test_a_beginning_beyond_the_real_tokens_is_refused(llama, encoder_folder):
    model, batch = make_model(llama, encoder_folder), make_batch()
    batch["attention_mask"][1, 2:] = 0
    users = rows_of({"history": batch["history"]}, BEGINNINGS["text_rows"])
    texts = {name: batch[name] for name in ("input_ids", "attention_mask")}
    message = "text_lengths must be at most .* text 1 has 2, and a user of it has 7; count no pad"
    with pytest.raises(ValueError, match=message):
        model(**texts | users | BEGINNINGS)
    within = BEGINNINGS | {"text_lengths": torch.tensor([2, 7, 2, 3, 1])}
    assert model(**texts | users | within).user_vectors.isfinite().all()
