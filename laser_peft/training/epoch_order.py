"""In which order and by which process the examples of an epoch are read.

The order follows from seed and epoch alone. So it is the same in any number of processes, and when
training goes on in the middle of an epoch, in whatever number of them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, Dataset, Sampler
from transformers import TrainerState

STANDS_IN = "stands_in"  # the column that marks a batch which counts for nothing


def is_within_an_epoch(state: TrainerState) -> bool:
    """Tells, where an epoch begins, whether a resumed training has taken steps of it already."""
    return state.global_step % (state.max_steps // state.num_train_epochs) > 0


def generator_of(*numbers: int) -> torch.Generator:
    """Returns a generator of random numbers of its own for a few whole numbers, 0 or more."""
    # torch alone would look at 32 bits of one number.
    seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    return torch.Generator().manual_seed(seed)


class SharedBatches(Sampler[list[int]]):
    """Batches of an epoch, of each of which every process reads its share.

    A share holds every P-th example, as many as the others' or one fewer; it is empty where a
    batch has fewer examples than there are processes.

    Args:
        sampler: orders the examples by its ``generator``, if it has one.
        batch_size: examples a step, of all processes together.
        seed: of the order.
        process_index: whose shares.
        num_processes: P, how many share a batch.

    Example:
        >>> batches = SharedBatches(range(5), 3, seed=0, process_index=1, num_processes=2)
        >>> list(batches)  # of [0, 1, 2] and [3, 4]
        [[1], [4]]
    """

    def __init__(
        self,
        sampler: Any,
        batch_size: int,
        *,
        seed: int,
        process_index: int = 0,
        num_processes: int = 1,
    ) -> None:
        self.sampler = sampler
        self.batch_size = batch_size
        self.seed = seed
        self.process_index = process_index
        self.num_processes = num_processes
        self.epoch = 0
        self._batches = BatchSampler(sampler, batch_size, drop_last=False)

    def set_epoch(self, epoch: int) -> None:
        """Says whose order is next; the Trainer does before each."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[int]]:
        if hasattr(self.sampler, "generator"):
            self.sampler.generator = generator_of(self.seed, self.epoch)
        for batch in self._batches:
            yield batch[self.process_index :: self.num_processes]


class StandIn:
    """Collates examples; where a process has none it gets one, marked as :data:`STANDS_IN`.

    All processes have to go through a step, and few language models take a batch of nobody.

    Args:
        collate: makes a batch of examples.
        dataset: the first example of which stands in.
    """

    def __init__(
        self, collate: Callable[[Sequence[Any]], Mapping[str, Any]], dataset: Dataset
    ) -> None:
        self.collate = collate
        self.dataset = dataset

    def __call__(self, examples: Sequence[Any]) -> Mapping[str, Any]:
        """Returns what ``collate`` makes of the examples, or of the first of all."""
        if examples:
            return self.collate(examples)
        return {**self.collate([self.dataset[0]]), STANDS_IN: True}
