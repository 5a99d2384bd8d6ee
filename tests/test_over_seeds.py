"""The table over seeds of docs/results.md."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "examples" / "benchmarks" / "over_seeds.py"


def table(*folders):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, folders)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_means_lie_between_the_runs_and_one_run_twice_has_no_spread(trained):
    folder = trained[0] / "evaluation"
    both = table(folder / "sasrec", folder / "laser")
    assert both.returncode == 0, both.stderr
    assert both.stdout.startswith("2 runs, 30 users, data ")
    twice = table(folder / "sasrec", folder / "sasrec").stdout
    once = table(folder / "sasrec").stdout.replace("1 runs", "2 runs")
    assert twice.replace(" ± 0.0000", "") == once
    assert "hr@10" in once
    assert "short (" in once
