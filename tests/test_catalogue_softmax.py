"""The loss in blocks is the loss at once, whatever the blocks, the table and the precision."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from laser_peft import catalogue_softmax, losses
from laser_peft.catalogue_softmax import catalogue_losses
from laser_peft.losses import catalogue_cross_entropy

B, N, R = 5, 31, 7


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks of 2 users and 3 items, so that neither size is a multiple."""
    monkeypatch.setattr(catalogue_softmax, "ROWS_AT_A_TIME", 2)
    monkeypatch.setattr(catalogue_softmax, "SCORES_AT_A_TIME", 6)


def problem(users=B, items=N, width=R, *, learns=False, dtype=torch.float32):
    generator = torch.Generator().manual_seed(users + items)
    vectors = torch.randn(users, width, generator=generator, dtype=dtype, requires_grad=True)
    table = torch.randn(items, width, generator=generator, dtype=dtype).requires_grad_(learns)
    targets = torch.randint(items, (users,), generator=generator)
    # The two ends of the table are wanted, and one item twice.
    targets[: users - 1 : 2], targets[-1] = 0, items - 1
    return vectors, table, targets


def plain(users, items, targets):
    return F.cross_entropy(users @ items.T, targets, reduction="none")


def values_and_gradients(form, users, items, targets):
    values = form(users, items, targets)
    wanted = [tensor for tensor in (users, items) if tensor.requires_grad]
    weights = torch.linspace(-1, 2, len(values)).to(values.dtype)
    return [values, *torch.autograd.grad(values, wanted, weights)]


@pytest.mark.parametrize("learns", [False, True])
@pytest.mark.parametrize(("users", "items", "width"), [(B, N, R), (1, N, R), (B, 1, R), (3, 2, 1)])
def test_values_and_gradients_are_the_plain_ones(users, items, width, learns):
    given = problem(users, items, width, learns=learns)
    assert_close(
        values_and_gradients(catalogue_losses, *given), values_and_gradients(plain, *given)
    )


def test_the_blocks_do_not_matter(monkeypatch):
    given = problem(learns=True)
    few = values_and_gradients(catalogue_losses, *given)
    monkeypatch.setattr(catalogue_softmax, "SCORES_AT_A_TIME", 1)
    assert_close(values_and_gradients(catalogue_losses, *given), few)
    monkeypatch.setattr(catalogue_softmax, "ROWS_AT_A_TIME", 1024)
    monkeypatch.setattr(catalogue_softmax, "SCORES_AT_A_TIME", 2**18)
    assert_close(values_and_gradients(catalogue_losses, *given), few)


@pytest.mark.parametrize("learns", [False, True])
def test_gradients_are_the_slopes_of_the_value(learns):
    users, items, targets = problem(3, 7, 2, learns=learns, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda *given: catalogue_losses(*given, targets), (users, items)
    )


@pytest.mark.parametrize("learns", [False, True])
def test_large_scores_are_as_exact_as_the_plain_ones(learns):
    """Largest scores of some hundreds, rising along the table: every block shrinks the sums."""
    users, items, targets = problem(learns=learns)
    order = (items.detach() @ users.detach()[0]).argsort()
    users = (100 * users.detach()).requires_grad_()
    items = items.detach()[order].requires_grad_(learns)
    exact = [tensor.detach().double().requires_grad_() for tensor in (users, items)]
    wanted = values_and_gradients(plain, *exact, targets)
    for got, value in zip(
        values_and_gradients(catalogue_losses, users, items, targets), wanted, strict=False
    ):
        assert torch.isfinite(got).all()
        assert_close(got.double(), value, rtol=1e-4, atol=1e-4)


def test_a_certain_user_has_no_loss_beyond_rounding():
    """The loss is a difference of large numbers: 20 * 20 for the wanted item, 0 for others."""
    users = torch.tensor([[20.0, 0.0]], requires_grad=True)
    items = torch.cat([torch.tensor([[20.0, 0.0]]), torch.zeros(N - 1, 2)])
    assert catalogue_losses(users, items, torch.tensor([0])) == 0


@pytest.mark.parametrize("learns", [False, True])
def test_two_ways_back_give_the_same(learns):
    users, items, targets = problem(learns=learns)
    loss = catalogue_losses(users, items, targets).mean()
    wanted = [users, items] if learns else [users]
    first = torch.autograd.grad(loss, wanted, retain_graph=True)
    assert_close(torch.autograd.grad(loss, wanted), first, rtol=0, atol=0)


@pytest.mark.parametrize("learns", [False, True])
def test_second_derivatives_are_refused(learns):
    users, items, targets = problem(learns=learns)
    loss = catalogue_losses(users, items, targets).mean()
    with pytest.raises(RuntimeError, match=r"create_graph=True, and it has no second derivatives"):
        torch.autograd.grad(loss, users, create_graph=True)


