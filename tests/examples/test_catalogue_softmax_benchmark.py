"""The benchmark of the catalogue softmax runs, and its forms are one computation."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "benchmarks" / "catalogue_softmax.py"
SPEC = importlib.util.spec_from_file_location("catalogue_softmax_benchmark", SCRIPT)
benchmark = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(benchmark)


@pytest.mark.parametrize("table", benchmark.TABLES)
def test_every_form_has_its_line(capsys, table):
    benchmark.main(
        ["--items", "43", "--users", "5", "--width", "3", "--repeats", "1", "--table", table]
    )
    lines = capsys.readouterr().out.splitlines()[4:]
    assert [line.split("  ")[0] for line in lines] == benchmark.forms_here(43)
    assert all(("error" in line) == (table != "unread") for line in lines)


def test_the_exact_forms_agree():
    problem = benchmark.make_problem(5, 43, 3, "frozen", 0)
    exact = [name for name in benchmark.forms_here(43) if "bfloat16" not in name]
    losses = [benchmark.FORMS[name](*problem).item() for name in exact]
    assert losses == pytest.approx([losses[0]] * len(losses), rel=1e-5)
