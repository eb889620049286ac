"""What can be checked before the first long job: the output folder, layers, k, labels, prompts, space on disk."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from revelio_fast.config import RunConfig
from revelio_fast.data import ImageSource
from revelio_fast.features import ExtractConfig
from revelio_fast.models import ModelFamily, open_family
from revelio_fast.models.families import read_config
from revelio_fast.models.prompts import FromClip, Prompts
from revelio_fast.models.spec import checked_timesteps
from revelio_fast.pipeline.inputs import Images

# Of a k-SAE: two float32 matrices in the model, and in each of two checkpoints those and Adam's two moments of each.
SAE_BYTES = 4 * (2 + 2 * 6)


@dataclass(frozen=True)
class PlannedStage:
    """A stage of a run before it runs: its name, what it works on, and the bytes it will take on disk."""

    name: str
    size: str
    bytes: int


@dataclass(frozen=True)
class Plan:
    """The stages of a run, as far as they are known beforehand."""

    stages: Sequence[PlannedStage]
    out_dir: Path

    @property
    def bytes(self) -> int:
        """Bytes on disk of all stages."""
        return sum(stage.bytes for stage in self.stages)

    def table(self) -> str:
        """The stages as text, one a line."""
        wide = max(len(stage.name) for stage in self.stages)
        sizes = max(len(stage.size) for stage in self.stages)
        lines = [
            f"{stage.name:<{wide}}  {stage.size:<{sizes}}  {readable(stage.bytes) if stage.bytes else '-':>9}"
            for stage in self.stages
        ]
        free = readable(free_bytes(self.out_dir))
        return "\n".join([*lines, f"{self.out_dir}: about {readable(self.bytes)} in all, {free} are free"])


def check_run(config: RunConfig, images: Images) -> Plan:
    """Check all that a run needs, without reading weights, and plan its stages.

    Parameters
    ----------
    config : RunConfig
    images : Images
        Opened by `open_images`, which has checked the source and its splits.

    Raises
    ------
    ValueError
        If something would fail later: a layer or timestep the model lacks, k larger than a k-SAE, an output folder that
        cannot be written, a test split without labels, images without a prompt.

    Warns
    -----
    UserWarning
        If the disk has less space than the run is going to take.
    """
    check_writable(config.out_dir)
    family = _checked_family(config)
    shapes = family.layer_shapes(config.layers)
    for layer, (d, _, _) in shapes.items():
        n = config.sae.n_latents or config.sae.expansion_factor * d
        if config.sae.k > n:
            raise ValueError(
                f"sae.k is {config.sae.k}, but a k-SAE of {layer} (width {d}) has only {n} latents: choose a smaller "
                "sae.k, or a larger sae.expansion_factor."
            )
    if images.test is not None and not any(label >= 0 for label in images.test.labels.values()):
        raise ValueError(
            f"The test images, {images.test.name}, have no labels: accuracies need some. Name another "
            "source.test_split, or leave it out to hold out a share of the training images."
        )
    prompts = config.all_prompts()
    for source in (images.train, images.test):
        if source is not None:
            check_prompts(prompts, source)
    plan = Plan(list(_stages(config, images, shapes, family)), Path(config.out_dir))
    _warn_of_space(plan.bytes, config.out_dir)
    return plan


def check_extraction(
    config: ExtractConfig,
    source: ImageSource,
    prompts: Prompts,
    out_dir: str | os.PathLike[str],
    crops: int | None,
) -> None:
    """Check model, layers, timesteps and prompts of an extraction, and warn if the disk is too small.

    Parameters
    ----------
    crops : int, optional
        Random crops of each image, where whole maps are kept; None for pooled features.
    """
    family = _checked_family(config)
    check_prompts(prompts, source)
    values = sum(
        d * (1 if crops is None else height * width * (1 + crops))
        for d, height, width in family.layer_shapes(config.layers).values()
    )
    size = _item_bytes(config.store_dtype or ("float32" if crops is None else "bfloat16"))
    _warn_of_space(len(source) * values * len(config.timesteps) * size, out_dir)


def check_writable(folder: str | os.PathLike[str]) -> None:
    """Check that a folder can be made and written to; makes nothing.

    Raises
    ------
    ValueError
        If not; says why.
    """
    there = _existing(folder)
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ValueError(
            f"The output folder {folder} cannot be written: {there}: {reason}. Choose another one, or free this one."
        ) from None


def check_prompts(prompts: Prompts, source: ImageSource) -> None:
    """Check that every image has a prompt; of CLIP only that the model is there.

    Raises
    ------
    ValueError
        If the file or column cannot be read, or an image has no prompt.
    """
    if isinstance(prompts, FromClip):
        read_config(prompts.model, "config.json", prompts.revision)
    else:
        prompts.texts(source, on_error="skip")


def readable(size: int) -> str:
    """A number of bytes for the reader, e.g. ``"1.3 GB"``."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"


