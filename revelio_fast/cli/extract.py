"""The command `extract`: features or maps of a model's layers for a collection of images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from revelio_fast.cli.flags import with_flags
from revelio_fast.cli.options import Quiet, Source
from revelio_fast.config.sections import SourceOptions
from revelio_fast.data.crops import CropConfig, RandomCrops
from revelio_fast.features.config import ExtractConfig


@with_flags
def extract(
    source: Source,
    out: Annotated[Path, typer.Option(help="Output folder: OUT/<layer>/t<timestep>/.")],
    config: ExtractConfig,
    crops: CropConfig,
    images: SourceOptions,
    maps: Annotated[bool, typer.Option("--maps", help="Keep full feature maps (for train-diffc).")] = False,
    hflip: Annotated[bool, typer.Option(help="Mirror half of the random crops.")] = True,
    mirror: Annotated[bool | None, typer.Option(hidden=True)] = None,
    quiet: Quiet = False,
) -> None:
    """Extract pooled features (or full maps) of several layers and timesteps; continues after a kill."""
    import torch

    from revelio_fast.features import FeatureExtractor, extract_maps, extract_to_store
    from revelio_fast.pipeline.preflight import check_extraction, check_writable

    if crops.num_crops and not maps:
        raise typer.BadParameter("random crops are kept as maps: add --maps", param_hint="--num-crops")
    check_writable(out)
    opened = images.open(source)
    prompts = config.all_prompts()
    check_extraction(config, opened, prompts, out, crops.num_crops if maps else None)
    extractor = FeatureExtractor.from_config(config, prompts)
    shared: dict[str, Any] = {
        "batch_size": config.batch_size, "on_error": config.on_error, "progress": not quiet,
        "store_dtype": getattr(torch, config.store_dtype or ("bfloat16" if maps else "float32")),
    }  # fmt: skip
    if maps:
        cut = RandomCrops(extractor.image_size, crops.min_scale, hflip if mirror is None else mirror, config.seed)
        stores = extract_maps(extractor, opened, out, num_crops=crops.num_crops, crops=cut, **shared)
        for key, map_store in stores.items():
            shape = list(map_store.row_shape)
            more = f", {crops.num_crops} random crops of each" if crops.num_crops else ""
            typer.echo(f"{map_store.path}: {len(map_store)} maps {shape} ({key[0]}, t={key[1]}){more}")
    else:
        for key, store in extract_to_store(extractor, opened, out, **shared).items():
            typer.echo(f"{store.path}: {store.rows} features of width {store.d} ({key[0]}, t={key[1]})")
    zero_shot = prompts.summary()
    if zero_shot:
        typer.echo(zero_shot)
    if extractor.skipped:
        typer.echo(f"{len(extractor.skipped)} broken images were skipped: see {out / 'skipped.csv'}")
