"""On a GPU everything is what it is on the CPU, and a training step waits for nothing.

Skipped without one. Sizes are tiny; in float32 both sum in another order.
"""

import copy
import warnings

import numpy as np
import pytest
import torch
from adapters import make_batch, make_model
from conftest import NUM_ITEMS, VOCABULARY, make_lm, run_command, train_arguments
from recommenders import ids, make_recommender

from laser_peft import LaserRecommender
from laser_peft.catalogue_softmax import catalogue_losses
from laser_peft.recommender.best import Shelf, best_items
from laser_peft.training.datasets import PlacesCollator

HAS_GPU = torch.cuda.is_available()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not HAS_GPU, reason="needs a GPU of CUDA")]
CLOSE = 2e-4  # of the largest number
LAYOUTS = pytest.mark.parametrize("layout", ["prefix_first", "text_first"])
VIEWS = pytest.mark.parametrize("item_vectors", ["collaborative", "fused"])


def on_gpu(batch):
    return {name: values.cuda() for name, values in batch.items()}


def adapted(encoder_folder, layout, item_vectors, family="llama"):
    model = make_model(make_lm(family), encoder_folder, layout=layout, item_vectors=item_vectors)
    if item_vectors == "fused":
        width = model.peft_config["default"].item_text_dim
        events = torch.arange(NUM_ITEMS)
        model.set_item_text_vectors(torch.randn(NUM_ITEMS, width), events)
    return model


def labelled():
    return make_batch() | {"labels": torch.tensor([2, 1, NUM_ITEMS])}


