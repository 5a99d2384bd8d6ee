"""The words of a prompt: an instruction, a line for each item, an ending."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from string import Formatter
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from .catalogue import TITLE

INSTRUCTION = (
    "A shopper's purchases, oldest first. Summarise the shopper's taste into the next tokens.\n"
)
# Attributes whose column name is no good label in a sentence about one item.
LABELS = {"categories": "category"}
PLACEHOLDERS = ("number", "item")
HISTORY_MARK = "HISTORY-OF-THE-SHOPPER"


@dataclass(frozen=True)
class PromptTemplate:
    r"""What a prompt says around and about the items of a history.

    Args:
        instruction: text before the items. The tokenizer's special tokens count as such in it.
        item: the line of one item. ``{item}`` stands for its description; ``{number}``, which may
            be left out, for its place from 1 and comes before; ``{{`` and ``}}`` for braces.
        attributes: which attributes describe an item, in this order, each with its label; those
            with an empty label are said as they are, before the brackets. None: all of the
            catalogue, the title without a label, the others labelled by their names.
        ending: text after the items. The tokenizer's special tokens count as such in it.
        add_bos: begin with the tokenizer's BOS token, if it has one and the instruction does not
            begin with it already.

    Raises:
        TypeError: if a value is of another type.
        ValueError: if ``item`` has other placeholders, or not one ``{item}``.

    Example:
        >>> template = PromptTemplate(attributes={"title": "", "brand": "by"})
        >>> template.describe({"title": "Red Shatter", "brand": "OPI", "price": "3"})
        'Red Shatter (by: OPI)'
    """

    instruction: str = INSTRUCTION
    item: str = "{number}. {item}\n"
    attributes: Mapping[str, str] | None = None
    ending: str = ""
    add_bos: bool = True

    def __post_init__(self) -> None:
        for name, kind in (("instruction", str), ("item", str), ("ending", str), ("add_bos", bool)):
            if not isinstance(getattr(self, name), kind):
                raise TypeError(
                    f"a prompt's {name} must be a {kind.__name__}, got {getattr(self, name)!r}"
                )
        if self.attributes is not None and not (
            isinstance(self.attributes, Mapping)
            and all(isinstance(text, str) for pair in self.attributes.items() for text in pair)
        ):
            raise TypeError(
                "a prompt's attributes must be names with labels, as in "
                f'{{"title": "", "brand": "brand"}}, got {self.attributes!r}'
            )
        try:
            placeholders = [part for part in Formatter().parse(self.item) if part[1] is not None]
        except ValueError as error:
            raise ValueError(
                f"a prompt's item cannot be read: {error}; got {self.item!r}. Write {{{{ and }}}} "
                "for braces"
            ) from error
        if [part[1:] for part in placeholders] not in (
            [("item", "", None)],
            [("number", "", None), ("item", "", None)],
        ):
            raise ValueError(
                "a prompt's item must hold {item} once, and may hold {number} once before it; "
                f"there is nothing else to fill in, got {self.item!r}"
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "PromptTemplate":
        """Makes a template of what JSON holds; what is not there is as by default.

        Raises:
            TypeError: if a value is of another type, or ``values`` is no object.
            ValueError: if there is no such field, or ``item`` cannot be filled in.
        """
        known = [field.name for field in fields(cls)]
        if not isinstance(values, Mapping):
            raise TypeError(f"a prompt must be an object with any of {known}, got {values!r}")
        if unknown := values.keys() - set(known):
            raise ValueError(f"a prompt has no {', '.join(sorted(unknown))}; it has {known}")
        return cls(**values)

    @classmethod
    def read(cls, path: str | Path) -> "PromptTemplate":
        """Reads a JSON file.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is no JSON, or not a template.
        """
        try:
            return cls.from_dict(json.loads(Path(path).read_text("utf-8")))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from error

    def in_chat(self, tokenizer: PreTrainedTokenizerBase) -> "PromptTemplate":
        """Puts all of it into a user's message, and begins the answer, in the tokenizer's format.

        What comes back says the format in plain words (in ``instruction`` and ``ending``), so that
        a saved template stays as it was trained even if the tokenizer's changes.

        Raises:
            ValueError: if the tokenizer has no chat template, or one that cannot take a single
                message as it is.
        """
        if getattr(tokenizer, "chat_template", None) is None:
            raise ValueError(
                f"the tokenizer {tokenizer.name_or_path!r} has no chat template: take the language "
                "model's instruct version, or leave the chat template out"
            )
        message = [{"role": "user", "content": HISTORY_MARK}]
        try:
            text = tokenizer.apply_chat_template(
                message, tokenize=False, add_generation_prompt=True
            )
        except (TemplateError, ValueError) as error:
            raise ValueError(
                f"the chat template of {tokenizer.name_or_path!r} takes no single user message: "
                f"{error}"
            ) from error
        before, *after = text.split(HISTORY_MARK)
        if len(after) != 1:
            raise ValueError(
                f"the chat template of {tokenizer.name_or_path!r} says a user's message "
                f"{len(after)} times, not once; write its format into the prompt's instruction and "
                "ending yourself"
            )
        return replace(
            self,
            instruction=before + self.instruction,
            ending=self.ending + after[0],
            add_bos=False,  # a chat template says itself where it wants one
        )

    def check_attributes(self, known: Iterable[str]) -> None:
        """Makes sure that the attributes are among those that there are.

        Raises:
            ValueError: if one is not.
        """
        known = list(known)
        unknown = [name for name in self.attributes or () if name not in known]
        if unknown:
            raise ValueError(
                f"the prompt asks for {', '.join(map(repr, unknown))}, and the items have "
                f"{', '.join(map(repr, known)) or 'no attributes'}"
            )

    def describe(self, attributes: Mapping[str, str]) -> str:
        """Says an item in words; what is not known leaves no trace.

        Args:
            attributes: texts by name, none of them empty.

        Example:
            >>> describe = PromptTemplate().describe
            >>> describe({"title": "Shatter", "brand": "OPI", "categories": "Nails, Polish"})
            'Shatter (brand: OPI; category: Nails, Polish)'
            >>> describe({"brand": "OPI"})
            'brand: OPI'
            >>> describe({})
            'unnamed item'
        """
        labels = self.attributes
        if labels is None:
            labels = {name: LABELS.get(name, name) for name in attributes} | {TITLE: ""}
        known = {name: label for name, label in labels.items() if name in attributes}
        heading = ", ".join(attributes[name] for name, label in known.items() if not label)
        details = "; ".join(
            f"{label}: {attributes[name]}" for name, label in known.items() if label
        )
        if heading and details:
            return f"{heading} ({details})"
        return heading or details or "unnamed item"

    def line(self, number: int, description: str) -> tuple[str, str]:
        r"""Says an item's line in two parts, one that its place decides and one that it decides.

        Example:
            >>> PromptTemplate().line(2, "Red lamp")
            ('2.', ' Red lamp\n')
        """
        before, _, after = self.item.format(number=number, item="\0").partition("\0")
        place = before.rstrip(" ")  # tokenizers join a space to the word that follows
        return place, f"{before[len(place) :]}{description}{after}"
