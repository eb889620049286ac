"""What several commands share: options with one wording, and printing as text or as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import typer

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, and no warnings that only inform.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]

Source = Annotated[
    str,
    typer.Argument(
        help="Folder of images or class folders, CSV, parquet, Hugging Face data set id, 'digits', or a name that "
        "`datasets` lists.",
        show_default=False,
    ),
]


def show(as_json: bool, values: Mapping[str, Any] | list[Any], lines: Iterable[str]) -> None:
    """Print JSON values, or the lines that say the same to a reader."""
    if as_json:
        typer.echo(json.dumps(values, indent=2, ensure_ascii=False, default=str))
        return
    for line in lines:
        typer.echo(line)
