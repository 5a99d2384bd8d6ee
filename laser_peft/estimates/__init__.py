"""How long a run may take and how much memory it may need, measured before it starts.

A few steps of the real models on real examples are timed, and what they need for their gradients
is counted; everything else is multiplication. Nothing of it reaches the training: the models are
thrown away, and random numbers go on as if nothing had been drawn.
"""

from .run import estimate_encoder_run, estimate_train_run
from .words import Estimate, StageEstimate

__all__ = ["Estimate", "StageEstimate", "estimate_encoder_run", "estimate_train_run"]
