"""The command `extract`: features or maps of a model's layers for a collection of images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from revelio_fast.cli.errors import comma_list, number_list
from revelio_fast.cli.options import Column, ImageSize, Limit, Model, OnError, Quiet, Revision, Split


def extract(
    source: Annotated[
        str,
        typer.Argument(
            help="Folder of class folders, CSV, parquet, Hugging Face data set id, 'digits', or a name that "
            "`datasets` lists.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Output folder: OUT/<layer>/t<timestep>/.")],
    model: Model = "mini-sd",
    layers: Annotated[str, typer.Option(help="Layer names, comma-separated.")] = "bottleneck,up_ft0,up_ft1,up_ft2",
    timesteps: Annotated[str, typer.Option(help="Timesteps, comma-separated.")] = "25",
    maps: Annotated[bool, typer.Option("--maps", help="Keep full feature maps (for train-diffc).")] = False,
    variants: Annotated[
        int, typer.Option(min=0, help="With --maps: so many random crops of every image too, for training.")
    ] = 0,
    least_area: Annotated[float, typer.Option(help="Share of an image's area that a random crop keeps.")] = 0.8,
    mirror: Annotated[bool, typer.Option(help="Mirror half of the random crops.")] = True,
    prompt: Annotated[str, typer.Option(help="One prompt for all images.")] = "",
    prompt_column: Annotated[str | None, typer.Option(help="Column of the source that holds prompts.")] = None,
    prompt_file: Annotated[
        Path | None, typer.Option(help="CSV file with columns 'prompt' and 'name' or 'file'.")
    ] = None,
    prompt_from_clip: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="A sentence around the class that this CLIP model predicts zero-shot."),
    ] = None,
    prompt_template: Annotated[
        str | None,
        typer.Option(
            help="A sentence with {} for the class that CLIP predicts; without --prompt-from-clip for the TRUE class: "
            "an oracle, the features know the label."
        ),
    ] = None,
    image_size: ImageSize = None,
    dtype: Annotated[Literal["float32", "bf16", "fp16"], typer.Option(help="Of the weights.")] = "float32",
    store_dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None,
        typer.Option(help="Of the files; float32 by default, bfloat16 for maps.", show_default=False),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images of a forward pass.")] = 8,
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 0,
    noise_samples: Annotated[int, typer.Option(min=1, help="Average over so many draws of the noise.")] = 1,
    random_weights: Annotated[bool, typer.Option("--random-weights", help="Fresh weights: the baseline.")] = False,
    revision: Revision = None,
    official: Annotated[
        bool, typer.Option("--official", help="DiT only: the authors' scrambled maps without noise, for comparison.")
    ] = False,
    compile: Annotated[bool, typer.Option("--compile", help="Compile the network (torch.compile).")] = False,
    split: Split = None,
    limit: Limit = None,
    image_column: Column = None,
    label_column: Column = None,
    root: Annotated[
        str | None, typer.Option(help="Folder of local copies of named data sets; $REVELIO_DATA by default.")
    ] = None,
    on_error: OnError = "stop",
    quiet: Quiet = False,
) -> None:
    """Extract pooled features (or full maps) of several layers and timesteps; continues after a kill."""
    import torch

    from revelio_fast.data import RandomCrops, open_source
    from revelio_fast.features import FeatureExtractor, extract_maps, extract_to_store
    from revelio_fast.models.prompts import choose_prompts
    from revelio_fast.pipeline import model_path

    if variants and not maps:
        raise typer.BadParameter("random crops are kept as maps: add --maps", param_hint="--variants")
    wanted_layers, wanted_steps = comma_list(layers, "--layers"), number_list(timesteps, "--timesteps")
    images = open_source(
        source, split=split, image_column=image_column, label_column=label_column, limit=limit, root=root
    )
    prompts = choose_prompts(
        prompt, column=prompt_column, file=prompt_file, from_clip=prompt_from_clip, template=prompt_template
    )
    extractor = FeatureExtractor.from_pretrained(
        model_path(model),
        wanted_layers,
        wanted_steps,
        prompts,
        image_size=image_size,
        dtype=dtype,
        seed=seed,
        noise_samples=noise_samples,
        revision=revision,
        random_weights=random_weights,
        official=official,
        compile=compile,
    )
    shared: dict[str, Any] = {"batch_size": batch_size, "on_error": on_error, "progress": not quiet}
    if maps:
        kept = getattr(torch, store_dtype or "bfloat16")
        crops = RandomCrops(extractor.image_size, least_area, mirror, seed)
        stores = extract_maps(extractor, images, out, store_dtype=kept, variants=variants, crops=crops, **shared)
        for key, map_store in stores.items():
            shape = list(map_store.row_shape)
            more = f", {variants} random crops of each" if variants else ""
            typer.echo(f"{map_store.path}: {len(map_store)} maps {shape} ({key[0]}, t={key[1]}){more}")
    else:
        kept = getattr(torch, store_dtype or "float32")
        for key, store in extract_to_store(extractor, images, out, store_dtype=kept, **shared).items():
            typer.echo(f"{store.path}: {store.rows} features of width {store.d} ({key[0]}, t={key[1]})")
    zero_shot = prompts.summary()
    if zero_shot:
        typer.echo(zero_shot)
    if extractor.skipped:
        typer.echo(f"{len(extractor.skipped)} broken images were skipped: see {out / 'skipped.csv'}")
