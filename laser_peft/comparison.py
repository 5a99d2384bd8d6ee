"""The honest table: an adapter beside the very SASRec it reads, on the same users."""

from typing import Any

from laser_peft.data import Split
from laser_peft.evaluation import PROTOCOLS, hr_at, ndcg_at, paired_bootstrap, summarise
from laser_peft.recommender import LaserRecommender
from laser_peft.training import HistoryDataset, PromptDataset, rank_dataset

COMPARED = {"hr@10": hr_at, "ndcg@10": ndcg_at}


def evaluate(
    recommender: LaserRecommender, split: Split, *, batch_size: int = 64
) -> dict[str, Any]:
    """Ranks every test target over the whole catalogue, with Laser and with its own SASRec.

    Returns:
        ``users``; ``models``: name to protocol to metric; ``difference``: protocol to metric to
        Laser minus SASRec with its 95 % interval over users.
    """
    model, max_items = recommender.model, recommender.config.max_items
    ranks = {
        "sasrec": rank_dataset(
            model.collaborative_encoder, HistoryDataset(split.test, max_items), batch_size=256
        ),
        "laser": rank_dataset(
            model,
            PromptDataset(split.test, recommender.prompts, max_items=max_items, ranked=True),
            batch_size=batch_size,
        ),
    }
    return {
        "users": len(split.test),
        "models": {
            name: {
                protocol: summarise(columns[:, column]) for column, protocol in enumerate(PROTOCOLS)
            }
            for name, columns in ranks.items()
        },
        "difference": {
            protocol: {
                name: paired_bootstrap(
                    metric(10, ranks["sasrec"][:, column]), metric(10, ranks["laser"][:, column])
                )._asdict()
                for name, metric in COMPARED.items()
            }
            for column, protocol in enumerate(PROTOCOLS)
        },
    }
