"""The module that a Bi-Tuning adapter adds to the language model, one entry per adapter name.

Axes: B users, P prefix tokens, S suffix tokens, D width of the LM, H width of its last hidden
states, R recommendation width.
"""

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from .config import BiTuningConfig
from .encoder import FrozenEncoder
from .m_former import MFormer


class SuffixTokens(nn.Module):
    """S learned virtual tokens, the same for every user.

    Args:
        num_tokens: S.
        dim: width D of the LM's token embeddings.
        scale: standard deviation of the initial entries.
    """

    def __init__(self, *, num_tokens: int, dim: int, scale: float) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(num_tokens, dim) * scale)

    def forward(self) -> Tensor:
        """Returns the ``(S, D)`` tokens."""
        return self.tokens


class UserHead(nn.Module):
    """Projects the LM's states at the suffix into the recommendation space.

    Args:
        num_suffix_tokens: S.
        lm_dim: width H of the LM's states.
        recommendation_dim: width R.
        starts_at_zero: the output is zero until trained (a correction, not a vector of its own).
    """

    def __init__(
        self,
        *,
        num_suffix_tokens: int,
        lm_dim: int,
        recommendation_dim: int,
        starts_at_zero: bool,
    ) -> None:
        super().__init__()
        self.projection = nn.Linear(num_suffix_tokens * lm_dim, recommendation_dim)
        if starts_at_zero:
            nn.init.zeros_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)

    def forward(self, suffix_states: Tensor) -> Tensor:
        """Maps ``(B, S, H)`` float of any precision to ``(B, R)`` in the head's precision."""
        return self.projection(suffix_states.flatten(1).to(self.projection.weight.dtype))


class BiTuningAdapter(nn.Module):
    """Everything that one adapter learns.

    Args:
        config: a resolved configuration, every size a number.
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
        assert config.collaborative_dim is not None, "the configuration is not resolved"
        assert config.recommendation_dim is not None
        assert config.m_former_hidden_size is not None
        assert config.m_former_num_heads is not None
        assert config.m_former_intermediate_size is not None
        self.m_former = MFormer(
            num_prefix_tokens=config.num_prefix_tokens,
            collaborative_dim=config.collaborative_dim,
            dim=config.m_former_hidden_size,
            lm_dim=embedding_dim,
            num_layers=config.m_former_num_layers,
            num_heads=config.m_former_num_heads,
            hidden_dim=config.m_former_intermediate_size,
            cross_attention_frequency=config.m_former_cross_attention_frequency,
            num_experts=config.num_experts,
            num_experts_per_user=config.num_experts_per_user,
            dropout=config.m_former_dropout,
            output_scale=embedding_scale,
        )
        self.suffix = SuffixTokens(
            num_tokens=config.num_suffix_tokens, dim=embedding_dim, scale=embedding_scale
        )
        self.head = UserHead(
            num_suffix_tokens=config.num_suffix_tokens,
            lm_dim=hidden_dim,
            recommendation_dim=config.recommendation_dim,
            starts_at_zero=config.collaborative_skip and config.has_encoder,
        )


class BiTuningLayer(nn.Module, BaseTunerLayer):
    """Holds the adapters and their frozen encoders by adapter name, as PEFT expects a layer to."""

    adapter_layer_names = ("bituning_adapters",)
    other_param_names = ("bituning_encoders",)

    def __init__(self) -> None:
        super().__init__()
        self.bituning_adapters = nn.ModuleDict()
        self.bituning_encoders = nn.ModuleDict()

    def update_layer(
        self, adapter_name: str, adapter: BiTuningAdapter, encoder: PreTrainedModel | None
    ) -> None:
        """Adds an adapter, with the encoder it reads if it has one."""
        self.bituning_adapters[adapter_name] = adapter
        if encoder is not None:
            self.bituning_encoders[adapter_name] = FrozenEncoder(encoder)

    @property
    def weight(self) -> Tensor:
        """Absent: PEFT's default would look for a wrapped layer for ever."""
        raise AttributeError("a BiTuningLayer wraps no layer and has no weight")

    @property
    def bias(self) -> Tensor:
        """Absent, as ``weight`` is."""
        raise AttributeError("a BiTuningLayer wraps no layer and has no bias")


@torch.no_grad()
def embedding_scale(embeddings: nn.Module, sample: int = 1024) -> float:
    """Measures the standard deviation of the LM's token embeddings, as they enter its layers."""
    weight = embeddings.weight
    if weight.is_meta:
        return 1.0  # nothing to measure; the values come from a file
    token_ids = torch.arange(min(sample, embeddings.num_embeddings), device=weight.device)
    return max(embeddings(token_ids).float().std().item(), 1e-6)
