"""Two splits of histories into what to learn from, what to choose by and what to judge by.

*Leave-one-out*: a user's last item is the test target, the one before it the validation target,
the rest is for training. The test history includes the validation item.

*By time*: one cut for all users, as in a shop on the day of its release. Each user's first event
from the cut on is the test target, and all that the user had before the cut is the history.
"""

import math
from fractions import Fraction

import numpy as np

from .sequences import Examples, Histories, Split

TOO_SHORT = "users with fewer than 3 events, who are not tested"
NOTHING_AFTER = "users without an event from the test cut on, who are not tested"
NOTHING_BEFORE = "users without an event before the test cut, who are not tested"
REST_OF_TEST = "events from the test cut on that are no target"
REST_OF_VALIDATION = "events between the cuts that are no target"


def leave_one_out(histories: Histories) -> Split:
    """Splits every user's history; users with fewer than three events are for training whole.

    Raises:
        ValueError: if no user has three events or more.
    """
    lengths = np.diff(histories.offsets)
    users = np.flatnonzero(lengths >= 3)
    if not len(users):
        raise ValueError(
            f"leave-one-out needs users with at least 3 events, and none of {len(histories)} has; "
            "is the user column the right one?"
        )
    ends = histories.offsets[users + 1]
    learnt = np.ones(len(histories.items), dtype=bool)
    learnt[ends - 1] = learnt[ends - 2] = False
    return Split(
        histories.where(learnt),
        Examples(histories, users, ends - 2),
        Examples(histories, users, ends - 1),
        {TOO_SHORT: len(histories) - len(users)},
    )


def cuts_at(
    histories: Histories, *, test: float = 0.1, validation: float = 0.1
) -> tuple[float, float]:
    """Finds the cuts that leave the given shares of all events for judging and for choosing.

    Events at one time are never torn apart, so the shares are met as nearly as times allow, from
    above; what a cut at such a time gives to the test may be missing between the cuts.

    Args:
        histories: with times.
        test: share of events from the test cut on, 0..1.
        validation: share of events between the cuts, 0..1.

    Returns:
        ``validation_from`` and ``test_from`` for :func:`time_split`, seconds since 1970.

    Raises:
        ValueError: if the log has no times, or the shares leave nothing to learn from.
    """
    if not (test > 0 and validation > 0 and test + validation < 1):
        raise ValueError(
            "test and validation must be shares above 0 that leave some events to learn from, "
            f"got test={test} and validation={validation}"
        )
    times = _times(histories)
    test_at = len(times) - _at_least(test, len(times))
    places = [max(test_at - _at_least(validation, len(times)), 0), test_at]
    validation_from, test_from = np.partition(times, places)[places]
    return float(validation_from), float(test_from)


def time_split(histories: Histories, *, validation_from: float, test_from: float) -> Split:
    """Splits at two times that are the same for all users.

    * training: every event before ``validation_from``;
    * validation: a user's first event from there to ``test_from``, after what was before it;
    * test: a user's first event from ``test_from`` on, after all that was before it, the events
      between the cuts too.

    No event from ``validation_from`` on is in a training history, and none from ``test_from`` on
    in any history.

    Args:
        histories: with times.
        validation_from: seconds since 1970.
        test_from: seconds since 1970, later.

    Raises:
        ValueError: if the log has no times, the cuts are in the wrong order, or one of the three
            would be empty.
    """
    times = _times(histories)
    if not validation_from < test_from:
        raise ValueError(
            f"validation_from ({validation_from}) must be before test_from ({test_from})"
        )
    starts = histories.offsets[:-1]
    learnt, before = times < validation_from, times < test_from
    # Times never fall within a user: the events before a cut are the first ones.
    validation_at = starts + _counts(learnt, histories)
    test_at = starts + _counts(before, histories)
    ends = histories.offsets[1:]
    validated = (validation_at > starts) & (validation_at < test_at)
    tested = (test_at > starts) & (test_at < ends)
    for name, some in (
        (f"before validation_from ({validation_from})", learnt),
        (
            f"between the cuts ({validation_from}, {test_from}) of a user with earlier ones",
            validated,
        ),
        (f"from test_from ({test_from}) on of a user with earlier ones", tested),
    ):
        if not some.any():
            raise ValueError(
                f"there are no events {name}; times run from {times.min()} to {times.max()} "
                "seconds since 1970"
            )
    users = np.arange(len(histories))
    left_out = {
        NOTHING_AFTER: int((test_at == ends).sum()),
        NOTHING_BEFORE: int((test_at == starts).sum()),
        REST_OF_TEST: int((~before).sum() - tested.sum()),
        REST_OF_VALIDATION: int((before & ~learnt).sum() - validated.sum()),
    }
    return Split(
        histories.where(learnt),
        Examples(histories, users[validated], validation_at[validated]),
        Examples(histories, users[tested], test_at[tested]),
        left_out,
    )


def _at_least(share: float, events: int) -> int:
    # By the digits as written: in floats 0.29 * 100 is less than 29, and 0.07 * 100 more than 7.
    return math.ceil(Fraction(str(share)) * events)


def _times(histories: Histories) -> np.ndarray:
    if histories.times is None:
        raise ValueError(
            "a split by time needs times, and the log was read without: name its time_column"
        )
    return histories.times


def _counts(keep: np.ndarray, histories: Histories) -> np.ndarray:
    """Counts the events of each user where ``keep`` is True."""
    return np.diff(np.concatenate([[0], np.cumsum(keep)])[histories.offsets])
