"""What every run starts from: a log read against its catalogue, split, counted, and its judge."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from laser_peft.data import (
    Catalogue,
    Histories,
    LogReport,
    LogSource,
    Split,
    describe_data,
    leave_one_out,
)
from laser_peft.judge import Judge


@dataclass(frozen=True)
class Experiment:
    """Data to learn from and to be judged by.

    Args:
        catalogue: the items.
        histories: the log, in their dense ids.
        split: of the histories.
        report: what was found in the log.
    """

    catalogue: Catalogue
    histories: Histories
    split: Split
    report: LogReport

    @classmethod
    def read(cls, source: LogSource, catalogue: Catalogue) -> "Experiment":
        """Reads and splits a log, the last two items of every user held out.

        Raises:
            FileNotFoundError: if there is no such log.
            ValueError: if the log cannot be read, or no user has three events.
        """
        log = source.read(catalogue)
        histories = Histories.from_interactions(log, catalogue)
        return cls(catalogue, histories, leave_one_out(histories), log.report)

    @cached_property
    def data(self) -> dict[str, Any]:
        """Counts and hashes, see :func:`laser_peft.data.describe_data`."""
        return describe_data(self.catalogue, self.histories, self.split)

    @property
    def judge(self) -> Judge:
        """The test, the same for every model."""
        sha256 = str(self.data["sha256"])
        return Judge.of_test(self.catalogue, self.histories, self.split, sha256)

    def check_trainable(self) -> None:
        """Makes sure that there is something to learn from.

        Raises:
            ValueError: if no user has two items in the training part.
        """
        if not self.split.num_training_pairs:
            raise ValueError(
                f"none of {len(self.histories)} users has two items left to train on after "
                "leave-one-out; training needs users with at least 4 events"
            )
