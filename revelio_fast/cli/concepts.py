"""Commands that say what latents mean: `top-images` and `purity`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from revelio_fast.cli.options import Column, Quiet


def top_images(
    sae: Annotated[
        Path, typer.Argument(help="k-SAE: a folder of `train-sae`, or a checkpoint file.", show_default=False)
    ],
    store: Annotated[Path, typer.Argument(help="Store with the features of the images.", show_default=False)],
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("top_activations.safetensors"),
    kept: Annotated[int, typer.Option(min=1, help="Images kept of each latent.")] = 20,
    ranking: Annotated[
        Literal["paper", "official"],
        typer.Option(help="'paper': by the k-sparse code; 'official': by all pre-activations, as the authors' code."),
    ] = "paper",
    sheets: Annotated[Path | None, typer.Option(help="Folder for contact sheets (PNG); needs --source.")] = None,
    source: Annotated[str | None, typer.Option(help="The images that were extracted.")] = None,
    split: Annotated[str | None, typer.Option()] = None,
    image_column: Column = None,
    label_column: Column = None,
    latents: Annotated[int, typer.Option(min=1, help="How many contact sheets.")] = 10,
    listed_latents: Annotated[
        int, typer.Option(min=1, help="Latents in NAME.csv and NAME.json, which list their images.")
    ] = 1000,
    quiet: Quiet = False,
) -> None:
    """Find the images that activate each latent most, list them as CSV and JSON, and draw contact sheets."""
    from revelio_fast import concepts
    from revelio_fast.data import open_source
    from revelio_fast.interop import load_sae
    from revelio_fast.report import ContactSheets, FeatureResult
    from revelio_fast.report.contact import write_sheets
    from revelio_fast.store import ActivationStore

    if sheets is not None and source is None:
        raise typer.BadParameter("contact sheets need --source, the images that were extracted", param_hint="--sheets")
    model = load_sae(sae / "model" if (sae / "model").is_dir() else sae)
    data = ActivationStore.open(store)
    tops = concepts.top_images(model, data, kept, ranking=ranking, progress=not quiet)
    tops.save(out)
    typer.echo(f"{out}: {tops.n_latents} latents, {int((tops.counts > 0).sum())} active, {tops.n_images} images")
    ids = data.image_ids.tolist()
    labels = dict(zip(ids, data.labels.tolist(), strict=True))
    known: list[str] | None = getattr(data, "names", None)
    file_names = dict(zip(ids, known, strict=True)) if known else {}
    class_names = data.about.get("class_names") or []
    images = None
    if source is not None:
        images = open_source(source, split=split, image_column=image_column, label_column=label_column)
        class_names = images.class_names or class_names
        file_names = file_names or {item.image_id: item.path for item in images}
    listed = concepts.top_list(
        tops, file_names=file_names, labels=labels, class_names=class_names, latents=listed_latents
    )
    written = concepts.write_top_list(out, listed)
    typer.echo(f"{len(listed)} best-ranked latents with their images: {written[0]}, {written[1]}")
    if sheets is None or images is None:
        return
    drawer = ContactSheets(lambda image_id: images.item(image_id).load(), images.labels, class_names, file_names)
    run = FeatureResult(
        layer=str(data.about.get("layer", "features")),
        timestep=int(data.about.get("timestep", 0)),
        d=data.d,
        n_latents=tops.n_latents,
        k=model.k,
        n_images=data.rows,
        tops=tops,
    )
    for path in write_sheets(run, drawer, sheets, latents, min(kept, 10)):
        typer.echo(str(path))


def purity(
    tops: Annotated[Path, typer.Argument(help="File written by `top-images`.", show_default=False)],
    store: Annotated[Path, typer.Argument(help="The store it was made from: it has the labels.", show_default=False)],
    top_latents: Annotated[int, typer.Option(min=1)] = 1000,
    top_images: Annotated[int, typer.Option(min=2, help="Top images of a latent that must share a label.")] = 10,
    ranking: Annotated[Literal["paper", "frequency", "max"], typer.Option(help="How latents are ranked.")] = "paper",
    permutations: Annotated[int, typer.Option(min=1, help="Label shuffles that give the chance level.")] = 500,
    bootstrap: Annotated[int, typer.Option(min=1)] = 1000,
    seed: Annotated[int, typer.Option()] = 0,
    out: Annotated[Path | None, typer.Option(help="Write everything as JSON to this file too.")] = None,
) -> None:
    """Measure whether the top images of the top latents share a label, beside chance."""
    from revelio_fast.atomic import atomic_write_json
    from revelio_fast.concepts import TopActivations, label_purity
    from revelio_fast.store import ActivationStore

    data = ActivationStore.open(store)
    result = label_purity(
        TopActivations.load(tops),
        dict(zip(data.image_ids.tolist(), data.labels.tolist(), strict=True)),
        top_latents=top_latents,
        top_images=top_images,
        ranking=ranking,
        permutations=permutations,
        bootstrap=bootstrap,
        seed=seed,
    )
    values = result.as_dict()
    typer.echo(f"{'measure':<20}{'value':>10}{'chance':>10}{'95 % interval':>22}{'p':>10}")
    for name in result.chance:
        low, high = result.interval[name]
        typer.echo(
            f"{name:<20}{values[name]:>10.4f}{result.chance[name]:>10.4f}{f'{low:.4f} .. {high:.4f}':>22}"
            f"{result.p_value[name]:>10.4f}"
        )
    typer.echo(
        f"{result.n_latents_used} latents, top {result.top_images} images, {result.n_images} images of "
        f"{result.n_classes} classes; ranked by {result.ranking_text}."
    )
    if result.note:
        typer.echo(result.note)
    if out is not None:
        atomic_write_json(out, values)
