"""Commands for the whole job: `run` and `demo`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from revelio_fast.cli.flags import with_flags
from revelio_fast.cli.options import Quiet

if TYPE_CHECKING:
    from revelio_fast.pipeline import RunResult


@with_flags
def run(
    config: Annotated[Path, typer.Argument(help="YAML file with the settings; see examples/.", show_default=False)],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a setting: --set source.spec=FOLDER --set sae.steps=500. May be repeated."),
    ] = None,
    out: Annotated[str | None, typer.Option(help="Output folder, instead of the file's out_dir.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, list the stages and their size on disk, and stop.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Do everything a configuration asks for, and write a report folder."""
    from revelio_fast.config import load_config
    from revelio_fast.pipeline import run as run_pipeline
    from revelio_fast.pipeline.inputs import open_images
    from revelio_fast.pipeline.preflight import check_run

    settings = load_config(config, [*(overrides or []), *([f"out_dir={out}"] if out else [])])
    if dry_run:
        typer.echo(check_run(settings, open_images(settings)).table())
        return
    result = run_pipeline(settings, progress=not quiet)
    _show(result)


@with_flags
def demo(
    out: Annotated[Path, typer.Option(help="Output folder.")] = Path("revelio-demo"),
    quiet: Quiet = False,
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
