"""The Diff-C stages: classifiers on the maps of each layer and timestep, and alike on the baselines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from revelio_fast.classifiers import (
    CachedMaps,
    DiffCConfig,
    DiffCResult,
    MapClassifier,
    cached_training_maps,
    feature_record,
    train_diffc_online,
    train_on,
)
from revelio_fast.classifiers.online import TEST_MAPS
from revelio_fast.config import RunConfig
from revelio_fast.csv_text import read_numbers
from revelio_fast.data import ImageSource
from revelio_fast.features import MapStore
from revelio_fast.features.to_store import layer_folder
from revelio_fast.pipeline.extraction import LATENTS, MODEL, PIXELS, RANDOM, Extraction, Key, maps_of, raw_maps_of
from revelio_fast.pipeline.inputs import Images
from revelio_fast.pipeline.stages import Stage, Stages
from revelio_fast.report import ClassifierResult
from revelio_fast.statistics import images_key, marks
from revelio_fast.store import ActivationStore


def classify(
    config: RunConfig, images: Images, stages: Stages, extraction: Extraction, progress: bool
) -> list[ClassifierResult]:
    """Train every head wherever the configuration asks for it, the baselines last."""
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
        halves: dict[str, Stage] = {}
        if places == [None]:
            halves = extraction.raw(which)
        elif section.cache == "maps":
            halves = extraction.maps(which, layers, timesteps)
        for key in places:
            for head in section.heads if which == MODEL else section.heads[:1]:
                runs.append(_classify_one(config, images, stages, extraction, halves, which, key, head, progress))
    return runs


def _classify_one(
    config: RunConfig,
    images: Images,
    stages: Stages,
    extraction: Extraction,
    halves: dict[str, Stage],
    which: str,
    key: Key | None,
    head: Literal["diffc", "resnet"],
    progress: bool,
) -> ClassifierResult:
    settings = config.diffc.build(head)
    names = images.class_names
    kind = MapClassifier.kinds[head].title
    place = f"{which.replace(' ', '-').lower()}{f'-{key[0]}-t{key[1]}' if key else ''}"
    title = f"{key[0]}, t = {key[1]}" if key else "the input"
    title = title if which == MODEL else f"{which}, {title}"

    def work(folder: Path) -> dict[str, Any]:
        if halves:
            result, tested = _train_cached(halves, key, settings, folder, names, progress)
        else:
            assert key is not None and images.test is not None
            result = _train_online(config, extraction, images.train, images.test, which, key, settings, folder, names)
            tested = MapStore.open(layer_folder(folder / TEST_MAPS, key)).image_ids
        return {
            "metrics": result.metrics(),
            "correct": marks(result.correct, tested),
            "images": images_key(tested),
        }

    inputs: dict[str, Any] = {"maps": {half: each.key for half, each in halves.items()}}
    if not halves:
        assert key is not None
        section = config.diffc
        inputs = {
            "online": extraction.inputs(which, [key[0]], [key[1]]),
            "min_scale": section.min_scale,
            "map_dtype": section.map_dtype,
        }
    trainer = {name: value for name, value in vars(settings).items() if name != "seed"}
    stage = stages.run(
        f"{kind}: {title}",
        f"{head}/{place}",
        {**inputs, "key": list(key) if key else None, "diffc": trainer, "seed": settings.seed, "class_names": names},
        work,
    )
    metrics = stage.output["metrics"]
    layer, timestep = key or (None, None)
    return ClassifierResult(
        name=which,
        layer=layer,
        timestep=timestep,
        seed=config.seed,
        detail=extraction.detail(which, halves),
        accuracy=metrics["accuracy"],
        n_train=metrics["n_train"],
        n_test=metrics["n_test"],
        n_classes=len(names),
        interval=(metrics["interval"][0], metrics["interval"][1]),
        chance=metrics["chance"],
        head=kind,
        parameters=metrics["parameters"],
        epochs=settings.epochs,
        correct=stage.output["correct"],
        images=stage.output["images"],
        per_class_accuracy=metrics["per_class_accuracy"],
        history=read_numbers(stage.folder / "history.csv"),
        seconds={"train": stage.seconds},
    )


def _train_cached(
    halves: dict[str, Stage], key: Key | None, settings: DiffCConfig, folder: Path, names: list[str], progress: bool
) -> tuple[DiffCResult, Tensor]:
    """The result, and the ids of the images it was tested on."""
    if key is None:
        (maps, labels, _), (test_maps, test_labels, ids) = raw_maps_of(halves["train"]), raw_maps_of(halves["test"])
        mirror = settings.augmentation == "flip"
        train, features = _labelled(maps, labels, mirror, settings.seed), None
    else:
        store, test_maps = maps_of(halves["train"], key), maps_of(halves["test"], key)
        train = cached_training_maps(store, settings)
        test_labels, ids, features = test_maps.labels, test_maps.image_ids, feature_record(test_maps.metadata)
    result = train_on(
        train, _labelled(test_maps, test_labels, False, 0), settings, out_dir=folder, n_classes=len(names),
        class_names=names, features=features, progress=progress,
    )  # fmt: skip
    return result, ids[test_labels >= 0]


def _train_online(
    config: RunConfig,
    extraction: Extraction,
    train: ImageSource,
    test: ImageSource,
    which: str,
    key: Key,
    settings: DiffCConfig,
    folder: Path,
    names: list[str],
) -> DiffCResult:
    import torch

    return train_diffc_online(
        extraction.extractor(which, [key[0]], [key[1]]), train, test, settings, out_dir=folder,
        min_scale=config.diffc.min_scale, batch_size=config.batch_size,
        map_dtype=getattr(torch, config.diffc.map_dtype), on_error=config.on_error, class_names=names,
        progress=extraction.progress,
    )  # fmt: skip


def _labelled(maps: Tensor | ActivationStore, labels: Tensor, mirror: bool, seed: int) -> CachedMaps:
    rows = (labels >= 0).nonzero().flatten()
    return CachedMaps(maps, labels, rows=rows, mirror=mirror, seed=seed)