def free_bytes(folder: str | os.PathLike[str]) -> int:
    """Free space of the disk that a folder, which need not exist yet, lies on."""
    return shutil.disk_usage(_existing(folder)).free


def _existing(folder: str | os.PathLike[str]) -> Path:
    """The folder, or the nearest above it that exists."""
    return next(each for each in (Path(folder), *Path(folder).absolute().parents) if each.exists())


def _checked_family(config: ExtractConfig) -> ModelFamily:
    family = open_family(config)
    checked_timesteps(config.timesteps, family.num_timesteps)
    return family


def _stages(
    config: RunConfig, images: Images, shapes: dict[str, tuple[int, int, int]], family: ModelFamily
) -> Iterable[PlannedStage]:
    halves = {"train": images.train, "test": images.test}
    there = {half: len(source) for half, source in halves.items() if source is not None}
    total, times = sum(there.values()), len(config.timesteps)
    networks = ["model", *(["random weights"] if config.baselines.random_weights else [])]
    inputs = {
        "raw pixels": (config.baselines.raw_pixels, 3 * config.baselines.pixel_side(family.image_size) ** 2),
        "VAE latents": (config.baselines.vae_latents, torch.Size(family.latent_shape).numel()),
    }
    width = sum(shape[0] for shape in shapes.values())
    for network in networks:
        size = total * width * times * _item_bytes(config.store_dtype or "float32")
        yield PlannedStage(f"features ({network})", f"{total} images, {len(shapes)} layers, {times} timesteps", size)
    for name, (wanted, numel) in inputs.items():
        if wanted:
            flat = numel if name == "raw pixels" else min(numel, config.baselines.max_features)
            yield PlannedStage(name, f"{total} images", total * (numel + flat) * 4)
    n_of = {layer: config.sae.latents(shape[0]) for layer, shape in shapes.items()}
    for network in networks if config.baselines.sae else networks[:1]:
        for layer, (d, _, _) in shapes.items():
            size = n_of[layer] * d * SAE_BYTES * times
            what = f"{there['train']} x {d} to {n_of[layer]} latents, {times} timesteps"
            yield PlannedStage(f"k-SAEs of {layer} ({network})", what, size)
    for name, (wanted, numel) in inputs.items():
        if wanted and config.baselines.sae:
            flat = numel if name == "raw pixels" else min(numel, config.baselines.max_features)
            n = max(n_of.values())
            yield PlannedStage(f"k-SAE of {name}", f"{there['train']} x {flat} to {n} latents", n * flat * SAE_BYTES)
    section = config.diffc
    if not section.enabled or "test" not in there:
        return
    layers, steps = section.layers or config.layers, section.timesteps or config.timesteps
    values = sum(torch.Size(shapes[layer]).numel() for layer in layers) * len(steps)
    count = there["test"] + (there["train"] * (1 + section.num_crops) if section.cache == "maps" else 0)
    for network in networks if section.baselines else networks[:1]:
        what = f"{count} maps, {len(layers)} layers, {len(steps)} timesteps"
        yield PlannedStage(f"maps ({network})", what, count * values * _item_bytes(section.map_dtype))
        heads = section.heads if network == "model" else section.heads[:1]
        what = f"{len(layers) * len(steps)} x {', '.join(heads)}, {section.epochs} epochs"
        yield PlannedStage(f"classifiers ({network})", what, 0)


def _item_bytes(dtype: str) -> int:
    return getattr(torch, dtype).itemsize


def _warn_of_space(needed: int, folder: str | os.PathLike[str]) -> None:
    free = free_bytes(folder)
    if needed > free:
        warnings.warn(
            f"This is going to take about {readable(needed)} in {folder}, and only {readable(free)} are free there.",
            stacklevel=3,
        )
