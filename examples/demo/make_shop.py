"""Generates a small shop in which both texts and co-purchases tell what a user wants next.

    python examples/demo/make_shop.py --output demo/shop

Needs numpy, no accelerator, about two seconds. Writes interactions.csv.gz (user_id, item_id,
timestamp) and items.jsonl.gz (item_id, title, brand, categories) and prints their counts; the same
arguments give the same bytes. No shop, brand or user in it is real.

How a user buys: the next item is drawn from a softmax over the sum of the user's taste (for
departments, kinds, brands and styles, all legible in the item texts), a bonus for what goes with
the last item (random arrows inside a department, which only ids can learn) and Zipf popularity.
One item in ten is new: only ever some users' last event, or their last but one, so that a
leave-one-out split has it in validation and test and nothing to learn from. Text can find it, by
the user's taste; a model of ids cannot.
"""

import argparse
import csv
import gzip
import io
import itertools
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

DEPARTMENTS = {
    "Lighting": ("Desk Lamp", "Floor Lamp", "Ceiling Light", "Lantern", "Wall Sconce"),
    "Kitchen": ("Kettle", "Frying Pan", "Chopping Board", "Coffee Grinder", "Spice Rack"),
    "Office": ("Fountain Pen", "Notebook", "Desk Organizer", "Office Chair", "Bookend"),
    "Garden": ("Watering Can", "Flower Pot", "Garden Bench", "Pruning Shears", "Bird Feeder"),
    "Music": ("Record Player", "Headphones", "Music Stand", "Metronome", "Speaker"),
    "Travel": ("Suitcase", "Backpack", "Travel Mug", "Toiletry Bag", "Passport Holder"),
    "Pets": ("Dog Bed", "Cat Tree", "Food Bowl", "Leash", "Aquarium"),
    "Fitness": ("Yoga Mat", "Dumbbell", "Jump Rope", "Water Bottle", "Foam Roller"),
}
BRANDS = """
    Velqora Tazmiro Brunnilo Oquesta Fendrava Kolvimar Zephwick Marnuvo Plindora Sorvetti
    Jaskaro Wendolux Drathmo Yuvenka Hestrova Lumbrezo Novaquil Grimbalo Tolvanne Quindaro
    Ambrelka Pirrozan Vostelli Calduwen Skarnova Mirvandel Ostrimo Falkuri Beldraxa Ronquavi
    Thessimar Ulvenno Dorquist Zanbrilo Hokkaven Lirmundo Nespraga Iskwell Gavrondo Perlumba
""".split()
# A style shows in a title as one of its two looks and one of its two colours.
STYLES = (
    (("Rustic", "Weathered"), ("Walnut", "Rust")),
    (("Nordic", "Birch"), ("Chalk", "Fog")),
    (("Retro", "Vintage"), ("Mustard", "Teal")),
    (("Industrial", "Riveted"), ("Iron", "Copper")),
    (("Minimal", "Slimline"), ("White", "Graphite")),
    (("Botanical", "Leafy"), ("Moss", "Fern")),
    (("Coastal", "Driftwood"), ("Navy", "Sand")),
    (("Ornate", "Baroque"), ("Gold", "Burgundy")),
)
ID_ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"

NEW_ITEM_SHARE, NEW_USER_SHARE = 0.10, 0.16  # of the users half in validation, half in test
MISSING_BRAND_SHARE, MISSING_CATEGORIES_SHARE = 0.08, 0.06
MIN_EVENTS, MAX_EVENTS, STOP_PROBABILITY = 5, 20, 0.2

# Weights are log-odds: +1 makes an item e times more likely to be bought next.
DEPARTMENT_WEIGHT = 3.0
FAVOURITES = {"kind": (2, 1.0), "brand": (2, 3.0), "style": (1, 3.0)}  # how many, their weight
GOES_WITH_WEIGHT, COMPANIONS_PER_ITEM = 4.0, 3
ZIPF_EXPONENT = 0.6


