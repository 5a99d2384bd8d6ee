import pytest
import torch
from conftest import NUM_ITEMS, make_lm
from peft import get_peft_model

from laser_peft import BiTuningConfig
from laser_peft.data import Catalogue
from laser_peft.item_texts import Whitening, describe_items, give_text_vectors, text_vectors

CPU = torch.device("cpu")


def reader(lm):
    return lambda ids, mask: lm(input_ids=ids, attention_mask=mask).last_hidden_state


def with_embeddings(lm):
    read, embed = reader(lm), lm.get_input_embeddings()
    return lambda ids, mask: torch.cat([embed(ids), read(ids, mask)], dim=-1)


def test_text_vectors_are_means_over_the_text_alone(tokenizer):
    lm = make_lm("llama", vocabulary=len(tokenizer)).model
    texts = ["Thing", "Thing number 1 (brand: Alba)", "Tools number 2"]
    vectors = text_vectors(reader(lm), tokenizer, texts, CPU)
    for text, vector in zip(texts, vectors, strict=True):
        ids = [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]
        with torch.no_grad():
            states = lm(torch.tensor([ids])).last_hidden_state[0]
        torch.testing.assert_close(vector, states[1:].mean(0))


def test_a_batch_holds_no_more_tokens_than_its_bound(tokenizer, monkeypatch):
    lm = make_lm("llama", vocabulary=len(tokenizer)).model
    texts = [f"Thing number {number} (brand: Alba)" * (number % 3 + 1) for number in range(11)]
    expected = text_vectors(reader(lm), tokenizer, texts, CPU)
    sizes = []
    lm.register_forward_pre_hook(
        lambda module, args, inputs: sizes.append(inputs["input_ids"].numel()), with_kwargs=True
    )
    monkeypatch.setattr("laser_peft.item_texts.TOKENS_IN_CACHES", 80)
    torch.testing.assert_close(text_vectors(reader(lm), tokenizer, texts, CPU), expected)
    assert len(sizes) > 3
    assert max(sizes) <= 80


def test_whitened_directions_are_about_equally_long():
    vectors = torch.randn(1009, 7) * torch.tensor([1.0, 2, 3, 4, 5, 6, 7]) + 100
    whitening = Whitening.fit(vectors)
    whitened = (vectors - whitening.mean) @ whitening.directions
    torch.testing.assert_close(whitened.mean(0), torch.zeros(7), atol=1e-4, rtol=0)
    covariance = whitened.T @ whitened / 1009
    assert covariance.fill_diagonal_(0).abs().max() < 1e-3
    assert whitened.std(0).min() > 0.5
    torch.testing.assert_close(whitening(vectors), torch.nn.functional.normalize(whitened, dim=1))
    same = torch.ones(3, 2)  # of texts that are all alike
    assert Whitening.fit(same)(same).eq(0).all()


def test_dimensions_of_other_scales_count_alike():
    vectors = torch.randn(1009, 3) @ torch.randn(3, 7) + torch.randn(1009, 7)
    scales = torch.tensor([1e-3, 1.0, 2, 3, 1e3, 5, 6])
    expected = Whitening.fit(vectors, 2)(vectors)
    whitened = Whitening.fit(vectors * scales + 10 * scales, 2)(vectors * scales + 10 * scales)
    signs = (whitened * expected).sum(0).sign()  # a direction may point either way
    torch.testing.assert_close(whitened * signs, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("constant", [torch.zeros(1009, 1), 1000 + 1e-4 * torch.randn(1009, 1)])
def test_a_dimension_that_is_the_same_up_to_rounding_says_nothing(constant):
    vectors = torch.cat([torch.randn(1009, 3), constant], 1)
    whitening = Whitening.fit(vectors)
    assert whitening.directions.isfinite().all()
    assert whitening.directions[3].eq(0).all()
    torch.testing.assert_close(
        whitening(vectors + torch.tensor([0, 0, 0, 1.0])), whitening(vectors)
    )


def test_fewer_dimensions_are_those_of_the_largest_variance():
    # What three dimensions share varies most, then what two others share.
    shares = torch.tensor([[0.0, 9, 0, 9, 9, 0], [9, 0, 0, 0, 0, 9]])
    vectors = torch.randn(1009, 6) + torch.randn(1009, 2) @ shares
    directions = Whitening.fit(vectors, 2).directions
    assert directions.shape == (6, 2)
    largest = directions.abs().argsort(dim=0, descending=True)
    assert sorted(largest[:3, 0].tolist()) == [1, 3, 4]
    assert sorted(largest[:2, 1].tolist()) == [0, 5]


def test_no_texts_are_refused(tokenizer):
    with pytest.raises(ValueError, match="there are no texts to read"):
        text_vectors(None, tokenizer, [], CPU)


def with_adapter(tokenizer, encoder_folder, **fields):
    lm = make_lm("llama", vocabulary=len(tokenizer))
    return get_peft_model(lm, BiTuningConfig(collaborative_encoder=encoder_folder, **fields))


@pytest.mark.parametrize("source", ["fused", "text"])
def test_an_adapter_gets_what_its_bare_lm_says_of_the_items(
    tokenizer, encoder_folder, shop, source
):
    model = with_adapter(tokenizer, encoder_folder, item_vectors=source)
    catalogue = Catalogue.read(shop / "items.jsonl")
    events = torch.arange(NUM_ITEMS) % 3
    torch.nn.Module.train(model.base_model.model.model.layers[0])
    modes = [module.training for module in model.modules()]
    whitening = give_text_vectors(model, tokenizer, catalogue, events=events)
    assert [module.training for module in model.modules()] == modes
    lm = make_lm("llama", vocabulary=len(tokenizer)).model
    bare = text_vectors(with_embeddings(lm), tokenizer, describe_items(catalogue), CPU)
    items = model.base_model.layer.bituning_adapters["default"].items
    torch.testing.assert_close(items.text, whitening(bare), atol=1e-4, rtol=1e-4)
    assert torch.equal(items.events, events)
    assert whitening.directions.shape == (64, {"fused": 64, "text": 32}[source])


def test_fewer_directions_leave_the_rest_of_the_width_zero(tokenizer, encoder_folder, shop):
    model = with_adapter(tokenizer, encoder_folder, item_vectors="fused", item_text_dim=71)
    catalogue = Catalogue.read(shop / "items.jsonl")
    items = model.base_model.layer.bituning_adapters["default"].items
    for dim, kept in ((None, 64), (7, 7)):
        give_text_vectors(model, tokenizer, catalogue, dim=dim)
        assert items.text.shape == (NUM_ITEMS, 71)
        assert items.text[:, kept:].eq(0).all()
        torch.testing.assert_close(items.text.norm(dim=1), torch.ones(NUM_ITEMS))


def test_text_vectors_are_given_only_where_they_are_used(tokenizer, encoder_folder, shop):
    catalogue = Catalogue.read(shop / "items.jsonl")
    with pytest.raises(ValueError, match="come from the encoder alone; set .*'fused'"):
        give_text_vectors(with_adapter(tokenizer, encoder_folder), tokenizer, catalogue)
    fused = with_adapter(tokenizer, encoder_folder, item_vectors="fused", item_text_dim=5)
    for dim in (0, 6):
        with pytest.raises(ValueError, match=rf"dim must lie in 1\.\.5, .* got {dim}"):
            give_text_vectors(fused, tokenizer, catalogue, dim=dim)
