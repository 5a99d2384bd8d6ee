"""M-Former: learned queries read a user's collaborative states and become prefix tokens.

Axes: B users, L items in a history, P prefix tokens, E experts, C collaborative width,
M width of the M-Former, F hidden width of an expert, D width of the LM.
Follows §3.2 of arXiv 2409.01605: a query transformer with cross-attention and experts that a
router picks from the user's history.

Differs: the experts are the blocks' feed-forwards (the paper's are sets of queries); router
weights are scaled so that the recommendation loss reaches the router even when one expert is
picked; one learned extra state is always there to be read, so an empty history is no special case.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from laser_peft.masking import mean_over_real

INITIAL_STD = 0.02


class MFormerOutput(NamedTuple):
    """What the M-Former gives for a batch."""

    prefix: Tensor  # (B, P, D) float
    router_probs: Tensor  # (B, E) float, rows sum to one
    router_chosen: Tensor  # (B, E) bool, k True a row


class Router(nn.Module):
    """Turns a user's collaborative states into one weight per expert.

    Padding never votes: probabilities are averaged over real items only.

    Args:
        dim: width M of the states.
        num_experts: experts E.
        num_experts_per_user: how many of them, k, a user gets.
    """

    def __init__(self, *, dim: int, num_experts: int, num_experts_per_user: int) -> None:
        super().__init__()
        self.gate = nn.Linear(dim, num_experts, bias=False)
        self.num_experts_per_user = num_experts_per_user

    def forward(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weighs the experts.

        Args:
            states: ``(B, L, M)`` float.
            mask: ``(B, L)`` bool, True where a state may vote; at least one a row.

        Returns:
            ``weights (B, E)``: the k largest probabilities, rescaled to sum to one, else zero;
            ``probs (B, E)``: each row sums to one; ``chosen (B, E)`` bool, k True a row.
        """
        probs = mean_over_real(self.gate(states).float().softmax(-1), mask)
        top = probs.topk(self.num_experts_per_user, dim=-1).indices
        chosen = torch.zeros_like(probs, dtype=torch.bool).scatter(1, top, True)
        picked = probs * chosen
        # The sum is a constant to the gradient: with k = 1 the weight is p / p, whose true
        # gradient is zero and would leave the router to the balance term alone.
        return picked / picked.sum(-1, keepdim=True).detach(), probs, chosen


class ExpertFeedForward(nn.Module):
    """E feed-forwards whose outputs are mixed by each user's router weights.

    All experts run on all users as two batched products; the router's zeros drop what was not
    chosen.

    Args:
        dim: width M in and out.
        hidden_dim: width F between the two layers.
        num_experts: experts E.
    """

    def __init__(self, *, dim: int, hidden_dim: int, num_experts: int) -> None:
        super().__init__()
        self.weight_in = nn.Parameter(torch.randn(num_experts, dim, hidden_dim) * INITIAL_STD)
        self.bias_in = nn.Parameter(torch.zeros(num_experts, 1, hidden_dim))
        self.weight_out = nn.Parameter(torch.randn(num_experts, hidden_dim, dim) * INITIAL_STD)
        self.bias_out = nn.Parameter(torch.zeros(num_experts, 1, dim))

    def forward(self, queries: Tensor, expert_weights: Tensor) -> Tensor:
        """Mixes the experts.

        Args:
            queries: ``(B, P, M)`` float.
            expert_weights: ``(B, E)`` float.

        Returns:
            ``(B, P, M)`` float.
        """
        batch, num_queries, dim = queries.shape
        num_experts = self.weight_in.size(0)
        flat = queries.reshape(1, batch * num_queries, dim).expand(num_experts, -1, -1)
        hidden = F.gelu(flat @ self.weight_in + self.bias_in)
        outputs = hidden @ self.weight_out + self.bias_out  # (E, B * P, M)
        outputs = outputs.view(num_experts, batch, num_queries, dim)
        return torch.einsum("ebpm,be->bpm", outputs, expert_weights.to(outputs.dtype))


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
        hidden_dim: width F inside an expert.
        cross_attention_frequency: every n-th block reads the history, starting with the first.
        num_experts: experts E a block.
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
        num_experts: int,
        num_experts_per_user: int,
        dropout: float,
        output_scale: float,
    ) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(num_prefix_tokens, dim))
        self.no_history = nn.Parameter(torch.randn(dim))
        self.state_projection = nn.Sequential(nn.Linear(collaborative_dim, dim), nn.LayerNorm(dim))
        self.router = Router(
            dim=dim, num_experts=num_experts, num_experts_per_user=num_experts_per_user
        )
        self.blocks = nn.ModuleList(
            MFormerBlock(
                dim=dim,
                num_heads=num_heads,
                hidden_dim=hidden_dim,
                num_experts=num_experts,
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
        projected = self.state_projection(states.to(self.queries.dtype))  # (B, L, M)
        no_history = self.no_history.to(projected.dtype).expand(batch, 1, -1)
        context = torch.cat([no_history, projected], dim=1)  # (B, 1 + L, M)
        always = torch.ones(batch, 1, dtype=torch.bool, device=mask.device)
        may_read = torch.cat([always, mask], dim=1)
        # Every user may read the extra state; only users without history are routed by it.
        may_vote = torch.cat([~mask.any(1, keepdim=True), mask], dim=1)
        weights, probs, chosen = self.router(context, may_vote)

        queries = self.queries.expand(batch, -1, -1)
        for block in self.blocks:
            queries = block(queries, context, may_read, weights)
        return MFormerOutput(self.output(self.final_norm(queries)), probs, chosen)
