"""Positions that nobody reads are left out of the last layer, and what is read stays as it is."""

import copy
import pickle
import threading
from unittest.mock import Mock

import pytest
import torch
import torch.nn.functional as F
from adapters import make_batch, make_model, padded
from conftest import VOCABULARY, make_lm
from torch.overrides import TorchFunctionMode
from transformers import MistralConfig, MistralForCausalLM

from laser_peft.tuner import trimming
from laser_peft.tuner.base_model import backbone_of
from laser_peft.tuner.in_graphs import hooks_of, take_off
from laser_peft.tuner.joining import read
from laser_peft.tuner.preparing import prepare_for_graphs
from laser_peft.tuner.trimming import can_trim, only_at

POSITIONS = torch.tensor([[0, 6], [5, 2], [6, 3]])


@pytest.fixture(autouse=True)
def _graphs_of_others_forgotten():
    """Of one function so many graphs are kept, whichever models they are of."""
    torch.compiler.reset()


def read_at(lm, text, positions):
    states = backbone_of(lm)(inputs_embeds=text, use_cache=False).last_hidden_state
    return states.gather(1, positions[:, :, None].expand(-1, -1, states.size(-1)))


def text_for(lm):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 7, lm.get_input_embeddings().embedding_dim, generator=generator)


def sizes_seen(lm, call):
    """The positions at which the last layer's parts run."""
    seen = []
    hooks = [
        part.register_forward_hook(lambda _, __, output: seen.append(output.size(1)), prepend=True)
        for part in trimming._attention_and_parts(lm)[1]
    ]
    call()
    for hook in hooks:
        hook.remove()
    return seen


def test_states_and_gradients_stay(lm):
    assert can_trim(lm)
    results = []
    for trims in (False, True):
        text = text_for(lm).requires_grad_()
        if trims:
            with only_at(lm, POSITIONS):
                read = read_at(lm, text, POSITIONS)
        else:
            read = read_at(lm, text, POSITIONS)
        (read * torch.linspace(-1, 1, read.numel()).view_as(read)).sum().backward()
        results.append((read.detach(), text.grad))
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_the_last_layer_runs_where_it_is_read(lm):
    def call():
        with only_at(lm, POSITIONS):
            read_at(lm, text_for(lm), POSITIONS)

    can_trim(lm)
    assert sizes_seen(lm, call) == [2, 2]
    assert sizes_seen(lm, lambda: read_at(lm, text_for(lm), POSITIONS)) == [7, 7]


