import pytest
import torch

from laser_peft.losses import ROWS_AT_A_TIME, catalogue_cross_entropy

N, R = 31, 7


@pytest.mark.parametrize("users", [1, 5, ROWS_AT_A_TIME + 3])
@pytest.mark.parametrize("trainable_items", [False, True])
def test_chunked_loss_and_gradients_equal_the_plain_ones(users, trainable_items):
    vectors = torch.randn(users, R, requires_grad=True)
    table = torch.randn(N + 1, R, requires_grad=trainable_items)
    labels = torch.randint(1, N + 1, (users,))

    def value_and_gradients(loss):
        wanted = [vectors, table] if trainable_items else [vectors]
        return [loss, *torch.autograd.grad(loss, wanted)]

    plain = torch.nn.functional.cross_entropy(vectors @ table[1:].T, labels - 1)
    chunked = catalogue_cross_entropy(vectors, table[1:], labels)
    torch.testing.assert_close(value_and_gradients(chunked), value_and_gradients(plain))
    with torch.no_grad():
        torch.testing.assert_close(catalogue_cross_entropy(vectors, table[1:], labels), plain)


@pytest.mark.parametrize("label", [0, -99, N + 1])
def test_labels_outside_the_catalogue_are_refused(label):
    with pytest.raises(ValueError, match=rf"item ids in 1..{N} \(0 is padding\), got \[{label}\]"):
        catalogue_cross_entropy(torch.randn(2, R), torch.randn(N, R), torch.tensor([1, label]))


def test_loss_of_half_precision_vectors_is_float32():
    vectors = torch.randn(3, R, dtype=torch.bfloat16, requires_grad=True)
    loss = catalogue_cross_entropy(vectors, torch.randn(N, R), torch.tensor([1, 2, N]))
    loss.backward()
    assert loss.dtype == torch.float32
    assert vectors.grad.dtype == torch.bfloat16
