"""Times a recommendation after one new event: in a session, and from the whole history anew.

    python examples/benchmarks/one_event.py RUN/recommender --rounds 100 --dtype float32
    python examples/benchmarks/one_event.py RUN/recommender --rounds 20 --random-lm 25m
    python examples/benchmarks/one_event.py RUN/recommender --rounds 10 --users 32

In turns, for the same histories: ``recommend`` is given the whole history, and a session that has
recommended before is given one more item; with ``--users`` so many of them at a time. Histories are
drawn from the catalogue as ``recommend_many.py`` draws them, and cut to what fits a prompt. Where
validation gave the language model's reading no weight, no prompt is read at all; ``--correction 1``
gives it one, so that it is. ``--random-lm`` puts one of that many parameters, and an adapter, of
random values in the place of the recommender's. What both find is compared: the same items, and
scores that differ by rounding alone.
"""

from collections.abc import Callable, Sequence
from itertools import islice

import numpy as np
import torch
from interleaved import Seconds, common_parser, finish, in_turns, start, timed
from made_up import SIZES, random_adapter, random_lm
from recommend_many import draw_histories

from laser_peft.recommender import LaserRecommender, Recommendation

WHOLE, SESSION = "the whole history", "in a session"


class Finding:
    """Does something for each batch of histories, and keeps which items were found.

    Args:
        find: gives what is recommended, by the number of the batch.
    """

    def __init__(self, find: Callable[[int], list[list[Recommendation]]]) -> None:
        self.find = find
        self.found: dict[int, list[list[str]]] = {}

    def __call__(self, place: int) -> Seconds:
        """Says how long it took; a variant of ``in_turns``."""

        def work() -> None:
            self.found[place] = [[item.item_id for item in best] for best in self.find(place)]

        return timed(work)


def variants_of(
    recommender: LaserRecommender, batches: Sequence[Sequence[list[str]]]
) -> dict[str, Finding]:
    """Makes both ways for the newest event of each history, batch by batch."""
    sessions = [[recommender.session(history[:-1]) for history in batch] for batch in batches]
    for batch in sessions:
        recommender.recommend_sessions(batch)

    def go_on(place: int) -> list[list[Recommendation]]:
        for session, history in zip(sessions[place], batches[place], strict=True):
            session.add(history[len(session.history) :])
        return recommender.recommend_sessions(sessions[place])

    return {
        WHOLE: Finding(lambda place: recommender.recommend(batches[place])),
        SESSION: Finding(go_on),
    }


def fitting(recommender: LaserRecommender, history: list[str]) -> list[str]:
    """Returns the newest items of a history that one prompt holds."""
    dense = recommender.catalogue.dense_ids(history)
    return history[-len(recommender.prompts.with_places(dense)[1]) :]


def with_random_lm(recommender: LaserRecommender, size: str) -> LaserRecommender:
    """Makes a recommender of the same items and limits, all of whose weights are random."""
    tokenizer, catalogue = recommender.tokenizer, recommender.catalogue
    lm = random_lm(size, len(tokenizer)).to(recommender.model.dtype)
    model = random_adapter(lm, len(catalogue), layout="text_first")
    return LaserRecommender(model, tokenizer, catalogue, recommender.config)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = common_parser(__doc__.splitlines()[0])
    parser.add_argument("recommender", help="folder or Hub id")
    parser.add_argument("--users", type=int, default=1, help="who have an event at a time")
    parser.add_argument("--correction", type=float, help="weight of the language model's reading")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="of the language model")
    parser.add_argument("--random-lm", choices=SIZES, help="parameters of one to read with instead")
    arguments = parser.parse_args(argv)
    start(arguments)
    dtype = None if arguments.dtype is None else getattr(torch, arguments.dtype)
    recommender = LaserRecommender.from_pretrained(arguments.recommender, dtype=dtype)
    if arguments.random_lm is not None:
        recommender = with_random_lm(recommender, arguments.random_lm)
    if arguments.correction is not None:
        recommender.model.base_model.set_view_weights(correction=arguments.correction)
    drawn = draw_histories(recommender.catalogue.item_ids, np.random.default_rng(arguments.seed))
    fitted = (fitting(recommender, one) for one in drawn)
    batches = [list(islice(fitted, arguments.users)) for _ in range(arguments.rounds)]
    tokens = [
        len(recommender.prompts(recommender.catalogue.dense_ids(history)))
        for batch in batches
        for history in batch
    ]
    print(f"{len(recommender.catalogue)} items; prompts of {np.mean(tokens):.0f} tokens")
    for finding in variants_of(recommender, batches[:3]).values():  # what happens once a process
        finding(0)
    variants = variants_of(recommender, batches)
    taken = in_turns(variants, arguments.rounds, warm_up=0)
    finish(arguments, taken, WHOLE, "event" if arguments.users == 1 else "batch of events")
    whole, session = (variants[name].found for name in (WHOLE, SESSION))
    pairs = [pair for place in whole for pair in zip(whole[place], session[place], strict=True)]
    print(f"the same ten items in {sum(one == other for one, other in pairs)} of {len(pairs)}")


if __name__ == "__main__":
    main()
