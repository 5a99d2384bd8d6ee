"""The benchmarks of training steps: they run, and what is said to be equal in them is."""

import importlib
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

FOLDER = Path(__file__).parents[2] / "examples" / "benchmarks"
VOCABULARY, NUM_ITEMS = 97, 23
SIZES = {"vocabulary": VOCABULARY, "num_items": NUM_ITEMS}
TINY = ["--size", "tiny", "--vocabulary", str(VOCABULARY), "--items", str(NUM_ITEMS)]
TINY += ["--users", "3", "--tokens", "48", "--rounds", "1"]


def load(name):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(FOLDER), *sys.path])
        return importlib.import_module(name)


interleaved, made_up, plainly, real_log = map(
    load, ("interleaved", "made_up", "plainly", "real_log")
)
steps, targets, ragged, headline, encoding, large_lms = map(
    load, ("steps", "targets", "ragged", "headline", "encoding", "large_lms")
)


@pytest.fixture
def of_shop(shop, lm_folder):
    """Options of a benchmark over a log."""
    log = ["--interactions", shop / "interactions.csv.gz", "--items", shop / "items.jsonl"]
    log += ["--llm", lm_folder, "--max-tokens", 200, "--rounds", 1]
    return [str(word) for word in log]


def adapter(layout, **fields):
    lm = made_up.random_lm("tiny", VOCABULARY)
    return made_up.random_adapter(lm, NUM_ITEMS, layout=layout, **fields).eval()


def learnt_from(model, work):
    """The loss that some work returns, and the gradients it leaves."""
    model.zero_grad()
    loss = work()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert len(gradients) == sum(p.requires_grad for p in model.parameters())
    return loss, gradients


def step(model, batch):
    loss = model(**batch).loss
    loss.backward()
    return float(loss.detach())


def rows_in(printed):
    return re.findall(r"^\| (.*?) \| [\d.e+]+ \| [\d.e+]+ \|.* \|$", printed, re.MULTILINE)


@pytest.mark.parametrize("layout", ["prefix_first", "text_first"])
@pytest.mark.parametrize("with_head", [True, False])
def test_the_objective_written_plainly_is_the_same(layout, with_head):
    model = adapter(layout)
    lengths = np.array([48, 17, 33])
    batch = made_up.draw_users(np.random.default_rng(0), lengths, **SIZES)
    ours = learnt_from(model, lambda: step(model, batch))
    with plainly.written_plainly(with_head=with_head):
        plain = learnt_from(model, lambda: step(model, batch))
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(ours, learnt_from(model, lambda: step(model, batch)))


def test_one_pass_for_all_targets_learns_what_a_pass_for_each_does():
    # The balance of a router is that of a batch, and these are other batches.
    model = adapter("text_first", router_balance_weight=0.0)
    shoppers = targets.draw_shoppers(np.random.default_rng(0), 3, 48, 3, SIZES)
    both = [
        learnt_from(model, lambda batches=batches: targets.gradients(model, batches, torch.float32))
        for batches in (targets.together(shoppers), targets.apart(shoppers))
    ]
    torch.testing.assert_close(*both, rtol=1e-4, atol=1e-6)


def test_a_target_is_told_nothing_of_what_follows_it():
    model = adapter("text_first")
    shoppers = targets.draw_shoppers(np.random.default_rng(0), 2, 48, 3, SIZES)
    [batch] = targets.together(shoppers)
    before = model(**batch).user_vectors
    last = batch["input_ids"].clone()
    last[:, 32:] = 5  # the text of the last item, which only the last target is told
    after = model(**batch | {"input_ids": last}).user_vectors
    changed = (before - after).abs().amax(1) > 1e-6
    assert changed.tolist() == [False, False, True] * 2


def test_more_targets_than_items_are_refused():
    with pytest.raises(ValueError, match=r"targets must lie in 1\.\.3, .* got 4"):
        targets.draw_shoppers(np.random.default_rng(0), 2, 48, 4, SIZES)


def test_variants_take_turns_and_warming_up_does_not_count():
    called = []

    def variant(name, place):
        called.append((name, place))
        return interleaved.Seconds(2.0, 1.0)

    names = ("a", "b")
    taken = interleaved.in_turns(
        {name: lambda place, name=name: variant(name, place) for name in names}, 2, warm_up=1
    )
    assert called == [("a", 0), ("b", 0)] * 2 + [("a", 1), ("b", 1)]
    assert [len(of_rounds) for of_rounds in taken.values()] == [2, 2]
    with pytest.raises(ValueError, match="rounds must be at least 1, got 0"):
        interleaved.in_turns({}, 0)


