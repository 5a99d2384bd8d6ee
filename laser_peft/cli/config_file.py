"""Options of a command from a YAML file: ``--config FILE``; what the command line says wins.

A key is an option's name, with dashes or underscores; a positional argument goes by its name too.
Every value is checked here against the type and the range of its option, whether the command line
overrides it or not. YAML's ``null`` is as if the key were not there.
"""

import functools
import inspect
import types
from collections.abc import Callable, Hashable
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import typer
import yaml

from .errors import one_line_errors


class OptionKind(NamedTuple):
    """What values an option takes."""

    type: type
    choices: tuple[str, ...] = ()
    is_list: bool = False
    least: float | None = None
    most: float | None = None


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key that is there twice, of which YAML's loader would keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise ValueError(f"the key {key!r} is there twice; keep one")
        return super().construct_mapping(node, deep)


def takes_a_config_file(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the option ``--config``, whose file fills in the command's other options."""
    signature = inspect.signature(command)
    kinds = {
        name: option_kind(parameter.annotation)
        for name, parameter in signature.parameters.items()
        if get_origin(parameter.annotation) is Annotated
    }

    def fill_in(context: typer.Context, config: Path | None) -> Path | None:
        if config is not None and not context.resilient_parsing:
            with one_line_errors():
                values = read_options(config, kinds)
            context.default_map = {**(context.default_map or {}), **values}
        return config

    option = typer.Option(
        help="YAML file of options, a line each like 'epochs: 3'; the command line wins over it.",
        is_eager=True,
        callback=fill_in,
    )
    keyword_only = inspect.Parameter.KEYWORD_ONLY
    annotation = Annotated[Path | None, option]
    config = inspect.Parameter("config", keyword_only, default=None, annotation=annotation)

    @functools.wraps(command)
    def wrapped(*, config: Path | None, **options: Any) -> None:
        with one_line_errors(lambda error: _explain(error, config, kinds)):
            command(**options)

    parameters = [*signature.parameters.values(), config]
    wrapped.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return wrapped


def option_kind(annotation: Any) -> OptionKind:
    """Reads off an annotation of typer what values the option takes."""
    wanted, info = get_args(annotation)[:2]
    if get_origin(wanted) in (Union, types.UnionType):
        (wanted,) = (part for part in get_args(wanted) if part is not type(None))
    is_list = get_origin(wanted) is list
    if is_list:
        (wanted,) = get_args(wanted)
    choices: tuple[str, ...] = ()
    if get_origin(wanted) is Literal:
        choices, wanted = get_args(wanted), str
    return OptionKind(wanted, choices, is_list, info.min, info.max)


def read_options(file: Path, kinds: dict[str, OptionKind]) -> dict[str, Any]:
    """Reads and checks a file of options.

    Args:
        file: a YAML mapping of option names to values.
        kinds: what each option takes, by its name with underscores.

    Returns:
        The values by option name, numbers and texts of the options' own types.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no YAML mapping, or a key is unknown or its value wrong; the message
            names the file and the key.
    """
    if not file.is_file():
        raise FileNotFoundError(f"no such file: {file} (of --config)")
    try:
        told = yaml.load(file.read_text("utf-8"), _UniqueKeys)  # noqa: S506 (a SafeLoader)
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{file} is no YAML file of options: {error}") from error
    if told is None:
        return {}
    if not isinstance(told, dict):
        raise ValueError(
            f"{file} must hold one option a line, like 'epochs: 3', got a {type(told).__name__}"
        )
    values: dict[str, Any] = {}
    for key, value in told.items():
        name = _known_name(file, key, kinds)
        if name in values:
            raise ValueError(f"{file}: {key} is there twice, with dashes and underscores; keep one")
        if value is not None:
            values[name] = _checked(f"{file}: {key}", value, kinds[name])
    return values


def _explain(error: Exception, file: Path | None, kinds: dict[str, OptionKind]) -> str:
    """Says an error, and which lines of the file may be behind it."""
    values = {} if file is None else read_options(file, kinds)
    named = [f"{name}: {value}" for name, value in values.items() if name in str(error)]
    return f"{error} ({file} says {', '.join(named)})" if named else str(error)


def _known_name(file: Path, key: object, kinds: dict[str, OptionKind]) -> str:
    name = str(key).replace("-", "_")
    if name in kinds:
        return name
    near = get_close_matches(name, kinds, n=1, cutoff=0.5)
    advice = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(kinds))}"
    raise ValueError(f"{file}: this command has no option {str(key)!r}; {advice}")


def _checked(where: str, value: Any, kind: OptionKind) -> Any:
    if not kind.is_list:
        return _checked_one(where, value, kind)
    if not isinstance(value, list):
        raise ValueError(f"{where} must be a list, like [a, b], got {value!r}")
    return [_checked_one(where, part, kind) for part in value]


def _checked_one(where: str, value: Any, kind: OptionKind) -> Any:
    if kind.type is float:
        value = _as_float(value)
    if kind.type is Path and isinstance(value, str):
        return value  # the parser makes a path of it
    if type(value) is not kind.type:
        wanted = {
            bool: "true or false",
            int: "a whole number",
            float: "a number",
        }.get(kind.type, "a text; put it into quotes")
        raise ValueError(f"{where} must be {wanted}, got {value!r}")
    if kind.choices and value not in kind.choices:
        raise ValueError(f"{where} must be one of {', '.join(kind.choices)}, got {value!r}")
    _check_range(where, value, kind)
    return value


def _check_range(where: str, value: Any, kind: OptionKind) -> None:
    if kind.least is not None and value < kind.least:
        raise ValueError(f"{where} must be at least {kind.least}, got {value}")
    if kind.most is not None and value > kind.most:
        raise ValueError(f"{where} must be at most {kind.most}, got {value}")


def _as_float(value: Any) -> Any:
    """Takes whole numbers and ``1e-3``, which YAML 1.1 reads as a text, for what they are."""
    if isinstance(value, bool):
        return value
    try:
        return float(value)
    except (TypeError, ValueError):
        return value
