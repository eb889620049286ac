"""`fill`: an extraction's batches go to one writer per layer and timestep, in a thread that writes meanwhile."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from typing import Any

from revelio_fast.data import ImageSource
from revelio_fast.features.extractor import FeatureBatch, FeatureExtractor, Key
from revelio_fast.profiling import nvtx_range
from revelio_fast.store import Background, StoreWriter

FLUSH_SECONDS = 60.0


def fill(extractor: FeatureExtractor, source: ImageSource, writers: Mapping[Key, StoreWriter], **options: Any) -> None:
    """Extract what the writers lack of a source; `options` are those of `FeatureExtractor.stream`.

    All that was computed is given to the writers before this returns or raises; what they hold back is saved once a
    minute.
    """
    done = {key: frozenset(writer.done_ids) for key, writer in writers.items()}
    saved = time.monotonic()

    def save(batch: FeatureBatch) -> None:
        nonlocal saved
        with nvtx_range("store"):
            for key, writer in writers.items():
                _append(writer, batch, key, done[key])
            if time.monotonic() - saved > FLUSH_SECONDS:
                for writer in writers.values():
                    writer.flush()
                saved = time.monotonic()

    with Background("revelio-write") as writing:
        for batch in extractor.stream(source, skip_ids=frozenset.intersection(*done.values()), **options):
            writing.submit(functools.partial(save, batch))


def _append(writer: StoreWriter, batch: FeatureBatch, key: Key, done: frozenset[int]) -> None:
    rows = [row for row, image_id in enumerate(batch.image_ids.tolist()) if image_id not in done]
    names = [batch.names[row] for row in rows]
    features, contents = batch.features[key].cpu()[rows], batch.contents[rows]
    writer.append(features, batch.image_ids[rows], batch.labels[rows], names, contents)
