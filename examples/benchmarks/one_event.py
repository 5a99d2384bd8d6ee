"""Times a recommendation after one new event: in a session, and from the whole history anew.

    python examples/benchmarks/one_event.py RUN/recommender --repeats 100 --bf16

In turns, for the same histories: a session that has recommended before is given one more item, and
``recommend`` is given the whole history. Histories are drawn from the catalogue as
``recommend_many.py`` draws them, and cut to what fits a prompt. Where validation gave the language
model's reading no weight, no prompt is read at all; ``--correction 1`` gives it one, so that it is.
What both find is compared: the same items, and scores that differ by rounding alone.
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from itertools import islice

import numpy as np
import torch
from recommend_many import PACKAGES, draw_histories

import laser_peft
from laser_peft.recommender import LaserRecommender, Recommendation


def timed(call: Callable[[], list[Recommendation]]) -> tuple[list[Recommendation], float]:
    """Returns what is found and the milliseconds that it took."""
    started = time.perf_counter()
    found = call()
    return found, 1000 * (time.perf_counter() - started)


def after_an_event(recommender: LaserRecommender, history: list[str]) -> tuple[float, float, bool]:
    """Returns the milliseconds of a session and of the whole history, and whether both agree."""
    session = recommender.session(history[:-1])
    session.recommend()

    def go_on() -> list[Recommendation]:
        session.add(history[-1])
        return session.recommend()

    (behind, kept), (anew, whole) = timed(go_on), timed(lambda: recommender.recommend(history))
    same = [item.item_id for item in behind] == [item.item_id for item in anew]
    return kept, whole, same


def fitting(recommender: LaserRecommender, history: list[str]) -> list[str]:
    """Returns the newest items of a history that one prompt holds."""
    dense = recommender.catalogue.dense_ids(history)
    return history[-len(recommender.prompts.with_places(dense)[1]) :]


def said(name: str, values: Sequence[float], unit: str) -> str:
    """Writes a median and its quarters."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{name:32} median {middle:.2f}{unit} (quarters {low:.2f} to {high:.2f})"


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recommender", help="folder or Hub id")
    parser.add_argument("--repeats", type=int, default=100, help="events")
    parser.add_argument("--correction", type=float, help="weight of the language model's reading")
    parser.add_argument("--bf16", action="store_true", help="load the language model in bfloat16")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    versions = [f"{name} {version(name)}" for name in PACKAGES]
    print(", ".join([f"laser_peft {laser_peft.__version__}", *versions]))
    print(f"{platform.machine()}, {os.cpu_count()} cores, {arguments.threads} used")
    dtype = torch.bfloat16 if arguments.bf16 else None
    recommender = LaserRecommender.from_pretrained(arguments.recommender, dtype=dtype)
    if arguments.correction is not None:
        recommender.model.base_model.set_view_weights(correction=arguments.correction)
    drawn = draw_histories(recommender.catalogue.item_ids, np.random.default_rng(arguments.seed))
    histories = [fitting(recommender, one) for one in islice(drawn, arguments.repeats + 5)]
    for history in histories[:5]:
        after_an_event(recommender, history)
    kept, whole, same = zip(*(after_an_event(recommender, h) for h in histories[5:]), strict=True)
    tokens = [len(recommender.prompts(recommender.catalogue.dense_ids(h))) for h in histories[5:]]
    print(f"{len(recommender.catalogue)} items; prompts of {statistics.mean(tokens):.0f} tokens")
    print(said("one new event, whole history", whole, " ms"))
    print(said("one new event, session", kept, " ms"))
    print(said("session / whole history", [a / b for a, b in zip(kept, whole, strict=True)], "x"))
    print(f"the same ten items in {sum(same)} of {len(same)}")


if __name__ == "__main__":
    main()
