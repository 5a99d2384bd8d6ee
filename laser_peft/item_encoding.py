"""Item vectors as an adapter itself reads them: each item is the history of a user with it alone.

Axes: B items in a batch, N items in the catalogue, R recommendation width.
Follows arXiv 2409.01605, where items pass through the same LM, prefix, suffix and head as users.
"""

from collections.abc import Sequence

import torch
from peft import PeftModel
from torch import Tensor

from laser_peft.data import PaddingCollator, PromptBuilder
from laser_peft.eval_mode import in_eval_mode
from laser_peft.portions import portions
from laser_peft.processes import check_alike, read_together


@torch.no_grad()
def encode_items(
    model: PeftModel,
    prompts: PromptBuilder,
    items: Sequence[int],
    *,
    batch_size: int = 64,
    are_new: bool = False,
) -> Tensor:
    """Reads items with the active adapter, with dropout switched off.

    Items of equal prompts that the encoder reads alike are read once: batches of other shapes
    would set them apart in the last digits. Several processes share the batches, and all get the
    vectors of all.

    Args:
        model: a causal LM with a Bi-Tuning adapter.
        prompts: says histories in tokens.
        items: dense ids, at least one.
        batch_size: items at a time.
        are_new: the items are in no table yet: the prefix is that of an empty history.

    Returns:
        ``(items, R)`` float32 on the CPU, in the order of the ids.
    """
    keys = [(tuple(prompts([item])), () if are_new else (item,)) for item in items]
    distinct = list(dict.fromkeys(keys))
    rows = {key: row for row, key in enumerate(distinct)}

    def read(portion: Sequence[int]) -> Tensor:
        batch = PaddingCollator()(
            [
                {"input_ids": tokens, "history": history}
                for tokens, history in map(distinct.__getitem__, portion)
            ]
        )
        inputs = {name: values.to(model.device) for name, values in batch.items()}
        return model(**inputs, return_user_vectors=True).user_vectors.float().cpu()

    check_alike("items", distinct)
    with in_eval_mode(model):
        cut = list(portions([len(tokens) for tokens, _ in distinct], most_rows=batch_size))
        vectors = read_together(cut, read, unit="item")
    return vectors[torch.tensor([rows[key] for key in keys])]
