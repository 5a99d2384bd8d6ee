"""M-Former: learned queries read a user's collaborative states and become prefix tokens.

Axes: B users, L items in a history, P prefix tokens, E experts, k experts a user, C collaborative
width, M width of the M-Former, F hidden width of an expert, D width of the LM.
Follows §3.2 of arXiv 2409.01605: a query transformer with cross-attention and experts that a
router picks from the user's history.

Differs: the experts may be the blocks' feed-forwards (the paper's are sets of queries); router
weights are scaled so that the recommendation loss reaches the router even when one expert is
picked; one learned extra state is always there to be read, so an empty history is no special case.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .experts import ExpertFeedForward, Router


class MFormerOutput(NamedTuple):
    """What the M-Former gives for a batch."""

    prefix: Tensor  # (B, P, D) float
    router_probs: Tensor | None  # (B, E) float, rows sum to one; None without a router
    router_chosen: Tensor | None  # (B, E) bool, k True a row


class Attention(nn.Module):
    """Multi-head attention from queries to a context.

    Args:
        dim: width M of queries and context.
        num_heads: heads; must divide ``dim``.
        dropout: dropout probability on the attention weights.
    """

    def __init__(self, *, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, queries: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """Reads the context.

        Args:
            queries: ``(B, P, M)`` float.
            context: ``(B, L, M)`` float.
            mask: ``(B, L)`` bool, True where the context may be read; at least one a row.

        Returns:
            ``(B, P, M)`` float.
        """
        query = self.query(queries).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        key_value = self.key_value(context).unflatten(-1, (2, self.num_heads, -1))
        key, value = key_value.permute(2, 0, 3, 1, 4)  # each (B, heads, L, M / heads)
        read = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=None if mask is None else mask[:, None, None, :],
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.out(read.transpose(1, 2).flatten(-2))


class MFormerBlock(nn.Module):
    """Self-attention over the queries, maybe a look at the history, then the experts."""

    def __init__(
        self,
        *,
        dim: int,
        num_heads: int,
        hidden_dim: int,
        num_experts: int,
        dropout: float,
        reads_history: bool,
    ) -> None:
        super().__init__()
        self.self_norm = nn.LayerNorm(dim)
        self.self_attention = Attention(dim=dim, num_heads=num_heads, dropout=dropout)
        self.reads_history = reads_history
        if reads_history:
            self.cross_norm = nn.LayerNorm(dim)
            self.cross_attention = Attention(dim=dim, num_heads=num_heads, dropout=dropout)
        self.expert_norm = nn.LayerNorm(dim)
        self.experts = ExpertFeedForward(dim=dim, hidden_dim=hidden_dim, num_experts=num_experts)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, queries: Tensor, context: Tensor, mask: Tensor, expert_weights: Tensor
    ) -> Tensor:
        """Refines the queries.

        Args:
            queries: ``(B, P, M)`` float.
            context: ``(B, L, M)`` float.
            mask: ``(B, L)`` bool, True where the context may be read.
            expert_weights: ``(B, E)`` float.

        Returns:
            ``(B, P, M)`` float.
        """
        normed = self.self_norm(queries)
        queries = queries + self.dropout(self.self_attention(normed, normed))
        if self.reads_history:
            read = self.cross_attention(self.cross_norm(queries), context, mask)
            queries = queries + self.dropout(read)
        mixed = self.experts(self.expert_norm(queries), expert_weights)
        return queries + self.dropout(mixed)


class MFormer(nn.Module):
    """Writes P prefix tokens for each user from the states of a collaborative encoder.

    Args:
        num_prefix_tokens: P.
        collaborative_dim: width C of the encoder's states.
        dim: width M inside.
        lm_dim: width D of the prefix tokens.
        num_layers: blocks.
        num_heads: heads a block; must divide ``dim``.
        hidden_dim: width F inside a feed-forward.
        cross_attention_frequency: every n-th block reads the history, starting with the first.
        moe: ``"ffn"``: each block has E feed-forwards; ``"query"``: there are E sets of P queries
            and every set that a user gets runs through the blocks; ``"none"``: one of each.
        num_experts: experts E.
        num_experts_per_user: experts k a user.
        dropout: dropout probability.
        output_scale: standard deviation of the prefix tokens' entries at the start.
    """

    def __init__(
        self,
        *,
        num_prefix_tokens: int,
        collaborative_dim: int,
        dim: int,
        lm_dim: int,
        num_layers: int,
        num_heads: int,
        hidden_dim: int,
        cross_attention_frequency: int,
        moe: str,
        num_experts: int,
        num_experts_per_user: int,
        dropout: float,
        output_scale: float,
    ) -> None:
        super().__init__()
        self.moe = moe
        self.num_experts_per_user = num_experts_per_user
        num_query_sets = num_experts if moe == "query" else 1
        self.queries = nn.Parameter(torch.randn(num_query_sets, num_prefix_tokens, dim))
        self.no_history = nn.Parameter(torch.randn(dim))
        self.state_projection = nn.Sequential(nn.Linear(collaborative_dim, dim), nn.LayerNorm(dim))
        if moe != "none":
            self.router = Router(
                dim=dim, num_experts=num_experts, num_experts_per_user=num_experts_per_user
            )
        self.blocks = nn.ModuleList(
            MFormerBlock(
                dim=dim,
                num_heads=num_heads,
                hidden_dim=hidden_dim,
                num_experts=num_experts if moe == "ffn" else 1,
                dropout=dropout,
                reads_history=index % cross_attention_frequency == 0,
            )
            for index in range(num_layers)
        )
        self.final_norm = nn.LayerNorm(dim)
        self.output = nn.Linear(dim, lm_dim)
        # A normed input has entries of size one, so this gives outputs at the LM's own scale.
        nn.init.normal_(self.output.weight, std=output_scale / dim**0.5)
        nn.init.zeros_(self.output.bias)

    def forward(self, states: Tensor, mask: Tensor) -> MFormerOutput:
        """Condenses each history into prefix tokens.

        Args:
            states: ``(B, L, C)`` float, one state per history item; L may be 0.
            mask: ``(B, L)`` bool, True where an item is real; a row may be all False.

        Returns:
            A :class:`MFormerOutput`; values at padding have no influence on it.
        """
        batch = states.size(0)
        states = states.to(self.queries.dtype).masked_fill(~mask.unsqueeze(-1), 0)
        projected = self.state_projection(states)  # (B, L, M)
        no_history = self.no_history.to(projected.dtype).expand(batch, 1, -1)
        context = torch.cat([no_history, projected], dim=1)  # (B, 1 + L, M)
        always = torch.ones(batch, 1, dtype=torch.bool, device=mask.device)
        may_read = torch.cat([always, mask], dim=1)
        if self.moe == "none":
            only = context.new_ones(batch, 1)
            return MFormerOutput(self._condense(self.queries, context, may_read, only), None, None)

        # Every user may read the extra state; only users without history are routed by it.
        may_vote = torch.cat([~mask.any(1, keepdim=True), mask], dim=1)
        weights, probs, chosen = self.router(context, may_vote)
        if self.moe == "ffn":
            prefix = self._condense(self.queries, context, may_read, weights)
        else:
            prefix = self._mix_query_sets(context, may_read, weights)
        return MFormerOutput(prefix, probs, chosen)

    def _mix_query_sets(self, context: Tensor, may_read: Tensor, weights: Tensor) -> Tensor:
        """Runs each user's k query sets as k rows of one batch: ``(B, P, D)``."""
        k = self.num_experts_per_user
        set_weights, sets = weights.topk(k, dim=-1)  # (B, k)
        rows = self.queries[sets].flatten(0, 1)  # (B * k, P, M)
        context, may_read = context.repeat_interleave(k, 0), may_read.repeat_interleave(k, 0)
        prefixes = self._condense(rows, context, may_read, context.new_ones(rows.size(0), 1))
        prefixes = prefixes.unflatten(0, (-1, k))  # (B, k, P, D)
        return torch.einsum("bkpd,bk->bpd", prefixes, set_weights.to(prefixes.dtype))

    def _condense(
        self, queries: Tensor, context: Tensor, may_read: Tensor, expert_weights: Tensor
    ) -> Tensor:
        queries = queries.expand(context.size(0), -1, -1)
        for block in self.blocks:
            queries = block(queries, context, may_read, expert_weights)
        return self.output(self.final_norm(queries))
