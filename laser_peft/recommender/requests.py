"""What is asked of a recommender, checked and in dense ids."""

import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

import numpy as np

from laser_peft.data import Catalogue
from laser_peft.wording import shortly

WINDOW = 32  # batches of histories that are held at most, to read those of like length together


def listed(histories: Iterable[Any]) -> tuple[list[Any], bool]:
    """Returns histories as a list, and whether they are several lists of ids or one.

    Raises:
        ValueError: if it is a text, or ids and lists stand side by side.
    """
    refuse_text(histories)
    refuse_sets(histories)
    histories = list(histories)
    lists = [not isinstance(one, str) and isinstance(one, Iterable) for one in histories]
    if any(lists) and not all(lists):
        alone = histories[lists.index(False)]
        raise ValueError(
            "give one list of item ids, or a list of such lists; got both: "
            f"{shortly(alone)} stands beside a list"
        )
    return histories, any(lists)


def dense_history(catalogue: Catalogue, history: Iterable[str]) -> np.ndarray:
    """Returns the dense ids of a history, ``(items,)`` int64; it may be empty.

    Raises:
        ValueError: if it is a text, or an item is not in the catalogue.
    """
    refuse_text(history)
    return np.asarray(catalogue.dense_ids(history), dtype=np.int64)


def dense_histories(
    catalogue: Catalogue, windows: Iterable[Sequence[Iterable[str]]]
) -> Iterator[list[np.ndarray]]:
    """Yields the dense ids of histories, window by window.

    Raises:
        ValueError: that says which history it is of, from 0 in the first window.
    """
    first = 0
    for asked in windows:
        for one in asked:
            refuse_sets(one)
        window = [one if isinstance(one, str) else list(refuse_text(one)) for one in asked]
        try:
            # All at once: a look into the catalogue costs more than an id does.
            dense = dense_history(catalogue, chain.from_iterable(map(refuse_text, window)))
        except ValueError:
            _refuse_one(catalogue, window, first)
            raise
        yield np.split(dense, np.cumsum([len(one) for one in window])[:-1])
        first += len(window)


def _refuse_one(catalogue: Catalogue, batch: Sequence[Iterable[str]], first: int) -> None:
    for number, history in enumerate(batch, start=first):
        try:
            dense_history(catalogue, history)
        except ValueError as error:
            raise ValueError(f"history {number}: {error}") from error


def dense_pairs(
    catalogue: Catalogue, histories: Sequence[Any], candidates: Sequence[Any], *, many: bool
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns the dense ids of every history and of its candidates.

    Raises:
        ValueError: if an item is unknown, or there are not as many lists of candidates as
            histories.
    """
    refuse_text(candidates)
    candidates = list(candidates)
    if not many:
        of_candidates = _dense_list(catalogue, "candidates", candidates)
        return [(dense_history(catalogue, histories), of_candidates)]
    if len(candidates) != len(histories):
        raise ValueError(
            f"each of {len(histories)} histories needs its own list of candidates, got "
            f"{len(candidates)} lists"
        )
    return [
        (history, _dense_list(catalogue, f"candidates of history {number}", ids))
        for number, (history, ids) in enumerate(
            zip(_all_dense(catalogue, histories), candidates, strict=True)
        )
    ]


def _all_dense(catalogue: Catalogue, histories: Sequence[Iterable[str]]) -> list[np.ndarray]:
    return list(chain.from_iterable(dense_histories(catalogue, [histories] if histories else [])))


def batches_of(values: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Yields lists of ``size`` values, the last one maybe shorter."""
    values = iter(values)
    while batch := list(islice(values, min(size, sys.maxsize))):
        yield batch


def windows_of(values: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Yields lists of values that grow: ``size``, then twice that, up to ``WINDOW`` times.

    The first comes soon; later ones are long enough to choose batches from.
    """
    values, most = iter(values), min(WINDOW * size, sys.maxsize)
    size = min(size, most)
    while window := list(islice(values, size)):
        yield window
        size = min(2 * size, most)


def allowed_items(
    catalogue: Catalogue,
    removed: Collection[str],
    allow: Iterable[str] | None,
    deny: Iterable[str] | None,
) -> np.ndarray | None:
    """Says of each item whether it may be recommended.

    Args:
        catalogue: the items.
        removed: ids that never are.
        allow: ids that alone may be; None: all.
        deny: ids that may not be.

    Returns:
        ``(N,)`` bool; None where all may be.

    Raises:
        ValueError: if a list is a text, or names an item that is not in the catalogue.
    """
    if allow is None and deny is None and not removed:
        return None
    allowed = np.full(len(catalogue), allow is None)
    if allow is not None:
        allowed[_dense_list(catalogue, "allow", allow) - 1] = True
    if deny is not None:
        allowed[_dense_list(catalogue, "deny", deny) - 1] = False
    if removed:
        allowed[np.asarray(catalogue.dense_ids(removed)) - 1] = False
    return allowed


def check_at_least_one(**numbers: int) -> None:
    """Checks numbers by name.

    Raises:
        TypeError: if one is no whole number.
        ValueError: if one is below 1.
    """
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int | np.integer):
            raise TypeError(f"{name} must be a whole number, got {shortly(number)}")
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")


def _dense_list(catalogue: Catalogue, name: str, ids: Iterable[str]) -> np.ndarray:
    try:
        return dense_history(catalogue, list(ids) if isinstance(ids, Mapping) else ids)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def refuse_sets(history: Iterable[Any]) -> None:
    """Refuses a history without an order.

    Raises:
        TypeError: if it is a set.
    """
    if isinstance(history, set | frozenset):
        raise TypeError(
            "a history has an order, oldest item first, and a set has none; pass a list, got "
            f"{shortly(history)}"
        )


def refuse_text(ids: Iterable[Any]) -> Iterable[Any]:
    """Returns a list of ids as it is.

    Raises:
        TypeError: if it is no list of any kind.
        ValueError: if it is a text, whose characters are no ids.
    """
    if not isinstance(ids, Iterable) or isinstance(ids, bytes | Mapping):
        raise TypeError(f"item ids come as a list, got {shortly(ids)}")
    if isinstance(ids, str):
        raise ValueError(
            f"item ids come as a list, got the text {shortly(ids)}; for one item pass "
            f"[{shortly(ids)}]"
        )
    return ids
