"""The extraction stages: pooled features and feature maps of the model, of random weights, and of raw inputs."""

from __future__ import annotations

import functools
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from revelio_fast.concepts import flat_features, pixel_features
from revelio_fast.config import RunConfig
from revelio_fast.csv_text import read_csv
from revelio_fast.data import BrokenImageError, ImageItem, ImageSource, RandomCrops
from revelio_fast.data.identity import digest_rows
from revelio_fast.features import ExtractConfig, FeatureExtractor, MapStore, extract_maps, extract_to_store
from revelio_fast.features.to_store import layer_folder
from revelio_fast.models.families import image_size_of
from revelio_fast.pipeline.inputs import Images, model_key, prompts_key
from revelio_fast.pipeline.stages import Stage, Stages
from revelio_fast.store import ActivationStore

Key = tuple[str, int]
HALVES = ("train", "test")
MODEL, RANDOM, PIXELS, LATENTS = "model", "random weights", "raw pixels", "VAE latents"
RAW_MAPS = "maps"
RAW_BLOCK = 256  # maps that are flattened at a time


class Extraction:
    """All extraction stages of a run; a network is loaded only when one of its stages is not done yet.

    Parameters
    ----------
    config : RunConfig
    images : Images
    stages : Stages
    progress : bool
        Show progress bars.
    """

    def __init__(self, config: RunConfig, images: Images, stages: Stages, progress: bool) -> None:
        self.config = config
        self.images = images
        self.stages = stages
        self.progress = progress
        self.prompts = config.all_prompts(cache_dir=stages.root / "features" / "clip")
        self._model = model_key(config.model, config.revision)

    def pooled(self, which: str) -> dict[str, Stage]:
        """Pooled features of every layer and timestep, by half; `which` is the model or random weights."""
        return self._extract(
            which, "features", self.config.layers, self.config.timesteps, self.config.store_dtype or "float32"
        )

    def maps(self, which: str, layers: Sequence[str], timesteps: Sequence[int]) -> dict[str, Stage]:
        """Feature maps of some layers and timesteps, by half; with random crops of the training images if wanted."""
        return self._extract(which, "maps", layers, timesteps, self.config.diffc.map_dtype)

    def extractor(self, which: str, layers: Sequence[str], timesteps: Sequence[int]) -> FeatureExtractor:
        """The model, or its random weights, up to the last of some layers."""
        return FeatureExtractor.from_config(self._asked(which, layers, timesteps), self.prompts)

    def inputs(self, which: str, layers: Sequence[str], timesteps: Sequence[int]) -> dict[str, Any]:
        """All that features depend on, as JSON values."""
        config = self._asked(which, layers, timesteps)
        return {
            **config.metadata(),
            "images": self.images.key,
            "model": self._model,
            "which": which,
            "layers": list(layers),
            "timesteps": list(timesteps),
            "prompt": prompts_key(self.config),
            "batch_size": config.batch_size,
            "on_error": config.on_error,
        }

    def _asked(self, which: str, layers: Sequence[str], timesteps: Sequence[int]) -> ExtractConfig:
        random_weights = self.config.random_weights or which == RANDOM
        return self.config.part(
            ExtractConfig, layers=tuple(layers), timesteps=tuple(timesteps), random_weights=random_weights
        )

    @functools.cached_property
    def pixel_size(self) -> int:
        """Side of the raw pixels: as configured, else the model's own, or the largest that `max_features` allows."""
        config = self.config
        return config.baselines.pixel_side(image_size_of(config.model, config.image_size, config.revision))

    def detail(self, which: str, halves: dict[str, Stage]) -> str:
        """What the reader must know of some features: the side of raw pixels, the width of the VAE latents."""
        if which == PIXELS:
            return f"{self.pixel_size} x {self.pixel_size} px"
        if which == LATENTS:
            return f"{halves['train'].output['d']} values"
        return ""

    def raw(self, which: str) -> dict[str, Stage]:
        """Raw pixels or VAE latents, by half: flattened, and as maps."""
        found = {}
        inputs: dict[str, Any] = {"images": self.images.key, "which": which}
        if which == PIXELS:
            inputs["pixel_size"] = self.pixel_size
        else:
            inputs |= {"image_size": self.config.image_size, "model": self._model, "dtype": self.config.dtype}
            inputs["max_features"] = self.config.baselines.max_features
        for half, source in self._halves():
            name = f"{which}, {half}ing images" if half == "train" else f"{which}, {half} images"
            found[half] = self.stages.run(
                name,
                f"features/{which.replace(' ', '-').lower()}-{half}",
                {**inputs, "half": half},
                lambda folder, source=source: self._write_raw(which, source, folder),  # type: ignore[misc]
            )
        return found

    def _halves(self) -> list[tuple[str, ImageSource]]:
        both = (self.images.train, self.images.test)
        return [(half, source) for half, source in zip(HALVES, both, strict=True) if source is not None]

    def _extract(
        self,
        which: str,
        kind: str,
        layers: Sequence[str],
        timesteps: Sequence[int],
        dtype: str,
    ) -> dict[str, Stage]:
        config = self.config
        inputs = {**self.inputs(which, layers, timesteps), "kind": kind, "store_dtype": dtype}
        loaded: list[FeatureExtractor] = []

        def work(folder: Path, source: ImageSource, crops: dict[str, Any]) -> dict[str, Any]:
            if not loaded:
                loaded.append(self.extractor(which, layers, timesteps))
            write: Any = extract_to_store if kind == "features" else extract_maps
            options: dict[str, Any] = {}
            if crops:
                options["num_crops"] = crops["num_crops"]
                options["crops"] = RandomCrops(loaded[0].image_size, **crops["crop"])
            written = write(
                loaded[0],
                source,
                folder,
                batch_size=config.batch_size,
                store_dtype=getattr(torch, dtype),
                on_error=config.on_error,
                progress=self.progress,
                **options,
            )
            output: dict[str, Any] = {"skipped": _skipped(folder), "rows": len(written[loaded[0].keys[0]])}
            found_out = self.prompts.summary()
            return output if found_out is None else output | {"prompts": found_out}

        found = {}
        for half, source in self._halves():
            crops = self._crops() if kind == "maps" and half == "train" else {}
            found[half] = self.stages.run(
                f"extract {kind} ({which}, {half}): {len(source)} images, {len(layers)} layers, "
                f"{len(timesteps)} timesteps",
                f"{kind}/{which.replace(' ', '-')}-{half}",
                {**inputs, "half": half, **crops},
                lambda folder, source=source, crops=crops: work(folder, source, crops),  # type: ignore[misc]
            )
        return found

    def _crops(self) -> dict[str, Any]:
        """How many random crops of each training image are cached, and how they are cut; empty if none are."""
        section = self.config.diffc
        if not section.num_crops:
            return {}
        crop = {"min_scale": section.min_scale, "hflip": section.augmentation == "flip", "seed": section.seed}
        return {"num_crops": section.num_crops, "crop": crop}

    def _write_raw(self, which: str, source: ImageSource, folder: Path) -> dict[str, Any]:
        maps = self._raw_maps(which, source, folder / RAW_MAPS)
        limit = math.prod(maps.row_shape) if which == PIXELS else self.config.baselines.max_features
        # A store that a kill left unfinished is written again from the maps: there is nothing to lose.
        shutil.rmtree(folder / "flat", ignore_errors=True)
        width = flat_features(torch.zeros(1, *maps.row_shape), limit).shape[1]
        with ActivationStore.create(folder / "flat", width, what=which, source=source.name) as writer:
            for rows in torch.arange(maps.rows).split(RAW_BLOCK):
                names = None if maps.names is None else [maps.names[row] for row in rows.tolist()]
                contents = None if maps.contents is None else maps.contents[rows]
                flat = flat_features(maps.read(rows), limit)
                writer.append(flat, maps.image_ids[rows], maps.labels[rows], names, contents)
        return {"shape": list(maps.row_shape), "d": width}

    def _raw_maps(self, which: str, source: ImageSource, folder: Path) -> ActivationStore:
        """Write the maps of a source, those that are not there yet."""
        from revelio_fast.progress import tqdm

        config = self.config
        size = self.pixel_size
        extractor = None if which == PIXELS else self.extractor(MODEL, config.layers[:1], config.timesteps[:1])
        shape = (3, size, size) if extractor is None else extractor.family.latent_shape
        waiting: list[tuple[ImageItem, Any, bytes]] = []
        with (
            ActivationStore.create(folder, shape, what=which, source=source.name) as writer,
            tqdm(total=len(source), desc=which, unit="image", disable=not self.progress) as bar,
        ):
            done = writer.done_ids
            for number, item in enumerate(source, start=1):
                try:
                    if item.image_id not in done:
                        waiting.append((item, *item.decode()))
                except BrokenImageError:
                    if config.on_error == "stop":
                        raise
                if waiting and (len(waiting) == config.batch_size or number == len(source)):
                    items, images, contents = zip(*waiting, strict=True)
                    if extractor is None:
                        maps = pixel_features(images, size).reshape(-1, *shape)
                    else:
                        maps = extractor.latents(images).float()
                    writer.append(
                        maps,
                        torch.tensor([item.image_id for item in items]),
                        torch.tensor([item.label for item in items]),
                        [item.name for item in items],
                        digest_rows(contents),
                    )
                    waiting = []
                bar.update()
        return ActivationStore.open(folder)


def store_of(stage: Stage, key: Key | None) -> ActivationStore:
    """The store of a layer and timestep, or of raw inputs where `key` is None."""
    return ActivationStore.open(stage.folder / "flat" if key is None else layer_folder(stage.folder, key))


def raw_maps_of(stage: Stage) -> tuple[ActivationStore | Tensor, Tensor, Tensor]:
    """Maps ``[N, C, H, W]``, labels ``[N]`` and image ids ``[N]`` of raw inputs."""
    from safetensors.torch import load_file

    if (stage.folder / RAW_MAPS).is_dir():
        store = ActivationStore.open(stage.folder / RAW_MAPS)
        return store, store.labels, store.image_ids
    tensors = load_file(stage.folder / "maps.safetensors")  # of a stage that version 0.1 finished
    return tensors["maps"], tensors["labels"], tensors["image_ids"]


def maps_of(stage: Stage, key: Key) -> MapStore:
    """The map store of a layer and timestep."""
    return MapStore.open(layer_folder(stage.folder, key))


def _skipped(folder: Path) -> list[str]:
    return [f"{row['path']}: {row['reason']}" for row in read_csv(folder / "skipped.csv")]
