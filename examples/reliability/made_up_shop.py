"""The tiny shop and language model that every fault here is tried on, and a recommender of it."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from children import start

from laser_peft import pipeline
from laser_peft.data import LogSource
from laser_peft.pipeline import EncoderRun, TrainRun
from laser_peft.training import LaserSettings, SASRecSettings

DEMO = Path(__file__).resolve().parents[1] / "demo"
USERS, ITEMS = 60, 100
SASREC = SASRecSettings(epochs=3, batch_size=16, hidden_size=16)
LASER = LaserSettings(epochs=1, item_epochs=1, reading_epochs=3, batch_size=16)


def make(folder: Path) -> None:
    """Draws the shop, an all but untrained language model and a recommender of it, once."""
    if (folder / "recommender").is_dir():
        return
    shop = ["make_shop.py", "--output", folder, "--users", USERS, "--items", ITEMS]
    lm = ["make_lm.py", "--items", folder / "items.jsonl.gz", "--output", folder / "lm"]
    for script, *arguments in (shop, [*lm, "--steps", 2]):
        command = [sys.executable, DEMO / script, *arguments]
        subprocess.run(list(map(str, command)), check=True, capture_output=True)
    run = train_run(folder, "fused")
    start(lambda: pipeline.train(run, folder / "run"), folder / "run.log").wait()
    shutil.copytree(folder / "run" / "recommender", folder / "recommender")


def encoder_run(folder: Path) -> EncoderRun:
    """A SASRec of three epochs."""
    log = LogSource(str(folder / "interactions.csv.gz"))
    return EncoderRun(interactions=log, items=str(folder / "items.jsonl.gz"), sasrec=SASREC)


def train_run(folder: Path, item_vectors: str) -> TrainRun:
    """A SASRec and an adapter; with ``"fused"`` texts it has a twin, with ``"text"`` two phases."""
    adapter = {"num_prefix_tokens": 4, "item_vectors": item_vectors, "layout": "text_first"}
    if item_vectors == "text":
        adapter |= {"similarity": "cosine", "collaborative_skip": False}
    base = vars(encoder_run(folder))
    laser = replace(LASER, epochs=1)
    lm = str(folder / "lm")
    return TrainRun(**base, llm=lm, max_tokens=120, adapter=adapter, laser=laser)
