import pytest
import torch
import torch.nn.functional as F
from adapters import B, L, R, adapter_of, make_batch, make_model, padded
from conftest import NUM_ITEMS

from laser_peft.tuner.fusing import reading_loss
from laser_peft.tuner.text_reader import TextReader

X = 7


@pytest.fixture
def fused(llama, encoder_folder):
    torch.manual_seed(1)
    fields = {"item_vectors": "fused", "item_text_dim": X, "m_former_dropout": 0.0}
    model = make_model(llama, encoder_folder, **fields)
    model.base_model.set_item_text_vectors(F.normalize(torch.randn(NUM_ITEMS, X), dim=1))
    return model


def test_an_untrained_adapter_ranks_as_its_encoder(llama, encoder_folder):
    model = make_model(llama, encoder_folder, trained=False, item_vectors="fused", item_text_dim=X)
    model.base_model.set_item_text_vectors(torch.randn(NUM_ITEMS, X))
    batch = make_batch()
    encoder = model.base_model.collaborative_encoder
    expected = encoder(batch["history"]).user_vectors @ encoder.item_vectors().T
    torch.testing.assert_close(model(**batch, return_logits=True).logits, expected)


def test_weights_scale_the_two_parts(fused):
    batch = make_batch()
    fused.base_model.set_view_weights(1.0, 1.0)
    both = fused(**batch).user_vectors
    fused.base_model.set_view_weights(0.5, 2.0)
    assert fused.base_model.view_weights == (0.5, 2.0, 1.0, 1.0)
    scaled = fused(**batch).user_vectors
    torch.testing.assert_close(scaled, torch.cat([0.5 * both[:, :R], 2 * both[:, R:]], 1))


@pytest.mark.parametrize("text_skip", [True, False])
def test_without_the_skip_the_head_learns_both_parts(llama, encoder_folder, text_skip):
    fields = {"item_vectors": "fused", "item_text_dim": X, "text_skip": text_skip}
    model = make_model(llama, encoder_folder, collaborative_skip=False, **fields)
    model.base_model.set_item_text_vectors(F.normalize(torch.randn(NUM_ITEMS, X), dim=1))
    model.train()
    model(**make_batch(), labels=torch.arange(1, B + 1)).loss.backward()
    learnt = adapter_of(model).head.projection.weight.grad.abs().amax(1)
    assert len(learnt) == R + X
    assert learnt.min() > 0


def test_the_text_part_is_the_readers_and_the_correction(fused):
    batch = make_batch()
    fused.base_model.set_view_weights(1.0, 1.0)
    adapter = adapter_of(fused)
    with_correction = fused(**batch).user_vectors[:, R:]
    torch.nn.init.zeros_(adapter.head.projection.weight)
    alone = fused(**batch).user_vectors[:, R:]
    assert not torch.allclose(alone, with_correction)
    texts = adapter.items.texts_of(batch["history"])
    expected = adapter.text_reader(texts, torch.ones(B, L, dtype=torch.bool))[:, -1]
    torch.testing.assert_close(alone, expected)


def test_the_correction_has_a_weight_of_its_own(fused):
    batch, base = make_batch(), fused.base_model
    batch["history"][0] = 0  # of this user nothing is known but the text
    batch["history_mask"][0] = 0
    parts = []
    for correction in (0.0, 0.5, 1.0):
        base.set_view_weights(1.0, 1.0, 0.0, correction)
        parts.append(fused(**batch).user_vectors)
    without, half, whole = parts
    assert (whole - without)[:, R:].abs().amin(1).max() > 1e-3
    torch.testing.assert_close(half, (without + whole) / 2)
    torch.testing.assert_close(without[0], torch.zeros_like(without[0]))
    base.set_view_weights(1.0, 1.0)
    output = fused(**batch)
    torch.testing.assert_close(output.user_vectors[:, R:] - output.correction, without[:, R:])


def test_a_prompt_that_counts_nothing_is_not_read(fused, llama):
    calls = []
    for part in (llama.model, adapter_of(fused).m_former):
        part.register_forward_pre_hook(lambda part, _: calls.append(part))
    batch = make_batch()
    fused.base_model.set_view_weights(1.0, 1.0, 0.0, 0.0)
    output = fused(**batch, labels=torch.tensor([1, 2, 3]))
    assert not calls
    assert output.loss.isfinite()
    assert output.router_probs is None
    fused.train()
    fused(**batch, labels=torch.tensor([1, 2, 3])).loss.backward()
    assert {*calls} == {llama.model, adapter_of(fused).m_former}
    assert adapter_of(fused).suffix.tokens.grad.abs().max() > 0


