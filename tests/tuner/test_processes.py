"""Two processes train as one, with the language model whole in each or in shards."""

import torch
import torch.distributed as dist
from adapters import B, make_batch, make_model
from conftest import make_lm, run_in_new_processes
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

LABELS = torch.tensor([1, 2, 3, 4])
# The balance term is taken over the users of a process, so it is not a mean over processes; our
# Trainer takes it over all (tests/test_many_processes.py).
FIELDS = {"m_former_dropout": 0.0, "router_balance_weight": 0.0}


def batch_of_four():
    batch = make_batch()
    return {name: torch.cat([v, v[:1].flip(1)]) for name, v in batch.items()} | {"labels": LABELS}


def gradients(model):
    found = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    return {n: g.full_tensor() if isinstance(g, DTensor) else g for n, g in found.items()}


def in_shards(model):
    """Shards it as Accelerate does with FSDP2: a layer at a time, and all that is left."""
    mesh = init_device_mesh("cpu", (2,))
    for layer in model.base_model.model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def train_in_a_process(rank, folder, encoder_folder):
    dist.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=2)
    rows = {name: values[2 * rank : 2 * rank + 2] for name, values in batch_of_four().items()}
    for name, wrap in [("whole", DistributedDataParallel), ("shards", in_shards)]:
        torch.manual_seed(0)
        model = make_model(make_lm("llama"), encoder_folder, **FIELDS)
        held = sum(p.numel() for p in model.parameters())
        wrapped = wrap(model)  # kept: it averages on the way back
        wrapped(**rows).loss.backward()
        found = gradients(model)
        if name == "shards":
            own = sum(p.to_local().numel() for p in model.parameters())
            assert own < 0.6 * held
        torch.save(found, f"{folder}/{name}-{rank}.pt")
    dist.destroy_process_group()


def test_gradients_over_two_gloo_processes_are_those_of_one(encoder_folder, tmp_path):
    run_in_new_processes(train_in_a_process, str(tmp_path), encoder_folder, count=2)
    torch.manual_seed(0)
    model = make_model(make_lm("llama"), encoder_folder, **FIELDS)
    model(**batch_of_four()).loss.backward()
    assert B < len(LABELS)
    for name in ("whole-0", "whole-1", "shards-0", "shards-1"):
        actual = torch.load(tmp_path / f"{name}.pt")
        torch.testing.assert_close(actual, gradients(model), atol=1e-4, rtol=1e-3)
