"""Users who go on: each new event is read behind what was read before."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from laser_peft.tuner import TextMemory
from laser_peft.wording import shortly

from .requests import dense_history, refuse_sets
from .users import user_vectors_after

if TYPE_CHECKING:
    from .recommender import LaserRecommender, Recommendation


class Session:
    """A user's history, what the language model remembers of it, and recommendations for it.

    They are those of ``LaserRecommender.recommend`` for the whole history, up to rounding, at a
    fraction of its time where the adapter's layout is text-first and the language model can go on
    from a text. A prompt that is full loses its oldest items and is then read anew.

    Args:
        recommender: whose catalogue and model are used, as they are at each call.
        history: catalogue ids of what the user has had, oldest first.

    Raises:
        ValueError: if an item is unknown.
    """

    def __init__(self, recommender: LaserRecommender, history: Iterable[str] = ()) -> None:
        self._recommender = recommender
        refuse_sets(history)
        self._history = dense_history(recommender.catalogue, history)
        self._memory = TextMemory()

    @property
    def history(self) -> list[str]:
        """Catalogue ids of what the user has had, oldest first."""
        return self._recommender.catalogue.names(self._history)[0]

    def add(self, item_ids: str | Iterable[str]) -> None:
        """Appends what the user has had now: an item, or several, oldest first.

        Raises:
            ValueError: if an item is unknown; the history then stays as it is.
        """
        items = [item_ids] if isinstance(item_ids, str) else item_ids
        refuse_sets(items)
        new = dense_history(self._recommender.catalogue, items)
        self._history = np.concatenate([self._history, new])

    def recommend(
        self,
        k: int = 10,
        *,
        exclude_seen: bool = True,
        allow: Iterable[str] | None = None,
        deny: Iterable[str] | None = None,
    ) -> list[Recommendation]:
        """Recommends the k items most likely to come next; see ``LaserRecommender.recommend``."""
        return self._recommender.recommend_sessions(
            [self], k, exclude_seen=exclude_seen, allow=allow, deny=deny
        )[0]

    @staticmethod
    def listed(recommender: LaserRecommender, sessions: Iterable[Session]) -> list[Session]:
        """Returns sessions as a list.

        Raises:
            TypeError: if something else stands among them.
            ValueError: if a session is of another recommender.
        """
        if isinstance(sessions, Session):
            raise TypeError(
                "sessions come as a list, got one; give [session], or call session.recommend()"
            )
        sessions = list(sessions)
        for place, session in enumerate(sessions):
            if not isinstance(session, Session):
                raise TypeError(
                    "sessions come from LaserRecommender.session; got at place "
                    f"{place} {shortly(session)}"
                )
            if session._recommender is not recommender:
                raise ValueError(
                    f"the session at place {place} is of another recommender; ask that one"
                )
        return sessions

    @staticmethod
    def read(
        recommender: LaserRecommender, sessions: Sequence[Session], *, batch_size: int
    ) -> tuple[Tensor, list[np.ndarray]]:
        """Reads users who go on together.

        Args:
            recommender: of them all.
            sessions: different ones, at least one.
            batch_size: users at a time.

        Returns:
            ``(B, R)`` float user vectors, and the dense ids of each history.

        """
        histories = [session._history for session in sessions]
        users = user_vectors_after(
            recommender.model,
            recommender.prompts,
            histories,
            [session._memory for session in sessions],
            max_items=recommender.config.max_items,
            batch_size=batch_size,
        )
        return users, histories
