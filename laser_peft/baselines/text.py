"""Items whose text is near to that of the history, by the language model's own states.

Axes: B users, T text tokens, N items in the catalogue, D width of the LM's embeddings, H width
of its hidden states.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from laser_peft.data import Catalogue
from laser_peft.evaluation import DotProducts, Scores
from laser_peft.item_texts import Whitening, describe_items, distinct_text_vectors


class TextNeighbours:
    """Scores an item by the cosine of its text vector with that of the user's newest item.

    Args:
        vectors: ``(N, H)`` float text vectors, row ``j`` is item id ``j + 1``; equal for items of
            equal text, which are then ties.
    """

    def __init__(self, vectors: Tensor) -> None:
        self.num_items = len(vectors)
        self.vectors = F.normalize(vectors.float(), dim=1)

    def scores(self, histories: Sequence[np.ndarray]) -> Scores:
        """Scores a batch; see :meth:`.ranking.Baseline.scores`."""
        newest = torch.tensor([int(history[-1]) if len(history) else 0 for history in histories])
        padded = F.pad(self.vectors, (0, 0, 1, 0))  # row 0: no item, which is near to none
        return DotProducts(padded[newest], self.vectors)


def load_lm(llm: str, dtype: str = "auto") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads a language model without its vocabulary head, and its tokenizer.

    Args:
        llm: a folder or a Hub id.
        dtype: precision; by default its own.

    Raises:
        OSError: if there is none.
    """
    lm = AutoModel.from_pretrained(llm, dtype=dtype).eval()
    tokenizer = AutoTokenizer.from_pretrained(llm)
    if torch.accelerator.is_available():
        lm = lm.to(torch.accelerator.current_accelerator())
    return lm, tokenizer


def catalogue_vectors(
    lm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    catalogue: Catalogue,
    dim: int | None = None,
) -> Tensor:
    """Makes the whitened vectors of the items' texts, said as in a prompt.

    Args:
        lm: a causal language model without its vocabulary head, in eval mode.
        tokenizer: its tokenizer.
        catalogue: the items.
        dim: directions kept, at most; None: all.

    Returns:
        ``(N, D + H)`` float32 on the CPU, or fewer columns, of length one; the same row for items
        of the same text.
    """

    def read(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        output = lm(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        last = output.last_hidden_state
        return torch.cat([lm.get_input_embeddings()(input_ids).to(last), last], dim=-1)

    vectors, rows = distinct_text_vectors(read, tokenizer, describe_items(catalogue), lm.device)
    return Whitening.fit(vectors, dim)(vectors)[rows]
