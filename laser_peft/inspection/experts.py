"""Who uses which expert of the M-Former.

Axes: B users, L items in a history, E experts, k experts a user.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from laser_peft.data import PaddingCollator
from laser_peft.recommender import LaserRecommender
from laser_peft.tuner.layer import ActiveAdapter

from .parts import active_of

DEAD_SHARE = 0.1  # of an equal share of the choices: an expert below it is hardly used


@dataclass(frozen=True)
class ExpertLoad:
    """How users are spread over experts.

    Args:
        users: how many were looked at.
        chosen: ``(E,)`` share of users who got each expert; sums to k.
        probability: ``(E,)`` the router's mean probability; sums to one.
    """

    users: int
    chosen: tuple[float, ...]
    probability: tuple[float, ...]

    @property
    def choices(self) -> tuple[float, ...]:
        """Each expert's share of all choices; sums to one."""
        return tuple(share / sum(self.chosen) for share in self.chosen)

    @property
    def dead(self) -> tuple[int, ...]:
        """Experts, from 0, with less than a tenth of an equal share of the choices."""
        least = DEAD_SHARE / len(self.chosen)
        return tuple(place for place, share in enumerate(self.choices) if share < least)


@torch.no_grad()
def expert_load(
    recommender: LaserRecommender, histories: Sequence[np.ndarray], *, batch_size: int = 256
) -> ExpertLoad | None:
    """Asks the router about many users; the language model is not run.

    Args:
        recommender: whose router.
        histories: ``(L,)`` int64 dense ids each, oldest first; may be empty.
        batch_size: users at a time.

    Returns:
        None where the adapter has no router.

    Raises:
        ValueError: if there is no history.
    """
    if not len(histories):
        raise ValueError("there is no history to ask the router about")
    active = active_of(recommender)
    chosen, probability = [], []
    for start in range(0, len(histories), batch_size):
        batch = histories[start : start + batch_size]
        newest = [history[-recommender.config.max_items :] for history in batch]
        output = active.adapter.prefix_for(*states_of(active, newest))
        if output.router_probs is None or output.router_chosen is None:
            return None
        chosen.append(output.router_chosen.double().cpu())
        probability.append(output.router_probs.double().cpu())
    return ExpertLoad(len(histories), _means(chosen), _means(probability))


def states_of(active: ActiveAdapter, histories: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Encodes histories: states ``(B, L, C)`` and their mask ``(B, L)``."""
    device = next(active.adapter.parameters()).device
    batch = PaddingCollator()([{"history": history} for history in histories])
    history, mask = batch["history"].to(device), batch["history_mask"].to(device)
    return active.states(history=history, history_mask=mask, history_states=None, like=history)


def _means(parts: list[Tensor]) -> tuple[float, ...]:
    return tuple(torch.cat(parts).mean(0).tolist())
