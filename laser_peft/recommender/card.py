"""The model card of a recommender, filled from the run that it comes from.

Names, ids and titles are whatever somebody's catalogue holds: none of them may end a table, a
block of code or the card's own markup.
"""

import hashlib
import html
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from peft import PeftModel

from laser_peft.data import Catalogue
from laser_peft.tuner.card import HEADING, INTRODUCTION, TAGS, settings_of
from laser_peft.whole import write_file

MARK = "<!-- written by laser_peft; a card without this line is left as it is -->"
THIS = "<this repository>"
SHOWN_ITEMS = 3
LONGEST = 100  # characters of a name or title
LABELS = {
    "users_too_short_to_test": "users with too few events to test",
    "sha256": "SHA-256 of items and events",
    "times_sha256": "SHA-256 of their times",
}
TESTED = {
    "items": "its items",
    "removed": "the items that are never recommended",
    "view_weights": "the weights of its parts",
}
# Settings that say where something lay, on a machine that may be nobody's business.
PLACES = ("base_model_name_or_path", "collaborative_encoder")
OF_METRICS = ("users", "models", "difference")  # what a card tells of a comparison


@dataclass(frozen=True)
class RunFacts:
    """What is told of the run that an adapter comes from; JSON values only.

    Args:
        data: counts and hash, as :func:`laser_peft.data.describe_data` returns them.
        metrics: what :func:`laser_peft.evaluation.compare` says of the test, of which ``users``,
            ``models`` and ``difference`` are kept; None: not tested.
        tested: what was tested, as :func:`what_is_tested` tells it; None: what is there when they
            are written.
    """

    data: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] | None = None
    tested: Mapping[str, Any] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        told = (part for part in (self.metrics, self.tested) if part is not None)
        if not all(isinstance(part, Mapping) for part in (self.data, *told)):
            raise ValueError(f"data and metrics of a run are objects, got {self}")
        if self.metrics is not None:
            kept = {name: self.metrics[name] for name in OF_METRICS if name in self.metrics}
            object.__setattr__(self, "metrics", kept)

    @classmethod
    def of(cls, facts: "RunFacts | Mapping[str, Any] | None") -> "RunFacts | None":
        """Makes them of what JSON holds.

        Raises:
            ValueError: if there are others than ``data``, ``metrics`` and ``tested``, or these are
                not such as a card can tell.
        """
        if facts is None or isinstance(facts, RunFacts):
            return facts
        if not isinstance(facts, Mapping):
            raise ValueError(f"run facts are data and metrics, got {facts!r}")
        if unknown := facts.keys() - {"data", "metrics", "tested"}:
            raise ValueError(f"run facts are data and metrics, got {', '.join(sorted(unknown))}")
        made = cls(**facts)
        try:
            _data(made), _test(made, made.tested)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                "run facts must be as describe_data and compare return them; what a card tells of "
                f"them cannot be found: {type(error).__name__}: {error}"
            ) from error
        return made

    def of_what_is(self, there: Mapping[str, Any]) -> "RunFacts":
        """Returns them with what was tested; where nothing says, that is what is there."""
        return self if self.tested is not None else replace(self, tested=there)

    def to_dict(self) -> dict[str, Any]:
        """Returns them for JSON."""
        return asdict(self)


def what_is_tested(
    model: PeftModel, catalogue: Catalogue, removed: Sequence[str]
) -> dict[str, Any]:
    """Tells what a test is of, beside the weights that training alone changes."""
    fused = model.peft_config[model.active_adapter].item_vectors == "fused"
    return {
        "items": len(catalogue),
        "removed": hashlib.sha256("\n".join(removed).encode()).hexdigest()[:16],
        # In whatever precision the model is kept.
        "view_weights": [round(x, 2) for x in model.base_model.view_weights] if fused else None,
    }


def is_ours(file: Path) -> bool:
    """Whether a card may be written over: there is none, or it is one of this package."""
    if not file.is_file():
        return True
    text = file.read_text("utf-8", errors="replace")
    return MARK in text or f"\n{HEADING}\n" in text


def write_card(
    file: Path,
    model: PeftModel,
    catalogue: Catalogue,
    facts: RunFacts | None,
    *,
    removed: Sequence[str] = (),
    repository: str | None = None,
) -> None:
    """Rewrites a card that PEFT has made.

    Args:
        file: the card.
        model: the language model with its adapter.
        catalogue: the items.
        facts: of the run; None: the card says nothing of it. A test of what has been changed since
            is not told.
        removed: ids of items that are never recommended.
        repository: the Hub id under which the card will be found.
    """
    config = model.peft_config[model.active_adapter]
    base = config.base_model_name_or_path or ""
    hub_id = _hub_id(base)
    card = ModelCard.load(file)
    card.data["library_name"] = "peft"
    # PEFT's tag of the base model holds its name, which may be a folder here.
    tags = [tag for tag in card.data.get("tags") or [] if not tag.startswith("base_model:")]
    card.data["tags"] = sorted(
        {*tags, *TAGS, *([f"base_model:adapter:{hub_id}"] if hub_id else [])}
    )
    for name in ("base_model", "pipeline_tag"):  # it writes no text
        card.data.pop(name, None)
    if hub_id:
        card.data["base_model"] = hub_id
    shown = code_span(hub_id or (f"{Path(base).name} (a folder)" if base else "the base model"))
    parts = [
        MARK,
        "# A recommender",
        INTRODUCTION.format(base=shown),
        _loading(catalogue, repository or THIS, needs_llm=hub_id is None),
        *_data(facts),
        *_test(facts, what_is_tested(model, catalogue, removed)),
        f"## Base model\n\n{shown}. {_licence(base, hub_id, model)}",
        _catalogue(catalogue, removed),
        f"## Settings\n\n{code_block(settings_of(config, without=PLACES), 'json')}",
    ]
    card.text = "\n\n".join(parts) + "\n"
    write_file(file, card.save)


