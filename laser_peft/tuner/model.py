"""Bi-Tuning as a PEFT tuner: virtual tokens at both ends of the prompt of a frozen causal LM.

Axes: B users, T text tokens, L items in a history, N items in the catalogue, P prefix tokens,
S suffix tokens, E experts, C collaborative width, D width of the LM, R recommendation width.
Follows §3 of arXiv 2409.01605; docs/method.md lists where we differ.
"""

from contextlib import nullcontext
from typing import Any

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner
from peft.utils.integrations import init_empty_weights
from torch import Tensor, nn
from transformers import PreTrainedModel

from laser_peft.losses import catalogue_cross_entropy, router_balance_loss
from laser_peft.masking import newest_state

from .config import SUPPORTED_TASKS, BiTuningConfig
from .encoder import FrozenEncoder, collaborative_states, load_encoder
from .joining import join, read
from .layer import BiTuningAdapter, BiTuningLayer, embedding_scale
from .output import BiTuningOutput
from .registration import PREFIX

# Must not contain PREFIX: PEFT skips such modules when it deletes an adapter.
MOUNT = "laser_layer"
# What Trainer and PEFT's task wrappers add to a call; none of it concerns a recommendation.
IGNORED_ARGUMENTS = frozenset(
    {"output_attentions", "output_hidden_states", "return_dict", "num_items_in_batch"}
)


