"""Mixture of experts: a router that reads a user's history, and feed-forwards to choose from.

Axes: B users, L items in a history, P queries, E experts, M width, F hidden width of an expert.

The router's weights are scaled so that the recommendation loss reaches it even when one expert is
picked: a hard choice alone would leave it to the balance term.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from laser_peft.masking import mean_over_real

INITIAL_STD = 0.02


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

    All experts run on all users; the router's zeros drop what was not chosen.

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
        # Side by side the experts are one wide feed-forward, whose hidden states the router weighs.
        num_experts = len(self.weight_in)
        weight_in = self.weight_in.transpose(0, 1).flatten(1)  # (M, E F)
        hidden = F.gelu(F.linear(queries, weight_in.T, self.bias_in.flatten()))
        weights = expert_weights.to(hidden.dtype)
        weighed = hidden.unflatten(-1, (num_experts, -1)) * weights[:, None, :, None]
        mixed_bias = (weights @ self.bias_out.squeeze(1)).unsqueeze(1)  # (B, 1, M)
        return weighed.flatten(-2) @ self.weight_out.flatten(0, 1) + mixed_bias
