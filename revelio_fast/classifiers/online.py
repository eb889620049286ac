"""Diff-C on maps that are extracted anew in every epoch, from fresh random crops, as the paper trains it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from revelio_fast.classifiers.config import DiffCConfig
from revelio_fast.classifiers.feature_record import feature_record
from revelio_fast.classifiers.map_source import CachedMaps
from revelio_fast.classifiers.results import DiffCResult
from revelio_fast.classifiers.training import train_on
from revelio_fast.data import BrokenImageError, ImageSource, RandomCrops, open_source
from revelio_fast.features import FeatureExtractor, MapStore, extract_maps
from revelio_fast.progress import tqdm
from revelio_fast.renamed import renamed

TEST_MAPS = "test_maps"


class OnlineMaps:
    """Maps of random crops, extracted when they are asked for; a `revelio_fast.classifiers.MapSource`.

    Every epoch has its own crops and its own noise, both drawn from (seed, image, epoch); nothing is stored.

    Parameters
    ----------
    extractor : FeatureExtractor
        Of one layer at one timestep.
    source : ImageSource
        Every image has a label.
    crops : RandomCrops
        At the extractor's image size.
    batch_size : int
        Images of a forward pass of the diffusion model.
    prompts : mapping of int to str, optional
        ``{image_id: prompt}``; by default those that the extractor's prompts give for the whole images.
    """

    def __init__(
        self,
        extractor: FeatureExtractor,
        source: ImageSource,
        crops: RandomCrops,
        batch_size: int = 8,
        prompts: Mapping[int, str] | None = None,
    ):
        if len(extractor.keys) != 1:
            raise ValueError(
                f"A classifier reads one layer at one timestep, the extractor gives {len(extractor.keys)}: "
                f"{extractor.keys}"
            )
        if crops.size != extractor.image_size:
            raise ValueError(f"The crops have {crops.size} pixels, the extractor takes {extractor.image_size}")
        self._extractor = extractor
        self._source = source
        self._crops = crops
        self._batch_size = batch_size
        self._prompts = extractor.prompts.texts(source) if prompts is None else prompts
        (self._key,) = extractor.keys
        self.shape = extractor.layer_shapes()[self._key[0]]
        self.labels = torch.tensor([item.label for item in source], dtype=torch.int64)

    def key(self) -> str:
        """Digest of the extractor's and the crops' settings, all names, labels and prompts, and 16 images."""
        about = {
            **self._extractor.metadata(), "key": list(self._key), "crops": self._crops.about(),
            "batch": self._batch_size,
        }  # fmt: skip
        digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
        for item in self._source:
            prompt = self._prompts[item.image_id]
            digest.update(f"{item.name} {item.label} {prompt}\n".encode())
        for position in range(0, len(self._source), max(1, len(self._source) // 16)):
            digest.update(np.asarray(self._source[position].load()).tobytes())
        return digest.hexdigest()

    def batches(self, rows: Sequence[Tensor], epoch: int) -> Iterator[Tensor]:
        """See `revelio_fast.classifiers.MapSource.batches`."""
        if not rows:
            return
        wanted = self._source.subset(torch.cat(list(rows)).tolist())
        # Draw 0 is the noise of plain extraction, which the test images have.
        stream = self._extractor.stream(
            self._crops.source(wanted, epoch + 1),
            batch_size=self._batch_size,
            pool=False,
            progress=False,
            draw=epoch + 1,
            prompts=self._prompts,
        )
        held: list[Tensor] = []
        for batch in rows:
            while sum(map(len, held)) < len(batch):
                held.append(next(stream).features[self._key])
            maps = torch.cat(held)
            yield maps[: len(batch)]
            held = [maps[len(batch) :]]


@renamed(least_area="min_scale")
def train_diffc_online(
    extractor: FeatureExtractor,
    train: ImageSource | str | os.PathLike[str],
    test: ImageSource | str | os.PathLike[str],
    config: DiffCConfig | None = None,
    *,
    out_dir: str | os.PathLike[str],
    min_scale: float = 0.8,
    batch_size: int = 8,
    map_dtype: torch.dtype = torch.bfloat16,
    on_error: str = "stop",
    class_names: list[str] | None = None,
    progress: bool = True,
) -> DiffCResult:
    """Train Diff-C as the paper does: fresh random crops go through the diffusion model in every epoch.

    This costs a forward pass of the diffusion model for each image and epoch (the paper's runs: 30) and no disk for
    training maps. The test images' centre crops are extracted once, into ``out_dir/test_maps``.

    Parameters
    ----------
    extractor : FeatureExtractor
        Of one layer at one timestep.
    train, test : ImageSource, str or path
        Anything `open_source` takes; images without a label are left out.
    config : DiffCConfig, optional
        The paper's settings if left out; ``augmentation="flip"`` mirrors the crops.
    out_dir : path
        As in `train_on`: a second call continues after the last whole epoch, to the same bits.
    min_scale : float
        A crop has at least this share of an image's area.
    batch_size : int
        Images of a forward pass of the diffusion model; the classifier's is ``config.batch_size``.
    map_dtype : torch.dtype
        Of the stored test maps.
    on_error : {"stop", "skip"}
        A broken image stops the training. "skip": all images are decoded once before it, and broken ones left out.
    class_names : list of str, optional
        The training source's by default.
    progress : bool
        Show progress bars.

    Raises
    ------
    ValueError
        If sources, extractor or the checkpoint in `out_dir` do not fit.
    """
    config = config or DiffCConfig()
    train = _usable(open_source(train), on_error, progress)
    test = labelled(open_source(test))
    crops = RandomCrops(extractor.image_size, min_scale, config.augmentation == "flip", config.seed)
    prompts = extractor.prompts.texts(train, cache_dir=out_dir, progress=progress)
    online = OnlineMaps(extractor, train, crops, batch_size, prompts)
    stores = extract_maps(
        extractor, test, Path(out_dir) / TEST_MAPS, batch_size=batch_size, store_dtype=map_dtype, on_error=on_error,
        progress=progress,
    )  # fmt: skip
    (store,) = stores.values()
    return train_on(
        online,
        CachedMaps(store, store.labels),
        config,
        out_dir=out_dir,
        class_names=class_names or train.class_names,
        features=feature_record(store.metadata),
        device=extractor.device,
        progress=progress,
    )


def cached_training_maps(store: MapStore, config: DiffCConfig, rows: Tensor | None = None) -> CachedMaps:
    """The maps of a store for training: its random crops, if it has any, else its one map of each image, mirrored.

    Parameters
    ----------
    store : MapStore
    config : DiffCConfig
        Crops were mirrored as images when they were cut; only single maps follow its `augmentation`.
    rows : Tensor, optional
        Int64; all rows with a label by default.
    """
    crops = store.variants()
    rows = (store.labels >= 0).nonzero().flatten() if rows is None else rows
    mirror = config.augmentation == "flip" and not crops
    return CachedMaps(crops or store, store.labels, rows=rows, mirror=mirror, seed=config.seed)


def labelled(source: ImageSource) -> ImageSource:
    """The images of a source that have a label.

    Raises
    ------
    ValueError
        If none has.
    """
    positions = [position for position, item in enumerate(source) if item.label >= 0]
    if not positions:
        raise ValueError(
            f"{source.name} has no labels: a classifier is trained on classes, give class folders or a CSV"
        )
    return source if len(positions) == len(source) else source.subset(positions)


def _usable(source: ImageSource, on_error: str, progress: bool) -> ImageSource:
    source = labelled(source)
    if on_error != "skip":
        return source
    readable = []
    for position, item in enumerate(tqdm(source, total=len(source), desc="check images", disable=not progress)):
        try:
            item.load()
        except BrokenImageError:
            continue
        readable.append(position)
    return source.subset(readable)