class Attended(TorchFunctionMode):
    """Notes for how many queries of how many keys fused attention is asked."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.scaled_dot_product_attention:
            self.sizes.append((args[0].size(2), args[1].size(2)))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("mask", [None, "causal", "heads"])
def test_the_last_layer_attends_for_what_is_read(llama, mask):
    text, options = text_for(llama), {}
    if mask is not None:  # one that hides the second token from all behind it
        may_look = torch.ones(7, 7, dtype=torch.bool).tril()
        may_look[2:, 1] = False
        heads = llama.config.num_attention_heads if mask == "heads" else 1
        options["attention_mask"] = may_look.expand(len(text), heads, -1, -1)

    def states():
        output = backbone_of(llama)(inputs_embeds=text, use_cache=False, **options)
        return read(output.last_hidden_state, POSITIONS)

    can_trim(llama)
    with Attended() as whole:
        expected = states()
    with Attended() as few, only_at(llama, POSITIONS):
        actual = states()
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    assert {queries for queries, _ in whole.sizes} == {7}
    assert few.sizes == [*whole.sizes[:-1], (2, 7)]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_attention_that_ends_early_leaves_the_next_call_whole(llama, monkeypatch, error):
    text = text_for(llama)
    expected = read_at(llama, text, POSITIONS)
    attention = llama.model.layers[-1].self_attn
    monkeypatch.setattr(attention, "forward", Mock(side_effect=error))
    with pytest.raises(error), only_at(llama, POSITIONS):
        read_at(llama, text, POSITIONS)
    monkeypatch.undo()
    torch.testing.assert_close(read_at(llama, text, POSITIONS), expected, atol=0, rtol=0)
    assert torch.overrides._get_current_function_mode_stack() == []


def test_a_hook_that_fails_takes_no_other_mode_away(llama):
    attention, text = llama.model.layers[-1].self_attn, text_for(llama)
    can_trim(llama)
    hook = attention.register_forward_pre_hook(Mock(side_effect=RuntimeError("first")))
    with Attended() as mode:
        with pytest.raises(RuntimeError, match="first"), only_at(llama, POSITIONS):
            read_at(llama, text, POSITIONS)
        assert torch.overrides._get_current_function_mode_stack() == [mode]
    hook.remove()


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # of torch's own
@pytest.mark.parametrize("how", ["Module.compile", "torch.compile", "forward"])
def test_what_is_compiled_is_called_as_it_is(how):
    lm = make_lm("llama")
    layers = lm.model.layers
    assert can_trim(lm)
    if how == "Module.compile":
        layers[0].compile()
    elif how == "torch.compile":
        layers[0] = torch.compile(layers[0])
    else:
        layers[0].forward = torch.compile(layers[0].forward)
    assert not can_trim(lm)


@pytest.mark.parametrize("layout", ["prefix_first", "text_first"])
def test_a_user_costs_the_last_layer_the_suffix(llama, encoder_folder, layout):
    model, batch = make_model(llama, encoder_folder, layout=layout), make_batch()
    labels = torch.tensor([1, 2, 3])
    model(**batch, labels=labels)  # what a model can do is tried once
    seen = sizes_seen(llama, lambda: model(**batch, labels=labels).loss.backward())
    suffix = model.peft_config["default"].num_suffix_tokens
    of_text = [1, 1] if layout == "text_first" else []  # its keys and values are all that is used
    assert seen == [*of_text, suffix, suffix]


def test_what_acts_on_all_positions_at_once_is_left_as_it_is(llama, monkeypatch):
    mlp = llama.model.layers[-1].mlp
    original = mlp.forward
    monkeypatch.setattr(mlp, "forward", lambda x: original(x + x.mean(1, keepdim=True)))
    assert not can_trim(llama)
    text = text_for(llama)
    expected = read_at(llama, text, POSITIONS)
    with only_at(llama, POSITIONS):
        torch.testing.assert_close(read_at(llama, text, POSITIONS), expected, atol=0, rtol=0)


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated")
def test_layers_that_run_again_in_the_backward_pass_run_whole():
    lm = make_lm("llama")
    assert can_trim(lm)
    lm.gradient_checkpointing_enable()
    assert not can_trim(lm)


def test_another_thread_is_left_alone(llama):
    text, found = text_for(llama), []
    expected = read_at(llama, text, POSITIONS)
    with only_at(llama, POSITIONS[:, :1]):
        other = threading.Thread(target=lambda: found.append(read_at(llama, text, POSITIONS)))
        other.start()
        other.join()
    torch.testing.assert_close(found[0], expected, atol=1e-6, rtol=1e-6)


class Seen:
    """A backend of torch.compile that keeps what linear layers give and whether there is a mask."""

    def __init__(self):
        self.shapes, self.masks = [], []

    def __call__(self, graph, inputs):
        for node in graph.graph.nodes:
            if node.target is F.linear or "addmm" in str(node.target):
                self.shapes.append(tuple(node.meta["example_value"].shape))
            if node.target is F.scaled_dot_product_attention and node.kwargs.get("is_causal"):
                self.masks.append(None)
            elif node.target is F.scaled_dot_product_attention:
                self.masks.append(node.kwargs.get("attn_mask"))
        return graph.forward


def gradients_of(call, model):
    model.zero_grad()
    loss = call(**make_batch(), labels=torch.tensor([1, 2, 3])).loss
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("layout", ["prefix_first", "text_first"])
def test_a_graph_runs_the_last_layer_where_it_is_read(llama, encoder_folder, layout):
    model, seen = make_model(llama, encoder_folder, layout=layout), Seen()
    compiled = torch.compile(model, backend=seen, fullgraph=True)
    loss, gradients = gradients_of(model, model)
    loss_in_graph, gradients_in_graph = gradients_of(compiled, model)
    torch.testing.assert_close(loss_in_graph, loss)
    torch.testing.assert_close(gradients_in_graph, gradients, atol=1e-5, rtol=1e-4)
    inner = llama.config.intermediate_size
    positions = [shape[1] for shape in seen.shapes if shape[-1] == inner]
    if layout == "prefix_first":
        assert positions == [13, 13, 2, 2]  # 4 tokens of prefix, 7 of text, 2 of suffix
    else:  # the text for its keys and values alone, then what follows it
        assert positions == [7, 7, 1, 1, 6, 6, 2, 2]


@pytest.mark.parametrize("shared_by", ["nobody", "two"])
def test_texts_of_different_lengths_in_a_graph(lm, encoder_folder, shared_by):
    model = make_model(lm, encoder_folder, layout="text_first")
    batch = padded(make_batch(), "left") | {"labels": torch.tensor([1, 2, 3])}
    batch["attention_mask"][1, :5] = 0
    if shared_by == "two":
        batch |= {"text_rows": torch.tensor([0, 2, 2]), "text_lengths": torch.tensor([4, 2, 7])}
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    losses, gradients = [], []
    for call in (model, compiled):
        model.zero_grad()
        losses.append(call(**batch).loss)
        losses[-1].backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-5, rtol=1e-4)


def test_attention_in_a_graph_has_no_mask_that_is_causal_alone(lm, encoder_folder):
    model, seen = make_model(lm, encoder_folder, layout="prefix_first"), Seen()
    own = torch.compile(model, backend=seen, fullgraph=True)
    own(**make_batch(), return_user_vectors=True)
    assert seen.masks[-2:] == [None, None]  # the language model has two layers


def test_a_window_keeps_its_mask(encoder_folder):
    torch.manual_seed(0)
    sizes = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, vocab_size=VOCABULARY)
    config = MistralConfig(**sizes, num_attention_heads=2, num_key_value_heads=1, sliding_window=3)
    model = make_model(MistralForCausalLM(config).eval(), encoder_folder)
    seen = Seen()
    compiled = torch.compile(model, backend=seen, fullgraph=True)
    expected, actual = (
        call(**make_batch(), return_user_vectors=True).user_vectors for call in (model, compiled)
    )
    torch.testing.assert_close(actual, expected)
    assert None not in seen.masks[-2:]


def test_attention_of_another_kind_keeps_its_mask(lm, encoder_folder):
    model = make_model(lm, encoder_folder)
    lm.set_attn_implementation("eager")
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    expected, actual = (
        call(**make_batch(), return_user_vectors=True).user_vectors for call in (model, compiled)
    )
    torch.testing.assert_close(actual, expected)


def test_a_last_layer_that_came_later_runs_whole(llama, encoder_folder):
    model = make_model(llama, encoder_folder)
    llama.model.layers.append(copy.deepcopy(llama.model.layers[0]))
    compiled = torch.compile(model, backend="eager")
    expected, actual = (
        call(**make_batch(), return_user_vectors=True).user_vectors for call in (model, compiled)
    )
    torch.testing.assert_close(actual, expected)


def test_a_language_model_that_cannot_run_yet_gets_its_adapter(llama, encoder_folder):
    def only_elsewhere(*args, **kwargs):
        raise RuntimeError("this kernel is for another device")

    handle = llama.model.layers[0].self_attn.register_forward_pre_hook(only_elsewhere)
    model = make_model(llama, encoder_folder)
    handle.remove()
    assert hanging(llama) == []
    model(**make_batch(), return_user_vectors=True)
    assert can_trim(llama)


def hanging(lm):
    """The hooks before the last layer's parts and all attentions, without those of others."""
    parts = trimming._attention_and_parts(lm)[1]
    parts += [layer.self_attn for layer in lm.model.layers]
    return [hook for part in parts for hook in part._forward_pre_hooks.values()]


def test_what_hangs_on_a_language_model_goes_with_the_adapter(llama, encoder_folder):
    model = make_model(llama, encoder_folder)
    assert len(hanging(llama)) == 4  # feed-forward and projection of the last layer, two attentions
    model.add_adapter("other", model.peft_config["default"])
    assert len(hanging(llama)) == 4
    bare = model.unload()
    assert hanging(bare) == []
    assert hooks_of(bare.model) is None


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda lm: pickle.loads(pickle.dumps(lm))])
def test_a_copy_has_hooks_of_its_own(llama, encoder_folder, clone):
    make_model(llama, encoder_folder)
    other = clone(llama)
    there = hooks_of(other.model)
    assert there is not hooks_of(llama.model)
    assert {hook.__self__ for hook in hanging(other)} == {there}
    take_off(other.model)
    assert hanging(other) == []
    assert len(hanging(llama)) == 4


def test_nothing_is_tried_on_weights_that_are_not_there(llama):
    prepare_for_graphs(llama.to("meta"))
    assert hanging(llama) == []
