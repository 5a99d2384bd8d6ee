"""New items by their texts alone, without any training.

An adapter's text vectors are whitened states of the bare LM, or what it reads itself of each item.

Axes: n new items, N items there were, X width of text vectors.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import polars as pl
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from laser_peft.data import Catalogue, PromptBuilder, PromptTemplate
from laser_peft.item_encoding import encode_items
from laser_peft.item_texts import Whitening, describe_items, lm_text_vectors
from laser_peft.wording import shortly

Items = Catalogue | Iterable[Mapping[str, Any]]


def read_items(items: Items) -> Catalogue | None:
    """Makes a catalogue of what may come as mappings; None where there is no item.

    Raises:
        TypeError: if it is no list.
        ValueError: if an item has no ``item_id``, two share one, or values of an attribute do not
            go together.
    """
    if isinstance(items, Catalogue):
        return items if len(items) else None
    if hasattr(items, "columns"):
        raise TypeError(
            f"new items come as a list of mappings, got a {type(items).__name__}; of one of polars "
            "give Catalogue(frame), of one of pandas Catalogue(polars.from_pandas(frame))"
        )
    if isinstance(items, str | Mapping) or not isinstance(items, Iterable):
        raise TypeError(f"new items come as a list of mappings, got {shortly(items)}")
    rows = list(items)
    wrong = [row for row in rows if not isinstance(row, Mapping)]
    if wrong:
        raise ValueError(
            'new items must be mappings such as {"item_id": "a1", "title": "Red lamp"}, got '
            f"{wrong[0]!r}"
        )
    if not rows:
        return None
    try:
        frame = pl.from_dicts([dict(row) for row in rows], infer_schema_length=None)
    except (pl.exceptions.PolarsError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"the new items hold an attribute in ways that do not go together: {error}; give each "
            "attribute one type"
        ) from error
    return Catalogue(frame)


def split_returning(
    catalogue: Catalogue, removed: Collection[str], given: Catalogue
) -> tuple[list[str], Catalogue | None]:
    """Parts what is given into ids that come back and items that are new.

    Args:
        catalogue: the items there are, removed ones too.
        removed: ids of the removed ones.
        given: what is to be added.

    Returns:
        The ids that come back, and the new items; None if there are none.

    Raises:
        ValueError: if an item is there and not removed, or comes back with another text.
    """
    back = given.only(pl.Series(sorted(removed), dtype=pl.String))
    new = given.only(given.frame["item_id"].filter(~given.frame["item_id"].is_in(back.item_ids)))
    again = catalogue.among(new.frame["item_id"])
    if again:
        raise ValueError(
            f"{len(again)} of {len(given)} items are in the catalogue already: {again[:5]}; "
            "leave them out, or give new ones new ids"
        )
    _check_texts_of_returning(catalogue, back)
    return back.item_ids, new if len(new) else None


def _check_texts_of_returning(catalogue: Catalogue, back: Catalogue) -> None:
    rows = catalogue.dense_array(back.frame["item_id"]) - 1
    texts = dict(zip(back.item_ids, catalogue.iter_attributes(rows), strict=True))
    for item_id, told in zip(back.item_ids, back.attributes(), strict=True):
        for name, text in told.items():
            if texts[item_id].get(name) != text:
                raise ValueError(
                    f"item {item_id!r} was removed and comes back as it was, with {name} "
                    f"{texts[item_id].get(name)!r}, not {text!r}; leave its attributes out, or "
                    "add it under a new id"
                )


def text_vectors_of(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    new: Catalogue,
    template: PromptTemplate,
    whitening: Whitening | None,
) -> Tensor:
    """Makes the text vectors of new items, as the adapter's text table has them.

    Args:
        model: a causal LM with a Bi-Tuning adapter.
        tokenizer: the language model's.
        new: the new items alone, with the attributes as the whole catalogue holds them.
        template: how an item is said.
        whitening: by which the text vectors of the adapter were mapped.

    Returns:
        ``(n, X)`` float32.

    Raises:
        ValueError: if the adapter uses no text vectors, or there is no whitening.
    """
    if model.peft_config[model.active_adapter].item_vectors == "collaborative":
        raise ValueError(
            "items cannot be added to this adapter: its item vectors come from the collaborative "
            "encoder alone, whose table has no row for a new item; train the encoder and the "
            "adapter on the new catalogue, or an adapter with item_vectors='fused', which takes "
            "new items by their texts"
        )
    if whitening is None:
        raise ValueError(
            "items cannot be added without the whitening that the adapter's text vectors were "
            "made with; pass LaserRecommender(..., whitening=...), which give_text_vectors returns"
        )
    states, rows = lm_text_vectors(model, tokenizer, describe_items(new, template))
    return whitening(states)[rows]


def own_vectors_of(model: PeftModel, prompts: PromptBuilder, num_new: int) -> Tensor:
    """Makes those vectors for an adapter that has read its items itself.

    A new item is read with the prefix of an empty history: the encoder knows nothing of it.

    Args:
        model: a causal LM with a Bi-Tuning adapter.
        prompts: that say the new items too.
        num_new: how many new items n there are, numbered behind the others.

    Returns:
        As :func:`text_vectors_of`.
    """
    first = model.base_model.num_items + 1
    return encode_items(model, prompts, range(first, first + num_new), are_new=True)
