"""`fill`: an extraction's batches go to one writer per layer and timestep, from a thread that writes meanwhile."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from revelio_fast.data import ImageSource, SourceError
from revelio_fast.features.extractor import FeatureBatch, FeatureExtractor, Key
from revelio_fast.profiling import nvtx_range
from revelio_fast.store import Background


class Writer(Protocol):
    """What `fill` uses of a store's writer."""

    @property
    def done_ids(self) -> set[int]: ...

    def append(self, features: Tensor, image_ids: Tensor, labels: Tensor) -> None: ...


def fill(
    extractor: FeatureExtractor,
    source: ImageSource,
    writers: Mapping[Key, Writer],
    *,
    after_batch: Callable[[], None] = lambda: None,
    **options: Any,
) -> None:
    """Extract what the writers lack of a source; `options` are those of `FeatureExtractor.stream`.

    All that was computed is written before this returns or raises. `after_batch` runs in the writing thread.

    Raises
    ------
    SourceError
        If a writer holds images that the source does not have.
    """
    done = {key: frozenset(writer.done_ids) for key, writer in writers.items()}
    for (layer, timestep), ids in done.items():
        if foreign := ids.difference(source.image_ids):
            raise SourceError(
                f"The features of {layer} at t={timestep} that are there already are of {len(ids)} images, and "
                f"{len(foreign)} of those are not among the {len(source)} of {source.name}: they were removed, renamed "
                "or left out by another limit since, or the features come from a version that numbered images by "
                "position. Choose another folder, or extract again from the start (resume=False)."
            )

    def save(batch: FeatureBatch) -> None:
        with nvtx_range("store"):
            for key, writer in writers.items():
                new = torch.tensor([image_id not in done[key] for image_id in batch.image_ids.tolist()])
                writer.append(batch.features[key].cpu()[new], batch.image_ids[new], batch.labels[new])
            after_batch()

    with Background("revelio-write") as writing:
        for batch in extractor.stream(source, skip_ids=frozenset.intersection(*done.values()), **options):
            writing.submit(functools.partial(save, batch))
