r"""Trains a model's variants, one change each, and tells what each change costs or brings.

Command:

    python examples/ablation.py examples/ablation.yaml --interactions interactions.csv.gz \
        --items items.jsonl.gz --llm HuggingFaceTB/SmolLM2-135M --output runs/ablation \
        --seeds 0 1 2

The file says which variants there are. Each is trained and tested once for every seed, all of a
seed with the same SASRec. The folder then holds table.md, table.json, commits/, and the folders of
the runs, ``VARIANT/seed-0`` and so on. The same command again goes on where it was stopped:
finished runs are kept. A variant that fails is told and the others go on; the exit status is 1.
Two commands may fill one folder, of other variants (``--only``) each; the later one has the table.
"""

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

from ablation_plan import COMMITS_FOLDER, ENCODER_FOLDER, REFERENCE, Inputs, read_plan
from ablation_table import as_markdown, make_table

import laser_peft
from laser_peft.data import Catalogue, LogSource
from laser_peft.experiment import Experiment
from laser_peft.pipeline import EncoderRun, TrainRun, absolute_if_local, train, train_encoder
from laser_peft.runs import check_same
from laser_peft.whole import write_json, write_whole

Runs = dict[str, dict[int, TrainRun]]  # by variant and seed


def read_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("variants", type=Path, help="YAML file of the variants")
    parser.add_argument("--interactions", required=True, help="log of interactions")
    parser.add_argument("--items", required=True, help="items with their texts")
    parser.add_argument("--time-column", default="timestamp", help="'' if rows are in order")
    parser.add_argument("--llm", required=True, help="folder or Hub id")
    parser.add_argument("--encoder", help="a trained one; {seed} in it stands for the seed")
    parser.add_argument("--output", type=Path, required=True, help="folder of the ablation")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", metavar="VARIANT", help="train these; default: all")
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Trains what is not there yet and writes the table; returns the exit status."""
    arguments = read_arguments(argv)
    try:
        runs = plan_runs(arguments)
        check_folders(arguments, runs)
    except (ValueError, OSError) as error:
        print(f"ablation: {error}", file=sys.stderr)
        return 2
    failed = train_all(arguments, runs)
    finished = {
        name: {seed: f for seed in of_seeds if is_finished(f := folder(arguments, name, seed))}
        for name, of_seeds in runs.items()
    }
    if finished[REFERENCE]:
        write_table(arguments, finished, argv)
    else:
        print(f"ablation: no table, for {REFERENCE!r} has no finished run", file=sys.stderr)
    for name, error in failed.items():
        print(f"ablation: {name} failed: {error}", file=sys.stderr)
    return 1 if failed else 0


def write_table(
    arguments: argparse.Namespace,
    finished: dict[str, dict[int, Path]],
    argv: Sequence[str] | None,
) -> None:
    """Writes and prints the table of what is finished."""
    head = {
        "seeds": sorted({seed for of_seeds in finished.values() for seed in of_seeds}),
        "commits": read_commits(arguments.output),
        "date": datetime.now(timezone.utc).date().isoformat(),
        "command": shlex.join(
            ["python", "examples/ablation.py", *(sys.argv[1:] if argv is None else argv)]
        ),
    }
    table = make_table(finished, head)
    write_json(arguments.output / "table.json", table)
    write_whole(arguments.output / "table.md", as_markdown(table))
    print(as_markdown(table))


def plan_runs(arguments: argparse.Namespace) -> Runs:
    """Makes every run of every variant and seed.

    Raises:
        FileNotFoundError: if there is no file of variants.
        ValueError: if settings cannot work, or ``--only`` names no variant.
    """
    inputs = Inputs(
        interactions=LogSource(arguments.interactions, time_column=arguments.time_column or None),
        items=arguments.items,
        llm=absolute_if_local(arguments.llm),
        bf16=arguments.bf16,
    )
    plan = read_plan(arguments.variants, inputs)
    if unknown := set(arguments.only or []) - set(plan):
        raise ValueError(
            f"--only names {', '.join(sorted(unknown))}, which {arguments.variants} does not have; "
            f"it has {', '.join(plan)}"
        )
    return {
        name: {
            seed: replace(run, seed=seed, encoder=encoder_of(arguments, seed))
            for seed in arguments.seeds
        }
        for name, run in plan.items()
    }


def check_folders(arguments: argparse.Namespace, runs: Runs) -> None:
    """Reads the data, and makes sure that runs that are there are those that are asked for.

    Raises:
        FileNotFoundError: if there is no log or no items.
        ValueError: if they cannot be learnt from, or a run was made with other settings or data.
    """
    log = runs[REFERENCE][arguments.seeds[0]].interactions
    catalogue = Catalogue.read(arguments.items, item_column=log.item_column)
    experiment = Experiment.read(log, catalogue)
    experiment.check_trainable()
    told = experiment.data | {"log": experiment.report.to_dict()}
    for name, of_seeds in runs.items():
        for seed, run in of_seeds.items():
            check_same(folder(arguments, name, seed), run, told)
    if arguments.encoder is None:
        for seed, run in runs[REFERENCE].items():
            check_same(arguments.output / f"{ENCODER_FOLDER}/seed-{seed}", encoder_run(run), told)


def train_all(arguments: argparse.Namespace, runs: Runs) -> dict[str, str]:
    """Trains and tests what is asked for and not finished, seed by seed.

    Returns:
        Why runs failed, by their names.
    """
    failed = {}
    for seed in arguments.seeds:
        for name in arguments.only or runs:
            of_run, title = folder(arguments, name, seed), f"{name}, seed {seed}"
            if is_finished(of_run):
                print(f"{title}: is there already")
                continue
            print(f"{title}: starts", flush=True)
            try:
                if arguments.encoder is None:
                    train_shared_encoder(arguments, runs[name][seed])
                note_commit(arguments.output, f"{name}/seed-{seed}")
                train(runs[name][seed], of_run, resume=True)
            except Exception as error:  # whatever it is, the others can go on
                failed[title] = f"{type(error).__name__}: {error}"
                print(f"{title}: failed: {failed[title]}", file=sys.stderr, flush=True)
    return failed


def train_shared_encoder(arguments: argparse.Namespace, run: TrainRun) -> None:
    """Trains the SASRec of a seed, unless it is there."""
    of_run = arguments.output / f"{ENCODER_FOLDER}/seed-{run.seed}"
    if not is_finished(of_run):
        note_commit(arguments.output, f"{ENCODER_FOLDER}/seed-{run.seed}")
        train_encoder(encoder_run(run), of_run, resume=True)


def encoder_run(run: TrainRun) -> EncoderRun:
    """Returns the training of the SASRec that a run reads."""
    return EncoderRun(**{field.name: getattr(run, field.name) for field in fields(EncoderRun)})


def encoder_of(arguments: argparse.Namespace, seed: int) -> str:
    """Returns the encoder of a seed: the one given, or the one that will be trained."""
    if arguments.encoder is not None:
        return absolute_if_local(arguments.encoder.replace("{seed}", str(seed)))
    return str((arguments.output / f"{ENCODER_FOLDER}/seed-{seed}/sasrec").resolve())


def folder(arguments: argparse.Namespace, name: str, seed: int) -> Path:
    """Returns where a run is."""
    return arguments.output / name / f"seed-{seed}"


def is_finished(run: Path) -> bool:
    """Tells whether a run was trained and tested: ``metrics.json`` is written after that."""
    return (run / "metrics.json").is_file()


def read_commits(output: Path) -> list[str]:
    """Reads which commits made the runs: a run that was gone on with may have several."""
    files = output.glob(f"{COMMITS_FOLDER}/**/*.json")
    return sorted({commit for file in files for commit in json.loads(file.read_text("utf-8"))})


def note_commit(output: Path, name: str) -> None:
    """Writes down which commit makes a run; the version, where there is no git."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    here = Path(laser_peft.__file__).parent
    try:
        done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=True)
        commit = done.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = f"version {version('laser-peft')}"
    file = output / COMMITS_FOLDER / f"{name}.json"
    before = json.loads(file.read_text("utf-8")) if file.is_file() else []
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, [*dict.fromkeys([*before, commit])])


if __name__ == "__main__":
    sys.exit(main())
