"""The Diff-C stages: the classifier on the maps of each layer and timestep, and alike on the baselines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from revelio_fast.config import RunConfig
from revelio_fast.diffc import train_diffc
from revelio_fast.pipeline.extraction import LATENTS, MODEL, PIXELS, RANDOM, Extraction, Key, maps_of
from revelio_fast.pipeline.inputs import Images
from revelio_fast.pipeline.measure import read_columns
from revelio_fast.pipeline.stages import Stage, Stages
from revelio_fast.report import DiffCRun


def classify(
    config: RunConfig, images: Images, stages: Stages, extraction: Extraction, progress: bool
) -> list[DiffCRun]:
    """Train Diff-C wherever the configuration asks for it, the baselines last."""
    section = config.diffc
    layers, timesteps = section.layers or config.layers, section.timesteps or config.timesteps
    keys = [(layer, timestep) for layer in layers for timestep in timesteps]
    wanted: list[tuple[str, Sequence[Key | None]]] = [(MODEL, keys)]
    if section.baselines:
        wanted += [(RANDOM, keys)] if config.baselines.random_weights else []
        wanted += [(PIXELS, [None])] if config.baselines.raw_pixels else []
        wanted += [(LATENTS, [None])] if config.baselines.vae_latents else []
    runs = []
    for which, places in wanted:
        halves = extraction.raw(which) if places == [None] else extraction.maps(which, layers, timesteps)
        for key in places:
            runs.append(_classify_one(config, images, stages, halves, which, key, progress))
    return runs


def _classify_one(
    config: RunConfig,
    images: Images,
    stages: Stages,
    halves: dict[str, Stage],
    which: str,
    key: Key | None,
    progress: bool,
) -> DiffCRun:
    settings = config.diffc.build(config.seed)
    names = images.class_names
    place = f"{which.replace(' ', '-').lower()}{f'-{key[0]}-t{key[1]}' if key else ''}"
    title = f"{key[0]}, t = {key[1]}" if key else "the input"
    title = title if which == MODEL else f"{which}, {title}"

    def work(folder: Path) -> dict[str, Any]:
        train_maps, train_labels = _labelled(*maps_of(halves["train"], key))
        test_maps, test_labels = _labelled(*maps_of(halves["test"], key))
        result = train_diffc(
            train_maps, train_labels, test_maps, test_labels, settings,
            out_dir=folder, n_classes=len(names), class_names=names, progress=progress,
        )  # fmt: skip
        return {"metrics": result.metrics()}

    stage = stages.run(
        f"Diff-C: {title}",
        f"diffc/{place}",
        {
            "maps": {half: each.key for half, each in halves.items()},
            "key": list(key) if key else None,
            "diffc": config.diffc.model_dump(exclude={"enabled", "layers", "timesteps", "baselines"}),
            "seed": settings.seed,
            "class_names": names,
        },
        work,
    )
    metrics = stage.output["metrics"]
    return DiffCRun(
        layer=key[0] if key else "input",
        timestep=key[1] if key else 0,
        accuracy=metrics["accuracy"],
        n_train=metrics["n_train"],
        n_test=metrics["n_test"],
        n_classes=len(names),
        interval=(metrics["interval"][0], metrics["interval"][1]),
        chance=metrics["chance"],
        baseline=None if which == MODEL else which,
        parameters=metrics["parameters"],
        epochs=settings.epochs,
        history=read_columns(stage.folder / "history.csv"),
        seconds={"train_diffc": stage.seconds},
    )


def _labelled(maps: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    known = labels >= 0
    # Indexing copies: a memory-mapped tensor stays mapped where every map has a label.
    return (maps, labels) if bool(known.all()) else (maps[known], labels[known])
