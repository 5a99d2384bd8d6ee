"""Frozen ID-based encoders: what other shoppers' behaviour says about a history.

An encoder is any transformers model that AutoModel can load and that
  * maps ``input_ids (B, L)`` int64 (item ids ``1..N``, 0 = padding) and ``attention_mask (B, L)``
    to ``last_hidden_state (B, L, C)``, one state per history item, and
  * holds its item table in ``get_input_embeddings()``: ``N + 1`` rows, row 0 for padding.

A user's own vector is the state at the newest item; its dot product with a row scores that item.
:func:`check_encoder` tries a model; ``docs/encoders.md`` has the whole list.
"""

from transformers import AutoConfig, AutoModel

from .conformance import check_encoder
from .item_vector_files import align_item_vectors, read_item_vectors
from .item_vectors import ItemVectorConfig, ItemVectorEncoder
from .output import EncoderOutput
from .rectools import RecToolsSASRecConfig, RecToolsSASRecModel
from .sasrec import SASRecConfig, SASRecModel, SASRecOutput

for _config, _model in (
    (SASRecConfig, SASRecModel),
    (ItemVectorConfig, ItemVectorEncoder),
    (RecToolsSASRecConfig, RecToolsSASRecModel),
):
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoModel.register(_config, _model, exist_ok=True)

__all__ = [
    "EncoderOutput",
    "ItemVectorConfig",
    "ItemVectorEncoder",
    "RecToolsSASRecConfig",
    "RecToolsSASRecModel",
    "SASRecConfig",
    "SASRecModel",
    "SASRecOutput",
    "align_item_vectors",
    "check_encoder",
    "read_item_vectors",
]
