"""Whatever is passed, it is taken or refused in our own words (hypothesis draws it)."""

import json
import traceback
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

import laser_peft
from laser_peft import BiTuningConfig
from laser_peft.cli.errors import one_line_errors
from laser_peft.data import Catalogue, PromptTemplate, read_interactions
from laser_peft.recommender import RecommenderConfig, RunFacts
from laser_peft.recommender.requests import allowed_items, check_at_least_one, listed

PACKAGE = str(Path(laser_peft.__file__).parent)
FEW = settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
SCALARS = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    st.sampled_from(["../../x", "\0", "<script>", "{item.__class__}", 10**12]),
)
VALUES = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(st.text(max_size=5), SCALARS)


def refused_in_our_words(call, *arguments, **fields):
    try:
        call(*arguments, **fields)
    except (ValueError, TypeError, OSError) as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        assert last.filename.startswith(PACKAGE), traceback.format_exc()
        assert last.line.startswith("raise"), traceback.format_exc()


@FEW
@given(st.sampled_from(sorted(BiTuningConfig.__annotations__)), VALUES)
def test_fields_of_an_adapter(name, value):
    refused_in_our_words(BiTuningConfig, **{name: value})


@FEW
@given(
    st.dictionaries(st.sampled_from(["instruction", "item", "attributes", "ending", "x"]), VALUES)
)
def test_prompts(told):
    refused_in_our_words(PromptTemplate.from_dict, told)


@FEW
@given(st.dictionaries(st.sampled_from(["max_tokens", "max_items", "prompt", "dtype"]), VALUES))
def test_limits(told):
    refused_in_our_words(RecommenderConfig.from_dict, told)


@FEW
@given(VALUES)
def test_facts_of_a_run(told):
    refused_in_our_words(RunFacts.of, told)


@FEW
@given(VALUES, VALUES, VALUES)
def test_what_is_asked_of_a_recommender(catalogue, histories, ids, number):
    refused_in_our_words(listed, histories)
    refused_in_our_words(allowed_items, catalogue, set(), ids, histories)
    refused_in_our_words(check_at_least_one, k=number)


@FEW
@given(st.binary(max_size=60), st.sampled_from([".csv", ".jsonl", ".parquet"]))
def test_tables(tmp_path, content, suffix):
    for head in (b"", b"user_id,item_id,timestamp\n", b'{"user_id": "a", "item_id": '):
        file = tmp_path / f"table{suffix}"
        file.write_bytes(head + content)
        refused_in_our_words(read_interactions, file)
        refused_in_our_words(Catalogue.read, file)


def test_an_error_shows_no_characters_that_a_terminal_obeys(capsys):
    import typer

    with pytest.raises(typer.Exit), one_line_errors():
        raise ValueError(f"no item {json.loads(chr(34) + chr(92) + 'u001b[2J' + chr(34))}")
    assert capsys.readouterr().err == "laser-peft: no item \\x1b[2J\n"
