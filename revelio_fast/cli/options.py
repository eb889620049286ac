"""Options that several commands have, with one wording: types for their parameters."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

Split = Annotated[str | None, typer.Option(help="Split of the source.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Use this many images, spread evenly.")]
Column = Annotated[str | None, typer.Option()]
ImageSize = Annotated[int | None, typer.Option(help="Side in pixels; the model's own by default.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hub model.")]
OnError = Annotated[Literal["stop", "skip"], typer.Option(help="What a broken image does.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")]
Model = Annotated[str, typer.Option(help="'mini-sd', a folder in diffusers format, or a Hub id.")]
