"""Two models side by side, each trained with several seeds: what training's luck moves, and users'.

The spread over seeds and the interval over users are two things, and both are told. A user counts
once, with the mean over the seeds: the tests of one user under several seeds are alike, and to
draw them one by one would make the interval too narrow.
"""

from collections.abc import Sequence
from dataclasses import replace
from statistics import mean, stdev
from typing import Any

import numpy as np
import polars as pl

from .comparison import differences, on_the_same_users
from .metrics import per_user
from .ranking import PROTOCOLS
from .saved import Evaluation, means
from .slices import absent_slices, slices_of


def compare_over_seeds(first: Sequence[Evaluation], second: Sequence[Evaluation]) -> dict[str, Any]:
    """Compares two models on the same users, each tested once for every seed it was trained with.

    With one test each the differences are those of :func:`.comparison.compare`.

    Args:
        first: tests of one model, all of its name.
        second: tests of the other one; as many or not.

    Returns:
        ``users``; ``models``: name to protocol to metric to ``mean`` and ``std`` over seeds (of a
        sample; None with one seed); ``difference``: protocol to metric to second minus first, each
        user's averaged over seeds, with its 95 % interval over users; ``slices``: the same for
        each group of users, only ``users`` where nobody is in it; ``absent_slices``: name to
        reason.

    Raises:
        ValueError: if there is no test of one of them, the tests of a model differ in their name
            or both models have the same, or not all were on the same data, users and targets.
    """
    names = [_name_of(tests) for tests in (first, second)]
    if names[0] == names[1]:
        raise ValueError(
            f"both models are called {names[0]!r}; give them names that tell them apart: "
            "dataclasses.replace(evaluation, name=...)"
        )
    targets, ranks = _aligned([*first, *second])
    by_name = dict(zip(names, np.split(ranks, [len(first)]), strict=True))
    return _compare(by_name) | {
        "slices": {
            slice_name: _compare({name: ranks[:, of_slice] for name, ranks in by_name.items()})
            for slice_name, of_slice in slices_of(targets).items()
        },
        "absent_slices": absent_slices(targets),
    }


def _name_of(tests: Sequence[Evaluation]) -> str:
    names = sorted({test.name for test in tests})
    if len(names) != 1:
        raise ValueError(
            "each model needs tests of one name, at least one of them, got "
            f"{names or 'none'}; give the tests of one model at a time"
        )
    return names[0]


def _aligned(tests: list[Evaluation]) -> tuple[pl.DataFrame, np.ndarray]:
    """Returns the targets and all ranks ``(tests, users, 2)`` in their order."""
    numbered = [
        replace(test, name=f"{test.name} (test {place})") for place, test in enumerate(tests, 1)
    ]
    targets, ranks = numbered[0].targets, [numbered[0].ranks]
    for test in numbered[1:]:
        # A slice that one of them cannot tell is lost to all of them.
        targets, others = on_the_same_users(replace(numbered[0], targets=targets), test)
        ranks.append(others)
    return targets, np.stack(ranks)


def _compare(by_name: dict[str, np.ndarray]) -> dict[str, Any]:
    first, second = by_name.values()
    if not first.shape[1]:
        return {"users": 0}
    return {
        "users": first.shape[1],
        "models": {name: _spread(ranks) for name, ranks in by_name.items()},
        "difference": {
            protocol: differences(_per_user(first[:, :, column]), _per_user(second[:, :, column]))
            for column, protocol in enumerate(PROTOCOLS)
        },
    }


def _spread(ranks: np.ndarray) -> dict[str, dict[str, dict[str, float | None]]]:
    of_seeds = [means(of_seed) for of_seed in ranks]
    return {
        protocol: {
            metric: _mean_and_std([of_seed[protocol][metric] for of_seed in of_seeds])
            for metric in of_seeds[0][protocol]
        }
        for protocol in PROTOCOLS
    }


def _mean_and_std(values: list[float]) -> dict[str, float | None]:
    return {"mean": mean(values), "std": stdev(values) if len(values) > 1 else None}


def _per_user(ranks: np.ndarray) -> dict[str, np.ndarray]:
    """Averages every metric of every user over seeds: ``(seeds, users)`` to ``(users,)`` each."""
    of_seeds = [per_user(of_seed) for of_seed in ranks]
    return {
        metric: np.mean([of_seed[metric] for of_seed in of_seeds], axis=0) for metric in of_seeds[0]
    }
