"""Counts of what was read, with a hash by which two people know that they have the same data."""

import hashlib
import json

from .catalogue import Catalogue
from .sequences import Histories, Split, training_events


def describe_data(
    catalogue: Catalogue, histories: Histories, split: Split
) -> dict[str, int | str | None]:
    """Counts what was read.

    ``sha256`` is over the items (ids, attributes and their order) and every user's events in
    order; ``times_sha256`` over the times of these events, None without times. Neither depends on
    file format, compression, path or parts, nor on the users' ids; both do on the order of the
    users' first rows, as a log sorted by another column may have another.
    """
    digest = hashlib.sha256()
    for item in zip(catalogue.item_ids, catalogue.iter_attributes(), strict=True):
        digest.update(json.dumps(item).encode())
    digest.update(histories.items.tobytes())
    digest.update(histories.offsets.tobytes())
    learnt = training_events(split.train_histories, len(catalogue))
    times = histories.times
    return {
        "users": len(histories),
        "items": len(catalogue),
        "interactions": len(histories.items),
        "test_users": len(split.test),
        "users_too_short_to_test": len(histories) - len(split.test),
        "items_without_training_events": int((learnt[1:] == 0).sum()),
        "sha256": digest.hexdigest(),
        "times_sha256": None if times is None else hashlib.sha256(times.tobytes()).hexdigest(),
    }
