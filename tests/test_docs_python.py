"""The python of the pages runs, offline, on the tiny shop; or it says here why it cannot.

Blocks of a page run in their order and share their names, in a folder that has what they name.
"""

import gzip
import re
import shutil
from pathlib import Path

import polars as pl
import pytest
import torch
from peft import get_peft_model
from transformers import AutoModel, AutoModelForCausalLM

from laser_peft import BiTuningConfig, LaserRecommender
from laser_peft.baselines import Popularity
from laser_peft.data import Catalogue, LogSource, PromptBuilder
from laser_peft.experiment import Experiment

TESTS = Path(__file__).parent
PAGES = [TESTS.parent / "README.md", *sorted((TESTS.parent / "docs").glob("*.md"))]
# Pages whose python another test runs, because it looks at what comes out.
ELSEWHERE = {"README.md": "test_readme.py", "recommending.md": "recommender/test_page.py"}
# What cannot run here: a line of the block, and why.
NOT_RUN = {
    "data.md": {'"timestamp").write.parquet("log")': "needs Spark"},
    "public-data.md": {
        'public.download("amazon-2014-beauty"': "needs a network; tests/data/test_public.py has "
        "the same call on local files"
    },
}


def python_blocks(page):
    return re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def reason_not_to_run(page, block):
    reasons = NOT_RUN.get(page.name, {})
    return next((reason for line, reason in reasons.items() if line in block), None)


WITH_PYTHON = [page for page in PAGES if python_blocks(page)]
RUN_HERE = [
    page
    for page in WITH_PYTHON
    if page.name not in ELSEWHERE
    and not all(reason_not_to_run(page, block) for block in python_blocks(page))
]


@pytest.fixture
def in_a_shop(shop, lm_folder, trained, tmp_path, monkeypatch):
    """A folder with all files and folders that pages name, made of the tiny shop."""
    monkeypatch.chdir(tmp_path)
    items, log = (shop / "items.jsonl").read_bytes(), shop / "interactions.csv.gz"
    for name in ("log", "runs/demo/shop", "runs/baselines"):
        Path(name).mkdir(parents=True)
    Path("items.jsonl").write_bytes(items)
    for name in ("items.jsonl.gz", "runs/demo/shop/items.jsonl.gz"):
        Path(name).write_bytes(gzip.compress(items))
    for name in ("log/part-0.csv.gz", "runs/demo/shop/interactions.csv.gz"):
        shutil.copy(log, name)
    Path("interactions.csv").write_bytes(gzip.decompress(log.read_bytes()))
    catalogue = Catalogue.read("items.jsonl")
    catalogue.save("items.parquet")
    vectors = pl.DataFrame({"item_id": catalogue.item_ids, "vector": torch.randn(23, 3).tolist()})
    vectors.write_parquet("vectors.parquet")
    Path("run").mkdir()
    Path("run/recommender").symlink_to(trained[0] / "recommender")
    for name in ("runs/mine", "runs/demo/run"):
        Path(name).symlink_to(trained[0])
    Path("runs/demo/lm").symlink_to(lm_folder)
    Path("runs/baselines/co-occurrence").symlink_to(trained[0] / "evaluation" / "sasrec")


def names_taken_as_given(page, lm_folder, encoder_folder, tokenizer):
    """What a page speaks of without making it."""
    if page.name == "prompts.md":
        return {"tokenizer": tokenizer}
    if page.name == "peft.md":
        model = text_model(lm_folder, encoder_folder)
        return {
            "model": model,
            "prompts": PromptBuilder(tokenizer, Catalogue.read("items.parquet"), max_tokens=200),
            "num_items": 23,
            "vectors": torch.randn(23, model.peft_config["default"].item_text_dim),
            "events": torch.arange(23),
        }
    if page.name == "encoders.md":
        names = {"BiTuningConfig": BiTuningConfig, "get_peft_model": get_peft_model}
        llm = AutoModelForCausalLM.from_pretrained(lm_folder)
        return names | {"llm": llm, "model": AutoModel.from_pretrained(encoder_folder)}
    if page.name == "evaluation.md":
        catalogue = Catalogue.read("items.jsonl")
        experiment = Experiment.read(LogSource("interactions.csv"), catalogue)
        return {
            "catalogue": catalogue,
            "histories": experiment.histories,
            "split": experiment.split,
            "data_hash": experiment.data["sha256"],
            "my_model": Popularity(experiment.split.train_histories, 23),
        }
    return {}


def text_model(lm_folder, encoder_folder):
    config = BiTuningConfig(collaborative_encoder=encoder_folder, item_vectors="text")
    return get_peft_model(AutoModelForCausalLM.from_pretrained(lm_folder), config)


@pytest.mark.usefixtures("in_a_shop")
@pytest.mark.parametrize("page", RUN_HERE, ids=lambda page: page.name)
def test_the_python_of_a_page_runs_as_written(page, lm_folder, encoder_folder, tokenizer):
    names = names_taken_as_given(page, lm_folder, encoder_folder, tokenizer)
    for block in python_blocks(page):
        if reason_not_to_run(page, block) is None:
            code = block.replace('["ITEM_ID", "ITEM_ID"]', '["i3", "i1"]')
            exec(compile(code, str(page), "exec"), names)
    if page.name == "quickstart.md":
        saved = LaserRecommender.from_pretrained("runs/demo/from-python")
        assert len(saved.recommend(["i3"], k=5)) == 5
        assert saved.whitening is not None


@pytest.mark.parametrize("page", ELSEWHERE)
def test_what_runs_elsewhere_does(page):
    assert page in (TESTS / ELSEWHERE[page]).read_text("utf-8")
    assert page in {page.name for page in WITH_PYTHON}


@pytest.mark.parametrize("page", NOT_RUN)
def test_what_cannot_run_is_there(page):
    (found,) = (known for known in WITH_PYTHON if known.name == page)
    for line in NOT_RUN[page]:
        assert sum(line in block for block in python_blocks(found)) == 1, line
