"""Commands that say what latents mean: `top-images` and `purity`."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from revelio_fast.cli.flags import Fields, with_flags
from revelio_fast.cli.options import Json, Quiet, show
from revelio_fast.config.sections import PurityConfig, SourceOptions
from revelio_fast.renamed import RenamedWarning


@with_flags
def top_images(
    sae: Annotated[
        Path, typer.Argument(help="k-SAE: a folder of `train-sae`, or a checkpoint file.", show_default=False)
    ],
    store: Annotated[Path, typer.Argument(help="Store with the features of the images.", show_default=False)],
    config: Annotated[PurityConfig, Fields(only=("kept",))],
    images: Annotated[SourceOptions, Fields(without=("limit",))],
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("top_activations.safetensors"),
    compat: Annotated[
        Literal["paper", "authors"],
        typer.Option(help="'paper': by the k-sparse code; 'authors': by all pre-activations, as the authors' code."),
    ] = "paper",
    ranking: Annotated[str | None, typer.Option(hidden=True)] = None,
    sheets: Annotated[Path | None, typer.Option(help="Folder for contact sheets (PNG); needs --source.")] = None,
    source: Annotated[str | None, typer.Option(help="The images that were extracted.")] = None,
    latents: Annotated[int, typer.Option(min=1, help="How many contact sheets.")] = 10,
    listed_latents: Annotated[
        int, typer.Option(min=1, help="Latents in NAME.csv and NAME.json, which list their images.")
    ] = 1000,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find the images that activate each latent most, list them as CSV and JSON, and draw contact sheets."""
    from revelio_fast import concepts
    from revelio_fast.interop import load_sae
    from revelio_fast.pipeline.preflight import check_writable
    from revelio_fast.report import ContactSheets, FeatureResult
    from revelio_fast.report.contact import write_sheets
    from revelio_fast.store import ActivationStore

    if sheets is not None and source is None:
        raise typer.BadParameter("contact sheets need --source, the images that were extracted", param_hint="--sheets")
    if ranking not in (None, "paper", "official"):
        raise typer.BadParameter(f"--ranking is {ranking!r}: it is called --compat now, 'paper' or 'authors'")
    if ranking is not None:
        warnings.warn("--ranking is called --compat here now: use --compat authors", RenamedWarning, stacklevel=1)
        compat = "authors" if ranking == "official" else "paper"
    model = load_sae(sae / "model" if (sae / "model").is_dir() else sae)
    data = ActivationStore.open(store)
    check_writable(out.parent)
    tops = concepts.top_images(model, data, config.kept, compat=compat, progress=not quiet)
    tops.save(out)
    values: dict[str, Any] = {
        "file": str(out), "latents": tops.n_latents, "active": int((tops.counts > 0).sum()), "images": tops.n_images
    }  # fmt: skip
    lines = [f"{out}: {values['latents']} latents, {values['active']} active, {values['images']} images"]
    ids = data.image_ids.tolist()
    labels = dict(zip(ids, data.labels.tolist(), strict=True))
    file_names = dict(zip(ids, data.names, strict=True)) if data.names else {}
    class_names = data.metadata.get("class_names") or []
    opened = images.open(source) if source is not None else None
    if opened is not None:
        class_names = opened.class_names or class_names
        file_names = file_names or {item.image_id: item.path for item in opened}
    listed = concepts.top_list(
        tops, file_names=file_names, labels=labels, class_names=class_names, latents=listed_latents
    )
    lists = [str(path) for path in concepts.write_top_list(out, listed)]
    values["lists"] = lists
    lines.append(f"{len(listed)} best-ranked latents with their images: {', '.join(lists)}")
    if sheets is not None and opened is not None:
        drawer = ContactSheets(lambda image_id: opened.item(image_id).load(), opened.labels, class_names, file_names)
        run = FeatureResult(
            layer=str(data.metadata.get("layer", "features")),
            timestep=int(data.metadata.get("timestep", 0)),
            d=data.d,
            n_latents=tops.n_latents,
            k=model.k,
            n_images=data.rows,
            tops=tops,
        )
        written = [str(path) for path in write_sheets(run, drawer, sheets, latents, min(config.kept, 10))]
        values, lines = values | {"sheets": written}, lines + written
    show(as_json, values, lines)


@with_flags
def purity(
    tops: Annotated[Path, typer.Argument(help="File written by `top-images`.", show_default=False)],
    store: Annotated[Path, typer.Argument(help="The store it was made from: it has the labels.", show_default=False)],
    config: Annotated[PurityConfig, Fields(without=("kept",))],
    out: Annotated[Path | None, typer.Option(help="Write everything as JSON to this file too.")] = None,
    as_json: Json = False,
) -> None:
    """Measure whether the top images of the top latents share a label, beside chance."""
    from revelio_fast.atomic import atomic_write_json
    from revelio_fast.concepts import TopActivations, label_purity
    from revelio_fast.store import ActivationStore

    data = ActivationStore.open(store)
    result = label_purity(
        TopActivations.load(tops),
        dict(zip(data.image_ids.tolist(), data.labels.tolist(), strict=True)),
        **config.arguments(),
    )
    values = result.as_dict()
    if out is not None:
        atomic_write_json(out, values)
    lines = [f"{'measure':<20}{'value':>10}{'chance':>10}{'95 % interval':>22}{'p':>10}"]
    for name in result.chance:
        low, high = result.interval[name]
        lines.append(
            f"{name:<20}{values[name]:>10.4f}{result.chance[name]:>10.4f}{f'{low:.4f} .. {high:.4f}':>22}"
            f"{result.p_value[name]:>10.4f}"
        )
    lines.append(
        f"{result.n_latents_used} latents, top {result.top_images} images, {result.n_images} images of "
        f"{result.n_classes} classes; ranked by {result.ranking_text}."
    )
    show(as_json, values, [*lines, result.note] if result.note else lines)
