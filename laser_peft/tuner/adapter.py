"""Everything that one Bi-Tuning adapter learns: prefix, suffix, head and item vectors.

Axes: B users, P prefix tokens, S suffix tokens, D width of the LM's embeddings, H width of its
last hidden states, R recommendation width.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .config import BiTuningConfig
from .devices import device_of
from .experts import INITIAL_STD
from .items import ItemVectors
from .m_former import MFormer, MFormerOutput
from .text_reader import TextReader

TEXT_READER_DROPOUT = 0.3


class VirtualTokens(nn.Module):
    """Learned virtual tokens, the same for every user.

    Args:
        num_tokens: how many.
        dim: width D of the LM's token embeddings.
        scale: standard deviation of the initial entries.
    """

    def __init__(self, *, num_tokens: int, dim: int, scale: float) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(num_tokens, dim) * scale)

    def forward(self) -> Tensor:
        """Returns the ``(num_tokens, D)`` tokens."""
        return self.tokens


class UserHead(nn.Module):
    """Projects the LM's states into the recommendation space.

    Args:
        num_states: states read for each user.
        hidden_dim: width H of a state.
        recommendation_dim: width R; None reads the states themselves, averaged.
        initial_std: standard deviation of the initial weights; 0 for a correction that starts at
            nothing, None for torch's default.
    """

    def __init__(
        self,
        *,
        num_states: int,
        hidden_dim: int,
        recommendation_dim: int | None,
        initial_std: float | None,
    ) -> None:
        super().__init__()
        self.projection = None
        if recommendation_dim is not None:
            self.projection = nn.Linear(num_states * hidden_dim, recommendation_dim)
            nn.init.zeros_(self.projection.bias)
            if initial_std is not None:
                nn.init.normal_(self.projection.weight, std=initial_std)

    def forward(self, states: Tensor) -> Tensor:
        """Maps ``(B, S, H)`` float to ``(B, R)``, in the head's precision if it has one."""
        if self.projection is None:
            return states.mean(1)
        device, dtype = device_of(self.projection), self.projection.weight.dtype
        return self.projection(states.flatten(1).to(device, dtype))


class PartFactors(NamedTuple):
    """By how much the parts' scores are multiplied while a correction of their sum is learnt."""

    collaborative: float
    text: float


class BiTuningAdapter(nn.Module):
    """The trainable parts of one adapter.

    Args:
        config: a resolved configuration, every size a number; kept as ``config``.
        embedding_dim: width D of the LM's token embeddings.
        hidden_dim: width H of the LM's last hidden states.
        embedding_scale: standard deviation of the LM's own token embeddings; virtual tokens start
            at the same scale.
    """

    def __init__(
        self,
        config: BiTuningConfig,
        *,
        embedding_dim: int,
        hidden_dim: int,
        embedding_scale: float,
    ) -> None:
        super().__init__()
        assert config.recommendation_dim is not None, "the configuration is not resolved"
        assert config.item_text_dim is not None
        self.config = config
        self.embedding_dim = embedding_dim
        self.m_former = self.prefix = self.suffix = None
        if config.prefix_source == "m_former":
            self.m_former = _m_former(config, embedding_dim, embedding_scale)
        elif config.prefix_source == "plain":
            self.prefix = VirtualTokens(
                num_tokens=config.num_prefix_tokens, dim=embedding_dim, scale=embedding_scale
            )
        if config.suffix_reading == "suffix":
            self.suffix = VirtualTokens(
                num_tokens=config.num_suffix_tokens, dim=embedding_dim, scale=embedding_scale
            )
        learned_dim = config.recommendation_dim
        fused = config.item_vectors == "fused"
        if fused and config.collaborative_skip:
            learned_dim = config.item_text_dim  # the encoder's part is left as it is
        corrects = config.has_text_skip if fused else config.collaborative_skip
        self.head = UserHead(
            num_states=max(config.num_suffix_tokens, 1),
            hidden_dim=hidden_dim,
            recommendation_dim=learned_dim if config.user_projection else None,
            initial_std=(0.0 if config.init_weights else INITIAL_STD) if corrects else None,
        )
        self.items = ItemVectors(
            config.item_vectors,
            num_text_items=config.num_text_items,
            text_dim=config.item_text_dim,
            collaborative_dim=config.collaborative_dim or 0,
        )
        self.text_reader = None
        if config.has_text_skip:
            self.text_reader = TextReader(config.item_text_dim, dropout=TEXT_READER_DROPOUT)
        self.part_factors: PartFactors | None = None  # see fusing.fuse
        self.view_weights: Tensor
        if fused:
            text = 0.0 if config.collaborative_skip and config.init_weights else 1.0
            self.register_buffer("view_weights", torch.tensor([1.0, text, 1.0, 1.0]))

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        saved = state_dict.get(f"{prefix}view_weights")
        if saved is not None and len(saved) == 3:
            # Saved when the correction had no weight of its own: it counted one.
            state_dict[f"{prefix}view_weights"] = torch.cat([saved, saved.new_ones(1)])
        super()._load_from_state_dict(state_dict, prefix, *args)

    def prefix_for(self, states: Tensor, mask: Tensor) -> MFormerOutput:
        """Gives each user's prefix tokens.

        Args:
            states: ``(B, L, C)`` float; L may be 0.
            mask: ``(B, L)`` bool, True where an item is real.

        Returns:
            ``prefix (B, P, D)`` float, P may be 0, and what the router did, if there is one.
        """
        batch = states.size(0)
        if self.m_former is not None:
            return self.m_former(states, mask)
        if self.prefix is not None:
            return MFormerOutput(self.prefix().expand(batch, -1, -1), None, None)
        return MFormerOutput(states.new_zeros(batch, 0, self.embedding_dim), None, None)


def _m_former(config: BiTuningConfig, lm_dim: int, output_scale: float) -> MFormer:
    assert config.collaborative_dim is not None, "the configuration is not resolved"
    assert config.m_former_hidden_size is not None
    assert config.m_former_num_heads is not None
    assert config.m_former_intermediate_size is not None
    num_experts, num_experts_per_user = config.experts
    return MFormer(
        num_prefix_tokens=config.num_prefix_tokens,
        collaborative_dim=config.collaborative_dim,
        dim=config.m_former_hidden_size,
        lm_dim=lm_dim,
        num_layers=config.m_former_num_layers,
        num_heads=config.m_former_num_heads,
        hidden_dim=config.m_former_intermediate_size,
        cross_attention_frequency=config.m_former_cross_attention_frequency,
        moe=config.moe,
        num_experts=num_experts,
        num_experts_per_user=num_experts_per_user,
        dropout=config.m_former_dropout,
        output_scale=output_scale,
    )
