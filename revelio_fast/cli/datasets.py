"""The command `datasets`: the data sets that have a name here."""

from __future__ import annotations

from dataclasses import asdict

from revelio_fast.cli.options import Json, show


def datasets(as_json: Json = False) -> None:
    """List the paper's data sets: name, images, classes, where they come from, licence, and how CLIP is asked."""
    from revelio_fast.data import PAPER_DATASETS
    from revelio_fast.data.paper_datasets import ROOT_VARIABLE

    lines = []
    for name, each in PAPER_DATASETS.items():
        images = ", ".join(f"{split} {count:,}" for split, count in each.splits.items())
        columns = "" if each.hub_id is None else f" (columns {each.image_column}, {each.label_column})"
        lines += [
            f"{name}: {each.title}",
            f"    images    {images}; {each.n_classes or 'no'} classes",
            f"    from      {each.hub_id or f'{ROOT_VARIABLE} only'}{columns}",
            f"    licence   {each.licence}",
            f"    use       {each.use}",
            f"    sentences {' | '.join(each.templates) or 'none'}",
        ]
    lines.append(
        f"\nGive a name wherever a source is asked for. Local copies in ${ROOT_VARIABLE}/NAME take precedence.\n"
        "Sizes, classes and licences are given as published, unchecked: read the licence at its source. Downloads from "
        "the Hub are untested."
    )
    show(as_json, {name: asdict(each) for name, each in PAPER_DATASETS.items()}, lines)
