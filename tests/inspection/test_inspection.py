"""What is found inside adapters of every kind, against what the adapters themselves do."""

import sys

import numpy as np
import pytest
import torch
from conftest import NUM_ITEMS, make_lm
from peft import get_peft_model

from laser_peft import BiTuningConfig, LaserRecommender
from laser_peft.data import Catalogue
from laser_peft.inspection import (
    ExpertLoad,
    attention_weights,
    expert_load,
    look_at_history,
    parts_of,
    plot,
    view_weights,
)
from laser_peft.inspection.attention import query_weights
from laser_peft.tuner.m_former import Attention, MFormer

B, L, C, P, E, M, D = 3, 5, 7, 11, 4, 8, 13
HISTORIES = [np.array(items) for items in ([3, 1, 2], [5], [7, 11, 13, 17], [2, 19], [])]


@pytest.fixture
def make(shop, encoder_folder, tokenizer):
    def make(**fields):
        lm = make_lm("llama", vocabulary=len(tokenizer))
        sizes = {"num_prefix_tokens": 3, "num_suffix_tokens": 2, "num_experts": 5}
        if fields.get("moe") == "none" or fields.get("prefix_source", "m_former") != "m_former":
            sizes.pop("num_experts")
        config = BiTuningConfig(collaborative_encoder=encoder_folder, **sizes | fields)
        model = get_peft_model(lm, config)
        if config.item_vectors == "fused":
            model.set_item_text_vectors(torch.randn(NUM_ITEMS, config.item_text_dim))
        return LaserRecommender(model, tokenizer, Catalogue.read(shop / "items.jsonl"))

    return make


def test_weights_read_the_context_as_the_attention_does():
    attention = Attention(dim=M, num_heads=2, dropout=0.3).eval()
    queries, context = torch.randn(B, P, M), torch.randn(B, L, M)
    mask = torch.rand(B, L) < 0.6
    mask[:, 2] = True
    weights = attention_weights(attention, queries, context, mask)
    assert weights.shape == (B, 2, P, L)
    torch.testing.assert_close(weights.sum(-1), torch.ones(B, 2, P))
    assert not weights[~mask[:, None, None, :].expand_as(weights)].any()
    value = attention.key_value(context)[..., M:].unflatten(-1, (2, -1)).transpose(1, 2)
    read = attention.out((weights @ value).transpose(1, 2).flatten(-2))
    torch.testing.assert_close(read, attention(queries, context, mask))
    whole = attention_weights(attention, queries, context)
    torch.testing.assert_close(whole.sum(-1), torch.ones(B, 2, P))


@pytest.mark.parametrize("moe", ["ffn", "query", "none"])
@pytest.mark.parametrize("length", [0, L])
def test_queries_of_every_kind_have_weights_that_sum_to_one(moe, length):
    m_former = MFormer(
        num_prefix_tokens=P,
        collaborative_dim=C,
        dim=M,
        lm_dim=D,
        num_layers=3,
        num_heads=2,
        hidden_dim=17,
        cross_attention_frequency=2,
        moe=moe,
        num_experts=1 if moe == "none" else E,
        num_experts_per_user=1 if moe == "none" else 2,
        dropout=0.1,
        output_scale=1.0,
    ).eval()
    states, mask = torch.randn(1, length, C), torch.ones(1, length, dtype=torch.bool)
    with torch.no_grad():
        before = m_former(states, mask).prefix
        weights = query_weights(m_former, states, mask)
        assert torch.equal(m_former(states, mask).prefix, before)  # the hooks are gone
    assert weights.shape == (P, 1 + length)
    torch.testing.assert_close(weights.sum(-1), torch.ones(P))


def test_a_query_that_matches_an_item_attends_to_it():
    attention = Attention(dim=2, num_heads=1, dropout=0.0)
    with torch.no_grad():
        attention.query.weight.copy_(torch.eye(2))
        attention.key_value.weight.copy_(torch.cat([torch.eye(2), torch.eye(2)]))
        for layer in (attention.query, attention.key_value):
            layer.bias.zero_()
    context = torch.tensor([[[9.0, 0.0], [0.0, 9.0]]])
    weights = attention_weights(attention, torch.tensor([[[0.0, 3.0]]]), context)
    assert weights[0, 0, 0, 1] > 0.99


