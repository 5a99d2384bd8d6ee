"""The public entry points, each with what a stranger may pass to it.

A target is made once and gives a function that tries one input, drawn from a random generator.
"""

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl
import torch
from mutations import HOSTILE, mutated_bytes, mutated_json, value_of
from transformers import AutoConfig, AutoModelForCausalLM
from typer.main import get_command
from typer.testing import CliRunner

from laser_peft import BiTuningConfig, LaserRecommender
from laser_peft.cli import app
from laser_peft.cli.config_file import option_kind, read_options
from laser_peft.data import Catalogue, LogSource, PromptTemplate
from laser_peft.evaluation import Evaluation
from laser_peft.recommender import RecommenderConfig
from laser_peft.training import LaserSettings, SASRecSettings

# Returns a word for what came of it; None: it was taken.
Try = Callable[[random.Random], str | None]
Target = Callable[[Path, Path], Try]


def bi_tuning_config(shop: Path, scratch: Path) -> Try:
    """Fields of an adapter's configuration."""
    fields = {name: getattr(BiTuningConfig(), name) for name in BiTuningConfig.__annotations__}

    def attempt(rng: random.Random) -> None:
        BiTuningConfig(**_some(fields, rng))

    return attempt


def settings(shop: Path, scratch: Path) -> Try:
    """Fields of both schedules."""
    kinds = (LaserSettings, SASRecSettings)

    def attempt(rng: random.Random) -> None:
        kind = rng.choice(kinds)
        made = kind(**_some(asdict(kind()), rng))
        if isinstance(made, SASRecSettings):
            made.model_config(num_items=7, max_items=5)

    return attempt


def recommender_config(shop: Path, scratch: Path) -> Try:
    """What ``recommender_config.json`` may hold."""
    told = json.loads((shop / "recommender/recommender_config.json").read_text())

    def attempt(rng: random.Random) -> None:
        changed = mutated_json(told, rng)
        if isinstance(changed, dict):
            RecommenderConfig.from_dict(changed)

    return attempt


def prompt_template(shop: Path, scratch: Path) -> Try:
    """What a prompt's JSON may hold."""
    told = {"instruction": "Say", "item": "{number}. {item}\n", "attributes": {"title": ""}}

    def attempt(rng: random.Random) -> None:
        file = scratch / "prompt.json"
        if rng.random() < 0.5:
            file.write_bytes(mutated_bytes(json.dumps(told).encode(), rng))
        else:
            file.write_text(json.dumps(mutated_json(told, rng)))
        template = PromptTemplate.read(file)
        template.line(1, template.describe({"title": "a", "brand": "b"}))

    return attempt


def log_files(shop: Path, scratch: Path) -> Try:
    """Logs as CSV, JSON lines and Parquet, their bytes changed."""
    frame = pl.read_csv(shop / "interactions.csv.gz").head(40)
    return _table_files(frame, scratch / "log", lambda path: LogSource(path=str(path)).read(None))


def item_files(shop: Path, scratch: Path) -> Try:
    """Catalogues as CSV, JSON lines and Parquet, their bytes changed."""
    frame = pl.read_ndjson(shop / "items.jsonl.gz").head(30)
    flat = frame.with_columns(pl.col("categories").list.join("; "))
    return _table_files(flat, scratch / "items", lambda path: Catalogue.read(path).attributes())


def saved_evaluation(shop: Path, scratch: Path) -> Try:
    """A folder of ranks and metrics, a file of it changed."""
    source = shop / "run/evaluation/laser"
    return _folder(source, scratch / "tested", lambda folder: Evaluation.load(folder).summary())


def saved_recommender(shop: Path, scratch: Path) -> Try:
    """A recommender's folder without its checksums, a file of it changed; then used."""
    config = AutoConfig.from_pretrained(shop / "lm")
    language_model = [AutoModelForCausalLM.from_config(config)]

    def use(folder: Path) -> None:
        (folder / "checksums.json").unlink()
        if hasattr(language_model[0], "peft_config"):  # the last one could be loaded
            language_model[0] = AutoModelForCausalLM.from_config(config)
        loaded = LaserRecommender.from_pretrained(folder, llm=language_model[0])
        loaded.recommend(loaded.catalogue.item_ids[:3], k=3)
        loaded.save_pretrained(folder.with_name("again"))

    return _folder(shop / "recommender", scratch / "recommender", use)


def checked_recommender(shop: Path, scratch: Path) -> Try:
    """The same with its checksums, which must not let a single change pass."""
    names = _contents(shop / "recommender")
    kept = {name for name in names if name not in ("README.md", "run_facts.json")}
    language_model = AutoModelForCausalLM.from_pretrained(shop / "lm")

    def attempt(rng: random.Random) -> None:
        name = rng.choice(sorted(kept - {"checksums.json"}))
        changed = mutated_bytes(names[name], rng)
        _write(scratch / "checked", names | {name: changed})
        LaserRecommender.from_pretrained(scratch / "checked", llm=language_model)
        assert changed == names[name], f"a change of {name} was not seen"

    return attempt


