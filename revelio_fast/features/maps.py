"""Full feature maps on disk: `MapStore`, memory-mapped for Diff-C and PCA, and `extract_maps`, which fills it."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from revelio_fast.data import ImageSource, open_source
from revelio_fast.data.crops import RandomCrops
from revelio_fast.features.extractor import FeatureExtractor, Key
from revelio_fast.features.fill import fill
from revelio_fast.features.map_writer import (
    DTYPES,
    KIND,
    MANIFEST,
    MAPS,
    ROWS,
    SCHEMA_VERSION,
    MapStoreError,
    MapWriter,
)
from revelio_fast.features.skipped import write_skipped
from revelio_fast.features.to_store import about_layer, image_prompts, layer_folder
from revelio_fast.renamed import renamed

VARIANTS = "variants"

__all__ = ["MapStore", "MapStoreError", "extract_maps"]


class MapStore:
    """Feature maps of one layer at one timestep; open with `open`.

    Attributes
    ----------
    path : Path
    maps : Tensor
        ``[N, C, H, W]``, memory-mapped and private: writing to it changes no file.
    image_ids, labels : Tensor
        ``[N]`` int64; label -1 means none.
    about : dict
        Model, layer, timestep, prompt, seed, class_names ...

    Stores of random crops of the same images may lie beside it, in ``variants/``; see `variants`.
    """

    def __init__(self, path: Path, maps: Tensor, image_ids: Tensor, labels: Tensor, about: dict[str, Any]):
        self.path = path
        self.maps = maps
        self.image_ids = image_ids
        self.labels = labels
        self.about = about

    def __len__(self) -> int:
        return len(self.image_ids)

    def variants(self) -> list[MapStore]:
        """The stores of random crops that `extract_maps` wrote with `num_crops`, in order; empty if there are none.

        Raises
        ------
        MapStoreError
            If one is unfinished or damaged, or holds other images than this store.
        """
        folders = sorted((self.path / VARIANTS).glob("[0-9]*"))
        found = [MapStore.open(folder) for folder in folders]
        for store in found:
            if not torch.equal(store.image_ids, self.image_ids):
                raise MapStoreError(
                    f"{store.path} holds other images than {self.path}: run the same extraction again, it continues."
                )
        return found

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> MapStore:
        """Open a finished map store.

        Raises
        ------
        MapStoreError
            If there is none, it is unfinished, or a file is missing or has another size than the manifest says.
        """
        folder = Path(path)
        manifest = _read_manifest(folder)
        shape = [int(size) for size in manifest["shape"]]
        dtype = DTYPES[manifest["dtype"]]
        for name, size in ((MAPS, _numel(shape) * dtype.itemsize), (ROWS, shape[0] * 16)):
            found = (folder / name).stat().st_size if (folder / name).is_file() else None
            if found != size:
                raise MapStoreError(
                    f"{folder / name} should have {size} bytes but "
                    f"{'is missing' if found is None else f'has {found}'}: delete {folder} and extract again."
                )
        rows = _mapped(folder / ROWS, torch.int64, [shape[0], 2]).clone()
        maps = _mapped(folder / MAPS, dtype, shape)
        return cls(folder, maps, rows[:, 0].contiguous(), rows[:, 1].contiguous(), dict(manifest["about"]))


@renamed(variants="num_crops")
def extract_maps(
    extractor: FeatureExtractor,
    source: ImageSource | str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    *,
    batch_size: int = 8,
    store_dtype: torch.dtype = torch.bfloat16,
    on_error: str = "stop",
    progress: bool = True,
    resume: bool = True,
    num_crops: int = 0,
    crops: RandomCrops | None = None,
) -> dict[Key, MapStore]:
    """Extract full feature maps of a source into ``out_dir/<layer>/t<timestep>/``.

    Parameters and behaviour are those of `extract_to_store`, but the files are one flat array of maps and one of
    (image id, label) pairs, and the default dtype is bfloat16, since maps are large: 2.6 MB an image for up_ft1 of
    Stable Diffusion 1.5 at 512 px.

    Parameters
    ----------
    num_crops : int
        This many random crops of every image are extracted, too, each with noise of its own, into
        ``<layer>/t<timestep>/variants/<number>/``; training a classifier picks one for each epoch.
    crops : RandomCrops, optional
        How to cut them; at the extractor's image size and with its seed by default.

    Raises
    ------
    MapStoreError
        If a folder holds maps made with other settings.
    BrokenImageError
        With ``on_error="stop"``; what was done is kept.
    """
    source = open_source(source)
    folders = {key: layer_folder(out_dir, key) for key in extractor.keys}
    if not resume:
        for folder in folders.values():
            if (folder / MANIFEST).is_file():
                shutil.rmtree(folder)
    # One prompt an image, found on the whole image, serves its crops too.
    prompts = image_prompts(extractor, source, out_dir, on_error, progress)
    options: dict[str, Any] = {
        "batch_size": batch_size, "store_dtype": store_dtype, "on_error": on_error, "progress": progress,
        "prompts": prompts,
    }  # fmt: skip
    _write(extractor, source, folders, {}, 0, **options)
    write_skipped(Path(out_dir), extractor.skipped)
    crops = crops or RandomCrops(extractor.image_size, seed=extractor.about()["seed"])
    for number in range(num_crops):
        where = {key: folder / VARIANTS / f"{number:03}" for key, folder in folders.items()}
        about = {"crop": {**crops.about(), "draw": number + 1}}
        _write(extractor, crops.source(source, number + 1), where, about, number + 1, **options)
    return {key: MapStore.open(folder) for key, folder in folders.items()}


def _write(
    extractor: FeatureExtractor,
    source: ImageSource,
    folders: dict[Key, Path],
    about: dict[str, Any],
    draw: int,
    *,
    batch_size: int,
    store_dtype: torch.dtype,
    on_error: str,
    progress: bool,
    prompts: dict[int, str],
) -> None:
    """Fill the stores of all layers and timesteps with one map of every image."""
    shapes = extractor.layer_shapes()
    with ExitStack() as stack:
        writers = {}
        for key, folder in folders.items():
            described = {**about_layer(extractor, source, key), **about}
            if draw:
                # The files of the whole extraction lie two folders further up.
                described |= {name: f"../../{described[name]}" for name in ("skipped", "prompts") if name in described}
            writers[key] = stack.enter_context(MapWriter(folder, shapes[key[0]], store_dtype, described))
        fill(
            extractor, source, writers, batch_size=batch_size, pool=False, on_error=on_error, progress=progress,
            prompts=prompts, draw=draw,
        )  # fmt: skip


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        raise MapStoreError(f"There is no map store at {folder}: it has no {MANIFEST}. Run the extraction of maps.")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise MapStoreError(f"{path} cannot be read as JSON ({error}): extract again.") from error
    if not isinstance(manifest, dict) or manifest.get("kind") != KIND:
        raise MapStoreError(f"{path} does not describe a map store.")
    if manifest.get("schema_version") != SCHEMA_VERSION:
        raise MapStoreError(
            f"{path} has schema version {manifest.get('schema_version')!r}, this revelio_fast reads "
            f"{SCHEMA_VERSION}: update revelio_fast or extract again."
        )
    if not manifest["complete"]:
        raise MapStoreError(f"The map store {folder} is unfinished: run the same extraction again, it continues.")
    return manifest


def _mapped(path: Path, dtype: torch.dtype, shape: list[int]) -> Tensor:
    if not shape[0]:
        return torch.empty(shape, dtype=dtype)
    return torch.from_file(str(path), shared=False, size=_numel(shape), dtype=dtype).view(shape)


def _numel(shape: list[int]) -> int:
    return torch.Size(shape).numel()
