import pytest
import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM

from laser_peft import BiTuningConfig, LaserRecommender
from laser_peft.data import Catalogue
from laser_peft.recommender import RecommenderConfig


@pytest.fixture(scope="module")
def recommender(lm_folder, encoder_folder, shop, tokenizer):
    torch.manual_seed(0)
    llm = AutoModelForCausalLM.from_pretrained(lm_folder)
    model = get_peft_model(llm, BiTuningConfig(collaborative_encoder=encoder_folder)).eval()
    torch.nn.init.normal_(
        model.base_model.layer.bituning_adapters["default"].head.projection.weight
    )
    catalogue = Catalogue.read(shop / "items.jsonl")
    return LaserRecommender(model, tokenizer, catalogue, RecommenderConfig(max_tokens=120))


HISTORIES = [["i3"], ["i1", "i2", "i5", "i1"], [f"i{n}" for n in range(20)]]


def test_recommends_ids_titles_and_falling_scores(recommender):
    found = recommender.recommend(HISTORIES[1], k=5)
    assert [item.title for item in found] == [
        f"Thing number {item.item_id.removeprefix('i')}" for item in found
    ]
    scores = [item.score for item in found]
    assert scores == sorted(scores, reverse=True)
    assert not {item.item_id for item in found} & set(HISTORIES[1])


def test_scores_are_those_of_the_model(recommender):
    found = recommender.recommend(["i3"], k=23, exclude_seen=False)
    prompt = torch.tensor([recommender.prompts([4])])
    with torch.no_grad():
        logits = recommender.model(
            input_ids=prompt, history=torch.tensor([[4]]), return_logits=True
        ).logits[0]
    for item in found:
        row = recommender.catalogue.dense_ids([item.item_id])[0] - 1
        assert item.score == pytest.approx(logits[row].item(), abs=1e-4)


def test_many_users_get_what_each_gets_alone(recommender):
    together = list(recommender.recommend_many(HISTORIES, k=4, batch_size=2))
    for history, found in zip(HISTORIES, together, strict=True):
        alone = recommender.recommend(history, k=4)
        assert [item.item_id for item in found] == [item.item_id for item in alone]
        assert [item.score for item in found] == pytest.approx([i.score for i in alone], abs=1e-4)


def test_more_than_there_is_gives_all_that_is_left(recommender):
    assert len(recommender.recommend(HISTORIES[2], k=99)) == 3
    assert len(recommender.recommend(HISTORIES[2], k=99, exclude_seen=False)) == 23


@pytest.mark.parametrize("give_llm", [False, True])
def test_save_and_load_is_exact(recommender, lm_folder, tmp_path, give_llm):
    recommender.save_pretrained(tmp_path)
    assert {file.suffix for file in tmp_path.iterdir()} == {
        ".json",
        ".safetensors",
        ".parquet",
        ".md",
    }
    llm = AutoModelForCausalLM.from_pretrained(lm_folder) if give_llm else None
    loaded = LaserRecommender.from_pretrained(tmp_path, llm=llm)
    assert loaded.config == recommender.config
    weights, saved = loaded.model.state_dict(), recommender.model.state_dict()
    assert weights.keys() == saved.keys()
    assert all(torch.equal(weights[name], saved[name]) for name in saved)
    # Equal weights at another address may be summed in another order: equal to the last bits.
    for one, other in zip(
        loaded.recommend(HISTORIES[1]), recommender.recommend(HISTORIES[1]), strict=True
    ):
        assert one[:2] == other[:2]
        assert one.score == pytest.approx(other.score, rel=1e-5)


def test_without_a_tokenizer_of_its_own_a_folder_uses_the_language_models(recommender, tmp_path):
    recommender.save_pretrained(tmp_path)
    for file in tmp_path.glob("tokenizer*"):
        file.unlink()
    loaded = LaserRecommender.from_pretrained(tmp_path)
    assert loaded.prompts([1, 2, 3]) == recommender.prompts([1, 2, 3])


@pytest.mark.parametrize(
    ("history", "k", "message"),
    [
        ([], 10, "the history is empty: pass at least one item id"),
        (["i1", "nowhere"], 10, r"1 of 2 items are not in the catalogue of 23: \['nowhere'\]"),
        ("i1", 10, r"for one item pass \['i1'\]"),
        (["i1"], 0, "k must be at least 1, got 0"),
    ],
)
def test_bad_requests_say_what_is_wrong(recommender, history, k, message):
    with pytest.raises(ValueError, match=message):
        recommender.recommend(history, k)


def test_a_folder_that_is_no_recommender_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no catalogue.parquet"):
        LaserRecommender.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no folder .*nowhere' here, and the Hub"):
        LaserRecommender.from_pretrained(tmp_path / "nowhere")


def test_another_catalogue_is_refused(recommender):
    fewer = Catalogue(recommender.catalogue.frame.head(7))
    with pytest.raises(ValueError, match="scores 23 items and the catalogue has 7"):
        LaserRecommender(recommender.model, recommender.tokenizer, fewer)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_history_of_no_item_is_refused(limit):
    message = f"RecommenderConfig: max_items must be at least 1, got {limit}"
    with pytest.raises(ValueError, match=message):
        RecommenderConfig(max_items=limit)
