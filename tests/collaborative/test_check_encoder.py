"""Each broken encoder breaks one rule of a good one."""

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PretrainedConfig
from transformers.modeling_outputs import BaseModelOutput

from laser_peft import SASRecConfig, SASRecModel
from laser_peft.collaborative import (
    ItemVectorConfig,
    ItemVectorEncoder,
    check_encoder,
    conformance,
)

N, C = 13, 5


class BreakableConfig(ItemVectorConfig):
    model_type = "breakable_encoder"

    def __init__(self, **fields):  # transformers would make one that ignores the parent's
        super().__init__(**fields)


class Breakable(ItemVectorEncoder):
    """An encoder whose states pass through ``broken`` before they are returned."""

    config_class = BreakableConfig

    def broken(self, states, input_ids, real):
        return states

    def forward(self, input_ids, attention_mask=None, **_):
        output = super().forward(input_ids, attention_mask)
        states = self.broken(output.last_hidden_state, input_ids, attention_mask)
        return BaseModelOutput(last_hidden_state=states)


AutoConfig.register("breakable_encoder", BreakableConfig)
AutoModel.register(BreakableConfig, Breakable)


@pytest.fixture
def encoder():
    model = Breakable(BreakableConfig(num_items=N, hidden_size=C, decay=0.5))
    nn.init.normal_(model.item_embeddings.weight[1:])
    return model


def reads_padding(states, input_ids, real):
    return states.cumsum(1) + (~real).cumsum(1).unsqueeze(-1)


def nothing_to_read(states, input_ids, real):
    return states.masked_fill(~real.any(1)[:, None, None], torch.nan)


def counts_from_the_right(states, input_ids, real):
    return states + torch.arange(states.size(1), 0, -1)[:, None]


def reads_the_other_users(states, input_ids, real):
    return states + (states * real.unsqueeze(-1)).sum((0, 1))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda states, *_: states[:, -1], r"one state an item, \(2, 3, 5\), got \(2, 5\)"),
        (lambda states, *_: states[..., :2], r"\(2, 3, 5\), got \(2, 3, 2\)"),
        (lambda states, *_: None, "an output with last_hidden_state, got BaseModelOutput"),
        (lambda states, *_: states / 0, "finite numbers, and does not at items"),
        (nothing_to_read, "finite numbers, and does not at padding"),
        (reads_padding, "padding on the left changes the states of items, by up to"),
        (counts_from_the_right, "padding on the right changes the states of items"),
        (lambda states, *_: states + torch.randn(()), "changes the states|other states the second"),
        (reads_the_other_users, "depend on the other users of the batch"),
    ],
)
def test_a_forward_that_breaks_a_rule_is_told_which(encoder, broken, message):
    encoder.broken = broken
    with pytest.raises(ValueError, match=message):
        check_encoder(encoder)


def test_dropout_in_eval_mode_is_found(encoder):
    # Noise that is the same whatever the padding, so that only the second call shows it.
    calls = iter([0, 0, 0, 0, 1])
    encoder.broken = lambda states, *_: states + next(calls)
    with pytest.raises(ValueError, match="gives other states the second time, by up to 1"):
        check_encoder(encoder)


def test_a_good_one_passes_and_is_left_in_eval_mode(encoder):
    before = {name: values.clone() for name, values in encoder.state_dict().items()}
    check_encoder(encoder.train())
    assert not encoder.training
    assert all(torch.equal(values, before[name]) for name, values in encoder.state_dict().items())
    assert all(parameter.requires_grad for parameter in encoder.parameters())


def test_our_sasrec_passes():
    config = SASRecConfig(num_items=N, hidden_size=8, num_attention_heads=2, dropout=0.5)
    check_encoder(SASRecModel(config))


def test_what_is_not_saved_with_the_weights_is_found(encoder):
    encoder.offset = torch.ones(C)
    encoder.broken = lambda states, *_: states + encoder.offset
    with pytest.raises(
        ValueError, match="after a round through its config and state_dict, by up to 1"
    ):
        check_encoder(encoder)


def test_a_setting_kept_outside_the_config_is_found(encoder, monkeypatch):
    values = {"model_type": "breakable_encoder"}
    monkeypatch.setattr(BreakableConfig, "to_diff_dict", lambda self: values)
    with pytest.raises(ValueError, match="(?s)does not take its weights: .*size mismatch"):
        check_encoder(encoder)


def test_other_files_than_json_and_safetensors_are_refused(encoder, monkeypatch):
    save = Breakable.save_pretrained

    def save_and_more(self, folder):
        save(self, folder)
        (conformance.Path(folder) / "pytorch_model.bin").touch()

    monkeypatch.setattr(Breakable, "save_pretrained", save_and_more)
    with pytest.raises(ValueError, match=r"must write .json and .safetensors, got .*\.bin"):
        check_encoder(encoder)


def test_states_that_see_later_items_are_warned_of(encoder, monkeypatch):
    sees_all = staticmethod(lambda states, *_: states + states.sum(1, keepdim=True))
    monkeypatch.setattr(Breakable, "broken", sees_all)
    with pytest.warns(UserWarning, match="by up to .*not causal") as caught:
        check_encoder(encoder)
    assert caught[0].filename == __file__  # where the check was called


def not_finite():
    table = nn.Embedding(N + 1, C)
    nn.init.constant_(table.weight[4], torch.inf)
    return table


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (lambda: nn.Embedding(N + 1, C).bfloat16(), r"float32, got .*bfloat16; check model.float"),
        (lambda: nn.Linear(2, 3), "must return an nn.Embedding with a row an item, got Linear"),
        (lambda: nn.Embedding(2, C), "at least two items, got 2 rows"),
        (lambda: nn.Embedding(N, C), r"num_items \+ 1 = 14 rows, row 0 for padding, got 13"),
        (lambda: nn.Embedding(N + 1, 3), r"width of the item table \(3\) and of .*, got 5"),
        (not_finite, "finite numbers; 1 rows do not"),
    ],
)
def test_the_item_table_is_checked(encoder, table, message):
    encoder.item_embeddings = table()
    with pytest.raises(ValueError, match=message):
        check_encoder(encoder)


def test_what_the_auto_classes_do_not_know_is_refused(encoder):
    with pytest.raises(ValueError, match="must be a transformers PreTrainedModel, got Linear"):
        check_encoder(nn.Linear(2, 3))

    class Unknown(PretrainedConfig):
        model_type = "unknown_encoder"

    encoder.config = Unknown()
    with pytest.raises(ValueError, match="AutoConfig does not know Unknown by .*'unknown_encoder'"):
        check_encoder(encoder)

    encoder.config = SASRecConfig()
    with pytest.raises(ValueError, match="does not build a Breakable from a SASRecConfig"):
        check_encoder(encoder)
