"""What several processes do as one, through Accelerate; alone, a process waits for nobody.

Every process calls these at the same place of the program, as it does all that Accelerate offers.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import ParamSpec, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object, parse_flag_from_env, reduce
from torch import Tensor
from tqdm import tqdm

Parameters = ParamSpec("Parameters")
Part = TypeVar("Part")
Found = TypeVar("Found")


def processes(*, on_cpu: bool = False) -> PartialState:
    """Returns which process this is and how many there are.

    They are those of `accelerate launch` or torchrun; without a GPU, or ``on_cpu`` as the first
    call says for all that follow, they speak by gloo.
    """
    # Told of no accelerator, Accelerate would take several processes for one.
    return PartialState(cpu=on_cpu or not torch.accelerator.is_available())


def refuse_shards() -> None:
    """Refuses what would leave no process with a whole model.

    A run trains several small models before the adapter, and they share modules.

    Raises:
        ValueError: under a launcher that shards models.
    """
    for name, flag in [("FSDP", "ACCELERATE_USE_FSDP"), ("DeepSpeed", "ACCELERATE_USE_DEEPSPEED")]:
        if parse_flag_from_env(flag):
            raise ValueError(
                f"this training needs the whole model in every process, got {name} from the "
                "launcher; launch with examples/accelerate/ddp.yaml, or train in shards as "
                "examples/03_bi_tune_with_accelerate.py does"
            )


def by_one(
    write: Callable[Parameters, object], *args: Parameters.args, **kwargs: Parameters.kwargs
) -> None:
    """Calls what writes in the main process alone; the others go on when it is done."""
    state = processes()
    if state.is_main_process:
        write(*args, **kwargs)
    state.wait_for_everyone()


def of_one(find: Callable[[], Found]) -> Found:
    """Returns to every process what the main one has found, alone."""
    found = [find()] if processes().is_main_process else [None]
    result: Found = broadcast_object_list(found)[0]
    return result


def own_share(parts: Sequence[Part]) -> list[Part]:
    """Returns every part that is this process's own; each is that of one process, some have none.

    Example:
        >>> own_share(["all", "of", "them"])  # in one process
        ['all', 'of', 'them']
    """
    state = processes()
    return list(parts[state.process_index :: state.num_processes])


def summed(values: Tensor) -> Tensor:
    """Adds up what every process has.

    Args:
        values: of any shape, the same in every process. Where at most one of them is not zero the
            sum is that one to the bit: so a table comes together of which each fills its rows.

    Returns:
        The same shape, in every process; in one process ``values`` itself.
    """
    state = processes()
    if state.num_processes == 1:
        return values
    return reduce(values.to(state.device), "sum").to(values.device)


def check_alike(what: str, values: Iterable[object]) -> None:
    """Makes sure that every process has the same, of which each is about to take a share.

    Args:
        what: the values, in the plural, for the error.
        values: whatever ``repr`` tells apart.

    Raises:
        ValueError: if one process has others.
    """
    if processes().num_processes == 1:
        return
    digest = hashlib.sha256()
    for value in values:
        digest.update(f"{value!r}\n".encode())
    if len(set(gather_object([digest.hexdigest()]))) > 1:
        raise ValueError(
            f"every process must have the same {what}, for they share the reading of them; give "
            "all of them to each process"
        )


def read_together(
    portions: Sequence[Sequence[int]], read: Callable[[Sequence[int]], Tensor], *, unit: str
) -> Tensor:
    """Reads rows portion by portion, of which every process has its share.

    Portions are the same in any number of processes, so rows are the same to the bit.

    Args:
        portions: rows of each; every one of ``range(N)`` is in one of them.
        read: gives ``(rows, W)`` float32 on the CPU for the rows of a portion.
        unit: what a row is, for the bar that shows how far it is.

    Returns:
        ``(N, W)`` float32 on the CPU, in every process.
    """
    own = own_share(portions)
    show = None if processes().is_main_process else True  # None: where there is a terminal
    with tqdm(total=sum(map(len, own)), desc=f"Reading {unit}s", unit=unit, disable=show) as bar:
        found = []
        for rows in own:
            found.append(read(rows))
            bar.update(len(rows))
    # A process without a portion does not know how wide a row is.
    width = max(gather_object([found[0].size(1) if found else 0]))
    table = torch.zeros(sum(map(len, portions)), width)
    for rows, values in zip(own, found, strict=True):
        table[torch.tensor(rows)] = values
    return summed(table)
