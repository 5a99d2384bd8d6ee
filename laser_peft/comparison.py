"""The honest test: an adapter and the very SASRec it reads, on the same users."""

from transformers import PreTrainedModel

from laser_peft.baselines import Encoder, rank_examples
from laser_peft.evaluation import Evaluation
from laser_peft.judge import Judge
from laser_peft.recommender import LaserRecommender
from laser_peft.training import PromptDataset, rank_dataset


def evaluate(
    recommender: LaserRecommender, judge: Judge, *, batch_size: int = 64
) -> list[Evaluation]:
    """Ranks every test target over the whole catalogue, with its own SASRec and with Laser.

    Args:
        recommender: whose catalogue the judge's examples are numbered by.
        judge: the test.
        batch_size: users at a time.

    Returns:
        Two evaluations, that of its encoder (``sasrec``) and ``laser``, in this order.

    Raises:
        ValueError: if items were added that its encoder does not know.
    """
    model, max_items = recommender.model, recommender.config.max_items
    _check_same_items(recommender)
    prompts = PromptDataset(judge.examples, recommender.prompts, max_items=max_items, ranked=True)
    return [
        evaluate_encoder(model.collaborative_encoder, judge, max_items=max_items),
        judge.evaluation("laser", rank_dataset(model, prompts, batch_size=batch_size)),
    ]


def evaluate_encoder(encoder: PreTrainedModel, judge: Judge, *, max_items: int) -> Evaluation:
    """Ranks every test target over the whole catalogue with an ID encoder.

    Args:
        encoder: as :mod:`laser_peft.collaborative` says an encoder is.
        judge: the test.
        max_items: how many of the newest items it reads.

    Returns:
        An evaluation called by the encoder's ``model_type``, ``sasrec`` for ours.
    """
    num_items = encoder.get_input_embeddings().num_embeddings - 1
    ranks = rank_examples(Encoder(encoder, num_items, max_items=max_items), judge.examples)
    return judge.evaluation(encoder.config.model_type, ranks)


def _check_same_items(recommender: LaserRecommender) -> None:
    known = recommender.model.collaborative_encoder.get_input_embeddings().num_embeddings - 1
    if known < len(recommender.catalogue):
        raise ValueError(
            f"the recommender has {len(recommender.catalogue)} items and its encoder knows "
            f"{known} of them, the others were added: the two cannot be ranked on the same "
            "items; evaluate the recommender as it was trained"
        )
