"""What the queries of the M-Former attend to in one user's history.

Axes: B users, L items in a history, P queries (one a prefix token), M width, E experts, k experts
a user.

The M-Former keeps no weights while it runs. What goes into each of its looks at the history is
caught by hooks here, and the weights are computed from it a second time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from laser_peft.recommender import LaserRecommender
from laser_peft.tuner.m_former import Attention, MFormer

from .experts import states_of
from .parts import active_of


@dataclass(frozen=True)
class HistoryView:
    """What an adapter does with one history.

    Args:
        item_ids: the newest items, oldest first: all that the encoder reads.
        titles: theirs.
        attention: ``(P, 1 + L)`` weights of each query over the state of nothing, which is there
            for every user, and the items; a mean over heads and blocks, rows sum to one. None
            without an M-Former.
        probability: ``(E,)`` the router's, None without a router.
        chosen: the experts that the user got, from 0, the most probable first.
    """

    item_ids: tuple[str, ...]
    titles: tuple[str, ...]
    attention: Tensor | None
    probability: tuple[float, ...] | None
    chosen: tuple[int, ...]

    @property
    def item_weights(self) -> tuple[float, ...] | None:
        """The mean weight of each item over the queries."""
        return None if self.attention is None else tuple(self.attention.mean(0)[1:].tolist())


@torch.no_grad()
def look_at_history(recommender: LaserRecommender, history: Sequence[str]) -> HistoryView:
    """Runs encoder and M-Former on a history; the language model is not run.

    Args:
        recommender: whose M-Former.
        history: catalogue ids, oldest first; at least one.

    Raises:
        ValueError: if the history is empty or names an unknown item.
    """
    if not history:
        raise ValueError("the history is empty: pass at least one item id, oldest first")
    catalogue, active = recommender.catalogue, active_of(recommender)
    newest = catalogue.dense_ids(history)[-recommender.config.max_items :]
    dense = np.asarray(newest, dtype=np.int64)
    states, mask = states_of(active, [dense])
    output = active.adapter.prefix_for(states, mask)
    probability, chosen = None, ()
    if output.router_probs is not None and output.router_chosen is not None:
        probability = tuple(output.router_probs[0].tolist())
        places = output.router_chosen[0].nonzero()[:, 0].tolist()
        chosen = tuple(sorted(places, key=lambda place: -probability[place]))
    m_former = active.adapter.m_former
    return HistoryView(
        tuple(catalogue.item_ids[item - 1] for item in dense),
        tuple(catalogue.titles[item - 1] for item in dense),
        None if m_former is None else query_weights(m_former, states, mask),
        probability,
        chosen,
    )


def query_weights(m_former: MFormer, states: Tensor, mask: Tensor) -> Tensor:
    """Returns the weights of one user's queries: ``(P, 1 + L)``, on the CPU.

    With sets of queries for experts, the mean over the user's sets, weighed as the router does.

    Args:
        m_former: in eval mode.
        states: ``(1, L, C)`` float.
        mask: ``(1, L)`` bool.
    """
    calls: list[tuple[Attention, tuple[Any, ...]]] = []
    looks = [block.cross_attention for block in m_former.blocks if block.reads_history]
    hooks = [
        look.register_forward_pre_hook(lambda module, inputs: calls.append((module, inputs)))
        for look in looks
    ]
    try:
        output = m_former(states, mask)
    finally:
        for hook in hooks:
            hook.remove()
    by_block = torch.stack([attention_weights(look, *inputs).mean(1) for look, inputs in calls])
    weights = by_block.mean(0)  # (1, P, 1 + L), or (k, P, 1 + L) for k sets of queries
    if m_former.moe != "query":
        return weights[0].cpu()
    picked = output.router_probs[0].topk(m_former.num_experts_per_user).values
    return torch.einsum("kpl,k->pl", weights, picked / picked.sum()).cpu()


def attention_weights(
    attention: Attention, queries: Tensor, context: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Computes the weights with which an attention reads its context, without dropout.

    Args:
        attention: whose weights.
        queries: ``(B, P, M)`` float.
        context: ``(B, L, M)`` float.
        mask: ``(B, L)`` bool, True where the context may be read.

    Returns:
        ``(B, heads, P, L)`` float, each row sums to one.
    """
    heads = attention.num_heads
    query = attention.query(queries).unflatten(-1, (heads, -1)).transpose(1, 2)
    key, _ = attention.key_value(context).chunk(2, dim=-1)
    key = key.unflatten(-1, (heads, -1)).transpose(1, 2)  # (B, heads, L, M / heads)
    scores = query @ key.transpose(-1, -2) / query.size(-1) ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, None, :], -torch.inf)
    return scores.softmax(-1)