def test_ratios_are_taken_within_a_round():
    seconds = interleaved.Seconds
    # In the second round all is ten times as slow: no variant is to blame.
    taken = {"slow": [seconds(2, 4), seconds(20, 40)], "fast": [seconds(1, 1), seconds(10, 10)]}
    slow, fast = interleaved.rows_of(taken, "slow")
    assert slow.wall == slow.processor == (1, 1, 1)
    assert (fast.wall, fast.processor) == ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    assert fast.seconds == seconds(5.5, 5.5)


def test_saved_activations_are_counted_once_and_weights_are_not():
    weight = torch.nn.Linear(256, 1024, bias=False)  # 1 MiB
    rows = torch.randn(512, 256)  # 0.5 MiB, saved by both products
    counted = steps.Step(weight, lambda: (weight(rows) + weight(rows)).sum())
    assert counted.saved_mebibytes() == 0.5


def test_steps_print_every_variant_and_write_them(tmp_path, capsys):
    file = tmp_path / "steps.json"
    steps.main([*TINY, "--ragged", "--json", str(file)])
    rows = rows_in(capsys.readouterr().out)
    written = json.loads(file.read_text())
    assert rows == list(written["seconds"])
    assert steps.FLOOR in rows
    assert {"ours, prefix first", "ours, text first"} <= set(rows)
    assert written["settings"]["size"] == "tiny"


def test_steps_run_in_half_precision(capsys):
    steps.main([*TINY, "--dtype", "bfloat16"])
    assert len(rows_in(capsys.readouterr().out)) == 8


def test_texts_that_are_kept_give_the_loss_of_those_that_are_read(capsys):
    arguments = steps.parse([*TINY, "--ragged"])
    made = steps.steps_of(arguments)[0]
    both = [made[name] for name in ("ours, text first, texts kept", "ours, text first")]
    for step in both:
        step.model.eval()  # without dropout
    kept, read = (step.loss() for step in both)
    torch.testing.assert_close(kept, read, atol=1e-6, rtol=1e-6)


def test_targets_print_every_variant(capsys):
    targets.main([*TINY, "--targets", "3"])
    assert rows_in(capsys.readouterr().out) == [
        *(targets.APART, targets.APART_TEXT_FIRST),
        targets.TOGETHER,
    ]


def test_grouped_batches_hold_the_same_users_in_fewer_tokens(of_shop, capsys):
    ragged.main([*of_shop, "--batch-size", "3", "--batches", "2"])
    printed = capsys.readouterr().out
    assert rows_in(printed) == [ragged.PLAIN, ragged.PACKED, ragged.GROUPED]
    read = [float(value) for value in re.findall(r"packed: ([\d.]+) text tokens", printed)]
    assert 1 <= read[1] <= read[0]


