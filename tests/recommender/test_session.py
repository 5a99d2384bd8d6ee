"""A user who goes on gets what the whole history gets, and old events are not read again."""

import pytest
import torch
from conftest import NUM_ITEMS
from peft import get_peft_model
from recommenders import ids, make_recommender
from transformers import BloomConfig, BloomForCausalLM

from laser_peft import BiTuningConfig, LaserRecommender
from laser_peft.recommender import RecommenderConfig

ITEMS = [f"i{number % NUM_ITEMS}" for number in range(0, 90, 7)]


@pytest.fixture(params=["collaborative", "fused"])
def recommender(request, lm_folder, encoder_folder, shop, tokenizer):
    made = make_recommender(
        lm_folder, encoder_folder, shop, tokenizer, request.param, layout="text_first"
    )
    if request.param == "fused":
        made.model.base_model.set_view_weights(text=1.0)
    return made


@pytest.fixture
def texts_read(recommender):
    """How many tokens the language model has read, call by call."""
    counts = []
    backbone = recommender.model.base_model.model.model
    backbone.register_forward_pre_hook(
        lambda _, args, kwargs: counts.append(kwargs["inputs_embeds"].size(1)), with_kwargs=True
    )
    return counts


def same(found, expected):
    assert ids(found) == ids(expected)
    assert [i.score for i in found] == pytest.approx([i.score for i in expected], abs=1e-4)


def test_each_event_gives_what_the_whole_history_gives(recommender):
    session = recommender.session(ITEMS[:2])
    same(session.recommend(k=99), recommender.recommend(ITEMS[:2], k=99))
    for place in range(2, len(ITEMS)):  # the prompt has room for some of them only
        session.add(ITEMS[place])
        seen = ITEMS[: place + 1]
        assert session.history == seen
        same(session.recommend(k=5), recommender.recommend(seen, k=5))
        same(session.recommend(k=5), recommender.recommend(seen, k=5))  # nothing new to read
    session.add([])
    whole = recommender.recommend(ITEMS, k=4, exclude_seen=False, allow=ITEMS, deny=ITEMS[:1])
    same(session.recommend(k=4, exclude_seen=False, allow=ITEMS, deny=ITEMS[:1]), whole)
    same(recommender.session().recommend(), recommender.recommend([]))


def test_only_what_is_new_is_read(recommender, texts_read):
    model, catalogue = recommender.model, recommender.catalogue
    roomy = RecommenderConfig(max_tokens=400)
    recommender = LaserRecommender(model, recommender.tokenizer, catalogue, roomy)
    session = recommender.session(ITEMS[:1])
    session.recommend()
    session.add(ITEMS[1])
    session.recommend()
    session.recommend()
    prompts, dense = recommender.prompts, catalogue.dense_ids(ITEMS[:2])
    before, after = (len(prompts.with_places(dense[:n])[0]) for n in (1, 2))
    config = model.peft_config[model.active_adapter]
    behind = len(prompts.ending) + config.num_prefix_tokens + config.num_suffix_tokens
    assert texts_read[-3:] == [before + behind, after - before + behind, behind]


def test_sessions_are_read_together_as_each_by_itself(recommender):
    sessions = [recommender.session(ITEMS[start : start + 2]) for start in range(5)]
    sessions.append(recommender.session())
    for place in range(2, len(ITEMS) - 5):  # more than the prompt has room for
        for start, session in enumerate(sessions[:-1]):
            if (place + start) % 3:  # some go on and some do not
                session.add(ITEMS[place + start])
        order = sessions[::-1] if place % 2 else sessions
        found = recommender.recommend_sessions(order, k=5, batch_size=4)
        for session, best in zip(order, found, strict=True):
            same(best, recommender.recommend(session.history, k=5))
    twice = recommender.recommend_sessions(sessions[:1] * 2, 3, exclude_seen=False, deny=ITEMS[:1])
    expected = recommender.recommend(sessions[0].history, k=3, exclude_seen=False, deny=ITEMS[:1])
    for best in twice:
        same(best, expected)
    assert recommender.recommend_sessions([]) == []


def test_a_model_that_cannot_go_on_is_read_anew(encoder_folder, shop, tokenizer, recommender):
    torch.manual_seed(0)
    size = BloomConfig(vocab_size=len(tokenizer), hidden_size=16, n_layer=2, n_head=2)
    config = BiTuningConfig(
        collaborative_encoder=encoder_folder, init_weights=False, layout="text_first"
    )
    model = get_peft_model(BloomForCausalLM(size), config).eval()
    made = LaserRecommender(model, tokenizer, recommender.catalogue, RecommenderConfig())
    session = made.session(ITEMS[:2])
    session.recommend()
    session.add(ITEMS[2])
    same(session.recommend(), made.recommend(ITEMS[:3]))


def test_what_is_wrong_is_said_and_changes_nothing(recommender):
    with pytest.raises(ValueError, match="nowhere"):
        recommender.session(["nowhere"])
    session = recommender.session(ITEMS[:2])
    with pytest.raises(ValueError, match="nowhere"):
        session.add([ITEMS[2], "nowhere"])
    assert session.history == ITEMS[:2]
    with pytest.raises(ValueError, match="k must be at least 1"):
        session.recommend(k=0)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        recommender.recommend_sessions([session], batch_size=0)
    with pytest.raises(TypeError, match="place 1 'i0'"):
        recommender.recommend_sessions([session, "i0"])
    with pytest.raises(TypeError, match="as a list, got one"):
        recommender.recommend_sessions(session)
    with pytest.raises(TypeError, match="place 0"):
        recommender.recommend_sessions([[ITEMS[0]]])
    another = LaserRecommender(
        recommender.model, recommender.tokenizer, recommender.catalogue, recommender.config
    )
    with pytest.raises(ValueError, match="place 0 is of another recommender"):
        another.recommend_sessions([session])
