"""Every size and switch of a Bi-Tuning adapter, checked at birth.

Axes: P prefix tokens, S suffix tokens, E experts, C collaborative width, M width of the M-Former,
D width of the LM's embeddings, H width of its last hidden states, R recommendation width.
"""

from dataclasses import dataclass, field, fields, replace
from typing import Any

from peft import PeftConfig, TaskType

from .card import describe_adapter
from .registration import peft_type

CHOICES = {
    "layout": ("text_first", "prefix_first"),
    "prefix_source": ("m_former", "plain", "none"),
    "moe": ("ffn", "query", "none"),
    "suffix_reading": ("suffix", "mean", "eos"),
    "item_vectors": ("collaborative", "text", "fused"),
    "similarity": ("dot", "cosine"),
}
AT_LEAST_ONE = (
    "m_former_num_layers",
    "m_former_cross_attention_frequency",
    "m_former_hidden_size",
    "m_former_num_heads",
    "m_former_intermediate_size",
    "num_experts",
    "num_experts_per_user",
    "collaborative_dim",
    "recommendation_dim",
    "item_text_dim",
)
AT_LEAST_ZERO = ("num_prefix_tokens", "num_suffix_tokens", "num_text_items")
MOST = 2**31 - 1  # of any size: beyond it shapes overflow before memory does
SWITCHES = (
    *("bundle_encoder", "user_projection", "init_weights"),
    *("collaborative_skip", "text_skip"),
)
DEFAULT_EXPERTS = {"ffn": (4, 2), "query": (8, 1), "none": (1, 1)}
DEFAULT_TEMPERATURE = {"dot": 1.0, "cosine": 0.05}


