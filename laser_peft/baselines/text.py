"""Items whose text is near to that of the history, by the language model's own states.

Axes: B users, T text tokens, N items in the catalogue, H width of the LM's hidden states.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from laser_peft.data import Catalogue, PaddingCollator, PromptTemplate
from laser_peft.evaluation import DotProducts, Scores
from laser_peft.masking import mean_over_real

SHRINKAGE = 0.1  # of whitening, in mean variances
MAX_TOKENS = 256  # of an item's text; what is beyond is cut
TOKENS_A_BATCH = 16_384  # padding included; bounds the memory of a batch


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


def load_lm(llm: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads a language model without its vocabulary head, in its own precision, and its tokenizer.

    Args:
        llm: a folder or a Hub id.

    Raises:
        OSError: if there is none.
    """
    lm = AutoModel.from_pretrained(llm, dtype="auto").eval()
    tokenizer = AutoTokenizer.from_pretrained(llm)
    if torch.accelerator.is_available():
        lm = lm.to(torch.accelerator.current_accelerator())
    return lm, tokenizer


def catalogue_vectors(
    lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, catalogue: Catalogue
) -> Tensor:
    """Makes the whitened vectors of the items' texts, said as in a prompt.

    Args:
        lm: a causal language model without its vocabulary head, in eval mode.
        tokenizer: its tokenizer.
        catalogue: the items.

    Returns:
        ``(N, H)`` float32 on the CPU; the same row for items of the same text.
    """
    describe = PromptTemplate().describe
    texts = [describe(attributes) for attributes in catalogue.attributes()]
    # Each distinct text is read once: batches of other shapes would set equal texts apart.
    rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    vectors = whiten(text_vectors(lm, tokenizer, list(rows)))
    return vectors[torch.tensor([rows[text] for text in texts])]


@torch.inference_mode()
def text_vectors(
    lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]
) -> Tensor:
    """Reads texts with a language model.

    Args:
        lm: a causal language model without its vocabulary head, in eval mode.
        tokenizer: its tokenizer.
        texts: none of them empty.

    Returns:
        ``(texts, H)`` float32 on the CPU, the mean of the last hidden states over a text's tokens.
    """
    opening = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    encoded = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    tokens = [opening + ids[:MAX_TOKENS] for ids in encoded]
    vectors = torch.empty(len(tokens), lm.config.get_text_config().hidden_size)
    order = sorted(range(len(tokens)), key=lambda row: -len(tokens[row]))
    start = 0
    while start < len(order):
        rows = order[start : start + max(TOKENS_A_BATCH // len(tokens[order[start]]), 1)]
        batch = PaddingCollator()([{"input_ids": tokens[row]} for row in rows])
        inputs = {name: values.to(lm.device) for name, values in batch.items()}
        states = lm(**inputs, use_cache=False).last_hidden_state  # (B, T, H)
        # The opening token's state says nothing of the item, and is much longer than the others.
        own = inputs["attention_mask"].clone()
        own[:, : len(opening)] = False
        vectors[rows] = mean_over_real(states.float(), own).cpu()
        start += len(rows)
    return vectors


def whiten(vectors: Tensor) -> Tensor:
    """Centres vectors and makes all their directions about equally long.

    The states of a language model lie in a narrow cone, where all cosines are alike. On 5,000
    validation users of Amazon Beauty whitening took unmasked HR@10 from .063 to .072.

    Args:
        vectors: ``(texts, H)`` float.

    Returns:
        ``(texts, H)`` float32.
    """
    centred = vectors.double() - vectors.double().mean(0)
    variances, directions = torch.linalg.eigh(centred.T @ centred / len(centred))
    # Directions of next to no variance are noise; so they are not blown up without bound.
    scale = variances.clamp(min=0) + SHRINKAGE * variances.mean()
    return (centred @ directions / scale.clamp(min=torch.finfo(torch.float64).tiny).sqrt()).float()
