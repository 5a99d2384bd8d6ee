"""The scripts of examples/baselines: what each learns, reads and is tested by."""

import importlib
import json
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import NUM_ITEMS, run_command
from peft import get_peft_model
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import ModelOutput

from laser_peft import BiTuningConfig
from laser_peft.baselines import Encoder, rank_examples
from laser_peft.collaborative import SASRecModel
from laser_peft.data import LogSource
from laser_peft.evaluation import Evaluation, ranks_of_targets
from laser_peft.experiment import Experiment
from laser_peft.item_texts import give_text_vectors
from laser_peft.training import ranking_arguments
from laser_peft.tuner.fusing import ViewWeights

FOLDER = Path(__file__).parents[2] / "examples" / "baselines"
SMALL = ["--epochs", "1", "--validation-users", "7", "--test-users", "11"]


def load(name):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(FOLDER), *sys.path])
        return importlib.import_module(name)


same_test, tuned_lm, unisrec_like, tallrec_like, p5_like, on_same_users = map(
    load,
    ("same_test", "tuned_lm", "unisrec_like", "tallrec_like", "p5_like", "on_same_users"),
)


@pytest.fixture
def run(shop, lm_folder, tmp_path, capsys):
    """Runs a script in this process; gives the folder it wrote."""

    def runs(script, *arguments):
        folder = tmp_path / script.__name__
        log = ["--interactions", shop / "interactions.csv.gz", "--items", shop / "items.jsonl"]
        log += ["--llm", lm_folder, "--output", folder]
        script.main([str(argument) for argument in [*log, *SMALL, *arguments]])
        return folder

    return runs


@pytest.fixture
def encoder(encoder_folder):
    return Encoder.from_pretrained(encoder_folder, NUM_ITEMS)


@pytest.fixture
def answerer(lm_folder, tokenizer, catalogue):
    questions = tallrec_like.Questions(tokenizer, catalogue, 200)
    lm = AutoModelForCausalLM.from_pretrained(lm_folder).eval()
    return tallrec_like.Answerer(lm, questions.answers), questions


def saved(folder):
    return {path.name: Evaluation.load(path) for path in (folder / "evaluation").iterdir()}


def assert_compared_and_paid_for(folder, *names):
    evaluations = saved(folder)
    assert set(evaluations) == set(names)
    if len(names) > 1:
        result = run_command("compare", *[folder / "evaluation" / name for name in names[:2]])
        assert result.exit_code == 0, result.stderr
    cost = json.loads((folder / "cost.json").read_text())
    assert cost["test_users"] == len(next(iter(evaluations.values())).ranks) == 11
    assert 0 < cost["trainable_parameters"] <= cost["parameters"]
    assert min(cost["train_seconds"], cost["seconds_per_epoch"], cost["peak_bytes"]) > 0


@pytest.mark.parametrize("method", tuned_lm.METHODS)
def test_a_tuned_lm_is_tested_alone_and_beside_a_sasrec(run, method, encoder_folder):
    folder = run(tuned_lm, "--method", method, "--encoder", encoder_folder, "--max-tokens", 200)
    names = f"{method}-lm", f"{method}-lm-and-sasrec", "sasrec"
    assert_compared_and_paid_for(folder, *names)


def test_without_an_encoder_a_tuned_lm_is_tested_alone(run):
    assert_compared_and_paid_for(run(tuned_lm, "--max-tokens", 200), "lora-lm")


def make_tuned(lm_folder, method, encoder=None):
    args = tuned_lm.read_arguments(["--method", method])
    lm = tuned_lm.tuned(AutoModel.from_pretrained(lm_folder), args)
    events = torch.arange(NUM_ITEMS)
    return tuned_lm.TunedLM(lm, torch.randn(NUM_ITEMS, 13), encoder, events)


@pytest.mark.parametrize("method", ["lora", "prompt"])
def test_only_adapter_suffix_and_head_learn(lm_folder, encoder, method):
    model = make_tuned(lm_folder, method, encoder.model).train()
    before = {name: values.clone() for name, values in model.named_parameters()}
    batch = {
        "input_ids": torch.randint(3, 90, (3, 7)),
        "attention_mask": torch.ones(3, 7, dtype=torch.bool),
        "history": torch.randint(1, NUM_ITEMS, (3, 5)),
        "history_mask": torch.ones(3, 5, dtype=torch.bool),
    }
    model(**batch, labels=torch.tensor([1, 2, 3])).loss.backward()
    learning = [values for values in model.parameters() if values.requires_grad]
    torch.optim.SGD(learning, lr=1.0).step()
    changed = {name for name, values in model.named_parameters() if not values.equal(before[name])}
    assert {"suffix", "head.weight", "head.bias"} < changed
    inside = changed - {"suffix", "head.weight", "head.bias"}
    assert all("lora_" in name or "prompt_encoder" in name for name in inside)
    assert not any(module.training for module in model.encoder.modules())
    assert set(model.state_dict()) == {
        name for name, values in model.named_parameters() if values.requires_grad
    }


