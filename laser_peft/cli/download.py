"""``laser-peft download``."""

import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from .base import app, console, says_what_is_wrong


@app.command()
@says_what_is_wrong
def download(
    name: Annotated[str | None, typer.Argument(help="Which data set; see --list.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for the tables.")] = None,
    list_names: Annotated[bool, typer.Option("--list", help="Print the known names.")] = False,
    all_items: Annotated[
        bool, typer.Option(help="Keep items of the metadata that nobody has reviewed.")
    ] = False,
    sha256: Annotated[
        list[str] | None,
        typer.Option(help="FILE=HEX: the checksum a file must have; once for each file."),
    ] = None,
) -> None:
    """Download a public data set and read it into tables that the other commands take.

    Example:
    laser-peft download amazon-2014-beauty --output data/beauty

    Writes interactions.parquet and items.parquet into the folder, and prints
    counts, licence and what to cite.
    """
    from laser_peft.data import public

    if list_names:
        for known in public.KNOWN.values():
            console.print(Text(f"{known.name:43} {known.page}"), soft_wrap=True)
        return
    if name is None or output is None:
        raise ValueError(
            "say which data set and where to: laser-peft download NAME --output FOLDER; "
            "laser-peft download --list prints the names"
        )
    tables = public.download(name, output, all_items=all_items, sha256=_by_file(sha256 or []))
    table = Table("counted", "", title=name)
    for what, count in tables.counts.items():
        table.add_row(what.replace("_", " "), f"{count:,}")
    console.print(table)
    for what, text in (
        ("Cite", tables.dataset.citation),
        ("Licence", tables.dataset.licence),
        ("Page", tables.dataset.page),
        (
            "Next",
            f"laser-peft train --interactions {shlex.quote(str(tables.interactions))} "
            f"--items {shlex.quote(str(tables.items))} --llm MODEL --output RUN",
        ),
    ):
        console.print(Text(f"{what}: {text}"), soft_wrap=True)


def _by_file(pairs: list[str]) -> dict[str, str]:
    checksums = {}
    for pair in pairs:
        file_name, equals, checksum = pair.partition("=")
        if not equals or len(checksum) != 64:
            raise ValueError(f"--sha256 takes FILE=HEX with 64 hexadecimal digits, got {pair!r}")
        checksums[file_name] = checksum
    return checksums
