"""The typer application: all commands, and errors of users as one sentence."""

from __future__ import annotations

import importlib.metadata
from typing import Annotated

import typer

from revelio_fast.cli import classify, concepts, convert, datasets, extract, inspect, train, whole
from revelio_fast.cli.errors import SentenceGroup

app = typer.Typer(
    name="revelio-fast",
    help="Reads the concepts inside diffusion models: features, k-sparse autoencoders, top images, purity, Diff-C.",
    cls=SentenceGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # tables of so many flags cut their names off on 80 columns
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from revelio_fast import __version__

        typer.echo(f"revelio-fast {__version__}, torch {importlib.metadata.version('torch')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options before the command."""


app.command("demo")(whole.demo)
app.command("run")(whole.run)
app.command("extract")(extract.extract)
app.command("train-sae")(train.train_sae)
app.command("convert")(convert.convert)
app.command("top-images")(concepts.top_images)
app.command("purity")(concepts.purity)
app.command("train-diffc", cls=classify.StoredMapsOnly)(classify.train_diffc)
app.command("train-diffc-online")(classify.train_diffc_online)
app.command("classify")(classify.classify)
app.command("zero-shot")(classify.zero_shot)
app.command("datasets")(datasets.datasets)
app.command("layers")(inspect.layers)
app.command("doctor")(inspect.doctor)
