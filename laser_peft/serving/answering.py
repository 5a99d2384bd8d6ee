"""Answers queries together: one reading of all users, and one look for all that ask alike."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from laser_peft.recommender import LaserRecommender, Recommendation

NOTHING = np.zeros(0, dtype=np.int64)
Answer = list[list[Recommendation]]


@dataclass(frozen=True)
class Query:
    """What a request asks for, checked.

    Args:
        histories: dense ids of each user, oldest first.
        k: items a user.
        exclude_seen: leave out what is in a user's history.
        allow: ids that alone may be recommended. None: all.
        deny: ids that may not be.
    """

    histories: Sequence[Sequence[int]]
    k: int = 10
    exclude_seen: bool = True
    allow: tuple[str, ...] | None = None
    deny: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.histories)


def answer(recommender: LaserRecommender, queries: Sequence[Query]) -> list[Answer]:
    """Answers each query as if it were alone, up to rounding.

    Returns:
        For each query a list a history.

    Raises:
        ValueError: if a score is not a finite number.
    """
    histories = [np.asarray(one, dtype=np.int64) for query in queries for one in query.histories]
    owners = [number for number, query in enumerate(queries) for _ in query.histories]
    users = recommender.read(histories)
    alike: dict[tuple[object, object], list[int]] = defaultdict(list)
    for row, owner in enumerate(owners):
        alike[queries[owner].allow, queries[owner].deny].append(row)
    answers: list[Answer] = [[] for _ in queries]
    for rows in alike.values():  # rising, so that each query's stay in order
        first = queries[owners[rows[0]]]
        k = max(queries[owners[row]].k for row in rows)
        shelf = recommender.shelf(k, allow=first.allow, deny=first.deny)
        left_out = [histories[r] if queries[owners[r]].exclude_seen else NOTHING for r in rows]
        for row, best in zip(rows, recommender.best(users[rows], shelf, k, left_out), strict=True):
            answers[owners[row]].append(best[: queries[owners[row]].k])
    return answers
