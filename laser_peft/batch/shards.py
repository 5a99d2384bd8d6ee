"""Which parts of a job one of several processes does."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Shard:
    """One of ``count`` processes, which share a job's parts among them.

    Args:
        number: of this one, from 1.
        count: of all, at least 1.

    Raises:
        ValueError: if the number is not in ``1..count``.
    """

    number: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise ValueError(
                f"shard {self.number}/{self.count} does not exist; of {self.count} shards there "
                "are 1/N to N/N"
            )

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Reads ``2/8``, the second of eight.

        Raises:
            ValueError: if it is something else.
        """
        found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        if found is None:
            raise ValueError(f"a shard is given as 2/8, the second of eight, got {text!r}")
        return cls(int(found[1]), int(found[2]))

    def of(self, num_parts: int) -> range:
        """Returns the numbers of its parts: neighbours, about as many in each shard.

        >>> [list(Shard(number, 3).of(7)) for number in (1, 2, 3)]
        [[0, 1], [2, 3], [4, 5, 6]]
        """
        before = self.number - 1
        return range(before * num_parts // self.count, self.number * num_parts // self.count)
