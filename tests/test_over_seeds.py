"""The table over seeds of docs/results.md."""

import importlib.util
from pathlib import Path

import typer
from typer.testing import CliRunner

SCRIPT = Path(__file__).parents[1] / "examples" / "benchmarks" / "over_seeds.py"


def table(*folders):
    spec = importlib.util.spec_from_file_location("over_seeds", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    app = typer.Typer()
    app.command()(module.main)
    return CliRunner().invoke(app, [str(folder) for folder in folders])


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
