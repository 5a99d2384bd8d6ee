"""Plain use of the language model, with a user's prefix in place."""

import pytest
import torch
from adapters import B, T, adapter_of, make_batch, make_model, padded
from conftest import NUM_ITEMS, make_lm
from transformers import DynamicCache, GenerationConfig

GREEDY = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
NUM_NEW = 5


@pytest.fixture
def model(lm, encoder_folder):
    return make_model(lm, encoder_folder)


@pytest.fixture
def user():
    """Text and history of a batch, and that its text is wanted and no recommendation."""
    batch = make_batch()
    return {"history": batch["history"], "return_user_vectors": False}


def write_by_hand(model, ids, **inputs):
    for _ in range(NUM_NEW):
        logits = model(input_ids=ids, **inputs).logits
        ids = torch.cat([ids, logits[:, -1:].argmax(-1)], 1)
    return ids


@torch.no_grad()
def test_logits_equal_the_language_model_on_prefix_and_text(model, user):
    """Written plainly: concatenate the prefix, run the causal LM, drop the prefix."""
    batch, adapter, lm = make_batch(), adapter_of(model), model.base_model.model
    states = model.base_model.collaborative_encoder(batch["history"]).last_hidden_state
    prefix = adapter.m_former(states, batch["history_mask"].bool()).prefix
    text = lm.get_input_embeddings()(batch["input_ids"])
    tokens = torch.cat([prefix, text], 1)
    with model.disable_adapter():
        expected = lm(inputs_embeds=tokens, output_hidden_states=True)
    actual = model(input_ids=batch["input_ids"], output_hidden_states=True, **user)
    torch.testing.assert_close(actual.logits, expected.logits[:, 4:])
    torch.testing.assert_close(actual.hidden_states[-1], expected.hidden_states[-1][:, 4:])
    alone = model(inputs_embeds=text, **user).logits
    torch.testing.assert_close(alone, actual.logits)


