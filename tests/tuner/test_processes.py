"""Two processes train as one."""

import torch
import torch.distributed as dist
from adapters import B, make_batch, make_model
from conftest import make_lm, run_in_new_processes
from torch.nn.parallel import DistributedDataParallel

LABELS = torch.tensor([1, 2, 3, 4])
# The balance term is taken over the users of a process, so it is not a mean over processes.
FIELDS = {"m_former_dropout": 0.0, "router_balance_weight": 0.0}


def batch_of_four():
    batch = make_batch()
    return {name: torch.cat([v, v[:1].flip(1)]) for name, v in batch.items()} | {"labels": LABELS}


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


def train_in_a_process(rank, folder, encoder_folder):
    dist.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=2)
    torch.manual_seed(0)
    model = make_model(make_lm("llama"), encoder_folder, **FIELDS)
    parallel = DistributedDataParallel(model)
    rows = {name: values[2 * rank : 2 * rank + 2] for name, values in batch_of_four().items()}
    parallel(**rows).loss.backward()
    torch.save(gradients(model), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_gradients_over_two_gloo_processes_are_those_of_one(encoder_folder, tmp_path):
    run_in_new_processes(train_in_a_process, str(tmp_path), encoder_folder, count=2)
    torch.manual_seed(0)
    model = make_model(make_lm("llama"), encoder_folder, **FIELDS)
    model(**batch_of_four()).loss.backward()
    assert B < len(LABELS)
    for rank in range(2):
        actual = torch.load(tmp_path / f"{rank}.pt")
        for name, expected in gradients(model).items():
            torch.testing.assert_close(actual[name], expected, atol=1e-4, rtol=1e-3)