def test_some_batches_stand_for_the_epoch_of_all():
    lengths = np.random.default_rng(0).integers(10, 500, 4001).tolist()
    batches = real_log.grouped_batches(lengths, 8, 20, seed=0)
    places = [place for batch in batches for place in batch]
    assert len(set(places)) == len(places) == 160
    some, everyone = ([lengths[place] for place in part] for part in (places, range(4001)))
    assert np.mean(some) == pytest.approx(np.mean(everyone), rel=0.05)
    padded = sum(8 * max(lengths[place] for place in batch) for batch in batches)
    assert padded < 1.1 * sum(some)
    mixed = ragged.shuffled(batches, seed=0)
    assert sorted(place for batch in mixed for place in batch) == sorted(places)
    assert sum(8 * max(lengths[place] for place in batch) for batch in mixed) > 1.5 * sum(some)
    with pytest.raises(ValueError, match="7 examples do not fill a batch of 8"):
        real_log.grouped_batches(lengths[:7], 8, 1, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize(("positions", "count"), [("last", 4), ("every", 5)])
def test_headline_prints_every_variant(of_shop, capsys, positions, count):
    headline.main([*of_shop, "--positions", positions, "--peer-positions", "3", "--batches", "1"])
    printed = capsys.readouterr().out
    assert len(rows_in(printed)) == count
    assert "reading 1,000 items' texts once a run" in printed


def test_labels_of_prompt_tuning_are_the_next_items_words(of_shop):
    log = real_log.RealLog.read(headline.parse([*of_shop]))
    examples = list(log.split.training_examples(every_prefix=False))[:3]
    batch = headline.NextItemText(log)(examples)
    for row, example in enumerate(examples):
        answer = batch["labels"][row]
        said = log.tokenizer.decode(answer[answer != headline.IGNORE_INDEX])
        title = log.catalogue.frame["title"][example.target - 1]
        assert title in said
        asked = int((answer == headline.IGNORE_INDEX).int().argmin())
        assert batch["input_ids"][row, :asked].tolist() == log.prompts(example.history)


@pytest.mark.parametrize(("what", "count"), [("users", 3), ("items", 5), ("one", 2)])
def test_encoding_prints_every_variant(of_shop, capsys, what, count):
    encoding.main([*of_shop, "--what", what, "--dtype", "bfloat16", "--count", "11"])
    assert len(rows_in(capsys.readouterr().out)) == count


def test_every_way_learns_with_a_large_language_model(of_shop, capsys, tmp_path):
    sizes = ["--shape", "tiny", "--users", 9, "--batch-size", 3, "--peer-batch-size", 2]
    sizes += ["--ceiling-size", 8, "--json", tmp_path / "told.json"]
    large_lms.main([*of_shop, *map(str, sizes)])
    assert rows_in(capsys.readouterr().out)[-len(large_lms.WAYS) :] == [*large_lms.WAYS]
    shares = json.loads((tmp_path / "told.json").read_text())["shares"]
    assert shares.keys() == set(large_lms.WAYS)
    assert all(way["tokens"] > way["targets"] > 0 for way in shares.values())


def test_what_a_step_has_to_compute_is_counted_of_real_tokens():
    batch = {"input_ids": torch.ones(2, 5), "attention_mask": torch.ones(2, 5).triu()}  # 5 + 4
    both = large_lms.Way(None, [batch, batch], weights=10, virtual=3)
    assert both.tokens(0, 1) == 2 * (9 + 2 * 3)
    # Forward and backward through the activations: 4 operations a weight and token.
    assert both.operations(1, 2) == 4 * 10 * (9 + 2 * 3)
    # One reading of the texts; behind it 3 + 1 tokens of each of three positions.
    shared = batch | {"text_rows": torch.tensor([0, 0, 1]), "ending_ids": torch.ones(1)}
    once = large_lms.Way(None, [shared], weights=10, virtual=3, text_learns=False)
    assert once.operations(0, 1) == 10 * (2 * 9 + 4 * 3 * (3 + 1))


def test_language_models_share_weights_and_no_modules():
    lm = large_lms.shaped_like("tiny", torch.device("cpu"))
    other = large_lms.sharing_weights(lm)
    assert other.model.layers[0] is not lm.model.layers[0]
    assert all(mine is own for mine, own in zip(lm.parameters(), other.parameters(), strict=True))
    # Two layers of queries, keys, values, output (8 heads of 128, width 32) and feed-forward.
    assert large_lms.linear_weights(lm.model) == 2 * (4 * 32 * 8 * 128 + 3 * 32 * 43)


class RepeatedWeights(TorchDispatchMode):
    """Finds batched products of a matrix that is repeated for every row of a batch.

    So torch multiplies a slice that is not contiguous by a frozen weight: in bfloat16 on a CPU some
    hundred times slower than one product of all rows.
    """

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.bmm.default and len(args[0]) > 1 and args[1].stride(0) == 0:
            self.found.append([tuple(part.shape) for part in args])
        return func(*args, **kwargs or {})


def test_repeated_weights_are_found():
    with RepeatedWeights() as mode:
        torch.nn.functional.linear(torch.randn(3, 5, 7)[:, -2:], torch.randn(11, 7))
    assert mode.found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", ["prefix_first", "text_first"])
@pytest.mark.parametrize("item_vectors", ["collaborative", "fused"])
def test_no_step_repeats_a_weight_for_every_user(layout, dtype, item_vectors):
    lm = made_up.random_lm("tiny", VOCABULARY).to(dtype)
    fields = {"item_vectors": item_vectors, "num_suffix_tokens": 2}
    model = made_up.random_adapter(lm, NUM_ITEMS, layout=layout, **fields)
    if item_vectors == "fused":
        width = model.peft_config["default"].item_text_dim
        model.set_item_text_vectors(torch.randn(NUM_ITEMS, width))
    batch = made_up.draw_users(np.random.default_rng(0), np.array([48, 17, 33]), **SIZES)
    with RepeatedWeights() as mode, torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        model(**batch).loss.backward()
    assert mode.found == []