@pytest.mark.parametrize("method", tuned_lm.METHODS)
def test_a_users_vector_depends_on_the_users_tokens_alone(lm_folder, method):
    model = make_tuned(lm_folder, method).eval()
    tokens = torch.randint(3, 90, (2, 11))
    mask = torch.tensor([[True] * 11, [True] * 4 + [False] * 7])
    none = torch.zeros(2, 0, dtype=torch.int64)
    both = model(tokens, mask, none, none.bool()).user_vectors
    alone = model(tokens[1:, :4], mask[1:, :4], none[1:], none[1:].bool()).user_vectors
    torch.testing.assert_close(both[1:], alone)
    tokens[[0, 1], [10, 3]] += 1  # the newest
    before = model(tokens, mask, none, none.bool()).user_vectors
    assert not torch.isclose(before, both, atol=1e-5).all(1).any()
    torch.nn.init.normal_(model.suffix)
    after = model(tokens, mask, none, none.bool()).user_vectors
    assert not torch.isclose(after, before, atol=1e-5).all(1).any()


def test_weights_of_one_view_alone_rank_as_that_view_does(lm_folder, encoder, tmp_path):
    model = make_tuned(lm_folder, "lora", encoder.model)
    trainer = tuned_lm.WeighingTrainer(model, ranking_arguments(tmp_path))
    trainer.weighings = (tuned_lm.ALONE, ViewWeights(1.0, 0.0, 9.0))
    width = encoder.model.config.hidden_size
    users, items = torch.randn(5, width + 13), model.item_vectors()
    targets, seen = torch.tensor([2, 3, 5, 7, 11]), torch.tensor([[13, 0]] * 5)
    ranks = trainer.ranks(ModelOutput(user_vectors=users), items, targets, seen)
    of_texts = ranks_of_targets(users[:, width:], model.texts, targets, seen)
    of_encoder = ranks_of_targets(users[:, :width], items[:, :width], targets, seen)
    assert ranks.tolist() == torch.cat([of_texts, of_encoder], 1).tolist()
    table = encoder.model.item_vectors()
    assert (items[0, :width] == 0).all()  # of no event
    assert items[1:, :width].equal(table[1:])


def test_text_vectors_are_those_that_laser_scores_by(
    lm_folder, tokenizer, catalogue, encoder_folder
):
    lm = AutoModel.from_pretrained(lm_folder).eval()
    vectors = same_test.laser_text_vectors(lm, tokenizer, catalogue)
    config = BiTuningConfig(collaborative_encoder=encoder_folder, item_vectors="fused")
    laser = get_peft_model(AutoModelForCausalLM.from_pretrained(lm_folder), config)
    give_text_vectors(laser, tokenizer, catalogue)
    width = vectors.size(1)
    torch.testing.assert_close(vectors, laser.item_vectors()[:, -width:].cpu())


def test_a_unisrec_like_sasrec_is_saved_as_a_plain_one(run, split):
    folder = run(unisrec_like)
    assert_compared_and_paid_for(folder, "unisrec-like")
    plain = SASRecModel.from_pretrained(folder / "sasrec")
    ranks = rank_examples(Encoder(plain, NUM_ITEMS), split.test)
    tested = saved(folder)["unisrec-like"]
    users = tested.targets["user_id"].to_list()
    everyone = [f"u{user}" for user in range(30)]
    assert (ranks[[everyone.index(user) for user in users]] == tested.ranks).all()


def test_adding_up_the_table_keeps_scores_and_texts_stay_frozen():
    torch.manual_seed(5)
    config = unisrec_like.SASRecSettings().model_config(num_items=NUM_ITEMS, max_items=7)
    model = SASRecModel(config)
    texts = torch.randn(NUM_ITEMS, 13)
    adapter = unisrec_like.TextAdapter(13, 64, num_experts=3, dropout=0.2)
    model.item_embeddings = unisrec_like.IdsAndTexts(model.item_embeddings, texts, adapter)
    model.eval()
    assert not any(
        values.size(-1) == 13 and len(values) == NUM_ITEMS for values in model.parameters()
    )
    history = torch.tensor([[3, 7, 11, 0], [5, 0, 0, 0]])
    plain = unisrec_like.as_plain_sasrec(model)
    torch.testing.assert_close(plain(history).user_vectors, model(history).user_vectors)
    torch.testing.assert_close(plain.item_vectors(), model.item_vectors())


