r"""Cuts a saved evaluation down to the users of another, so that the two can be compared.

python examples/baselines/on_same_users.py runs/beauty/evaluation/laser \
        runs/tallrec/evaluation/tallrec-like --output runs/beauty-1000/laser
laser-peft compare runs/tallrec/evaluation/tallrec-like runs/beauty-1000/laser
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from laser_peft.evaluation import Evaluation
from laser_peft.runs import check_new


def on_users_of(evaluation: Evaluation, other: Evaluation) -> Evaluation:
    """Returns an evaluation of another's users alone, in the other's order.

    Raises:
        ValueError: if a user of the other was not tested, or on other data.
    """
    if evaluation.data_hash != other.data_hash:
        raise ValueError(
            f"{evaluation.name} and {other.name} were tested on different data; test both on the "
            "same log and items"
        )
    rows = {user: row for row, user in enumerate(evaluation.targets["user_id"])}
    wanted = other.targets["user_id"].to_list()
    if missing := [user for user in wanted if user not in rows]:
        raise ValueError(
            f"{len(missing)} of {len(wanted)} users of {other.name} are not among those of "
            f"{evaluation.name}: {missing[:5]}; name the evaluation of more users first"
        )
    kept = [rows[user] for user in wanted]
    return replace(evaluation, targets=evaluation.targets[kept], ranks=evaluation.ranks[kept])


def main(argv: Sequence[str] | None = None) -> None:
    """Cuts and saves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("evaluation", type=Path, help="folder of an evaluation of many users")
    parser.add_argument("other", type=Path, help="folder of one of some of them")
    parser.add_argument("--output", type=Path, required=True, help="new folder")
    args = parser.parse_args(argv)
    check_new(args.output)
    cut = on_users_of(Evaluation.load(args.evaluation), Evaluation.load(args.other))
    cut.save(args.output)
    print(f"{cut.name}: {len(cut.ranks)} users, saved: {args.output}")


if __name__ == "__main__":
    main()
