"""Images decoded and preprocessed a second, by workers: python -m bench decode-images FOLDER [--workers 0 1 2 4]

Threads are those of an extraction (`revelio_fast.data.prefetch`); processes are those of torch's DataLoader, forked,
over the same images and to the same pixels. Nothing else runs: this is what a model can be fed at most.
"""

from __future__ import annotations

import argparse
import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bench.measure import Variant, compare, stamp, warn_if_busy, write_json
from revelio_fast.data import ImageSource, open_source
from revelio_fast.data.prefetch import decoded_groups, default_workers
from revelio_fast.data.preprocess import image_to_tensor, model_input


class Pixels(Dataset[Tensor]):
    """The model's inputs of a source, as torch's DataLoader takes them."""

    def __init__(self, source: ImageSource, size: int):
        self._source = source
        self._size = size

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, position: int) -> Tensor:
        return image_to_tensor(self._source[position].load(), self._size)


def by_threads(source: ImageSource, size: int, batch_size: int, workers: int) -> Tensor:
    """Mean of each image, decoded as an extraction does."""
    preprocess = functools.partial(model_input, size=size)
    groups = decoded_groups(source, batch_size, size, preprocess, (), workers)
    return torch.cat([group.pixels[group.rows].mean((1, 2, 3)) for group in groups])


def by_processes(source: ImageSource, size: int, batch_size: int, workers: int) -> Tensor:
    """The same through torch's DataLoader."""
    loader = DataLoader(
        Pixels(source, size), batch_size, num_workers=workers, multiprocessing_context="fork" if workers else None
    )
    return torch.cat([pixels.mean((1, 2, 3)) for pixels in loader])


def main(arguments: list[str]) -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(prog="python -m bench decode-images", description=__doc__)
    parser.add_argument("folder", help="anything that open_source takes; real photos")
    parser.add_argument("--workers", type=int, nargs="+", default=sorted({0, 1, 2, default_workers()}))
    parser.add_argument("--images", type=int, default=512, help="how many, spread evenly over the source")
    parser.add_argument("--size", type=int, default=512, help="side of the model's input in pixels")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where to write the rows and the stamp")
    options = parser.parse_args(arguments)
    source = open_source(options.folder, limit=options.images)
    ways: dict[str, Variant] = {}
    for workers in options.workers:
        for name, way in (("threads", by_threads), ("DataLoader processes", by_processes)):
            if workers or way is by_threads:
                label = f"{workers} {name}" if workers else "main thread"
                ways[label] = functools.partial(way, source, options.size, options.batch_size, workers)
    about = stamp(options.repeats)
    warn_if_busy(about)
    shape = f"{len(source)} images of {source.name} to {options.size} px"
    rows: list[dict[str, Any]] = compare("decode-images", shape, ways, options.repeats)
    print(f"{shape}, {about['cores']} cores, medians of {options.repeats}")
    for row in rows:
        row["images_per_s"] = len(source) / row["median_s"]
        print(f"{row['impl']:<24}{row['images_per_s']:>9.0f} images/s{row['ratio']:>8.2f}x{row['max_rel_err']:>10.1e}")
    if options.json:
        write_json(options.json, {"stamp": about, "rows": rows})