def test_the_load_is_what_the_router_says_of_each_user(make):
    recommender = make(num_experts_per_user=2)
    load = expert_load(recommender, HISTORIES, batch_size=2)
    assert load.users == 5
    assert sum(load.chosen) == pytest.approx(2)
    assert sum(load.probability) == pytest.approx(1)
    assert sum(load.choices) == pytest.approx(1)
    views = [look_at_history(recommender, [f"i{item - 1}" for item in h]) for h in HISTORIES[:-1]]
    some = expert_load(recommender, HISTORIES[:-1])
    for expert in range(5):
        users = sum(expert in view.chosen for view in views)
        assert some.chosen[expert] == pytest.approx(users / 4)
        mean = np.mean([view.probability[expert] for view in views])
        assert some.probability[expert] == pytest.approx(mean, rel=1e-4)


def test_an_expert_with_less_than_a_tenth_of_its_share_is_dead():
    # Four experts, two a user: an equal share of the choices is 1/4, a tenth of it 1/40.
    load = ExpertLoad(1000, (1.0, 0.9, 0.06, 0.04), (0.5, 0.4, 0.06, 0.04))
    assert load.choices == pytest.approx((0.5, 0.45, 0.03, 0.02))
    assert load.dead == (3,)
    assert ExpertLoad(7, (1.0,), (1.0,)).dead == ()


@pytest.mark.parametrize("fields", [{"moe": "none"}, {"prefix_source": "plain"}])
def test_without_a_router_there_is_no_load(make, fields):
    assert expert_load(make(**fields), HISTORIES) is None


def test_a_view_has_the_newest_items_with_their_titles_and_weights(make):
    recommender = make()
    ids = [f"i{item % NUM_ITEMS}" for item in range(53)]  # 50 are read
    view = look_at_history(recommender, ids)
    assert view.item_ids == tuple(ids[-50:])
    assert view.titles[0] == f"Thing number {3 % NUM_ITEMS}"
    assert view.attention.shape == (3, 51)
    assert 0 < sum(view.item_weights) < 1
    assert len(view.chosen) == 2
    first, second = (view.probability[expert] for expert in view.chosen)
    assert first >= second


def test_without_an_m_former_no_query_attends(make):
    for source in ("plain", "none"):
        fields = {"num_prefix_tokens": 0} if source == "none" else {}
        view = look_at_history(make(prefix_source=source, **fields), ["i1"])
        assert (view.attention, view.item_weights, view.probability) == (None, None, None)
        assert view.chosen == ()


def test_parts_are_all_parameters_once(make):
    recommender = make(item_vectors="fused", item_text_dim=7)
    parts = {part.name: part for part in parts_of(recommender)}
    assert set(parts) == {
        *("language model", "encoder", "M-Former", "suffix", "head", "item vectors"),
        "text reader",
    }
    every = sum(parameter.numel() for parameter in recommender.model.parameters())
    assert sum(part.parameters for part in parts.values()) == every
    assert parts["item vectors"].table_entries >= NUM_ITEMS * 7
    assert not parts["language model"].learns
    assert not parts["encoder"].learns
    plain = {part.name for part in parts_of(make(prefix_source="plain"))}
    assert "prefix, the same for all" in plain
    assert "M-Former" not in plain


def test_view_weights_are_those_of_fused_vectors(make):
    assert view_weights(make()) is None
    assert view_weights(make(item_vectors="fused", item_text_dim=7)) == (1.0, 0.0, 1.0, 1.0)


def test_what_cannot_be_looked_at_is_said(make):
    recommender = make()
    with pytest.raises(ValueError, match="the history is empty: pass at least one item id"):
        look_at_history(recommender, [])
    with pytest.raises(ValueError, match="not in the catalogue of 23"):
        look_at_history(recommender, ["nothing"])
    with pytest.raises(ValueError, match="there is no history to ask the router about"):
        expert_load(recommender, [])
    recommender.model.base_model.disable_adapter_layers()
    with pytest.raises(ValueError, match="no adapter is active; call set_adapter"):
        parts_of(recommender)


def test_a_plot_without_matplotlib_says_what_to_install(make, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    load = ExpertLoad(7, (0.5, 0.5), (0.5, 0.5))
    with pytest.raises(ImportError, match=r"pip install 'laser-peft\[plots\]'"):
        plot(tmp_path / "a.png", load=load)
    with pytest.raises(ValueError, match="there is nothing to draw"):
        plot(tmp_path / "a.png")


@pytest.mark.parametrize("both", [True, False])
def test_a_plot_is_drawn(make, tmp_path, both):
    pytest.importorskip("matplotlib")
    recommender = make()
    view = look_at_history(recommender, ["i1", "i2"])
    load = expert_load(recommender, HISTORIES) if both else None
    plot(tmp_path / "a.png", load=load, view=view)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