def test_a_tallrec_like_ranker_is_tested_beside_its_sasrec(run, encoder_folder):
    folder = run(tallrec_like, "--encoder", encoder_folder, "--max-tokens", 200, "--candidates", 5)
    assert_compared_and_paid_for(folder, "tallrec-like", "sasrec")


def test_an_answer_is_the_same_with_and_without_a_cache(answerer):
    answerer, questions = answerer
    text = questions.history([3, 7])
    followings = [questions.about(item) for item in (2, 5, 11)]
    scores = answerer.scores(text, followings)
    for following, score in zip(followings, scores, strict=True):
        with torch.no_grad():
            logits = answerer.lm(torch.tensor([text + following])).logits[0, -1]
        no, yes = questions.answers
        torch.testing.assert_close(score, logits[yes] - logits[no], rtol=1e-4, atol=1e-5)


def test_a_training_question_has_one_answer_yes_and_one_no(answerer, split, tokenizer):
    questions = answerer[1]
    examples = split.training_examples(every_prefix=False)
    dataset = tallrec_like.AnswersDataset(examples, questions, NUM_ITEMS, seed=3)
    no, yes = questions.answers
    for place, example in enumerate(examples):
        other, target = dataset[2 * place], dataset[2 * place + 1]
        assert (other["labels"], target["labels"]) == (no, yes)
        history = questions.history(example.history)
        assert target["input_ids"] == history + questions.about(example.target)
        assert dataset.others[place] not in {example.target, *example.history}
        assert other["input_ids"] == history + questions.about(dataset.others[place])
    assert f"Candidate: {'Thing number'}" in tokenizer.decode(target["input_ids"])


class Backwards:
    """Answers that turn the candidates round; some are equal."""

    def scores(self, text, followings):
        return torch.arange(len(followings)).div(2, rounding_mode="floor").float()


def test_what_is_not_asked_about_keeps_its_place_and_the_rest_changes_places(
    encoder, answerer, split
):
    reranker = tallrec_like.Reranker(encoder, Backwards(), answerer[1], 5)
    before = rank_examples(encoder, split.test)
    after = rank_examples(reranker, split.test)
    had = [len(example.history) for example in split.test]
    outside = before[:, 1] >= 5  # of what the user has not had
    assert outside.any()
    assert (~outside).any()
    assert (after[outside] == before[outside]).all()
    assert (after[~outside, 1] < 5).all()
    assert (after[~outside, 0] < 5 + np.array(had)[~outside]).all()
    assert (after[~outside] != before[~outside]).any()


def test_every_candidate_is_a_first_item_of_the_encoder_in_either_protocol(encoder, answerer):
    reranker = tallrec_like.Reranker(encoder, Backwards(), answerer[1], 5)
    scores, history = torch.randn(NUM_ITEMS), np.array([2, 3, 17])
    asked = reranker._candidates(scores, history).tolist()
    order = scores.argsort(descending=True).tolist()
    assert asked == order[: len(asked)]
    assert len(set(asked) - {1, 2, 16}) == 5


@pytest.mark.parametrize("method", p5_like.LEARNING_RATES)
def test_a_p5_like_writer_is_tested_beside_a_sasrec(run, encoder_folder, method):
    arguments = ["--encoder", encoder_folder, "--method", method, "--max-tokens", 200]
    folder = run(p5_like, *arguments, "--beams", 3, "--test-batch-size", 4)
    assert_compared_and_paid_for(folder, f"p5-like-{method}", "sasrec")


@pytest.fixture
def writing(lm_folder, tokenizer, catalogue):
    titles = p5_like.Titles(tokenizer, catalogue, 32)
    writer = p5_like.Writer(AutoModelForCausalLM.from_pretrained(lm_folder).eval())
    prompts = same_test.title_prompts(tokenizer, catalogue, 150, instruction="Had:\n")
    return writer, titles, prompts


def test_only_titles_of_the_catalogue_are_written_each_once(writing):
    writer, titles, prompts = writing
    written = writer.write([prompts([3, 7]), prompts([5])], titles, beams=4)
    for beams in written:
        named = [titles.named_by(tokens) for tokens in beams]
        assert all(named)
        assert len({tuple(items) for items in named}) == 4


def test_titles_come_in_the_order_of_their_likelihood(writing):
    writer, titles, prompts = writing
    prompt = prompts([3, 7])
    (written,) = writer.write([prompt], titles, beams=NUM_ITEMS)
    found = [items[0] for items in map(titles.named_by, written) if items]

    def likelihood(place):
        title = titles.tokens[place]
        with torch.no_grad():
            logits = writer.lm(torch.tensor([prompt + title])).logits[0, len(prompt) - 1 : -1]
        # Beam search takes the logarithm of the softmax over all tokens, allowed or not.
        return logits.log_softmax(-1).gather(1, torch.tensor(title)[:, None]).sum().item()

    assert len(found) >= NUM_ITEMS // 2
    likelihoods = [likelihood(place) for place in found[:5]]
    assert likelihoods == sorted(likelihoods, reverse=True)


