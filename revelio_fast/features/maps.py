"""Full feature maps on disk: `MapStore`, an activation store of maps, and `extract_maps`, which fills it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from revelio_fast.data import ImageSource, open_source
from revelio_fast.data.crops import RandomCrops
from revelio_fast.features.extractor import FeatureExtractor, Key
from revelio_fast.features.to_store import (
    image_prompts,
    layer_folder,
    layer_metadata,
    remove_stores,
    write_skipped,
    write_stores,
)
from revelio_fast.renamed import renamed
from revelio_fast.store import ActivationStore, StoreError
from revelio_fast.store.manifest import Manifest

VARIANTS = "variants"
MapStoreError = StoreError
"""The old name of `StoreError` for maps, for one release."""


class MapStore(ActivationStore):
    """Feature maps of one layer at one timestep; open with `open`.

    An `ActivationStore` whose rows are maps: ``read(rows)`` gives ``[r, C, H, W]``. Stores of random crops of the same
    images may lie beside it, in ``variants/``; see `variants`.
    """

    def __init__(self, path: str | os.PathLike[str], manifest: Manifest):
        if len(manifest.row_shape) != 3:
            raise StoreError(
                f"The store {path} holds rows of shape {list(manifest.row_shape)}, not maps [C, H, W]: "
                "run the extraction with --maps."
            )
        super().__init__(path, manifest)

    @property
    def maps(self) -> Tensor:
        """All maps ``[N, C, H, W]`` in memory, in the stored type; `read` takes some of them from disk."""
        return self.features(dtype=None)

    def variants(self) -> list[MapStore]:
        """The stores of random crops that `extract_maps` wrote with `num_crops`, in order; empty if there are none.

        Raises
        ------
        StoreError
            If one is unfinished or damaged, or holds other images than this store.
        """
        folders = sorted((self.path / VARIANTS).glob("[0-9]*"))
        found = [MapStore.open(folder) for folder in folders]
        for store in found:
            if not torch.equal(store.image_ids, self.image_ids):
                raise StoreError(
                    f"{store.path} holds other images than {self.path}: run the same extraction again, it continues."
                )
        return found


@renamed(variants="num_crops")
def extract_maps(
    extractor: FeatureExtractor,
    source: ImageSource | str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    *,
    batch_size: int = 8,
    store_dtype: torch.dtype = torch.bfloat16,
    shard_rows: int | None = None,
    on_error: str = "stop",
    progress: bool = True,
    resume: bool = True,
    num_crops: int = 0,
    crops: RandomCrops | None = None,
    workers: int | None = None,
) -> dict[Key, MapStore]:
    """Extract full feature maps of a source into ``out_dir/<layer>/t<timestep>/``.

    Parameters and behaviour are those of `extract_to_store`, but a row is a map, and the default dtype is bfloat16,
    since maps are large: 2.6 MB an image for up_ft1 of Stable Diffusion 1.5 at 512 px.

    Parameters
    ----------
    shard_rows : int, optional
        Maps of a shard file; as many as fill 64 MiB by default.
    num_crops : int
        This many random crops of every image are extracted, too, each with noise of its own, into
        ``<layer>/t<timestep>/variants/<number>/``; training a classifier picks one for each epoch.
    crops : RandomCrops, optional
        How to cut them; at the extractor's image size and with its seed by default.

    Raises
    ------
    StoreError
        If a folder holds maps made with other settings.
    SourceError
        If a folder holds maps of images that the source does not have, or not as they were.
    BrokenImageError
        With ``on_error="stop"``; what was done is kept.
    """
    source = open_source(source)
    folders = {key: layer_folder(out_dir, key) for key in extractor.keys}
    if not resume:
        remove_stores(folders.values())
    # One prompt an image, found on the whole image, serves its crops too.
    prompts = image_prompts(extractor, source, out_dir, on_error, progress)
    shapes = {key: extractor.layer_shapes()[key[0]] for key in folders}
    metadata = {key: layer_metadata(extractor, source, key) for key in folders}
    options: dict[str, Any] = {
        "batch_size": batch_size, "pool": False, "on_error": on_error, "progress": progress, "prompts": prompts,
        "workers": workers,
    }  # fmt: skip
    write_stores(extractor, source, folders, shapes, metadata, store_dtype, shard_rows, **options)
    write_skipped(Path(out_dir), extractor.skipped)
    crops = crops or RandomCrops(extractor.image_size, seed=extractor.metadata()["seed"])
    for number in range(num_crops):
        where = {key: folder / VARIANTS / f"{number:03}" for key, folder in folders.items()}
        crop = {"crop": {**crops.about(), "draw": number + 1}}
        cropped = {key: _two_up(found) | crop for key, found in metadata.items()}
        write_stores(
            extractor, crops.source(source, number + 1), where, shapes, cropped, store_dtype, shard_rows,
            draw=number + 1, **options,
        )  # fmt: skip
    return {key: MapStore.open(folder) for key, folder in folders.items()}


def _two_up(metadata: dict[str, Any]) -> dict[str, Any]:
    """The metadata for a store two folders further down: where the files of the whole extraction lie."""
    return metadata | {name: f"../../{metadata[name]}" for name in ("skipped", "prompts") if name in metadata}
