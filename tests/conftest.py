"""Tiny random models of the real classes, made on the spot. Sizes are distinct primes or so."""

import functools
import gzip
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

# Before the imports below: both are read once.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["HF_HUB_OFFLINE"] = "1"

import jinja2
import pytest
import torch
import torch.multiprocessing as mp
import torch.nn.functional as F
from peft import PeftModel, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from typer.testing import CliRunner, Result

from laser_peft import BiTuningConfig, SASRecConfig, SASRecModel
from laser_peft.cli import app
from laser_peft.data import (
    Catalogue,
    Histories,
    PromptBuilder,
    Split,
    leave_one_out,
    read_interactions,
)
from laser_peft.training import RankingTrainer

FRESH = "spawn" if sys.platform == "win32" else "forkserver"
NUM_ITEMS = 23
VOCABULARY = 97


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _threads_kept():
    """What a command or a benchmark sets for its process is not for the tests after it."""
    threads = torch.get_num_threads()
    yield
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


@pytest.fixture(scope="session", autouse=True)
def _templates_compiled_once():
    """Whenever an adapter is saved, huggingface_hub makes the same template of a model card."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jinja2, "Template", functools.cache(jinja2.Template))
        yield


def make_lm(family: str, vocabulary: int = VOCABULARY) -> PreTrainedModel:
    torch.manual_seed(1)
    if family == "llama":
        config = LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=32,
            intermediate_size=43,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=256,
        )
        return LlamaForCausalLM(config).eval()
    config = GPT2Config(
        vocab_size=vocabulary,
        n_embd=32,
        n_layer=2,
        n_head=2,
        n_positions=256,
        n_inner=43,
        bos_token_id=1,
        eos_token_id=2,
    )
    return GPT2LMHeadModel(config).eval()


@pytest.fixture(params=["llama", "gpt2"])
def lm(request) -> PreTrainedModel:
    return make_lm(request.param)


@pytest.fixture
def llama() -> PreTrainedModel:
    return make_lm("llama")


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory) -> str:
    torch.manual_seed(2)
    encoder = SASRecModel(SASRecConfig(num_items=NUM_ITEMS, hidden_size=16, dropout=0.2))
    # Trained tables are far from their initial scale; scores must not be all alike.
    torch.nn.init.normal_(encoder.item_embeddings.weight[1:])
    folder = tmp_path_factory.mktemp("encoder")
    encoder.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def shop(tmp_path_factory) -> Path:
    """A log of 30 users over 23 items, with item texts; some attributes are missing."""
    folder = tmp_path_factory.mktemp("shop")
    generator = torch.Generator().manual_seed(3)
    with gzip.open(folder / "interactions.csv.gz", "wt") as log:
        log.write("user_id,item_id,timestamp\n")
        for user in range(30):
            order = torch.randperm(NUM_ITEMS, generator=generator)[: 3 + user % 7].tolist()
            for time, item in enumerate(order):
                log.write(f"u{user},i{item},{1000 + time // 2}\n")
    with (folder / "items.jsonl").open("w") as items:
        for item in range(NUM_ITEMS):
            row = {
                "item_id": f"i{item}",
                "title": f"Thing number {item}",
                "brand": ["Alba", "Borun", ""][item % 3],
                "categories": ["Tools", f"Kind {item % 5}"] if item % 4 else [],
            }
            items.write(json.dumps(row) + "\n")
    return folder


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(["Thing number 1 (brand: Alba; category: Tools)\n2."], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


@pytest.fixture(scope="session")
def lm_folder(tmp_path_factory, tokenizer) -> str:
    folder = tmp_path_factory.mktemp("lm")
    make_lm("llama", vocabulary=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def make_fused(
    lm_folder: str, encoder_folder: str, events: torch.Tensor, text_dim: int
) -> PeftModel:
    """Makes a model that reads ``text_dim`` wide texts of items the encoder saw so often."""
    torch.manual_seed(0)
    config = BiTuningConfig(
        collaborative_encoder=encoder_folder,
        num_prefix_tokens=3,
        item_vectors="fused",
        item_text_dim=text_dim,
    )
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(lm_folder), config)
    texts = F.normalize(torch.randn(NUM_ITEMS, text_dim), dim=1)
    model.base_model.set_item_text_vectors(texts, events)
    return model


@pytest.fixture
def steps(monkeypatch):
    """The optimizer steps that are taken, by their number in the training."""
    taken = []
    step = RankingTrainer.training_step
    monkeypatch.setattr(
        RankingTrainer,
        "training_step",
        lambda self, *args, **kwargs: (
            taken.append(self.state.global_step),
            step(self, *args, **kwargs),
        )[1],
    )
    return taken


def stops_training(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], list]:
    """Interrupts training once so many steps are taken, None: never; gives those taken so far."""
    step, taken, most = RankingTrainer.training_step, [], None

    def stops(self, *args, **kwargs):
        if len(taken) == most:
            raise KeyboardInterrupt
        taken.append((Path(self.args.output_dir).name, self.state.global_step))
        return step(self, *args, **kwargs)

    def stop(steps):
        nonlocal most
        most = steps
        return taken

    monkeypatch.setattr(RankingTrainer, "training_step", stops)
    return stop


@pytest.fixture
def stop_after(monkeypatch):
    return stops_training(monkeypatch)


def run_in_new_processes(function: Callable[..., None], *arguments: object, count: int = 1) -> None:
    """Calls ``function(rank, *arguments)`` in processes that know nothing of this one.

    They are forks of one server, which has imported the package and has run nothing of it: a
    process of its own that imports torch and transformers anew takes eight seconds.

    Raises:
        torch.multiprocessing.ProcessRaisedException: if the function does.
    """
    if FRESH == "forkserver":
        mp.get_context(FRESH).set_forkserver_preload(["laser_peft.cli"])
    mp.start_processes(function, arguments, nprocs=count, start_method=FRESH)


def run_command(*arguments: object) -> Result:
    """Runs ``laser-peft`` in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def train_arguments(shop: Path, lm_folder: str, output: Path) -> list[object]:
    short = ["--epochs", 1, "--sasrec-epochs", 2, "--reading-epochs", 2]
    short += ["--batch-size", 9, "--max-tokens", 200]
    inputs = ["--interactions", shop / "interactions.csv.gz", "--items", shop / "items.jsonl"]
    return ["train", *inputs, "--llm", lm_folder, "--output", output, *short]


@pytest.fixture(scope="session")
def catalogue(shop) -> Catalogue:
    return Catalogue.read(shop / "items.jsonl")


@pytest.fixture(scope="session")
def split(shop, catalogue) -> Split:
    log = read_interactions(shop / "interactions.csv.gz")
    return leave_one_out(Histories.from_interactions(log, catalogue))


@pytest.fixture(scope="session")
def prompts(catalogue, tokenizer) -> PromptBuilder:
    return PromptBuilder(tokenizer, catalogue, max_tokens=200)


@pytest.fixture(scope="session")
def trained(shop, lm_folder, tmp_path_factory) -> tuple[Path, str]:
    """The folder of a finished run, and what the command printed."""
    output = tmp_path_factory.mktemp("run") / "shop"
    result = run_command(*train_arguments(shop, lm_folder, output))
    assert result.exit_code == 0, result.output
    return output, result.output