@torch.no_grad()
@pytest.mark.parametrize("use_cache", [None, True])
def test_padding_changes_no_real_tokens_logits(model, user, use_cache):
    batch = make_batch()
    plain = model(input_ids=batch["input_ids"], **user).logits
    for side in ("left", "right"):
        wide = padded(batch, side)
        inputs = {name: wide[name] for name in ("input_ids", "attention_mask")}
        logits = model(**inputs, **user, use_cache=use_cache).logits
        assert logits.shape[:2] == wide["input_ids"].shape
        real = logits[:, -T:] if side == "left" else logits[:, :T]
        torch.testing.assert_close(real, plain, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_texts_loss_counts_real_tokens_only(model, user):
    batch = make_batch()
    ids = batch["input_ids"]
    loss = model(input_ids=ids, labels=ids, **user).loss
    wide = padded(batch, "left")
    inputs = {name: wide[name] for name in ("input_ids", "attention_mask")}
    torch.testing.assert_close(model(**inputs, labels=wide["input_ids"], **user).loss, loss)
    logits = model(input_ids=ids, **user).logits
    last_of_prefix = model(input_ids=ids[:, :1], labels=ids[:, :1], **user).loss
    others = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    torch.testing.assert_close(loss * T, others * (T - 1) + last_of_prefix)


@torch.no_grad()
def test_outputs_keep_the_callers_shapes(model, user):
    ids = make_batch()["input_ids"]
    logits = model(input_ids=ids, **user).logits
    kept = model(input_ids=ids, logits_to_keep=2, **user).logits
    assert torch.equal(kept, logits[:, -2:])
    as_tuple = model(input_ids=ids, return_dict=False, **user)
    assert isinstance(as_tuple, tuple)
    assert torch.equal(as_tuple[0], logits)
    lm = model.base_model.model
    assert torch.equal(lm(ids).logits, lm(input_ids=ids).logits)


@torch.no_grad()
def test_greedy_text_is_the_same_in_every_way_of_writing_it(model, user):
    batch = make_batch()
    ids, history = batch["input_ids"], {"history": batch["history"]}
    expected = write_by_hand(model, ids, **user)
    options = {**GREEDY, "max_new_tokens": NUM_NEW}

    def is_written(out):
        return torch.equal(out, expected)

    assert is_written(model.generate(ids, **history, **options))
    assert is_written(model.generate(input_ids=ids, **history, **options, num_beams=1))
    assert is_written(model.generate(ids, **history, **options, use_cache=False))
    assert is_written(model.generate(ids, **history, **options, cache_implementation="static"))
    assert is_written(model.generate(ids, **history, **GREEDY, max_length=T + NUM_NEW))
    config = GenerationConfig(**GREEDY, max_length=T + NUM_NEW)
    assert is_written(model.generate(ids, config, **history))
    assert config.max_length == T + NUM_NEW  # the caller's object is left alone
    wide = padded(batch, "left")
    written = model.generate(wide["input_ids"], attention_mask=wide["attention_mask"],
                             **history, **options)  # fmt: skip
    assert is_written(written[:, -T - NUM_NEW :])
    zeros = torch.cat([torch.zeros(B, 2, dtype=torch.int64), ids], 1)  # padding by its token
    assert is_written(model.generate(zeros, **history, **options)[:, 2:])
    embedded = model.get_input_embeddings()(ids)
    new = model.generate(inputs_embeds=embedded, **history, **GREEDY, max_length=T + NUM_NEW)
    assert torch.equal(new, expected[:, T:])
    new = model.generate(inputs_embeds=embedded, **history, **options)
    assert torch.equal(new, expected[:, T:])
    alone = model.generate(ids[1:2], history=batch["history"][1:2], **options)
    assert torch.equal(alone[0], expected[1])
    one_beam_each = model.generate(
        ids, **history, **options, num_beams=2, num_return_sequences=2, return_dict_in_generate=True
    )
    assert one_beam_each.sequences.shape == (2 * B, T + NUM_NEW)


@torch.no_grad()
def test_beams_belong_to_their_user(model):
    batch = make_batch()
    options = {"max_new_tokens": NUM_NEW, "num_beams": 3, **GREEDY}
    together = model.generate(batch["input_ids"], history=batch["history"], **options)
    for user in range(B):
        alone = model.generate(
            batch["input_ids"][user : user + 1],
            history=batch["history"][user : user + 1],
            **options,
        )
        assert torch.equal(alone[0], together[user])


@torch.no_grad()
@pytest.mark.parametrize("side", [None, "left"])
def test_a_cache_is_continued_behind_the_prefix(model, user, side):
    batch = make_batch()
    expected = write_by_hand(model, batch["input_ids"], **user)
    wide = padded(batch, side) if side else batch
    ids, mask = wide["input_ids"], wide["attention_mask"]
    out = model(input_ids=ids, attention_mask=mask, past_key_values=DynamicCache(), **user)
    for _ in range(NUM_NEW):
        new = out.logits[:, -1:].argmax(-1)
        ids, mask = torch.cat([ids, new], 1), torch.cat([mask, torch.ones_like(new)], 1)
        out = model(input_ids=new, attention_mask=mask, past_key_values=out.past_key_values)
    assert torch.equal(ids[:, -T - NUM_NEW :], expected)


@torch.no_grad()
def test_what_follows_a_cache_may_be_padded(model, user):
    batch = make_batch()
    ids, more = batch["input_ids"], batch["input_ids"][:, :4]
    out = model(input_ids=ids, use_cache=True, **user)
    mask = torch.ones(B, T + 4, dtype=torch.int64)
    mask[1, T : T + 2] = 0
    logits = model(input_ids=more, attention_mask=mask, past_key_values=out.past_key_values).logits[
        :, -1
    ]
    whole = torch.cat([ids, more], 1)
    expected = model(input_ids=whole, attention_mask=mask, **user).logits[:, -1]
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_token_types_move_with_their_tokens(encoder_folder):
    model = make_model(make_lm("gpt2"), encoder_folder)
    batch = make_batch()
    types = torch.arange(T).expand(B, T) % 5
    inputs = {"input_ids": batch["input_ids"], "return_user_vectors": False}
    plain = model(**inputs, token_type_ids=types).logits
    assert not torch.allclose(plain, model(**inputs).logits)
    wide = padded(batch, "left")
    zeros = torch.zeros(B, 3, dtype=torch.int64)
    logits = model(
        input_ids=wide["input_ids"],
        attention_mask=wide["attention_mask"],
        token_type_ids=torch.cat([zeros, types], 1),
    ).logits
    torch.testing.assert_close(logits[:, -T:], plain, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_history_speaks_through_the_prefix(model, user):
    batch = make_batch()
    ids = batch["input_ids"]
    with_history = model(input_ids=ids, **user).logits
    without = model(input_ids=ids).logits
    others = NUM_ITEMS + 1 - batch["history"]
    other = model(input_ids=ids, **user | {"history": others}).logits
    with model.disable_adapter():
        # A history is no matter to the bare LM, and a recommendation beyond it.
        bare = model(input_ids=ids, history=batch["history"]).logits
        assert torch.equal(bare, model.base_model.model(ids).logits)
        for asked in ({"labels": ids[:, 0]}, {"return_logits": True}, {"return_user_vectors": 1}):
            with pytest.raises(ValueError, match="adapters are disabled or deleted"):
                model(input_ids=ids, **asked)
    versions = [with_history, without, other, bare]
    for index, one in enumerate(versions):
        assert all((one - two).abs().max() > 1e-4 for two in versions[index + 1 :])


def test_text_alone_trains_the_prefix(model, user):
    ids = make_batch()["input_ids"]
    model(input_ids=ids, labels=ids, **user).loss.backward()
    assert adapter_of(model).m_former.queries.grad.abs().max() > 0
    assert adapter_of(model).head.projection.weight.grad is None


def test_wrong_calls_say_what_is_wrong(llama, encoder_folder):
    model, ids = make_model(llama, encoder_folder), make_batch()["input_ids"]
    with pytest.raises(ValueError, match="leave position_ids out"):
        model(input_ids=ids, position_ids=torch.arange(T)[None])
    for name, value in {
        "past_key_values": DynamicCache(),
        "prompt_lookup_num_tokens": 2,
        "prefill_chunk_size": 2,
        "assistant_model": llama,
    }.items():
        with pytest.raises(ValueError, match=f"{name} counts by the text alone; leave it out"):
            model.generate(ids, max_new_tokens=1, **{name: value})
    with pytest.raises(ValueError, match="prompt_lookup_num_tokens counts by the text alone"):
        model.generate(ids, GenerationConfig(prompt_lookup_num_tokens=2, max_new_tokens=1))
    with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
        model.generate(max_new_tokens=1)
    with pytest.raises(ValueError, match="at most 256 tokens"):
        model(input_ids=torch.ones(1, 254, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"input_ids must be \(B, T\), got \(7,\)"):
        model(input_ids=ids[0])
    with pytest.raises(ValueError, match=r"as wide as the model's embeddings \(32\), got 5"):
        model(inputs_embeds=torch.zeros(2, 3, 5))
    with pytest.raises(ValueError, match=r"inputs_embeds must be \(B, T, D\), got"):
        model(inputs_embeds=torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"attention_mask must have the shape .* \(3, 7\), got"):
        model(input_ids=ids, attention_mask=torch.ones(3, 8))
    with pytest.raises(ValueError, match="one adapter for a whole batch"):
        model(input_ids=ids, adapter_names=["default"] * B)
