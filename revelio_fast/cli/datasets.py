"""The command `datasets`: the data sets that have a name here."""

from __future__ import annotations

import typer


def datasets() -> None:
    """List the paper's data sets: name, images, classes, where they come from, licence, and how CLIP is asked."""
    from revelio_fast.data import PAPER_DATASETS
    from revelio_fast.data.paper_datasets import ROOT_VARIABLE

    for name, each in PAPER_DATASETS.items():
        images = ", ".join(f"{split} {count:,}" for split, count in each.splits.items())
        columns = "" if each.hub_id is None else f" (columns {each.image_column}, {each.label_column})"
        typer.echo(f"{name}: {each.title}")
        typer.echo(f"    images    {images}; {each.n_classes or 'no'} classes")
        typer.echo(f"    from      {each.hub_id or f'{ROOT_VARIABLE} only'}{columns}")
        typer.echo(f"    licence   {each.licence}")
        typer.echo(f"    use       {each.use}")
        typer.echo(f"    sentences {' | '.join(each.templates) or 'none'}")
    typer.echo(
        f"\nGive a name wherever a source is asked for. A copy in ${ROOT_VARIABLE}/NAME is taken before the Hub's.\n"
        "Sizes, classes and licences are given as published, unchecked: read the licence at its source. The Hub's ids "
        "are those of public code; they have not been loaded from here."
    )
