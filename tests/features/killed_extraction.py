"""Run as a process by test_resume.py, which kills it: extracts slowly to stores or to maps."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from revelio_fast.data import ImageSource, open_source
from revelio_fast.features import FeatureExtractor, extract_maps, extract_to_store

SHARD_ROWS = 5
BATCH_SIZE = 3


def make_extractor(model: Path) -> FeatureExtractor:
    return FeatureExtractor.from_pretrained(model, ["bottleneck", "up_ft1"], [25, 200], seed=7)


def run(what: str, model: Path, source: ImageSource, out: Path) -> None:
    extractor = make_extractor(model)
    write = extract_maps if what == "maps" else extract_to_store
    write(extractor, source, out, batch_size=BATCH_SIZE, shard_rows=SHARD_ROWS, progress=False)


def slowed(source: ImageSource) -> ImageSource:
    def opener(position: int) -> bytes:
        time.sleep(0.15)
        return Path(source[position].path).read_bytes()

    return ImageSource(
        source.name,
        source.names,
        list(source.labels.values()),
        lambda position: source[position].path,
        opener,
        source.class_names,
    )


if __name__ == "__main__":
    what, model, pictures, out = sys.argv[1:]
    run(what, Path(model), slowed(open_source(pictures)), Path(out))
