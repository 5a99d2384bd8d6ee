"""Bi-Tuning as a PEFT tuner: what PEFT asks of a method beyond its layer.

Axes: N items in the catalogue, X width of text vectors, R recommendation width.
"""

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner
from peft.utils import TaskType
from peft.utils.integrations import init_empty_weights
from torch import Tensor, nn
from transformers import PreTrainedModel

from .base_model import check_base_model
from .building import build
from .devices import device_of
from .fusing import ViewWeights
from .items import OFTEN
from .layer import ActiveAdapter, BiTuningLayer
from .mounting import MOUNT, mount, unmount, without_adapters
from .preparing import prepare_for_graphs
from .reading import shares_texts, text_states
from .registration import PREFIX

# With the other task types PEFT wraps a model that has a classification head or an encoder.
SUPPORTED_TASKS = (TaskType.CAUSAL_LM, TaskType.FEATURE_EXTRACTION, None)


class BiTuningModel(BaseTuner):
    """Wraps a causal LM with Bi-Tuning adapters; made by ``peft.get_peft_model``.

    A call that carries recommendation inputs reads users; any other is plain use of the LM with
    the user's prefix in place.
    """

    prefix = PREFIX
    tuner_layer_cls = BiTuningLayer
    target_module_mapping: dict[str, list[str]] = {}

    @property
    def layer(self) -> BiTuningLayer:
        """The module that holds the adapters."""
        return getattr(self.model, MOUNT)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Reads each user's text and history into a user vector, or runs the LM.

        It recommends when any of ``history``, ``history_mask``, ``history_states``,
        ``text_rows``, ``text_memory``, ``item_vectors``, ``negatives``, ``return_logits`` or labels
        of shape ``(B,)`` is given, or ``return_user_vectors=True``. The LM's backbone then reads
        ``[text][prefix][suffix]``, or what ``layout`` says; its vocabulary head is never called.
        Padding may stand on any side, in the text and in the history: it changes nothing. Any
        other call is the LM's own, with the prefix before the text and outputs over the caller's
        tokens.

        Args:
            *args: as the LM's own forward takes them.
            **kwargs: by name, all optional but the text:

                * ``input_ids (B, T)`` int64, the prompt's tokens.
                * ``attention_mask (B, T)``, nonzero where a token is real. Without it all are.
                * ``inputs_embeds (B, T, D)`` float, instead of ``input_ids``.
                * ``history (B, L)`` int64 item ids, oldest first, 0 = padding.
                * ``history_mask (B, L)``, nonzero where an item is real. Without it: wherever
                  ``history`` is not 0, or everywhere with ``history_states``.
                * ``history_states (B, L, C)`` float, the encoder's states; only for an adapter
                  without an encoder of its own.
                * ``text_rows (n,)`` and ``text_lengths (n,)`` int64, for n users who share texts,
                  as one shopper at n times does: the row of the text that each is told in, and how
                  many of its real tokens, the first ones. Histories and labels are then n.
                * ``text_memory``, a :class:`TextMemory` of one user's text, or a list of B of
                  them, in place of what an earlier call has read; ``input_ids (B, T)`` are what
                  follows, and join it.
                * ``ending_ids (E,)`` int64, with one of these: tokens that follow each such
                  beginning, or all that is remembered.
                * ``item_vectors (N, R)`` float, the catalogue, in place of the adapter's.
                * ``labels (B,)`` int64, the next item's id in ``1..N``; or ``(B, T)``, the LM's.
                * ``negatives (K,)`` int64 item ids drawn uniformly with replacement, only with
                  labels ``(B,)``: the loss is then a softmax over them and the label instead of
                  the whole catalogue.
                * ``return_logits`` bool, also return the scores of all items.
                * ``return_user_vectors`` bool: True recommends whatever else is given; False runs
                  the LM even with a history, whose prefix it then reads.

        Returns:
            A :class:`BiTuningOutput`, or the LM's own output.

        Raises:
            TypeError: for an argument that a recommendation does not take.
            ValueError: for inputs that are missing or contradict the adapter.
        """
        return super().forward(*args, **kwargs)

    def item_vectors(self, rows: slice | None = None) -> Tensor:
        """Returns the ``(N, R)`` vectors of items ``1..N`` of the active adapter.

        A user vector's dot product with a row, divided by the temperature, scores that item.

        Args:
            rows: which of the N rows, of a table that is too big to make at once. None: all.

        Raises:
            ValueError: if the adapter has none: no encoder, or text vectors that are not set.
        """
        return self._active.item_vectors(rows=rows)

    @property
    def num_items(self) -> int:
        """How many items N the active adapter scores; 0 while its text vectors are not set."""
        return self._active.num_items

    def set_item_text_vectors(self, vectors: Tensor, events: Tensor | None = None) -> None:
        """Gives the active adapter the text vectors of its items; they are saved with it.

        Args:
            vectors: ``(N, X)`` finite float, row ``j`` is item id ``j + 1``.
            events: ``(N,)`` int64, how often the encoder saw each item in its training: its vector
                of one that it never saw is not used, but one that is guessed from the text, and
                texts of rare ones count more. None: often.

        Raises:
            ValueError: if the adapter uses no text vectors, or shapes or values are wrong.
        """
        adapter = self._active.adapter
        adapter.items.set_text(vectors, events)
        encoder = self._active.encoder
        if adapter.config.item_vectors == "fused" and encoder is not None:
            adapter.items.fit_from_text(encoder.item_vectors())
        self._note_text_items()

    def add_item_text_vectors(self, vectors: Tensor) -> None:
        """Adds the text vectors of items that the encoder never saw behind those there are.

        Nothing that was learnt of the others changes.

        Args:
            vectors: ``(n, X)`` finite float.

        Raises:
            ValueError: if the adapter uses no text vectors, or shapes or values are wrong.
        """
        self._active.adapter.items.add_text(vectors)
        self._note_text_items()

    def take_back_item_text_vectors(self, count: int) -> None:
        """Takes the last ``count`` items away again that :meth:`add_item_text_vectors` added."""
        self._active.adapter.items.take_back_text(count)
        self._note_text_items()

    def _note_text_items(self) -> None:
        adapter = self._active.adapter
        adapter.config = replace(adapter.config, num_text_items=len(adapter.items.text))
        self.peft_config[self.active_adapters[0]].fill_in(adapter.config)

    @property
    def view_weights(self) -> ViewWeights:
        """How much the parts of fused vectors count, see :meth:`set_view_weights`.

        Raises:
            ValueError: if the active adapter's item vectors are not fused.
        """
        return ViewWeights(*self._view_weights().tolist())

    def set_view_weights(
        self,
        collaborative: float | None = None,
        text: float | None = None,
        rarity: float | None = None,
        correction: float | None = None,
    ) -> None:
        """Sets them for every use but training, where each part counts one; saved with the adapter.

        What is None stays as it is.

        The encoder has seen the events that the adapter learns from, so the parts are weighed on
        events that neither has seen (``LaserTrainer`` does).

        Args:
            collaborative: factor of the collaborative part.
            text: factor of the text part.
            rarity: how much more the text of an item counts that the encoder never saw; half as
                much more after one event.
            correction: factor, within the text part, of what the head adds to the text reader.

        Raises:
            ValueError: if the active adapter's item vectors are not fused, or a weight is negative
                or no finite number.
        """
        given = (collaborative, text, rarity, correction)
        both = zip(given, self.view_weights, strict=True)
        wanted = ViewWeights(*(before if weight is None else weight for weight, before in both))
        if not all(0 <= weight < float("inf") for weight in wanted):
            raise ValueError(f"view weights must be finite and not negative, got {wanted}")
        weights = self._view_weights()
        weights.copy_(weights.new_tensor(wanted))

    def can_share_texts(self, num_tokens: int, num_users: int, *, num_ending: int = 0) -> bool:
        """Tells whether users of a text (``text_rows``) are read on one reading of it.

        Where not, as in prefix-first layout, behind a sliding window or with gradient
        checkpointing, each is read with a text of its own: the same at a higher price.

        Args:
            num_tokens: of the longest text T.
            num_users: the most users that one text has.
            num_ending: tokens E that follow each beginning.
        """
        config = self._active.config
        return shares_texts(self.model, config, num_tokens, num_ending, num_users)

    def rare_items(self) -> Tensor:
        """Tells how rare the encoder found each item: ``(N,)``, 1 if never seen, else less."""
        return self._active.adapter.items.rare()

    def item_events(self) -> Tensor | None:
        """Tells how often the encoder saw each item in its training.

        Returns:
            ``(N,)`` int64; None where nobody counted those of all items.
        """
        events = self._active.events()
        return None if events is None or bool((events == OFTEN).any()) else events

    def _view_weights(self) -> Tensor:
        adapter = self._active.adapter
        if adapter.config.item_vectors != "fused":
            raise ValueError(
                f"item_vectors={adapter.config.item_vectors!r} has one view of the items, and "
                "nothing to weigh; set item_vectors='fused'"
            )
        return adapter.view_weights

    def text_states(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Reads texts with the bare language model, without prefix, suffix and gradients.

        Args:
            input_ids: ``(B, T)`` int64, padding anywhere.
            attention_mask: ``(B, T)``, nonzero where a token is real. None: all are.

        Returns:
            ``(B, T, D + H)`` float, each token's embedding and beside it its last hidden state.
        """
        bare = without_adapters(self.model)
        return text_states(bare, self.model, input_ids, attention_mask)

    @property
    def collaborative_encoder(self) -> PreTrainedModel | None:
        """The frozen encoder of the active adapter, None if it has none."""
        encoder = self._active.encoder
        return None if encoder is None else encoder.model

    @property
    def _active(self) -> ActiveAdapter:
        """The active adapter, also while adapters are disabled."""
        if not self.active_adapters:
            raise ValueError("all adapters are deleted; add one with add_adapter or load_adapter")
        name = self.active_adapters[0]
        return ActiveAdapter(self.layer.bituning_adapters[name], self.layer.encoder_of(name))

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
            ValueError: if the task type, the language model, the encoder, a size or the adapter's
                name does not fit.
        """
        config = self.peft_config[adapter_name]
        self._check_new_adapter_config(config)
        if config.task_type not in SUPPORTED_TASKS:
            raise ValueError(
                "Bi-Tuning needs task_type 'CAUSAL_LM', 'FEATURE_EXTRACTION' or None, got "
                f"{config.task_type!r}: it reads users with a causal language model"
            )
        check_base_model(model)
        embeddings = model.get_input_embeddings()
        on_meta = init_empty_weights if low_cpu_mem_usage else nullcontext
        with on_meta():
            asked = config.as_asked()
            resolved, adapter, encoder = build(asked, model)
        mounted = self.layer.parts if hasattr(model, MOUNT) else []
        _check_names(self.peft_config, filter(None, (adapter, encoder, *mounted)))
        if any(other is config for name, other in self.peft_config.items() if name != adapter_name):
            self.peft_config[adapter_name] = config = asked
        config.fill_in(resolved)  # in place, as PEFT expects; the adapter keeps its own
        for module in filter(None, (adapter, encoder)):
            # PEFT may also build the whole tuner on the meta device, to fill it from a file.
            if not any(tensor.is_meta for tensor in module.state_dict().values()):
                module.to(device_of(embeddings))
        trained_before = {name: p.requires_grad for name, p in model.named_parameters()}
        is_first = not hasattr(model, MOUNT)
        if is_first:
            prepare_for_graphs(model)
        mount(model).update_layer(adapter_name, adapter, encoder)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)
        self._mark_only_adapters_as_trainable(model)
        if not is_first:
            for name, parameter in model.named_parameters():
                if f".{adapter_name}." not in name:
                    parameter.requires_grad_(trained_before.get(name, parameter.requires_grad))

    def set_adapter(self, adapter_name: str | list[str], inference_mode: bool = False) -> None:
        """Switches to an adapter.

        Raises:
            ValueError: for more than one: each writes its own prefix, suffix and head.
        """
        if not isinstance(adapter_name, str) and len(adapter_name) > 1:
            raise ValueError(f"Bi-Tuning runs one adapter at a time, got {list(adapter_name)}")
        super().set_adapter(adapter_name, inference_mode=inference_mode)

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        """Leaves weights in float32, or takes them to the base's precision where asked to.

        Tables of vectors stay as they are.
        """
        if autocast_adapter_dtype:
            super()._cast_adapter_dtype(adapter_name, autocast_adapter_dtype)
            return
        dtype = self.model.get_input_embeddings().weight.dtype
        for parameter in self.layer.bituning_adapters[adapter_name].parameters():
            parameter.data = parameter.data.to(dtype)

    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("adapter_names") is not None:
            raise ValueError(
                "Bi-Tuning runs one adapter for a whole batch; leave adapter_names out and switch "
                "with set_adapter"
            )
        return nullcontext()

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
        unmount(self.model)
        if hasattr(self.model, "peft_config"):
            del self.model.peft_config
        return self.model

    @classmethod
    def _get_adapter_state_dict(
        cls,
        model: nn.Module,
        config: PeftConfig,
        adapter_name: str,
        state_dict: dict[str, Tensor],
        unwanted_adapter_names: list[str],
    ) -> dict[str, Tensor]:
        own = super()._get_adapter_state_dict(
            model, config, adapter_name, state_dict, unwanted_adapter_names
        )
        # What is saved beside this must describe this adapter, also where the caller has used the
        # same object for another model since.
        layer = next(module for module in model.modules() if isinstance(module, BiTuningLayer))
        config.fill_in(layer.bituning_adapters[adapter_name].config)
        return {key: value for key, value in own.items() if ".referenced_encoders." not in key}

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        for container in (*BiTuningLayer.adapter_layer_names, *BiTuningLayer.other_param_names):
            key = key.replace(f"{container}.{adapter_name}.", f"{container}.", 1)
        return key


def _check_names(names: Iterable[str], parts: Iterable[nn.Module]) -> None:
    """Refuses names that a part of an adapter has: PEFT tells adapters by them in their keys.

    Args:
        names: of all adapters.
        parts: the adapters and their encoders.

    Raises:
        ValueError: if a part has one of them.
    """
    above = ("base_model", "model", MOUNT, *BiTuningLayer.adapter_layer_names)
    taken = {*above, *BiTuningLayer.other_param_names}
    for part in parts:
        taken.update(segment for key in part.state_dict() for segment in key.split("."))
    for name in names:
        if name in taken:
            raise ValueError(
                f"an adapter cannot be named {name!r}, as a part of an adapter is: PEFT would save "
                "the one as the other; choose another adapter_name"
            )
