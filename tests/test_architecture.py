"""docs/architecture.md draws every file."""

import re
from pathlib import Path

import pytest

import laser_peft

ROOT = Path(laser_peft.__file__).parent
PAGE = (Path(__file__).parent.parent / "docs" / "architecture.md").read_text("utf-8")
TREE = PAGE.split("```")[1]
FILES = [path for path in ROOT.rglob("*.py") if not path.stem.startswith("__")]
# One file a command, each named as it is.
COMMANDS = {
    *("download", "prepare", "train_encoder", "train", "evaluate", "baselines", "compare"),
    *("recommend", "recommend_many", "serve", "inspect"),
}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_in_the_tree(path):
    if path.parent.name == "cli" and path.stem in COMMANDS:
        return
    assert re.search(rf"\b{path.stem}\b", TREE)


def test_every_test_that_the_page_names_exists():
    for name in re.findall(r"`(tests/\w+\.py)`", PAGE):
        assert (Path(__file__).parent.parent / name).is_file(), name
