"""Every size and switch of a Bi-Tuning adapter, checked at birth.

Axes: P prefix tokens, S suffix tokens, E experts, C collaborative width, M width of the M-Former,
D width of the LM, R recommendation width.
"""

from dataclasses import dataclass, field, replace
from typing import Any

from peft import PeftConfig, TaskType

from .registration import peft_type

SUPPORTED_TASKS = (TaskType.CAUSAL_LM, TaskType.FEATURE_EXTRACTION)


@dataclass
class BiTuningConfig(PeftConfig):
    """Configuration of a Bi-Tuning adapter (arXiv 2409.01605).

    Sizes left at None are filled in from the language model and the encoder when the adapter is
    created; ``model.peft_config["default"]`` and ``adapter_config.json`` hold the numbers used.

    Args:
        num_prefix_tokens: virtual tokens P in front of the text, written by the M-Former.
        num_suffix_tokens: learned virtual tokens S after the text, where the user is read.
        m_former_hidden_size: width M of the M-Former. None: half the LM's width, a multiple of 64
            within 64..768.
        m_former_num_layers: blocks of the M-Former.
        m_former_num_heads: attention heads a block; must divide the width. None: one per 64.
        m_former_intermediate_size: hidden width of each expert. None: twice the M-Former's width.
        m_former_cross_attention_frequency: every n-th block reads the collaborative states,
            starting with the first.
        m_former_dropout: dropout probability inside the M-Former.
        num_experts: feed-forward experts E in each block; 1 means an ordinary feed-forward.
        num_experts_per_user: experts that the router picks for each user, at most ``num_experts``.
        router_balance_weight: weight λ of the router's balance term in the loss.
        collaborative_encoder: folder or Hub id of the frozen ID encoder, a transformers model
            with an item table (see :mod:`laser_peft.collaborative`). None: states and item
            vectors are passed to forward.
        collaborative_encoder_config: filled in: the encoder's own configuration, from which a
            saved adapter rebuilds it. A config that carries one takes the weights from the
            adapter file, not from ``collaborative_encoder``.
        collaborative_dim: width C of the encoder's states. None: the encoder's; without an
            encoder, the LM's width.
        recommendation_dim: width R of user and item vectors. None: the encoder's width, which is
            the only possible one with an encoder.
        collaborative_skip: the user vector is the encoder's own plus a learned correction that
            starts at zero, so an untrained adapter ranks exactly as its encoder does. Needs an
            encoder.
        temperature: scores are divided by it.

    Raises:
        ValueError: if a value is out of range or two values contradict each other.
    """

    num_prefix_tokens: int = 16
    num_suffix_tokens: int = 1
    m_former_hidden_size: int | None = None
    m_former_num_layers: int = 2
    m_former_num_heads: int | None = None
    m_former_intermediate_size: int | None = None
    m_former_cross_attention_frequency: int = 2
    m_former_dropout: float = 0.1
    num_experts: int = 4
    num_experts_per_user: int = 2
    router_balance_weight: float = 0.01
    collaborative_encoder: str | None = None
    collaborative_encoder_config: dict[str, Any] | None = None
    collaborative_dim: int | None = None
    recommendation_dim: int | None = None
    collaborative_skip: bool = True
    temperature: float = 1.0
    task_type: TaskType | str | None = field(default=TaskType.CAUSAL_LM)

    def __post_init__(self) -> None:
        """Checks every rule that needs no model.

        Raises:
            ValueError: see the class.
        """
        super().__post_init__()
        self.peft_type = peft_type()
        for name in (
            "num_prefix_tokens",
            "num_suffix_tokens",
            "m_former_num_layers",
            "m_former_cross_attention_frequency",
            "num_experts",
            "num_experts_per_user",
        ):
            _check_at_least_one(name, getattr(self, name))
        for name in (
            "m_former_hidden_size",
            "m_former_num_heads",
            "m_former_intermediate_size",
            "collaborative_dim",
            "recommendation_dim",
        ):
            if getattr(self, name) is not None:
                _check_at_least_one(name, getattr(self, name))
        if self.num_experts_per_user > self.num_experts:
            raise ValueError(
                f"num_experts_per_user ({self.num_experts_per_user}) must be at most num_experts "
                f"({self.num_experts})"
            )
        if not 0 <= self.m_former_dropout < 1:
            raise ValueError(f"m_former_dropout must lie in [0, 1), got {self.m_former_dropout}")
        if not self.router_balance_weight >= 0:
            raise ValueError(
                f"router_balance_weight must not be negative, got {self.router_balance_weight}"
            )
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}")
        width, heads = self.m_former_hidden_size, self.m_former_num_heads
        if width is not None and heads is not None and width % heads:
            raise ValueError(
                f"m_former_hidden_size ({width}) must be a multiple of m_former_num_heads "
                f"({heads}); try m_former_hidden_size={heads * (width // heads + 1)}"
            )

    @property
    def has_encoder(self) -> bool:
        """Whether the adapter holds a collaborative encoder of its own."""
        return (
            self.collaborative_encoder is not None or self.collaborative_encoder_config is not None
        )

    def resolved(
        self, *, lm_dim: int, encoder_config: dict[str, Any] | None, encoder_dim: int | None
    ) -> "BiTuningConfig":
        """Returns a copy in which every size is a number.

        Args:
            lm_dim: width D of the LM's token embeddings.
            encoder_config: the encoder's configuration as JSON values, None without an encoder.
            encoder_dim: width of the encoder's states, None without an encoder.

        Raises:
            ValueError: if a width given by hand contradicts the encoder, or a default width is
                no multiple of a number of heads given by hand.
        """
        if encoder_dim is not None:
            for name in ("collaborative_dim", "recommendation_dim"):
                if getattr(self, name) not in (None, encoder_dim):
                    raise ValueError(
                        f"{name} ({getattr(self, name)}) must equal the width of the collaborative "
                        f"encoder ({encoder_dim}); leave it out to take it from the encoder"
                    )
        width = self.m_former_hidden_size or min(max(lm_dim // 2 // 64 * 64, 64), 768)
        return replace(
            self,
            m_former_hidden_size=width,
            m_former_num_heads=self.m_former_num_heads or _default_heads(width),
            m_former_intermediate_size=self.m_former_intermediate_size or 2 * width,
            collaborative_encoder_config=encoder_config,
            collaborative_dim=encoder_dim or self.collaborative_dim or lm_dim,
            recommendation_dim=encoder_dim or self.recommendation_dim or lm_dim,
        )


def _check_at_least_one(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")


def _default_heads(width: int) -> int:
    return width // 64 if width % 64 == 0 else 1