@pytest.mark.parametrize(("share", "left"), [(1.0, 0), (0.0, B)])
def test_training_leaves_the_encoders_part_out_as_often_as_asked(
    llama, encoder_folder, share, left
):
    fields = {"item_vectors": "fused", "item_text_dim": X, "collaborative_dropout": share}
    model = make_model(llama, encoder_folder, **fields)
    model.base_model.set_item_text_vectors(torch.randn(NUM_ITEMS, X))
    users = model.train()(**make_batch()).user_vectors
    assert int(users[:, :R].ne(0).any(1).sum()) == left
    assert users[:, R:].ne(0).any(1).all()


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_neither_scores_nor_the_loss(fused, side):
    torch.manual_seed(0)
    batch = make_batch()
    fused.base_model.set_view_weights(1.0, 1.0)
    fused.train()
    adapter_of(fused).text_reader.eval()  # without its dropout
    labels = torch.tensor([3, 5, 7])
    plain = fused(**batch, labels=labels)
    same = fused(**padded(batch, side), labels=labels)
    torch.testing.assert_close(same.loss, plain.loss)
    torch.testing.assert_close(same.user_vectors, plain.user_vectors, atol=1e-5, rtol=1e-5)


def test_a_user_without_items_has_the_correction_alone(fused):
    fused.base_model.set_view_weights(1.0, 1.0)
    batch = make_batch() | {"history": torch.zeros(B, 0, dtype=torch.int64)}
    del batch["history_mask"]
    output = fused(**batch, return_logits=True)
    assert output.logits.isfinite().all()
    assert output.user_vectors[:, :R].eq(0).all()


def test_the_reading_loss_is_that_of_every_item_after_the_first():
    queries, items = torch.randn(3, 5, X), torch.randn(11, X)
    history = torch.tensor([[3, 1, 2, 9, 11], [0, 0, 5, 4, 0], [7, 0, 0, 0, 0]])
    losses = []
    for user, row in enumerate(history.tolist()):
        places = [place for place, item in enumerate(row) if item]
        for before, after in zip(places[:-1], places[1:], strict=True):
            scores = queries[user, before] @ items.T
            losses.append(F.cross_entropy(scores, torch.tensor(row[after] - 1)))
    assert len(losses) == 5
    actual = reading_loss(queries, history != 0, history, items)
    torch.testing.assert_close(actual, torch.stack(losses).mean())
    single = history[2:]
    assert reading_loss(queries[2:], single != 0, single, items) == 0


def test_the_reading_loss_is_there_in_training_alone(fused):
    batch, labels = make_batch(), torch.tensor([3, 5, 7])
    fused.base_model.set_view_weights(0.0, 1.0)
    adapter = adapter_of(fused)
    adapter.text_reader.dropout.p = 0.0
    evaluated = fused(**batch, labels=labels).loss
    trained = fused.train()(**batch, labels=labels).loss
    texts = adapter.items.texts_of(batch["history"])
    mask = batch["history_mask"].bool()
    expected = reading_loss(
        adapter.text_reader(texts, mask), mask, batch["history"], adapter.items.of_text()
    )
    torch.testing.assert_close(trained, evaluated + expected)


def test_the_reader_sums_what_came_before_and_newer_items_count_more():
    reader = TextReader(X, dropout=0.3).eval()
    torch.nn.init.normal_(reader.projection.weight)
    torch.nn.init.constant_(reader.decay, 0.7)
    texts = torch.randn(2, 5, X)
    mask = torch.tensor([[True] * 5, [False, True, False, True, True]])
    actual = reader(texts, mask)
    keep = torch.sigmoid(torch.tensor(0.7))
    for user in range(2):
        summed = torch.zeros(X)
        for place in range(5):
            if mask[user, place]:
                summed = keep * summed + texts[user, place]
                expected = reader.projection(summed) * reader.log_scale.exp()
                torch.testing.assert_close(actual[user, place], expected)


def test_a_weight_that_is_not_given_stays(fused):
    base = fused.base_model
    base.set_view_weights(0.5, 0.25, 3.0, 0.0)
    base.set_view_weights(1.0, 2.0)
    assert base.view_weights == (1.0, 2.0, 3.0, 0.0)
    base.set_view_weights(correction=0.5)
    assert base.view_weights == (1.0, 2.0, 3.0, 0.5)
    base.set_view_weights(text=0.0, rarity=1.0)
    assert base.view_weights == (1.0, 0.0, 1.0, 0.5)


def test_wrong_view_weights_are_refused(fused, lm, encoder_folder):
    with pytest.raises(ValueError, match="must be finite and not negative, got .*text=-1.0"):
        fused.base_model.set_view_weights(1.0, -1.0)
    other = make_model(lm, encoder_folder)
    with pytest.raises(ValueError, match="one view of the items, and nothing to weigh"):
        other.base_model.set_view_weights(1.0, 1.0)
    with pytest.raises(ValueError, match="nothing to weigh"):
        _ = other.base_model.view_weights