def test_a_prompts_padding_changes_nothing_that_is_written(writing):
    writer, titles, prompts = writing
    both = writer.write([prompts([3, 7, 9, 11]), prompts([5])], titles, beams=3)
    (alone,) = writer.write([prompts([5])], titles, beams=3)
    assert [titles.named_by(row) for row in both[1]] == [titles.named_by(row) for row in alone]


def test_items_of_one_title_share_a_place_and_the_unwritten_the_last(writing):
    _, titles, prompts = writing
    titles.items[tuple(titles.tokens[4])].append(6)

    class Two:
        def write(self, prompts, titles, *, beams):
            return [[titles.tokens[9], titles.tokens[4]] for _ in prompts]

    written = p5_like.WrittenItems(Two(), prompts, titles, beams=2, batch_size=3)
    scores = written.scores([np.array([2])] * 5).of_range(0, NUM_ITEMS)
    assert scores[:, 9].tolist() == [2.0] * 5
    assert scores[:, 4].tolist() == scores[:, 6].tolist() == [1.0] * 5
    assert scores.sum().item() == 5 * 4.0


def test_the_target_is_in_no_prompt(writing, answerer, split, prompts, tokenizer):
    _, titles, title_prompts = writing
    for example in split.test[:7]:
        name = f"number {example.target - 1} "
        assert example.target not in example.history
        for says in (prompts, title_prompts, answerer[1].history):
            told = tokenizer.decode(says(example.history)).replace("\n", " ") + " "
            assert "Thing number" in told
            assert name not in told
    examples = split.training_examples(every_prefix=False)
    row = p5_like.TitlesDataset(examples, title_prompts, titles)[0]
    learnt = [token for token in row["labels"] if token != -100]
    assert learnt == titles.tokens[examples[0].target - 1]
    assert row["labels"][: -len(learnt)] == [-100] * (len(row["input_ids"]) - len(learnt))


def test_test_users_are_the_same_whatever_the_seed(shop):
    def users(seed):
        log = ["--interactions", shop / "interactions.csv.gz", "--items", shop / "items.jsonl"]
        options = [*map(str, log), "--seed", str(seed), "--output", str(shop.parent / f"s{seed}")]
        args = same_test.common_parser("", "").parse_args(options)
        return same_test.judge_of(same_test.start(args), 11).targets["user_id"].to_list()

    assert users(1) == users(2)


def test_an_evaluation_is_cut_down_to_the_users_of_another(run, shop, catalogue, encoder, tmp_path):
    judge = Experiment.read(LogSource(str(shop / "interactions.csv.gz")), catalogue).judge
    whole = tmp_path / "whole"
    judge.evaluation("sasrec", rank_examples(encoder, judge.examples)).save(whole)
    part = run(unisrec_like) / "evaluation" / "unisrec-like"
    on_same_users.main([str(whole), str(part), "--output", str(tmp_path / "cut")])
    assert run_command("compare", part, tmp_path / "cut").exit_code == 0
    cut, before = Evaluation.load(tmp_path / "cut"), Evaluation.load(whole)
    ranks = dict(zip(before.targets["user_id"], before.ranks.tolist(), strict=True))
    assert [ranks[user] for user in cut.targets["user_id"]] == cut.ranks.tolist()
    with pytest.raises(ValueError, match="19 of 30 users"):
        on_same_users.on_users_of(cut, before)
    with pytest.raises(ValueError, match="different data"):
        on_same_users.on_users_of(before, replace(cut, data_hash="0"))


def test_a_language_model_whose_titles_would_not_end_is_refused(lm_folder, catalogue):
    endless = AutoTokenizer.from_pretrained(lm_folder)
    endless.eos_token = None
    with pytest.raises(ValueError, match="no end-of-text token"):
        p5_like.Titles(endless, catalogue, 32)


def test_the_commands_of_the_page_are_understood():
    page = (FOLDER / "README.md").read_text("utf-8").replace("\\\n", " ")
    commands = re.findall(r"^python examples/baselines/(\w+)\.py (.*)$", page, re.MULTILINE)
    assert {name for name, _ in commands} == {
        *("tuned_lm", "unisrec_like", "tallrec_like", "p5_like", "on_same_users")
    }
    for name, options in commands:
        if name != "on_same_users":
            load(name).read_arguments(shlex.split(options))
    for link in re.findall(r"\]\(([^)#]+)\)", page):
        assert (FOLDER / link).exists(), link


def test_a_run_leaves_what_is_there_alone(run):
    run(unisrec_like)
    with pytest.raises(FileExistsError, match="not empty"):
        run(unisrec_like)
