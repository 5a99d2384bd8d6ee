"""What encoders return beside SASRec, which also has a loss."""

from dataclasses import dataclass

from torch import Tensor
from transformers.utils import ModelOutput


@dataclass
class EncoderOutput(ModelOutput):
    """States of histories.

    Args:
        last_hidden_state: ``(B, L, C)`` float, one state per history item; zero at padding.
        user_vectors: ``(B, C)`` float, the state at each user's newest item; zero for an empty
            history.
    """

    last_hidden_state: Tensor | None = None
    user_vectors: Tensor | None = None