def requests(shop: Path, scratch: Path) -> Try:
    """Arguments of a recommender's methods."""
    recommender = LaserRecommender.from_pretrained(shop / "recommender")
    ids = recommender.catalogue.item_ids[:4]
    pool = [*HOSTILE, ids, ids[:1], [ids, []], [[]], iter(ids), {"item_id": "a"}, b"x", object()]
    items = [{"item_id": "n", "title": "A lamp", "brand": "B", "categories": ["x"]}]

    def attempt(rng: random.Random) -> None:
        one, other, third = (rng.choice(pool) for _ in range(3))
        calls: list[Callable[[], object]] = [
            lambda: recommender.recommend(one, k=rng.choice((1, 3, other))),
            lambda: recommender.recommend(
                ids, allow=one, deny=other, batch_size=rng.choice((1, 2))
            ),
            lambda: recommender.recommend(ids, k=2, batch_size=one),
            lambda: list(recommender.recommend_many(one, k=2)),
            lambda: recommender.score(one, other),
            lambda: recommender.score(ids, one),
            lambda: recommender.similar_items(one, k=third),
            lambda: recommender.session(one).recommend(k=2),
            lambda: recommender.session(ids).add(one),
            lambda: recommender.remove_items(one),
            lambda: recommender.add_items(mutated_json(items, rng)),
            lambda: recommender.add_items(one),
        ]
        rng.choice(calls)()

    return attempt


def command_line(shop: Path, scratch: Path) -> Try:
    """Words after ``laser-peft``."""
    commands = get_command(app).commands  # type: ignore[attr-defined]
    texts = [str(value) for value in HOSTILE if isinstance(value, str | int | float | None)]
    paths = [str(shop / "interactions.csv.gz"), str(shop / "items.jsonl.gz"), str(scratch)]
    runner = CliRunner()

    def attempt(rng: random.Random) -> str | None:
        name = rng.choice([name for name in commands if name != "download"])
        words = [name]
        for _ in range(rng.randint(0, 5)):
            option = rng.choice(commands[name].params)
            words += [*option.opts[:1], rng.choice((*texts, *paths))]
        words = [word.replace("\0", "") for word in words]
        words += ["--output", str(shop / "items.jsonl.gz")] if rng.random() < 0.7 else []
        result = runner.invoke(app, words)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return "refused in our words" if result.exit_code else None

    return attempt


def yaml_options(shop: Path, scratch: Path) -> Try:
    """Files of ``--config``."""
    from typing import Annotated, get_origin, get_type_hints

    from laser_peft.cli import train

    hints = get_type_hints(train.train, include_extras=True)
    told = {name: kind for name, kind in hints.items() if get_origin(kind) is Annotated}
    kinds = {name: option_kind(kind) for name, kind in told.items()}
    text = b"epochs: 3\nlearning-rate: 1e-3\nllm: lm\nprompt: p.json\nitems: [a, b]\n"

    def attempt(rng: random.Random) -> None:
        file = scratch / "options.yaml"
        if rng.random() < 0.7:
            file.write_bytes(mutated_bytes(text, rng))
        else:
            told = json.dumps({rng.choice(list(kinds)): value_of(rng) for _ in range(3)})
            file.write_text(told, "utf-8")
        read_options(file, kinds)

    return attempt


# With how many of 10,000 inputs: the slow ones with fewer.
SHARES: dict[str, tuple[Target, float]] = {
    "BiTuningConfig": (bi_tuning_config, 0.22),
    "LaserSettings, SASRecSettings": (settings, 0.08),
    "RecommenderConfig.from_dict": (recommender_config, 0.08),
    "PromptTemplate.read": (prompt_template, 0.12),
    "LogSource.read": (log_files, 0.12),
    "Catalogue.read": (item_files, 0.08),
    "Evaluation.load": (saved_evaluation, 0.04),
    "LaserRecommender.from_pretrained": (saved_recommender, 0.05),
    "LaserRecommender.from_pretrained, checksums kept": (checked_recommender, 0.03),
    "recommend, score, session, add_items ...": (requests, 0.08),
    "words of the command line": (command_line, 0.04),
    "files of --config": (yaml_options, 0.06),
}


def _some(fields: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    chosen = rng.sample(list(fields), rng.randint(1, 4))
    return fields | {name: value_of(rng) for name in chosen}


def _table_files(frame: pl.DataFrame, stem: Path, read: Callable[[Path], object]) -> Try:
    contents = {".csv": frame.write_csv().encode(), ".jsonl": frame.write_ndjson().encode()}
    frame.write_parquet(stem.with_suffix(".parquet"))
    contents[".parquet"] = stem.with_suffix(".parquet").read_bytes()

    def attempt(rng: random.Random) -> None:
        suffix = rng.choice(sorted(contents))
        path = stem.with_suffix(suffix)
        path.write_bytes(mutated_bytes(contents[suffix], rng))
        read(path)

    return attempt


def _folder(source: Path, copy: Path, use: Callable[[Path], object]) -> Try:
    contents = _contents(source)

    def attempt(rng: random.Random) -> None:
        name = rng.choice(sorted(contents))
        changed = contents | {name: _mutated_file(name, contents[name], rng)}
        _write(copy, changed)
        with torch.random.fork_rng():
            use(copy)

    return attempt


def _mutated_file(name: str, content: bytes, rng: random.Random) -> bytes:
    if name.endswith(".json") and rng.random() < 0.6:
        return json.dumps(mutated_json(json.loads(content), rng)).encode()
    if name.endswith(".safetensors") and rng.random() < 0.6:  # its head, a JSON of 8 + n bytes
        end = 8 + int.from_bytes(content[:8], "little")
        return mutated_bytes(content[:end], rng) + content[end:]
    return mutated_bytes(content, rng)


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _write(folder: Path, contents: dict[str, bytes]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, content in contents.items():
        (folder / name).write_bytes(content)
