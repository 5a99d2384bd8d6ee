"""The judge: one test for every model, and all that its results are filed under."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from laser_peft.data import Catalogue, Histories, Split
from laser_peft.data.sequences import Example, training_events
from laser_peft.evaluation import Evaluation, describe_targets


@dataclass(frozen=True)
class Judge:
    """Holds the examples that models are tested on, and what is known of their targets.

    Args:
        examples: the test part of a split, one a user.
        targets: a row an example, as :func:`laser_peft.evaluation.describe_targets` makes them.
        data_hash: says what data this is; only results of equal ones are compared.
    """

    examples: Sequence[Example]
    targets: pl.DataFrame
    data_hash: str

    @classmethod
    def of_test(
        cls, catalogue: Catalogue, histories: Histories, split: Split, data_hash: str
    ) -> "Judge":
        """Makes the judge of a split's test part.

        Args:
            catalogue: the items.
            histories: what was split; its times tell whose target came on another day.
            split: the test, and the training part by whose events targets are grouped.
            data_hash: of catalogue and histories.

        Raises:
            ValueError: if the split is not one of these histories.
        """
        users = np.asarray([example.user for example in split.test], dtype=np.int64)
        items = np.asarray([example.target for example in split.test], dtype=np.int64)
        lengths = np.asarray([len(example.history) for example in split.test], dtype=np.int64)
        places = histories.offsets[users] + lengths  # a history starts with its user's first event
        if (places >= histories.offsets[users + 1]).any() or (
            histories.items[places] != items
        ).any():
            raise ValueError(
                "the split does not belong to these histories: its targets are not the items "
                "that follow them there; give the histories that were split"
            )
        events = training_events(split.train_histories, len(catalogue))
        times = before = None
        if histories.times is not None:
            times = histories.times[places]
            before = np.where(lengths > 0, histories.times[places - 1], np.nan)
        targets = describe_targets(
            user_ids=[histories.user_ids[user] for user in users],
            item_ids=[catalogue.item_ids[item - 1] for item in items],
            training_events=events[items],
            history_lengths=lengths,
            times=times,
            times_before=before,
        )
        return cls(split.test, targets, data_hash)

    def evaluation(self, name: str, ranks: np.ndarray) -> Evaluation:
        """Files a model's ranks.

        Args:
            name: what the model is called in tables.
            ranks: ``(users, 2)`` int64 in the order of ``examples``.
        """
        return Evaluation(name, self.data_hash, self.targets, ranks)
