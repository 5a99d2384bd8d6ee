"""docs/api.md has every public name, and none that does not exist."""

import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import laser_peft

DOCS = Path(__file__).parent.parent / "docs"
PAGE = (DOCS / "api.md").read_text("utf-8")
BESIDE = "Modules beside the packages"
# The commands' own modules; what `import laser_peft` gives.
NOT_LISTED = {"laser_peft.cli", "laser_peft.tuner"}


def sections():
    """The names of each section with their arguments, None for what takes none, like a constant."""
    for heading, text in re.findall(r"^## (.+)\n((?:(?!## ).*\n)*)", PAGE, re.MULTILINE):
        cells = [row.split(" | ")[0] for row in re.findall(r"^\| (`.*) \|$", text, re.MULTILINE)]
        codes = [code for cell in cells for code in re.findall(r"`([^`]+)`", cell)]
        names = {}
        for code in codes:
            name, bracket, arguments = code.partition("(")
            names[name] = arguments.rstrip(")") if bracket else None
        yield heading.strip("`"), names


SECTIONS = dict(sections())
LISTED = [
    pytest.param(section, name, arguments, id=f"{section}.{name}")
    for section, names in SECTIONS.items()
    for name, arguments in names.items()
]


def find(section, name):
    if section == BESIDE:
        module, _, name = name.partition(".")
        section = f"laser_peft.{module}"
    found = importlib.import_module(section)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def packages():
    found = pkgutil.walk_packages(laser_peft.__path__, "laser_peft.")
    return {"laser_peft", *(module.name for module in found if module.ispkg)}


def check(section, name, arguments):
    found = find(section, name)
    if arguments is None:
        assert not inspect.isfunction(found), f"{name} is called: show its arguments"
        return
    known = inspect.signature(found).parameters
    shown = [word for word in arguments.split(", ") if word not in ("", "...")]
    assert set(shown) <= set(known), f"{name} has no {set(shown) - set(known)}"


@pytest.mark.parametrize(("section", "name", "arguments"), LISTED)
def test_what_is_listed_exists_with_its_arguments(section, name, arguments):
    check(section, name, arguments)


@pytest.mark.parametrize("package", sorted(packages() - NOT_LISTED))
def test_every_public_name_is_listed(package):
    public = set(importlib.import_module(package).__all__)
    assert public == {name for name in SECTIONS[package] if "." not in name}


def test_what_has_no_section_is_listed_elsewhere():
    tuner = importlib.import_module("laser_peft.tuner")
    assert set(tuner.__all__) <= set(laser_peft.__all__)
    assert set(SECTIONS) == packages() - NOT_LISTED | {BESIDE}


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("LaserRecommender.recommend", "histories, n", "has no {'n'}"),
        ("LaserRecommender.recommend", None, "show its arguments"),
    ],
)
def test_what_is_wrong_is_found(name, arguments, message):
    with pytest.raises(AssertionError, match=re.escape(message)):
        check("laser_peft", name, arguments)
