"""Commands for the whole job: `run` and `demo`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from revelio_fast.pipeline import RunResult


def run(
    config: Annotated[Path, typer.Argument(help="YAML file with the settings; see examples/.", show_default=False)],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a setting: --set source.spec=FOLDER --set sae.steps=500. May be repeated."),
    ] = None,
    out: Annotated[str | None, typer.Option(help="Output folder, instead of the file's out_dir.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Do everything a configuration asks for, and write a report folder."""
    from revelio_fast.config import load_config
    from revelio_fast.pipeline import run as run_pipeline

    settings = load_config(config, [*(overrides or []), *([f"out_dir={out}"] if out else [])])
    result = run_pipeline(settings, progress=not quiet)
    _show(result)


def demo(
    out: Annotated[Path, typer.Option(help="Output folder.")] = Path("revelio-demo"),
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """The whole job offline in a few minutes: the embedded mini-sd on 2,500 handwritten digits."""
    from revelio_fast.demo import run_demo

    result = run_demo(out, progress=not quiet)
    _show(result)


def _show(result: RunResult) -> None:
    from revelio_fast.pipeline.main_table import main_table

    folder = result.report.parent
    typer.echo(main_table(result.summary))
    typer.echo(f"\nReport:  {result.report}")
    typer.echo(f"Tables:  {folder / 'tables'}    Figures: {folder / 'figures'}")
    typer.echo(f"Features, k-SAEs and classifiers: {result.out_dir}")