def plain(text: object) -> str:
    r"""Makes of any text one that stands for itself in a table or a line of Markdown.

    Example:
        >>> print(plain("a|b <b>*"))
        a\|b &lt;b&gt;\*
    """
    line = " ".join(str(text).split())
    line = line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"
    return re.sub(r"([\\`*_\[\]|~$:@])", r"\\\1", html.escape(line, quote=False))


def code_span(text: object) -> str:
    """Sets a line as code, whatever backticks are in it."""
    line = " ".join(str(text).split()) or " "
    fence = "`" * (_longest_run(line) + 1)
    return f"{fence} {line} {fence}" if "`" in line else f"{fence}{line}{fence}"


def code_block(text: str, language: str = "") -> str:
    """Sets lines as code, whatever backticks are in them."""
    fence = "`" * max(_longest_run(text) + 1, 3)
    return f"{fence}{language}\n{text}\n{fence}"


def table(header: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """Makes a Markdown table of cells that are shown as they are."""
    lines = [[plain(cell) for cell in row] for row in (header, *rows)]
    lines.insert(1, ["---"] * len(header))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _loading(catalogue: Catalogue, repository: str, *, needs_llm: bool) -> str:
    history = catalogue.item_ids[:2]
    code = (
        "from laser_peft import LaserRecommender\n\n"
        f"recommender = LaserRecommender.from_pretrained({repository!r}"
        f"{', llm=llm' if needs_llm else ''})\n"
        f"recommender.recommend({history!r}, k=10)  # item ids, oldest first; [] for a new user"
    )
    what = "`llm` is the base model, loaded with transformers.\n\n" if needs_llm else ""
    alone = (
        "The adapter alone, as any PEFT adapter: `import laser_peft`, then "
        "`PeftModel.from_pretrained(llm, ...)`."
    )
    return f"## How to load it\n\n{what}{code_block(code, 'python')}\n\n{alone}"


def _data(facts: RunFacts | None) -> list[str]:
    told = {} if facts is None else facts.data
    rows = [
        (LABELS.get(name, name.replace("_", " ")), value)
        for name, value in told.items()
        if isinstance(value, str | int | float)
    ]
    return [f"## Data\n\n{table(('trained and tested on', ''), rows)}"] if rows else []


def _test(facts: RunFacts | None, there: Mapping[str, Any] | None) -> list[str]:
    if facts is None or not facts.metrics or not facts.metrics.get("models"):
        return []
    tested, there = facts.tested or {}, there or {}
    if tested and (names := [name for name in TESTED if tested.get(name) != there.get(name)]):
        changed = " and ".join(TESTED[name] for name in names)
        return [
            f"## Test\n\nNone of this recommender as it is: since its test {changed} changed. "
            "`laser-peft evaluate` tests it."
        ]
    models: Mapping[str, Any] = facts.metrics["models"]
    differences = facts.metrics.get("difference", {})
    header = ["protocol", "metric", *models]
    if differences:
        header.append("difference (95 % interval)")
    first = next(iter(models.values()))
    rows = []
    for protocol, metrics in first.items():
        for name in metrics:
            row = [protocol, name, *(f"{model[protocol][name]:.4f}" for model in models.values())]
            if differences:
                row.append(_interval(differences[protocol][name]))
            rows.append(row)
    text = (
        f"## Test\n\n{facts.metrics.get('users', 'all')} users, the last item of each ranked over "
        "the whole catalogue. `unmasked`: every item competes; `masked`: what the user has had is "
        "taken out. A tie counts against the target."
    )
    return [f"{text}\n\n{table(header, rows)}"]


def _interval(told: Mapping[str, float]) -> str:
    return f"{told['mean']:+.4f} ({told['low']:+.4f} .. {told['high']:+.4f})"


def _catalogue(catalogue: Catalogue, removed: Sequence[str]) -> str:
    gone = set(removed)
    both = zip(catalogue.item_ids, catalogue.titles, strict=True)
    rows = list(islice((row for row in both if row[0] not in gone), SHOWN_ITEMS))
    count = f"{len(catalogue)} items" + (f", {len(gone)} of them never recommended" if gone else "")
    return f"## Catalogue\n\n{count}. The first:\n\n{table(('id', 'title'), rows)}"


def _licence(base: str, hub_id: str | None, model: PeftModel) -> str:
    told = _told_licence(base, hub_id) or getattr(model.get_base_model().config, "license", None)
    if told:
        return f"Its licence: {code_span(told)}."
    return "For its licence see the base model's page."


def _told_licence(base: str, hub_id: str | None) -> str | None:
    """Reads the licence in the base model's own card, if that is on this machine already."""
    file = Path(base) / "README.md"
    if hub_id is not None:
        cached = try_to_load_from_cache(hub_id, "README.md")
        if not isinstance(cached, str):
            return None
        file = Path(cached)
    if not base or not file.is_file():
        return None
    try:
        told = ModelCard.load(file, ignore_metadata_errors=True).data.to_dict()
    except (OSError, ValueError, TypeError, yaml.YAMLError):
        return None  # somebody else's card; ours can do without
    name = told.get("license_name") or told.get("license")
    return name if isinstance(name, str) else None


def _hub_id(base: str) -> str | None:
    if not base or Path(base).exists():
        return None
    try:
        validate_repo_id(base)
    except HFValidationError:
        return None
    return base


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