class BiTuningModel(BaseTuner):
    """Wraps a causal LM with Bi-Tuning adapters; made by ``peft.get_peft_model``.

    The LM's backbone reads ``[prefix][text][suffix]``; its vocabulary head is never called.
    """

    prefix = PREFIX
    tuner_layer_cls = BiTuningLayer
    target_module_mapping: dict[str, list[str]] = {}

    @property
    def layer(self) -> BiTuningLayer:
        """The module that holds the adapters."""
        return getattr(self.model, MOUNT)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        history: Tensor | None = None,
        history_mask: Tensor | None = None,
        history_states: Tensor | None = None,
        item_vectors: Tensor | None = None,
        labels: Tensor | None = None,
        return_logits: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Reads each user's text and history into a user vector.

        Padding may stand on any side, in the text and in the history: it changes nothing.

        Args:
            input_ids: ``(B, T)`` int64, the prompt's tokens.
            attention_mask: ``(B, T)``, nonzero where a token is real. None: all are.
            inputs_embeds: ``(B, T, D)`` float, instead of ``input_ids``.
            history: ``(B, L)`` int64 item ids, oldest first, 0 = padding. None: no history.
            history_mask: ``(B, L)``, nonzero where an item is real. None: where ``history`` is
                not 0, or everywhere with ``history_states``.
            history_states: ``(B, L, C)`` float, the encoder's states; only for an adapter without
                an encoder of its own.
            item_vectors: ``(N, R)`` float, the catalogue; only for an adapter without an encoder.
            labels: ``(B,)`` int64, the next item's id in ``1..N``.
            return_logits: also return the scores of all items.
            **kwargs: what Trainer adds to every call is ignored; with adapters disabled
                everything reaches the LM.

        Returns:
            A :class:`BiTuningOutput`, or the LM's own output while adapters are disabled.

        Raises:
            TypeError: for an unknown argument.
            ValueError: for inputs that are missing or contradict the adapter.
        """
        if self.layer.disable_adapters or not self.active_adapters:
            return self.model(
                input_ids=input_ids,
                attention_mask=attention_mask,
                inputs_embeds=inputs_embeds,
                labels=labels,
                **kwargs,
            )
        unknown = sorted(kwargs.keys() - IGNORED_ARGUMENTS)
        if unknown:
            raise TypeError(
                f"BiTuningModel.forward() got unknown arguments {unknown}; it takes input_ids, "
                "attention_mask, inputs_embeds, history, history_mask, history_states, "
                "item_vectors, labels and return_logits"
            )
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        text = (
            self.model.get_input_embeddings()(input_ids) if inputs_embeds is None else inputs_embeds
        )
        text_mask = (
            torch.ones(text.shape[:2], dtype=torch.bool, device=text.device)
            if attention_mask is None
            else attention_mask.bool()
        )
        adapter_name = self.active_adapters[0]
        config = self.peft_config[adapter_name]
        adapter = self.layer.bituning_adapters[adapter_name]
        self._check_length(text.size(1), config)

        states, states_mask = collaborative_states(
            self._encoder(), history, history_mask, history_states
        )
        if states is None:
            states = text.new_zeros(text.size(0), 0, config.collaborative_dim)
            states_mask = text_mask.new_zeros(text.size(0), 0)
        condensed = adapter.m_former(states, states_mask)
        tokens, suffix_positions = join(condensed.prefix, text, adapter.suffix(), text_mask)
        hidden = self._backbone()(inputs_embeds=tokens, use_cache=False).last_hidden_state
        user_vectors = adapter.head(read(hidden, suffix_positions))  # (B, R)
        if config.collaborative_skip and config.has_encoder:
            user_vectors = user_vectors + newest_state(states, states_mask)

        aux_loss = router_balance_loss(condensed.router_probs, condensed.router_chosen)
        loss = logits = None
        if labels is not None or return_logits:
            catalogue = self.item_vectors() if item_vectors is None else item_vectors
            scaled = user_vectors / config.temperature
            if return_logits:
                logits = scaled @ catalogue.T
            if labels is not None:
                loss = catalogue_cross_entropy(scaled, catalogue, labels)
                loss = loss + config.router_balance_weight * aux_loss
        return BiTuningOutput(
            loss=loss,
            user_vectors=user_vectors,
            logits=logits,
            router_probs=condensed.router_probs,
            aux_loss=aux_loss,
        )

    def item_vectors(self) -> Tensor:
        """Returns the ``(N, R)`` vectors of items ``1..N`` of the active adapter.

        Raises:
            ValueError: if the adapter has no encoder to take them from.
        """
        encoder = self._encoder()
        if encoder is None:
            raise ValueError(
                "this adapter has no collaborative encoder and so no item vectors; pass "
                "item_vectors=(N, R) to forward"
            )
        return encoder.item_vectors()

    @property
    def collaborative_encoder(self) -> PreTrainedModel | None:
        """The frozen encoder of the active adapter, None if it has none."""
        encoder = self._encoder()
        return None if encoder is None else encoder.model

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Generates with the bare LM; only while adapters are disabled.

        Raises:
            ValueError: while an adapter is active: the prefix is not part of generation yet.
        """
        if not self.layer.disable_adapters:
            raise ValueError(
                "a Bi-Tuning adapter scores items, it does not write text yet; to generate with "
                "the bare language model: with model.disable_adapter(): model.generate(...)"
            )
        return self.model.generate(*args, **kwargs)

    def _encoder(self) -> FrozenEncoder | None:
        encoders = self.layer.bituning_encoders
        name = self.active_adapters[0]
        return encoders[name] if name in encoders else None

    def _backbone(self) -> nn.Module:
        return getattr(self.model, self.model.base_model_prefix, self.model)

    def _check_length(self, num_text_tokens: int, config: BiTuningConfig) -> None:
        longest = getattr(self.model.config, "max_position_embeddings", None)
        total = config.num_prefix_tokens + num_text_tokens + config.num_suffix_tokens
        if longest is not None and total > longest:
            raise ValueError(
                f"the language model reads at most {longest} tokens, got {total} "
                f"({config.num_prefix_tokens} prefix + {num_text_tokens} text + "
                f"{config.num_suffix_tokens} suffix); shorten the prompts"
            )

    # --- what PEFT asks of a tuner ---

    def inject_adapter(
        self,
        model: nn.Module,
        adapter_name: str,
        autocast_adapter_dtype: bool = True,
        low_cpu_mem_usage: bool = False,
        state_dict: dict[str, Tensor] | None = None,
    ) -> None:
        """Adds an adapter to the LM; PEFT calls this for the first and every further one.

        Raises:
            ValueError: if the task type, the encoder or a size does not fit.
        """
        config = self.peft_config[adapter_name]
        self._check_new_adapter_config(config)
        if config.task_type not in SUPPORTED_TASKS:
            raise ValueError(
                f"Bi-Tuning needs task_type 'CAUSAL_LM' or 'FEATURE_EXTRACTION', got "
                f"{config.task_type!r}: with any other PEFT calls the language model directly and "
                "skips the virtual tokens"
            )
        is_first = not hasattr(model, MOUNT)
        embeddings = model.get_input_embeddings()
        on_meta = init_empty_weights if low_cpu_mem_usage else nullcontext
        with on_meta():
            encoder = load_encoder(config)
            # A copy: a config object used twice must load its encoder twice.
            config = config.resolved(
                lm_dim=embeddings.embedding_dim,
                encoder_config=None if encoder is None else encoder.config.to_diff_dict(),
                encoder_dim=None if encoder is None else encoder.config.hidden_size,
            )
            adapter = BiTuningAdapter(
                config,
                embedding_dim=embeddings.embedding_dim,
                hidden_dim=model.config.get_text_config().hidden_size,
                embedding_scale=embedding_scale(embeddings),
            )
        self.peft_config[adapter_name] = config
        for module in filter(None, (adapter, encoder)):
            # PEFT may also build the whole tuner on the meta device, to fill it from a file.
            if not any(parameter.is_meta for parameter in module.parameters()):
                module.to(embeddings.weight.device)
        trainable_before = {n for n, p in model.named_parameters() if p.requires_grad}
        if is_first:
            model.add_module(MOUNT, BiTuningLayer())
        getattr(model, MOUNT).update_layer(adapter_name, adapter, encoder)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)
        self._mark_only_adapters_as_trainable(model)
        if not is_first:
            for name, parameter in model.named_parameters():
                if f".{adapter_name}." not in name:
                    parameter.requires_grad_(name in trainable_before)

    def set_adapter(self, adapter_name: str | list[str], inference_mode: bool = False) -> None:
        """Switches to an adapter.

        Raises:
            ValueError: for more than one: each writes its own prefix, suffix and head.
        """
        if not isinstance(adapter_name, str) and len(adapter_name) > 1:
            raise ValueError(f"Bi-Tuning runs one adapter at a time, got {list(adapter_name)}")
        super().set_adapter(adapter_name, inference_mode=inference_mode)

    def _prepare_adapter_config(
        self, peft_config: PeftConfig, model_config: dict[str, Any]
    ) -> PeftConfig:
        return peft_config

    def _create_and_replace(self, *args: Any, **kwargs: Any) -> None:
        raise AssertionError("Bi-Tuning replaces no module of the language model")

    def _check_merge_allowed(self) -> None:
        raise NotImplementedError(
            "a Bi-Tuning adapter cannot be merged: it adds tokens and a head, no change to the "
            "language model's weights; use unload() to get the bare model back"
        )

    def _unload_and_optionally_merge(
        self, merge: bool = True, *args: Any, **kwargs: Any
    ) -> nn.Module:
        if merge:
            self._check_merge_allowed()
        delattr(self.model, MOUNT)
        if hasattr(self.model, "peft_config"):
            del self.model.peft_config
        return self.model

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        for container in (*BiTuningLayer.adapter_layer_names, *BiTuningLayer.other_param_names):
            key = key.replace(f"{container}.{adapter_name}.", f"{container}.", 1)
        return key
