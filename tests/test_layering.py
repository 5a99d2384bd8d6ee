"""Who may import whom, as docs/architecture.md draws it."""

import ast
from pathlib import Path

import laser_peft

ROOT = Path(laser_peft.__file__).parent
LEAVES = {"eval_mode", "losses", "masking", "numbering", "portions", "out_of_memory"}
ALLOWED = {
    "eval_mode": set(),
    "catalogue_softmax": set(),
    "losses": {"catalogue_softmax"},
    "whole": set(),
    "checksums": {"whole"},
    "full_disk": set(),
    "masking": set(),
    "out_of_memory": set(),
    "numbering": set(),
    "processes": set(),
    "portions": set(),
    "wording": set(),
    "data": {"checksums", "whole"},
    "evaluation": {"whole"},
    "collaborative": LEAVES,
    "tuner": LEAVES,
    "training": {
        *(LEAVES | {"data", "collaborative", "tuner", "evaluation"}),
        *("item_encoding", "runs", "processes", "checksums"),
    },
    "recommender": {
        *("numbering", "data", "tuner", "evaluation", "item_texts", "item_encoding", "whole"),
        *("wording", "portions"),
        *("eval_mode", "checksums", "out_of_memory", "full_disk"),
    },
    "judge": {"data", "evaluation"},
    "experiment": {"data", "judge"},
    "item_texts": {"masking", "data", "eval_mode", "portions", "processes"},
    "item_encoding": {"data", "eval_mode", "portions", "processes"},
    "baselines": {
        *("masking", "numbering", "data", "collaborative", "evaluation", "judge", "item_texts"),
        *("portions", "processes"),
    },
    "batch": {"data", "recommender", "runs"},
    "serving": {"data", "recommender", "wording"},
    "inspection": {"data", "tuner", "recommender"},
    "comparison": {"training", "evaluation", "judge", "baselines", "recommender"},
    "runs": {"processes", "whole", "wording"},
    "run_log": {"processes"},
    "run_texts": {"data", "experiment", "item_texts", "processes", "recommender", "whole"},
    "history": {"whole"},
    "estimates": {
        *("data", "collaborative", "tuner", "evaluation", "training", "experiment", "runs"),
        "processes",
    },
    "pipeline": {
        *("data", "collaborative", "tuner", "evaluation", "training"),
        *("judge", "experiment", "recommender", "comparison", "runs", "baselines", "numbering"),
        *("estimates", "run_log", "run_texts", "history", "processes"),
        *("full_disk", "whole"),
    },
    "cli": {
        *("data", "evaluation", "training", "judge", "experiment", "baselines"),
        *("recommender", "comparison", "runs", "estimates", "pipeline", "inspection", "processes"),
        *("batch", "serving", "full_disk", "whole"),
    },
    "__init__": {"collaborative", "tuner", "recommender"},
    "__main__": {"cli"},
}


def parts():
    for file in ROOT.rglob("*.py"):
        relative = file.relative_to(ROOT)
        yield relative.parts[0].removesuffix(".py"), relative, ast.parse(file.read_text("utf-8"))


def imported_parts(part, relative, tree):
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = list(relative.parts[:-1])[: len(relative.parts) - node.level]
            prefix = ".".join(["laser_peft", *base]) + "." if node.level else ""
            module = prefix + (node.module or "")
            names = [module] + [f"{module}.{alias.name}" for alias in node.names]
        for name in names:
            pieces = name.rstrip(".").split(".")
            if pieces[0] == "laser_peft" and len(pieces) > 1 and pieces[1] in ALLOWED:
                yield pieces[1]


def test_imports_flow_one_way():
    wrong = sorted(
        f"{relative} imports {imported}"
        for part, relative, tree in parts()
        for imported in imported_parts(part, relative, tree)
        if imported != part and imported not in ALLOWED[part]
    )
    assert wrong == []


def test_third_party_registries_are_touched_in_one_file_each():
    touched = {"PEFT_TYPE_TO": set(), "register_peft_method": set(), "AutoModel.register": set()}
    for _, relative, tree in parts():
        source = ast.unparse(tree)
        for name, files in touched.items():
            if name in source:
                files.add(relative.as_posix())
    assert touched == {
        "PEFT_TYPE_TO": {"tuner/registration.py"},
        "register_peft_method": {"tuner/registration.py"},
        "AutoModel.register": {"collaborative/__init__.py"},
    }


def test_no_pickle_and_no_remote_code():
    banned = ("pickle", "torch.load", "torch.save", "trust_remote_code=True")
    texts = {relative: ast.unparse(tree) for _, relative, tree in parts()}
    found = [
        f"{relative}: {name}" for relative, text in texts.items() for name in banned if name in text
    ]
    assert found == []
