"""All baselines on one test."""

from collections.abc import Callable, Iterator

from laser_peft import numbering
from laser_peft.data import Catalogue, Split
from laser_peft.evaluation import Evaluation
from laser_peft.judge import Judge

from .cooccurrence import Cooccurrence
from .encoder import Encoder
from .popularity import Popularity
from .ranking import Baseline, rank_examples
from .text import TextNeighbours, catalogue_vectors, load_lm


def run_baselines(
    catalogue: Catalogue,
    split: Split,
    judge: Judge,
    *,
    llm: str | None = None,
    sasrec: str | None = None,
) -> Iterator[Evaluation]:
    """Fits and tests each baseline in turn; what may not load is loaded before any of them.

    Args:
        catalogue: the items.
        split: whose training part the baselines are fitted to.
        judge: the test of that split.
        llm: language model for the text neighbours, a folder or a Hub id; None: without them.
        sasrec: a trained encoder, a folder or a Hub id; None: without it.

    Yields:
        The evaluations called ``popularity``, ``co-occurrence``, ``text`` and ``sasrec``.

    Raises:
        OSError: if there is no such model.
        ValueError: if the encoder was trained on another catalogue.
    """
    histories, num_items = split.train_histories, len(catalogue)
    makers: dict[str, Callable[[], Baseline]] = {
        "popularity": lambda: Popularity(histories, num_items),
        "co-occurrence": lambda: Cooccurrence(histories, num_items),
    }
    if llm is not None:
        lm, tokenizer = load_lm(llm)
        makers["text"] = lambda: TextNeighbours(catalogue_vectors(lm, tokenizer, catalogue))
    if sasrec is not None:
        encoder = Encoder.from_pretrained(sasrec, num_items)
        numbering.check(encoder.model.config, catalogue.item_ids)
        makers["sasrec"] = lambda: encoder
    for name, make in makers.items():
        yield judge.evaluation(name, rank_examples(make(), judge.examples))
