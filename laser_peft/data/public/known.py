"""Which public data sets are known: addresses, formats, whom to cite, what is allowed.

Addresses and formats are those the publishers give. Only MovieLens publishes a checksum.
"""

from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from pathlib import Path

from . import amazon, movielens
from .fetch import Source
from .records import Event, Item

SNAP = "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles"
UCSD = "https://mcauleylab.ucsd.edu/public_datasets/data"
GROUPLENS = "https://files.grouplens.org/datasets/movielens"
# https://files.grouplens.org/datasets/movielens/ml-1m.zip.md5
MOVIELENS_1M_MD5 = "c4d9eecfca2ab87c1945afe126590906"

AMAZON_2014 = """
    Amazon_Instant_Video Apps_for_Android Automotive Baby Beauty Books CDs_and_Vinyl
    Cell_Phones_and_Accessories Clothing_Shoes_and_Jewelry Digital_Music Electronics
    Grocery_and_Gourmet_Food Health_and_Personal_Care Home_and_Kitchen Kindle_Store Movies_and_TV
    Musical_Instruments Office_Products Patio_Lawn_and_Garden Pet_Supplies Sports_and_Outdoors
    Tools_and_Home_Improvement Toys_and_Games Video_Games
""".split()
AMAZON_2018 = """
    AMAZON_FASHION All_Beauty Appliances Arts_Crafts_and_Sewing Automotive Books CDs_and_Vinyl
    Cell_Phones_and_Accessories Clothing_Shoes_and_Jewelry Digital_Music Electronics Gift_Cards
    Grocery_and_Gourmet_Food Home_and_Kitchen Industrial_and_Scientific Kindle_Store Luxury_Beauty
    Magazine_Subscriptions Movies_and_TV Musical_Instruments Office_Products Patio_Lawn_and_Garden
    Pet_Supplies Prime_Pantry Software Sports_and_Outdoors Tools_and_Home_Improvement
    Toys_and_Games Video_Games
""".split()
AMAZON_2023 = """
    All_Beauty Arts_Crafts_and_Sewing Automotive Baby_Products Beauty_and_Personal_Care Books
    CDs_and_Vinyl Cell_Phones_and_Accessories Clothing_Shoes_and_Jewelry Electronics Gift_Cards
    Grocery_and_Gourmet_Food Health_and_Household Home_and_Kitchen Industrial_and_Scientific
    Kindle_Store Magazine_Subscriptions Movies_and_TV Musical_Instruments Office_Products
    Patio_Lawn_and_Garden Pet_Supplies Software Sports_and_Outdoors Tools_and_Home_Improvement
    Toys_and_Games Unknown Video_Games
""".split()

NO_LICENCE = "none stated by the publisher; published for research, to be cited"


@dataclass(frozen=True)
class PublicDataset:
    """A data set by name: its files, how they are read, and what comes with using it.

    Args:
        name: how it is called here.
        page: where its publisher describes it.
        log: the file of reviews or ratings.
        metadata: the file of items, which may be the same.
        read_log: reads the log, in file order.
        read_items: reads the items; of interest are those in the container, or all (None).
        citation: whom to cite.
        licence: what its publisher allows, in short.
    """

    name: str
    page: str
    log: Source
    metadata: Source
    read_log: Callable[[Path], Iterator[Event]]
    read_items: Callable[[Path, Container[str] | None], Iterator[Item]]
    citation: str
    licence: str


def _amazon_2014(category: str) -> PublicDataset:
    return PublicDataset(
        name=_name("amazon-2014", category),
        page="https://cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html",
        log=Source(f"{SNAP}/reviews_{category}_5.json.gz"),
        metadata=Source(f"{SNAP}/meta_{category}.json.gz"),
        read_log=amazon.read_reviews,
        read_items=amazon.read_items_2014,
        citation=(
            "R. He, J. McAuley: Ups and downs: Modeling the visual evolution of fashion trends "
            "with one-class collaborative filtering. WWW 2016. J. McAuley, C. Targett, J. Shi, "
            "A. van den Hengel: Image-based recommendations on styles and substitutes. SIGIR 2015."
        ),
        licence=NO_LICENCE,
    )


def _amazon_2018(category: str) -> PublicDataset:
    return PublicDataset(
        name=_name("amazon-2018", category),
        page="https://nijianmo.github.io/amazon/index.html",
        log=Source(f"{UCSD}/amazon_v2/categoryFilesSmall/{category}_5.json.gz"),
        metadata=Source(f"{UCSD}/amazon_v2/metaFiles2/meta_{category}.json.gz"),
        read_log=amazon.read_reviews,
        read_items=amazon.read_items_2018,
        citation=(
            "J. Ni, J. Li, J. McAuley: Justifying recommendations using distantly-labeled reviews "
            "and fine-grained aspects. EMNLP 2019."
        ),
        licence=NO_LICENCE,
    )


def _amazon_2023(category: str) -> PublicDataset:
    return PublicDataset(
        name=_name("amazon-2023", category),
        page="https://amazon-reviews-2023.github.io/",
        log=Source(f"{UCSD}/amazon_2023/benchmark/5core/rating_only/{category}.csv.gz"),
        metadata=Source(f"{UCSD}/amazon_2023/raw/meta_categories/meta_{category}.jsonl.gz"),
        read_log=amazon.read_ratings,
        read_items=amazon.read_items_2023,
        citation=(
            "Y. Hou, J. Li, Z. He, A. Yan, X. Chen, J. McAuley: Bridging Language and Items for "
            "Retrieval and Recommendation. arXiv 2403.03952, 2024."
        ),
        licence=NO_LICENCE,
    )


def _movielens_1m() -> PublicDataset:
    archive = Source(f"{GROUPLENS}/ml-1m.zip", md5=MOVIELENS_1M_MD5)
    return PublicDataset(
        name="movielens-1m",
        page="https://grouplens.org/datasets/movielens/1m/",
        log=archive,
        metadata=archive,
        read_log=movielens.read_ratings,
        read_items=movielens.read_movies,
        citation=(
            "F. M. Harper, J. A. Konstan: The MovieLens Datasets: History and Context. ACM "
            "Transactions on Interactive Intelligent Systems 5(4), 19, 2015."
        ),
        licence=(
            "research use with acknowledgement; no endorsement implied; no redistribution and no "
            "commercial use without GroupLens' permission (README in the zip)"
        ),
    )


def _name(release: str, category: str) -> str:
    return f"{release}-{category.lower().replace('_', '-')}"


KNOWN: dict[str, PublicDataset] = {
    dataset.name: dataset
    for dataset in (
        *map(_amazon_2014, AMAZON_2014),
        *map(_amazon_2018, AMAZON_2018),
        *map(_amazon_2023, AMAZON_2023),
        _movielens_1m(),
    )
}
