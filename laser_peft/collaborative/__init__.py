"""Frozen ID-based encoders: what other shoppers' behaviour says about a history.

An encoder is any transformers model that AutoModel can load and that
  * maps ``input_ids (B, L)`` int64 (item ids ``1..N``, 0 = padding) and ``attention_mask (B, L)``
    to ``last_hidden_state (B, L, C)``, one state per history item, and
  * holds its item table in ``get_input_embeddings()``: ``N + 1`` rows, row 0 for padding.

A user's own vector is the state at the newest item; its dot product with a row scores that item.
"""

from transformers import AutoConfig, AutoModel

from .sasrec import SASRecConfig, SASRecModel, SASRecOutput

AutoConfig.register(SASRecConfig.model_type, SASRecConfig, exist_ok=True)
AutoModel.register(SASRecConfig, SASRecModel, exist_ok=True)

__all__ = ["SASRecConfig", "SASRecModel", "SASRecOutput"]
