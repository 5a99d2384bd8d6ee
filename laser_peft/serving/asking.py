"""What a request asks for: read from JSON, checked against the limits, in dense ids."""

from collections.abc import Sequence
from typing import Annotated

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from laser_peft.data import Catalogue
from laser_peft.wording import shortly

from .answering import Query
from .limits import ServingLimits
from .refusals import Refused, invalid

# A check ends at the first wrong id: a report of all in a large body takes seconds.
Ids = Annotated[list[str], Field(fail_fast=True)]
Histories = Annotated[list[Ids], Field(fail_fast=True)]


class RecommendRequest(BaseModel):
    """The body of ``POST /recommend``: one history, or several."""

    model_config = ConfigDict(extra="forbid", strict=True)

    history: Ids | None = Field(None, description="item ids, oldest first; [] for a new user")
    histories: Histories | None = Field(None, description="several, instead of history")
    k: int = Field(10, description="how many items")
    exclude_seen: bool = Field(True, description="leave out items of the history")
    allow: Ids | None = Field(None, description="ids that alone may be recommended")
    deny: Ids | None = Field(None, description="ids that may not be, stronger than allow")

    def listed(self) -> list[list[str]]:
        """Returns the histories, one or several."""
        return [self.history] if self.history is not None else self.histories or []


def read_request(body: bytes, limits: ServingLimits) -> RecommendRequest:
    """Reads a request.

    Raises:
        Refused: if it is no JSON, not of this form, or beyond the limits.
    """
    try:
        told = from_json(body)
    except ValueError as error:
        raise invalid(f"the body must be JSON: {error}") from error
    known = RecommendRequest.model_fields
    unknown = [name for name in told if name not in known] if isinstance(told, dict) else []
    if unknown:
        raise invalid(f"a request has {', '.join(known)}, got {shortly(unknown[0])} too")
    try:
        asked = RecommendRequest.model_validate_json(body)
    except ValidationError as error:
        raise invalid(_say(error)) from error
    if (asked.history is None) == (asked.histories is None):
        raise invalid("give either history, a list of item ids, or histories, a list of such lists")
    if asked.histories == []:
        raise invalid("histories must hold at least one history, got none")
    if not 1 <= asked.k <= limits.max_k:
        raise invalid(f"k must lie in 1..{limits.max_k}, got {shortly(asked.k)}")
    _check_sizes(asked, limits)
    return asked


def as_query(asked: RecommendRequest, catalogue: Catalogue) -> Query:
    """Looks the items up.

    Raises:
        Refused: if the catalogue does not know one.
    """
    several = asked.histories is not None
    histories = [
        _dense(catalogue, f"histories[{row}]" if several else "history", ids)
        for row, ids in enumerate(asked.listed())
    ]
    lists = {"allow": asked.allow, "deny": asked.deny}
    for name, ids in lists.items():
        _dense(catalogue, name, ids or [])
    allow, deny = (None if ids is None else tuple(ids) for ids in lists.values())
    return Query(histories, asked.k, asked.exclude_seen, allow, deny)


def _dense(catalogue: Catalogue, name: str, ids: Sequence[str]) -> list[int]:
    unknown = catalogue.not_among(pl.Series(ids, dtype=pl.String))
    if unknown:
        raise Refused(
            422,
            "unknown_item",
            f"{name}: {len(unknown)} of {len(ids)} items are not in the catalogue of "
            f"{len(catalogue)}, the first is {unknown[0]!r}; leave them out, or add them to the "
            "recommender",
        )
    return catalogue.dense_ids(ids)


def _check_sizes(asked: RecommendRequest, limits: ServingLimits) -> None:
    histories = asked.listed()
    if len(histories) > limits.max_histories:
        raise invalid(
            f"a request may have {limits.max_histories} histories, got {len(histories)}; "
            "send several requests"
        )
    for history in histories:
        if len(history) > limits.max_history_items:
            raise invalid(
                f"a history may have {limits.max_history_items} items, got {len(history)}; send "
                "the newest"
            )
    for name, ids in (("allow", asked.allow), ("deny", asked.deny)):
        if ids is not None and len(ids) > limits.max_listed_items:
            raise invalid(f"{name} may have {limits.max_listed_items} items, got {len(ids)}")
    for ids in (*histories, asked.allow or [], asked.deny or []):
        longest = max(map(len, ids), default=0)
        if longest > limits.max_id_length:
            raise invalid(
                f"an item id may have {limits.max_id_length} characters, got one of {longest}"
            )


def _say(error: ValidationError) -> str:
    """Says the first of pydantic's findings in a line."""
    found = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(map(str, found["loc"])) or "the body"
    return f"{where}: {found['msg']}, got {shortly(found['input'])}"
