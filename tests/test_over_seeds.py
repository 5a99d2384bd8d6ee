"""The tables over seeds of docs/results.md."""

import importlib.util
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from laser_peft.evaluation import Evaluation, compare, compare_over_seeds

SCRIPT = Path(__file__).parents[1] / "examples" / "benchmarks" / "over_seeds.py"


def table(*folders):
    spec = importlib.util.spec_from_file_location("over_seeds", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    app = typer.Typer()
    app.command()(module.main)
    return CliRunner().invoke(app, [str(folder) for folder in folders])


@pytest.fixture
def runs(trained, tmp_path):
    """The folders of two runs: one that was trained, and as if another seed had ranked otherwise.

    Only what the tables are made of is there.
    """
    folders = [tmp_path / "run-0", tmp_path / "run-1"]
    for folder in folders:
        shutil.copytree(trained[0] / "evaluation", folder / "evaluation")
        shutil.copy(trained[0] / "metrics.json", folder)
    for name in ("sasrec", "laser"):
        test = Evaluation.load(folders[1] / "evaluation" / name)
        ranks = (test.ranks * 7 + 3) % 23
        replace(test, ranks=ranks).save(folders[1] / "evaluation" / name)
    return folders


def rows(printed, title):
    """The rows of a table by their first cell, as lists of the others."""
    _, _, below = printed.partition(f"| {title} |")
    lines = below.partition("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {first: others for first, *others in cells}


def words(text):
    """A message without the box that is drawn around it."""
    return " ".join(re.findall(r"[\w./-]+", text))


def numbers(text):
    return [float(number) for number in re.findall(r"[+-]?\d+\.\d+", text)]


def test_means_lie_between_the_runs_and_one_run_twice_has_no_spread(trained):
    folder = trained[0] / "evaluation"
    both = table(folder / "sasrec", folder / "laser")
    assert both.exit_code == 0, both.stderr
    assert both.stdout.startswith("2 runs, 30 users, data ")
    twice = table(folder / "sasrec", folder / "sasrec").stdout
    once = table(folder / "sasrec").stdout.replace("1 runs", "2 runs")
    assert twice.replace(" ± 0.0000", "") == once
    assert "hr@10" in once
    assert "short (" in once


def test_a_run_alone_is_told_as_compare_tells_it(trained):
    result = table(trained[0])
    assert result.exit_code == 0, result.output
    tests = [Evaluation.load(trained[0] / "evaluation" / name) for name in ("sasrec", "laser")]
    told = compare(*tests)
    assert "±" not in result.stdout
    wanted = told["difference"]["masked"]["ndcg@10"]
    line = re.search(r"^\* masked ndcg@10: (.*)$", result.stdout, re.MULTILINE)[1]
    assert numbers(line)[:3] == [round(wanted[key], 4) for key in ("mean", "low", "high")]
    models = [told["models"][name]["masked"]["ndcg@10"] for name in ("sasrec", "laser")]
    assert numbers(line)[3] == pytest.approx(100 * (models[1] / models[0] - 1), abs=0.051)
    cells = rows(result.stdout, "masked hr@10 by slice (users)")
    assert list(cells) == [
        f"{name} ({part['users']})" for name, part in told["slices"].items() if part["users"]
    ]


def test_runs_are_told_with_their_spread_and_users_with_their_mean(runs):
    result = table(*runs)
    assert result.exit_code == 0, result.output
    by_name = [
        [Evaluation.load(run / "evaluation" / name) for run in runs] for name in ("sasrec", "laser")
    ]
    told = compare_over_seeds(*by_name)
    laser = told["models"]["laser"]["unmasked"]["hr@10"]
    shown = rows(result.stdout, "| unmasked sasrec")["hr@10"][1]
    assert shown == f"{laser['mean']:.4f} ± {laser['std']:.4f}"
    short = told["slices"]["short"]["difference"]["unmasked"]["ndcg@10"]
    cells = rows(result.stdout, "unmasked ndcg@10 by slice (users)")
    (row,) = (cells[name] for name in cells if name.startswith("short "))
    assert numbers(row[2]) == [round(short[key], 4) for key in ("mean", "low", "high")]
    seconds = json.loads((runs[0] / "metrics.json").read_text())["seconds"]
    assert f"* seconds of laser: {seconds['laser']:.0f} ± 0 (" in result.stdout


def test_what_is_no_finished_run_is_refused(trained, runs):
    mixed = table(trained[0], trained[0] / "evaluation" / "laser")
    assert mixed.exit_code == 2
    assert "give runs only" in words(mixed.stderr)
    (runs[1] / "metrics.json").unlink()
    unfinished = table(*runs)
    assert unfinished.exit_code == 2
    assert "no metrics.json" in words(unfinished.stderr)
