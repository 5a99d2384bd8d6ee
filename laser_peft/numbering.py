"""Which item has which dense id, told by a hash, so that an encoder meets no other catalogue."""

import hashlib
import json
from collections.abc import Sequence

import polars as pl
from transformers import PretrainedConfig

FIELD = "item_ids_sha256"  # of an encoder's configuration
AT_ONCE = 2**16  # ids


def sign(config: PretrainedConfig, item_ids: Sequence[str] | pl.Series) -> None:
    """Writes into an encoder's configuration what its dense ids stand for.

    Args:
        config: of the encoder.
        item_ids: the catalogue's item ids in the order of their dense ids.
    """
    setattr(config, FIELD, _hash(item_ids))


def check(config: PretrainedConfig, item_ids: Sequence[str] | pl.Series) -> None:
    """Makes sure that an encoder was trained on these items in this order, as far as it tells.

    Args:
        config: of the encoder; one that is not signed tells nothing and passes.
        item_ids: the catalogue's item ids in the order of their dense ids.

    Raises:
        ValueError: if it was trained on others.
    """
    signed = getattr(config, FIELD, None)
    if signed is not None and signed != _hash(item_ids):
        raise ValueError(
            f"the encoder was trained on other items, or the same in another order, than the "
            f"{len(item_ids)} of this catalogue: its numbers would stand for other items; give "
            "the items file that it was trained with"
        )


def _hash(item_ids: Sequence[str] | pl.Series) -> str:
    """Hashes the ids as one JSON list, of which never more than a part is made."""
    digest = hashlib.sha256(b"[")
    for start in range(0, len(item_ids), AT_ONCE):
        part = json.dumps(list(item_ids[start : start + AT_ONCE]))[1:-1]
        digest.update(f"{', ' if start else ''}{part}".encode())
    digest.update(b"]")
    return digest.hexdigest()