@dataclass(frozen=True)
class Catalogue:
    """The shop's N items."""

    items: list[dict]  # as written to the file
    traits: dict[str, np.ndarray]  # department, kind, brand, style: each (N,) int
    is_new: np.ndarray  # (N,) bool


def draw_catalogue(rng: np.random.Generator, num_items: int) -> Catalogue:
    """Draws items with different titles; each brand sells in two departments.

    Raises:
        ValueError: if ``num_items`` is below 100 or above the number of different titles.
    """
    kinds = [(department, kind) for department in DEPARTMENTS for kind in DEPARTMENTS[department]]
    department_of_kind = np.repeat(
        np.arange(len(DEPARTMENTS)), list(map(len, DEPARTMENTS.values()))
    )
    sold_in = [rng.choice(len(DEPARTMENTS), size=2, replace=False) for _ in BRANDS]
    designs = [
        (kind, brand, style, words)
        for kind, brand in itertools.product(range(len(kinds)), range(len(BRANDS)))
        if department_of_kind[kind] in sold_in[brand]
        for style, looks_and_colours in enumerate(STYLES)
        for words in itertools.product(*looks_and_colours)
    ]
    if not 100 <= num_items <= len(designs):
        raise ValueError(f"--items must lie in 100..{len(designs)}, got {num_items}")
    chosen = [designs[i] for i in rng.choice(len(designs), size=num_items, replace=False)]

    items = []
    for item_id, design in zip(opaque_ids(rng, "P", num_items), chosen, strict=True):
        kind, brand, _, (look, colour) = design
        title = f"{BRANDS[brand]} {look} {kinds[kind][1]}, {colour}"
        item = {"item_id": item_id, "title": title}
        item |= draw_attribute(rng, "brand", BRANDS[brand], MISSING_BRAND_SHARE)
        item |= draw_attribute(rng, "categories", list(kinds[kind]), MISSING_CATEGORIES_SHARE)
        items.append(item)
    kind, brand, style = np.array([design[:3] for design in chosen]).T
    traits = {"department": department_of_kind[kind], "kind": kind, "brand": brand, "style": style}
    is_new = rng.permutation(num_items) < round(NEW_ITEM_SHARE * num_items)
    return Catalogue(items, traits, is_new)


def draw_attribute(
    rng: np.random.Generator, name: str, value: str | list[str], missing_share: float
) -> dict[str, str | list[str]]:
    """Gives the attribute, or, as in real catalogues, sometimes an empty one or none at all."""
    if rng.random() >= missing_share:
        return {name: value}
    return {name: type(value)()} if rng.random() < 0.5 else {}


def draw_tastes(rng: np.random.Generator, catalogue: Catalogue, num_users: int) -> np.ndarray:
    """Draws one or two departments for each user, and favourites among what those sell.

    Returns:
        ``(U, N)`` float32 log-odds, at least zero, higher for what a user likes.
    """
    tastes = np.zeros((num_users, len(catalogue.items)), dtype=np.float32)
    for taste in tastes:
        departments = rng.choice(len(DEPARTMENTS), size=rng.integers(1, 3), replace=False)
        is_near = np.isin(catalogue.traits["department"], departments)
        taste += DEPARTMENT_WEIGHT * is_near
        for name, (count, weight) in FAVOURITES.items():
            trait = catalogue.traits[name]
            taste += weight * np.isin(trait, rng.permutation(np.unique(trait[is_near]))[:count])
    return tastes


def draw_new_events(
    rng: np.random.Generator, catalogue: Catalogue, tastes: np.ndarray
) -> dict[int, int]:
    """Takes the new items in turn and finds each a user who likes it; maps users to items."""
    arrivals: dict[int, int] = {}
    new_items = itertools.cycle(np.flatnonzero(catalogue.is_new))
    for item in itertools.islice(new_items, round(NEW_USER_SHARE * len(tastes))):
        fit = 2 * tastes[:, item] + rng.gumbel(size=len(tastes))
        fit[list(arrivals)] = -np.inf
        arrivals[int(fit.argmax())] = int(item)
    return arrivals