def of_beginnings():
    draws = np.random.default_rng(0)
    examples = [
        {
            "input_ids": draws.integers(1, VOCABULARY, 11),
            "text_lengths": np.array(ends),
            "history": [draws.integers(1, NUM_ITEMS + 1, 1 + end // 3) for end in ends],
            "labels": draws.integers(1, NUM_ITEMS + 1, len(ends)),
        }
        for ends in ([3, 6, 11], [5])
    ]
    return PlacesCollator([7, 8])(examples)


def assert_close(there, here, name=None):
    here = here.detach()
    limit = CLOSE * float(here.abs().max()) + 1e-9
    torch.testing.assert_close(there.detach().cpu(), here, rtol=0, atol=limit, msg=name)


def learnt(model, batch):
    """The loss, the user vectors and all gradients."""
    output = model(**batch)
    model.zero_grad()
    output.loss.backward()
    return output, {n: p.grad.cpu() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("make", [labelled, of_beginnings])
@VIEWS
@LAYOUTS
def test_a_step_is_that_of_the_cpu(encoder_folder, layout, item_vectors, make):
    model, batch = adapted(encoder_folder, layout, item_vectors), make()
    there = copy.deepcopy(model).cuda()
    output, gradients = learnt(model, batch)
    output_there, gradients_there = learnt(there, on_gpu(batch))
    assert output_there.user_vectors.is_cuda
    assert_close(output_there.loss, output.loss)
    assert_close(output_there.user_vectors, output.user_vectors)
    assert gradients.keys() == gradients_there.keys()
    for name, gradient in gradients.items():
        assert_close(gradients_there[name], gradient, name)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@VIEWS
@LAYOUTS
def test_a_step_waits_for_nothing(encoder_folder, layout, item_vectors, family):
    model = adapted(encoder_folder, layout, item_vectors, family).cuda().train()
    for name, parameter in model.named_parameters():  # as while the adapter learns
        parameter.requires_grad_(parameter.requires_grad and "text_reader" not in name)
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, fused=True)
    batch = on_gpu(labelled())

    def step():
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()  # some things are tried once a model
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as waits:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    # transformers waits once a call without a mask, to see whether positions begin anew.
    assert [wait for wait in waits if "laser_peft" in wait.filename] == []


@LAYOUTS
def test_bfloat16_is_near(encoder_folder, layout):
    model = adapted(encoder_folder, layout, "fused")
    batch = make_batch()
    with torch.no_grad():
        exact = model(**batch, return_user_vectors=True).user_vectors
        with torch.autocast("cuda", torch.bfloat16):
            near = model.cuda()(**on_gpu(batch), return_user_vectors=True).user_vectors
    near = near.float().cpu()
    assert (near - exact).norm() < 0.03 * exact.norm()


@pytest.mark.parametrize("learns", [False, True])
@pytest.mark.parametrize("num_items", [97, 400_003])  # the latter in several blocks
def test_the_softmax_is_that_of_float64(num_items, learns):
    torch.manual_seed(0)
    users = torch.randn(37, 16, device="cuda", requires_grad=True)
    items = torch.randn(num_items, 16, device="cuda", requires_grad=learns)
    targets = torch.randint(num_items, (37,), device="cuda")
    learning = [users, items] if learns else [users]
    losses = catalogue_losses(users, items, targets)
    plain = torch.nn.functional.cross_entropy(
        users.double() @ items.double().T, targets, reduction="none"
    )
    torch.testing.assert_close(losses.double(), plain, rtol=1e-5, atol=1e-5)
    gradients = torch.autograd.grad(losses.sum(), learning)
    wanted = torch.autograd.grad(plain.sum(), learning)
    for gradient, expected in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)


def test_the_best_items_are_those_of_the_cpu():
    torch.manual_seed(0)
    # Whole numbers: scores are exact everywhere, and many are equal.
    items, users = (torch.randint(-9, 9, (count, 16)).float() for count in (50_021, 5))
    left_out = [np.array([1, 7]), *[np.array([], dtype=np.int64)] * 4]
    allowed = np.random.default_rng(0).random(len(items)) < 0.6
    for some in (None, allowed):
        here = best_items(users, Shelf.of(items, some), 10, left_out=left_out)
        there = best_items(users.cuda(), Shelf.of(items.cuda(), some), 10, left_out=left_out)
        assert there == here


@pytest.mark.parametrize("item_vectors", ["collaborative", "text", "fused"])
def test_recommendations_are_those_of_the_cpu(
    lm_folder, encoder_folder, shop, tokenizer, item_vectors
):
    fields = dict(item_vectors=item_vectors, layout="text_first")
    here = make_recommender(lm_folder, encoder_folder, shop, tokenizer, **fields)
    there = LaserRecommender(
        copy.deepcopy(here.model).cuda(),
        tokenizer,
        here.catalogue,
        here.config,
        whitening=here.whitening,
    )
    users = [["i1", "i2", "i9"], [], ["i0", "i7"]]
    both = there.recommend(users, k=7), here.recommend(users, k=7)
    for found, expected in zip(*both, strict=True):
        assert [item.score for item in found] == pytest.approx(
            [item.score for item in expected], rel=1e-3, abs=1e-4
        )
        assert ids(found) == ids(expected)


def test_a_session_is_that_of_the_cpu(lm_folder, encoder_folder, shop, tokenizer):
    made = make_recommender(
        lm_folder, encoder_folder, shop, tokenizer, "collaborative", layout="text_first"
    )
    made = LaserRecommender(made.model.cuda(), tokenizer, made.catalogue, made.config)
    items = [f"i{number * 7 % NUM_ITEMS}" for number in range(9)]
    session = made.session(items[:2])
    for place in range(2, len(items)):
        session.add(items[place])
        found, expected = session.recommend(k=5), made.recommend(items[: place + 1], k=5)
        assert ids(found) == ids(expected)


@pytest.mark.parametrize("options", [[], ["--every-prefix", "--bf16"]])
def test_the_whole_way(shop, lm_folder, tmp_path, options):
    """A run, its test again, and recommendations beside those of the CPU."""
    run = tmp_path / "run"
    trained = run_command(*train_arguments(shop, lm_folder, run), *options)
    assert trained.exit_code == 0, trained.output
    log = shop / "interactions.csv.gz"
    tested = run_command("evaluate", run / "recommender", "--interactions", log)
    assert tested.exit_code == 0, tested.output
    answers = []
    for device in ("cpu", "cuda"):
        asked = run_command("recommend", run / "recommender", "i1", "i2", "--device", device)
        assert asked.exit_code == 0, asked.output
        answers.append([line.split()[:1] for line in asked.output.splitlines()])
    assert answers[0] == answers[1]
