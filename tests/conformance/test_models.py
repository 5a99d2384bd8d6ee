import re
from pathlib import Path

import pytest
import transformers
from checks import NOT_BUILT, REFUSED, WORKS, check
from make_table import row
from tiny_models import CANNOT_BUILD, causal_lm_families

TABLE = (Path(__file__).parents[2] / "docs" / "models.md").read_text("utf-8")
MADE_WITH = re.search(r"with transformers (\S+),", TABLE).group(1)


@pytest.mark.filterwarnings("ignore")  # the models' own; ours are errors in every other test
@pytest.mark.parametrize("family", causal_lm_families(), ids=lambda family: family.model_type)
def test_a_class_works_or_is_refused_as_the_table_says(family, encoder_folder):
    outcome = check(family, encoder_folder)
    assert outcome.status in (WORKS, REFUSED, NOT_BUILT), outcome
    if transformers.__version__ == MADE_WITH:
        assert row(family, outcome) in TABLE.splitlines()


def test_at_least_95_percent_of_the_classes_that_can_be_built_work():
    families = causal_lm_families()
    works = len(re.findall(rf"^\|.*\| {WORKS} \|$", TABLE, re.MULTILINE))
    assert works >= 0.95 * (len(families) - len(CANNOT_BUILD)) > 0
    assert TABLE.count("\n| ") - 1 == len(families) or transformers.__version__ != MADE_WITH


@pytest.mark.parametrize("model_type", CANNOT_BUILD)
def test_a_class_that_is_said_not_to_build_does_not(model_type):
    from tiny_models import tiny_lm

    family = next(family for family in causal_lm_families() if family.model_type == model_type)
    with pytest.raises(Exception):  # noqa: B017, PT011 - whatever each of them says
        tiny_lm(family)