def draw_histories(
    rng: np.random.Generator, catalogue: Catalogue, tastes: np.ndarray
) -> list[list[int]]:
    """Lets every user buy; returns their items, oldest first, none twice."""
    num_items = len(catalogue.items)
    popularity = -ZIPF_EXPONENT * np.log(1 + rng.permutation(num_items))
    popularity[catalogue.is_new] = -np.inf
    departments = catalogue.traits["department"]
    shelves = [np.flatnonzero(~catalogue.is_new & (departments == d)) for d in departments]
    goes_with = [rng.choice(shelf, size=COMPANIONS_PER_ITEM) for shelf in shelves]
    arrivals = draw_new_events(rng, catalogue, tastes)

    histories = []
    for user, taste in enumerate(tastes):
        num_events = min(MIN_EVENTS - 1 + rng.geometric(STOP_PROBABILITY), MAX_EVENTS)
        new_at = num_events - rng.integers(1, 3) if user in arrivals else None
        log_odds, history = taste + popularity, []
        while len(history) < num_events:
            if len(history) == new_at:
                history.append(arrivals[user])
                continue
            # The best after adding Gumbel noise is a draw from the softmax.
            noisy = log_odds + rng.gumbel(size=num_items)
            if history:
                noisy[goes_with[history[-1]]] += GOES_WITH_WEIGHT
            history.append(int(noisy.argmax()))
            log_odds[history[-1]] = -np.inf
        histories.append(history)
    return histories


def opaque_ids(rng: np.random.Generator, prefix: str, count: int) -> list[str]:
    """Draws different ids that say nothing about the order of what they name."""
    base, length = len(ID_ALPHABET), 5
    codes = rng.choice(base**length, size=count, replace=False)
    digits = codes[:, None] // base ** np.arange(length) % base  # (count, length)
    return [prefix + "".join(ID_ALPHABET[digit] for digit in row) for row in digits]


def interactions_table(
    rng: np.random.Generator, item_ids: list[str], histories: list[list[int]]
) -> str:
    """Lays the histories out as CSV, users one after another, with rising unix seconds."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["user_id", "item_id", "timestamp"])
    for user_id, history in zip(opaque_ids(rng, "U", len(histories)), histories, strict=True):
        start = 1_600_000_000 + rng.integers(2 * 365 * 86_400)
        gaps = 60 + rng.exponential(9 * 86_400, size=len(history)).astype(int)
        for item, timestamp in zip(history, start + gaps.cumsum(), strict=True):
            writer.writerow([user_id, item_ids[item], timestamp])
    return table.getvalue()


def write_gzip(path: Path, text: str) -> None:
    """Writes compressed text; without the time in its header, equal texts give equal bytes."""
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


def main() -> None:
    """Reads the command line, draws the shop and writes it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for the two files")
    parser.add_argument("--users", type=int, default=2000, help="how many users (2000)")
    parser.add_argument("--items", type=int, default=1200, help="how many items (1200)")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same shop (0)")
    args = parser.parse_args()

    rng = np.random.default_rng(args.seed)
    catalogue = draw_catalogue(rng, args.items)
    histories = draw_histories(rng, catalogue, draw_tastes(rng, catalogue, args.users))
    item_ids = [item["item_id"] for item in catalogue.items]

    args.output.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(item) + "\n" for item in catalogue.items)
    write_gzip(args.output / "items.jsonl.gz", lines)
    table = interactions_table(rng, item_ids, histories)
    write_gzip(args.output / "interactions.csv.gz", table)

    num_events = sum(map(len, histories))
    num_last, num_before = (
        sum(catalogue.is_new[history[place]] for history in histories) for place in (-1, -2)
    )
    print(f"{args.items} items, {catalogue.is_new.sum()} of them new; written to {args.output}")
    print(f"{args.users} users; the last event of {num_last} is a new item, the one before that")
    print(f"of {num_before}")
    print(f"{num_events} events, {num_events / args.users:.1f} a user")


if __name__ == "__main__":
    main()