def test_a_table_that_changed_before_the_way_back_is_noticed():
    users, items, targets = problem(learns=True)
    loss = catalogue_losses(users, items, targets).mean()
    with torch.no_grad():
        items.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("learns", [False, True])
def test_a_user_who_asks_for_no_gradient_gets_none(learns):
    users, items, targets = problem(learns=learns)
    users.requires_grad_(False)
    values = catalogue_losses(users, items, targets)
    assert_close(values, plain(users, items, targets))
    assert values.requires_grad == learns
    if learns:
        values.mean().backward()
        wanted = torch.autograd.grad(plain(users, items, targets).mean(), items)
        assert_close(items.grad, wanted[0])
    assert users.grad is None


def test_without_gradients_nothing_is_kept():
    users, items, targets = problem(learns=True)
    with torch.no_grad():
        values = catalogue_losses(users, items, targets)
    assert not values.requires_grad
    assert_close(values, plain(users, items, targets))


@pytest.mark.parametrize("learns", [False, True])
def test_autocast_reaches_neither_way(learns):
    given = problem(learns=learns)
    without = values_and_gradients(catalogue_losses, *given)
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(values_and_gradients(catalogue_losses, *given), without, rtol=0, atol=0)


@pytest.mark.parametrize("learns", [False, True])
def test_a_table_of_half_precision_is_read_in_the_users_precision(learns):
    users, items, targets = problem()
    half = items.bfloat16().requires_grad_(learns)
    got = values_and_gradients(catalogue_losses, users, half, targets)
    wanted = values_and_gradients(plain, users, half.float(), targets)
    assert_close(got[:2], wanted[:2])
    if learns:
        assert got[2].dtype == torch.bfloat16


@pytest.mark.parametrize("learns", [False, True])
def test_a_large_table_is_never_scored_at_once(monkeypatch, learns):
    monkeypatch.setattr(losses, "FEW_SCORES", 1)
    monkeypatch.setattr(losses, "MANY_ITEMS", N - 1)
    sizes, product = [], torch.Tensor.__matmul__

    def counted(left, right):
        scores = product(left, right)
        sizes.append(scores.numel())
        return scores

    monkeypatch.setattr(torch.Tensor, "__matmul__", counted)
    users, items, targets = problem(learns=learns)
    catalogue_cross_entropy(users, items, targets + 1).backward()
    assert max(sizes) == 6
    assert sum(sizes) == (1 + learns) * B * N


@pytest.mark.parametrize(
    ("users", "items", "learns", "form"),
    [
        (256, 1024, False, "at_once"),
        (257, 1024, False, "in_blocks"),
        (256, 4096, True, "at_once"),
        (257, 4096, True, "in_chunks"),
        (63, 66_000, True, "at_once"),
        (63, 67_000, True, "in_blocks"),
        (64, 32_768, True, "in_chunks"),
        (64, 32_769, True, "in_blocks"),
    ],
)
def test_the_form_follows_the_size(monkeypatch, users, items, learns, form):
    monkeypatch.setattr(catalogue_softmax, "SCORES_AT_A_TIME", 2**18)
    monkeypatch.setattr(losses, "TORCH_HAS_CHUNKS", True)
    vectors, table = torch.empty(users, 0), torch.empty(items, 0, requires_grad=learns)
    assert losses._fastest_form(vectors, table).__name__ == f"_{form}"
    monkeypatch.setattr(losses, "TORCH_HAS_CHUNKS", False)
    older = form.replace("chunks", "blocks")
    assert losses._fastest_form(vectors, table).__name__ == f"_{older}"


@pytest.mark.parametrize("form", ["at_once", "in_chunks", "in_blocks"])
@pytest.mark.parametrize("learns", [False, True])
def test_the_forms_agree(form, learns):
    if form == "in_chunks" and not losses.TORCH_HAS_CHUNKS:
        pytest.skip("torch 2.13 and later")
    users, items, targets = problem(learns=learns)
    mean = getattr(losses, f"_{form}")

    def under_autocast(*given):
        with torch.autocast("cpu", torch.bfloat16):
            return mean(*given)[None]

    got = values_and_gradients(under_autocast, users, items, targets)
    wanted = values_and_gradients(lambda *given: plain(*given).mean()[None], users, items, targets)
    assert_close(got, wanted)


def test_a_compiled_loss_is_one_graph_and_the_same():
    users, items, targets = problem(learns=True)
    compiled = torch.compile(catalogue_cross_entropy, backend="eager", fullgraph=True)
    assert_close(
        values_and_gradients(lambda *given: compiled(*given)[None], users, items, targets + 1),
        values_and_gradients(lambda *given: plain(*given).mean()[None], users, items, targets),
    )