@dataclass
class BiTuningConfig(PeftConfig):
    """Configuration of a Bi-Tuning adapter (arXiv 2409.01605).

    What is left at None is filled in from the language model and the encoder when the adapter is
    created; ``model.peft_config["default"]`` and ``adapter_config.json`` hold the values used.

    Args:
        layout: in what order a user is read. ``"prefix_first"``: prefix, text, suffix (the
            paper's); ``"text_first"``: text, prefix, suffix: nothing that is learnt comes before
            the text, so it is read without gradients and all positions of a history share one
            reading of it (what ``laser-peft train`` does); not where the text's own states are
            read (``suffix_reading="mean"``). Text is generated behind the prefix in either.
        num_prefix_tokens: virtual tokens P of the prefix; 0 for none.
        num_suffix_tokens: learned virtual tokens S at the end; used where ``suffix_reading``
            is ``"suffix"``.
        prefix_source: ``"m_former"`` writes each user's prefix from the collaborative states;
            ``"plain"`` learns one prefix for all users (prompt tuning); ``"none"`` has no prefix.
        m_former_hidden_size: width M of the M-Former. None: half the LM's width, a multiple of 64
            within 64..768.
        m_former_num_layers: blocks of the M-Former.
        m_former_num_heads: attention heads a block; must divide the width. None: one per 64.
        m_former_intermediate_size: hidden width of each expert. None: twice the M-Former's width.
        m_former_cross_attention_frequency: every n-th block reads the collaborative states,
            starting with the first.
        m_former_dropout: dropout probability inside the M-Former, in ``[0, 1)``.
        moe: what an expert is. ``"ffn"``: a feed-forward of each block; ``"query"``: a set of P
            learned queries over shared blocks (the paper's); ``"none"``: no mixture, no router.
        num_experts: experts E. None: 4 with ``"ffn"``, 8 with ``"query"``, 1 with ``"none"``.
        num_experts_per_user: experts that the router picks for each user, at most
            ``num_experts``. None: 2 with ``"ffn"`` (1 of 1), else 1.
        router_balance_weight: weight λ of the router's balance term in the loss.
        collaborative_encoder: folder or Hub id of the frozen ID encoder, a transformers model
            with an item table (see :mod:`laser_peft.collaborative`). None: states and item
            vectors are passed to forward.
        collaborative_encoder_revision: branch, tag or commit of a Hub id.
        bundle_encoder: save the encoder's weights in the adapter's file. False: a saved adapter
            loads them from ``collaborative_encoder`` again.
        collaborative_encoder_config: in a saved adapter with its encoder in it: the encoder's own
            configuration, from which it is rebuilt. A config that carries one takes the weights
            from the adapter file, not from ``collaborative_encoder``.
        collaborative_dim: width C of the encoder's states. None: the encoder's; without an
            encoder, the LM's width.
        collaborative_skip: the user vector is the encoder's own (the state at the newest item)
            plus a learned correction that starts at zero, so an untrained adapter ranks exactly
            as its encoder does. Needs R = C; with fused item vectors it is the collaborative part
            of the user vector, without a correction. None: where there is an encoder and item
            vectors come from it.
        text_skip: with fused item vectors: the text part of the user vector is a learned map of
            the text vectors of the history's items plus the head's correction, which starts at
            zero. None: with fused item vectors.
        collaborative_dropout: with fused item vectors and the skip: probability with which what
            the encoder says of a user is left out of the scores in training, in ``[0, 1]``. It
            has seen the events that the adapter learns from; at 1 the text part learns to stand
            by itself, and how much each part counts is for ``view_weights``, from other events.
        suffix_reading: where the user is read. ``"suffix"``: the states of the S suffix tokens,
            side by side; ``"mean"``: the mean state of the text, no suffix; ``"eos"``: the state
            of the LM's own end-of-text token, appended and not trained.
        user_projection: a linear layer from the read states to R. False: the states themselves
            (their mean for S > 1) are the user vector, R = H.
        recommendation_dim: width R of user and item vectors. None: the encoder's width C where
            item vectors come from it, C + X where they are fused, else the LM's.
        item_vectors: ``"collaborative"``: the encoder's item table, or vectors passed to forward;
            ``"text"``: a table of text vectors, see ``BiTuningModel.set_item_text_vectors``;
            ``"fused"``: the encoder's and beside them text vectors.
        item_text_dim: width X of the text vectors. None: R with ``"text"`` (the only possible
            one), D + H with ``"fused"``, at most 512.
        num_text_items: filled in: items whose text vectors the adapter's file holds.
        similarity: ``"dot"`` or ``"cosine"`` of user and item vectors; fused ones by ``"dot"``.
        temperature: scores are divided by it. None: 1 for ``"dot"``, 0.05 for ``"cosine"``.
        init_weights: False starts the learned corrections at random instead of zero, to see an
            untrained adapter have an effect (PEFT's convention).

    Raises:
        ValueError: if a value is out of range or two values contradict each other.
    """

    layout: str = "prefix_first"
    num_prefix_tokens: int = 8
    num_suffix_tokens: int = 1
    prefix_source: str = "m_former"
    m_former_hidden_size: int | None = None
    m_former_num_layers: int = 2
    m_former_num_heads: int | None = None
    m_former_intermediate_size: int | None = None
    m_former_cross_attention_frequency: int = 2
    m_former_dropout: float = 0.1
    moe: str = "ffn"
    num_experts: int | None = None
    num_experts_per_user: int | None = None
    router_balance_weight: float = 0.01
    collaborative_encoder: str | None = None
    collaborative_encoder_revision: str | None = None
    bundle_encoder: bool = True
    collaborative_encoder_config: dict[str, Any] | None = None
    collaborative_dim: int | None = None
    collaborative_skip: bool | None = None
    text_skip: bool | None = None
    collaborative_dropout: float = 1.0
    suffix_reading: str = "suffix"
    user_projection: bool = True
    recommendation_dim: int | None = None
    item_vectors: str = "collaborative"
    item_text_dim: int | None = None
    num_text_items: int = 0
    similarity: str = "dot"
    temperature: float | None = None
    init_weights: bool = True
    task_type: TaskType | str | None = field(default=TaskType.CAUSAL_LM)

    def __post_init__(self) -> None:
        """Checks every rule that needs no model.

        Raises:
            ValueError: see the class.
        """
        try:
            super().__post_init__()
        except (ValueError, TypeError) as error:
            raise ValueError(f"task_type cannot be {self.task_type!r}: {error}") from error
        self.peft_type = peft_type()
        self._check_values()
        self._check_that_values_fit_together()

    @property
    def has_encoder(self) -> bool:
        """Whether the adapter holds a collaborative encoder of its own."""
        return (
            self.collaborative_encoder is not None or self.collaborative_encoder_config is not None
        )

    @property
    def experts(self) -> tuple[int, int]:
        """The number of experts and of those each user gets, defaults filled in."""
        default, default_per_user = DEFAULT_EXPERTS[self.moe]
        num_experts = self.num_experts or default
        return num_experts, self.num_experts_per_user or min(default_per_user, num_experts)

    @property
    def has_text_skip(self) -> bool:
        """Whether the history's item texts are read beside the language model."""
        return self.item_vectors == "fused" if self.text_skip is None else self.text_skip

    def as_asked(self) -> "BiTuningConfig":
        """Returns a copy as the user gave it, without what :meth:`fill_in` added."""
        filled: dict[str, tuple[Any, Any]] = self.__dict__.get("_filled", {})
        asked = {n: before for n, (before, now) in filled.items() if getattr(self, n) == now}
        return replace(self, **asked)

    def fill_in(self, resolved: "BiTuningConfig") -> None:
        """Takes over the values of a resolved copy, in place as PEFT expects it.

        What the user gave is kept beside the fields, so that another adapter made from the same
        object follows its own models; the object then shows that one's values.
        """
        asked = self.as_asked()
        inherited = {field.name for field in fields(PeftConfig)}
        names = [field.name for field in fields(self) if field.name not in inherited]
        names.remove("collaborative_encoder_config")  # it would pass for that of a saved adapter
        self._encoder_config = resolved.collaborative_encoder_config
        self.__dict__.update({name: getattr(resolved, name) for name in names})
        both = {name: (getattr(asked, name), getattr(resolved, name)) for name in names}
        self._filled = {name: pair for name, pair in both.items() if pair[0] != pair[1]}

    def to_dict(self) -> dict[str, Any]:
        """Returns all fields, with the configuration of an encoder that is saved along."""
        bundled = self.__dict__.get("_encoder_config") or self.collaborative_encoder_config
        return super().to_dict() | {"collaborative_encoder_config": bundled}

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """Writes ``adapter_config.json``, and tells a model card beside it what the adapter is."""
        super().save_pretrained(save_directory, **kwargs)
        describe_adapter(save_directory, self)

    def _check_values(self) -> None:
        may_be_none = {field.name for field in fields(self) if field.default is None}
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} must be one of {', '.join(map(repr, choices))}, "
                    f"got {getattr(self, name)!r}"
                )
        for names, least in ((AT_LEAST_ONE, 1), (AT_LEAST_ZERO, 0)):
            for name in names:
                value = getattr(self, name)
                if value is None and name in may_be_none:
                    continue
                if not isinstance(value, int) or isinstance(value, bool) or value < least:
                    raise ValueError(
                        f"{name} must be a whole number of at least {least}, got {value!r}"
                    )
                if value > MOST:
                    raise ValueError(f"{name} must be at most {MOST}, got {value}")
        for name in SWITCHES:
            value = getattr(self, name)
            if not isinstance(value, bool) and (value is not None or name not in may_be_none):
                raise ValueError(f"{name} must be True or False, got {value!r}")
        if not _is_number(self.m_former_dropout) or not 0 <= self.m_former_dropout < 1:
            raise ValueError(f"m_former_dropout must lie in [0, 1), got {self.m_former_dropout!r}")
        share = self.collaborative_dropout
        if not _is_number(share) or not 0 <= share <= 1:
            raise ValueError(f"collaborative_dropout must lie in [0, 1], got {share!r}")
        if not _is_number(self.router_balance_weight) or not self.router_balance_weight >= 0:
            raise ValueError(
                f"router_balance_weight must not be negative, got {self.router_balance_weight!r}"
            )
        if self.temperature is not None and not (
            _is_number(self.temperature) and 0 < self.temperature < float("inf")
        ):
            raise ValueError(f"temperature must be positive, got {self.temperature!r}")

    def _check_that_values_fit_together(self) -> None:
        num_experts, per_user = self.experts
        if per_user > num_experts:
            raise ValueError(
                f"num_experts_per_user ({per_user}) must be at most num_experts ({num_experts})"
            )
        if self.moe == "none" and num_experts > 1:
            raise ValueError(
                f"moe='none' has no experts, got num_experts={num_experts}; leave it out or set "
                "moe='ffn' or moe='query'"
            )
        width, heads = self.m_former_hidden_size, self.m_former_num_heads
        if width is not None and heads is not None and width % heads:
            raise ValueError(
                f"m_former_hidden_size ({width}) must be a multiple of m_former_num_heads "
                f"({heads}); try m_former_hidden_size={heads * (width // heads + 1)}"
            )
        if self.layout == "text_first" and self.suffix_reading == "mean":
            raise ValueError(
                "suffix_reading='mean' reads the text's own states, which with "
                "layout='text_first' come before all that is learnt; set layout='prefix_first' or "
                "leave it out"
            )
        if self.suffix_reading == "suffix" and self.num_suffix_tokens == 0:
            raise ValueError(
                "suffix_reading='suffix' needs num_suffix_tokens of at least 1, got 0; to read the "
                "text itself set suffix_reading='mean' or 'eos'"
            )
        if self.text_skip and self.item_vectors != "fused":
            raise ValueError(
                "text_skip reads the text vectors of fused item vectors, and item_vectors is "
                f"{self.item_vectors!r}; set item_vectors='fused' or leave text_skip out"
            )
        if self.item_vectors == "fused" and not self.user_projection:
            raise ValueError(
                "fused item vectors have a part of the encoder's width and one of the texts', "
                "which the language model's states do not; set user_projection=True"
            )
        if self.item_vectors == "fused" and not self.has_encoder:
            raise ValueError(
                "item_vectors='fused' sets text vectors beside the encoder's item table and there "
                "is no encoder; set collaborative_encoder=... or item_vectors='text'"
            )
        if self.item_vectors == "fused" and self.similarity == "cosine":
            raise ValueError(
                "the parts of fused item vectors are weighed by their scores, which the cosine of "
                "the whole changes; set similarity='dot'"
            )
        if self.collaborative_skip and not self.user_projection:
            raise ValueError(
                "collaborative_skip adds a correction that starts at zero, which needs "
                "user_projection=True; set one of them otherwise"
            )
        if not self.bundle_encoder and self.collaborative_encoder is None:
            raise ValueError(
                "bundle_encoder=False leaves the encoder out of the adapter's file and needs "
                "collaborative_encoder=... to load it from, got None"
            )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
