"""Every numbered example runs, in a small form, and its head says what is needed to run it."""

import ast
import importlib.util
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

import laser_peft
from laser_peft import LaserRecommender

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "examples").glob("[0-9]*.py"))
README = (ROOT / "examples" / "README.md").read_text("utf-8")
MACHINE = "one thread of a busy 2-core x86 machine"
SHORT = ["--epochs", "1", "--batch-size", "8", "--max-tokens", "200"]
HISTORIES = ["--history", "i3", "i1", "--history", "i7"]


def script(number):
    (path,) = (path for path in SCRIPTS if path.name.startswith(f"{number:02}_"))
    return path


def load(number):
    spec = importlib.util.spec_from_file_location(f"example_{number}", script(number))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(number, *arguments):
    """Runs an example in this process and returns what it printed."""
    with redirect_stdout(io.StringIO()) as printed:
        load(number).main([str(argument) for argument in arguments])
    return printed.getvalue()


def head(path):
    """The parts of an example's docstring, by what introduces them."""
    text = ast.get_docstring(ast.parse(path.read_text("utf-8")))
    parts = re.split(r"^(Command|Hardware|Time|Expected output)", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def commands(text):
    """The indented lines, those that a backslash continues joined to what follows."""
    joined = re.sub(r"\\\n\s*", "", text)
    return re.findall(r"^    (.*)$", joined, re.MULTILINE)


def assert_says_what_its_head_says(number, printed):
    """Numbers, ids and folders differ from run to run; the words before them do not."""
    _, _, expected = head(script(number))["Expected output"].partition("\n")
    for line in filter(None, (line.removeprefix("    ") for line in expected.splitlines())):
        words = re.split(r"[\d+-]|runs/|P[2-9A-Z]{5}", line)[0].rstrip()
        if not line.startswith(("  ", "<s>", "...")) and words:
            assert words in printed, line


@pytest.fixture(scope="session")
def log(shop):
    return ["--interactions", shop / "interactions.csv.gz", "--items", shop / "items.jsonl"]


@pytest.fixture(scope="session")
def encoder(log, tmp_path_factory):
    """The folder that example 1 writes, and what it prints."""
    folder = tmp_path_factory.mktemp("examples") / "sasrec"
    return folder, run(1, *log, "--output", folder, "--epochs", 2)


@pytest.fixture(scope="session")
def training(log, lm_folder, encoder):
    return [*log, "--encoder", encoder[0], *SHORT, "--validation-users", 7, "--llm", lm_folder]


@pytest.fixture(scope="session")
def recommender(training, tmp_path_factory):
    """The folder that example 2 writes, and what it prints."""
    folder = tmp_path_factory.mktemp("examples") / "recommender"
    return folder, run(2, *training, "--output", folder)


@pytest.fixture
def _alone():
    """No other test's state of Accelerate, and none left behind."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def test_1_trains_a_sasrec(encoder):
    folder, printed = encoder
    assert (folder / "model.safetensors").is_file()
    assert_says_what_its_head_says(1, printed)


def test_2_bi_tunes_with_a_trainer(recommender):
    folder, printed = recommender
    assert (folder / "adapter_model.safetensors").is_file()
    assert_says_what_its_head_says(2, printed)


@pytest.mark.usefixtures("_alone")
def test_3_bi_tunes_with_accelerate(training, tmp_path):
    printed = run(3, *training, "--accumulation", 3, "--output", tmp_path, "--cpu")
    assert "epoch 1, 1 process(es): loss" in printed
    assert_says_what_its_head_says(3, printed)
    assert len(LaserRecommender.from_pretrained(tmp_path).recommend(["i3"], k=5)) == 5


# Accelerate shards a model only where there is a GPU; torch does it on a processor too.
ON_A_CPU = """
import runpy, sys
from accelerate.state import PartialState
from accelerate.utils import DistributedType
PartialState._prepare_backend = lambda *args: ("gloo", DistributedType.MULTI_GPU)
runpy.run_path(sys.argv[1])["main"](sys.argv[2:])
"""


def launched(*arguments, **environment):
    """Starts a launcher and returns what its processes printed.

    Once more if it does not end: torch 2.13 was seen to lock itself at the very end of a process,
    where the interpreter frees DDP's reducer, waits for gloo's thread, and that one for it.
    """
    try:
        return _launched(*arguments, **environment)
    except subprocess.TimeoutExpired:
        return _launched(*arguments, **environment)


def _launched(module, *arguments, **environment):
    search = os.pathsep.join(
        [str(Path(laser_peft.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    )
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": search, "OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow  # four processes import torch and transformers anew
def test_3_bi_tunes_with_two_processes_that_hold_all_or_a_shard_each(training, tmp_path):
    whole, shards = tmp_path / "whole", tmp_path / "shards"
    arguments = [script(3), *training, "--accumulation", "2", "--output"]
    printed = launched(
        *("torch.distributed.run", "--standalone", "--nproc_per_node", 2),
        *(*arguments, whole, "--cpu"),
    )
    assert printed.count("epoch 1, 2 process(es): loss") == 1  # the first process alone speaks
    assert len(LaserRecommender.from_pretrained(whole).recommend(["i3"], k=5)) == 5
    (tmp_path / "on_a_cpu.py").write_text(ON_A_CPU)
    config = ROOT / "examples" / "accelerate" / "fsdp.yaml"
    printed_too = launched(
        *("accelerate.commands.launch", "--config_file", config, "--main_process_port", 0),
        *(tmp_path / "on_a_cpu.py", *arguments, shards),
        ACCELERATE_TORCH_DEVICE="cpu",
    )
    assert printed_too.replace("shards", "whole") == printed
    learnt, expected = (load_file(path / "adapter_model.safetensors") for path in (shards, whole))
    torch.testing.assert_close(learnt, expected)


def test_4_recommends(recommender):
    folder, _ = recommender
    printed = run(4, "--recommender", folder, "-k", 5, *HISTORIES)
    found = LaserRecommender.from_pretrained(folder).recommend(["i7"], k=5)
    assert f"  i7 -> {', '.join(item.item_id for item in found)}\n" in printed
    assert_says_what_its_head_says(4, run(4, "--recommender", folder))


def test_5_loads_from_the_hub(recommender, lm_folder, tmp_path, monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--me--laser-shop"
    shutil.copytree(
        recommender[0],
        repository / "snapshots" / commit,
        ignore=shutil.ignore_patterns("checkpoints"),
    )
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    printed = run(5, "--repository", "me/laser-shop", "-k", 5)
    assert printed == run(5, "--repository", "me/laser-shop", "-k", 5, "--llm", lm_folder)
    by_recommender, by_adapter = printed.split("by the adapter:\n")
    scores = re.compile(r"^  (i\d+) +(-?[\d.]+)", re.MULTILINE)
    assert len(scores.findall(by_adapter)) == 5
    assert scores.findall(by_recommender) == scores.findall(by_adapter)
    assert_says_what_its_head_says(5, printed)


def test_6_serves_two_shops_from_one_language_model(recommender, training, lm_folder, tmp_path):
    run(2, *training, "--output", tmp_path / "second", "--seed", 1)
    folders = {"first": recommender[0], "second": tmp_path / "second"}
    printed = run(6, "--llm", lm_folder, *(f"--{name}={path}" for name, path in folders.items()))
    for (name, folder), shown in zip(folders.items(), printed.split("\nshop ")[1:], strict=True):
        assert shown.startswith(f"{name}, after i0, i1, i2:\n")
        alone = LaserRecommender.from_pretrained(folder).recommend(["i0", "i1", "i2"], k=3)
        assert re.findall(r"^  (i\d+)", shown, re.MULTILINE) == [item.item_id for item in alone]
    assert_says_what_its_head_says(6, printed)


@pytest.fixture(scope="module")
def instruct_folder(tmp_path_factory, tokenizer):
    """A tiny random language model whose tokenizer has a chat template; widths for 4 bits."""
    folder = tmp_path_factory.mktemp("instruct")
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=256,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    chat = AutoTokenizer.from_pretrained(folder)
    chat.chat_template = "{% for m in messages %}[USER]{{ m['content'] }}[/USER]{% endfor %}"
    chat.save_pretrained(folder)
    return folder


def test_7_speaks_the_models_chat_format(training, instruct_folder, tmp_path):
    arguments = [*training, "--llm", instruct_folder, "--output", tmp_path]
    printed = run(7, *arguments, "--no-quantize")
    assert "[USER]I bought, oldest first:\n1. Thing number 0" in printed
    assert "plain one" not in printed
    loaded = LaserRecommender.from_pretrained(tmp_path)
    assert loaded.config.prompt.instruction.startswith("[USER]I bought")


def test_7_gives_a_model_without_a_chat_format_a_plain_one(training, tmp_path):
    printed = run(7, *training, "--output", tmp_path, "--no-quantize")
    assert "Shopper: I bought, oldest first:\n1. Thing number 0" in printed
    assert_says_what_its_head_says(7, printed)


# bitsandbytes speaks of casts and of what its versions deprecate.
@pytest.mark.filterwarnings("ignore")
def test_7_trains_beside_4_bits(training, instruct_folder, tmp_path):
    pytest.importorskip("bitsandbytes")
    run(7, *training, "--llm", instruct_folder, "--output", tmp_path)
    llm = load(7).load_in_4_bit(str(instruct_folder))
    assert llm.is_loaded_in_4bit
    assert len(LaserRecommender.from_pretrained(tmp_path, llm=llm).recommend(["i3"], k=5)) == 5


def test_7_says_what_to_install(monkeypatch):
    example = load(7)
    monkeypatch.setattr(example, "find_spec", lambda name: None)
    with pytest.raises(
        SystemExit, match=r'pip install "laser-peft\[quantized\]", or run with --no'
    ):
        example.load_in_4_bit("anything")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_head_names_command_hardware_time_and_output(path):
    parts = head(path)
    assert list(parts) == ["Command", "Hardware", "Time", "Expected output"]
    assert len(parts["Hardware"]) > len(": any")
    assert re.match(rf": \d+ (seconds|minutes).*, {MACHINE}", parts["Time"].replace("\n", " "))
    assert len(commands(parts["Expected output"])) > 1


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_the_commands_of_a_head_are_understood(path):
    found = 0
    for command in commands(head(path)["Command"]):
        words = shlex.split(command)
        if "python" not in words[0] and words[0] not in ("accelerate", "torchrun"):
            continue
        place = next(place for place, word in enumerate(words) if word.endswith(".py"))
        assert (ROOT / words[place]).is_file(), command
        if Path(words[place]).parent.name == "examples":
            number = int(Path(words[place]).name[:2])
            load(number).read_arguments(words[place + 1 :])
            found += number == int(path.name[:2])
    assert found


def test_the_table_has_every_example_in_order_with_its_command_and_time():
    rows = re.findall(r"^\| \[(\d\d_\w+\.py)\].*\| `(.*)` \| (.*) \|$", README, re.MULTILINE)
    assert [name for name, _, _ in rows] == [path.name for path in SCRIPTS]
    for (_, command, time), path in zip(rows, SCRIPTS, strict=True):
        parts = head(path)
        assert command in commands(parts["Command"])
        assert parts["Time"].startswith(f": {time}")
    assert MACHINE in README.replace("\n", " ")


def test_the_links_of_the_table_lead_somewhere():
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / "examples" / link).exists(), link
