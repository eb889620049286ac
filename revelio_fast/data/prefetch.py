"""Threads that decode and preprocess the next images while the model works on the present ones.

Threads, not processes: PIL decodes, converts and resizes without holding Python's lock, and threads need no copy of the
source, no pickling, and no fork of a process that may hold a CUDA context or a team of OpenMP threads
(`python -m bench decode-images FOLDER` compares both). They use PIL and numpy only: a torch operation would start a
team of OpenMP threads of its own in each of them, and the teams would fight for the cores.
"""

from __future__ import annotations

import functools
import os
from collections import deque
from collections.abc import Callable, Container, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from revelio_fast.data.errors import BrokenImageError
from revelio_fast.data.image_source import ImageItem, ImageSource
from revelio_fast.data.preprocess import ModelInput
from revelio_fast.profiling import nvtx_range

if TYPE_CHECKING:
    from PIL.Image import Image

Preprocess = Callable[["Image"], ModelInput]
MOST_WORKERS = 8
GROUPS_AHEAD = 2


def default_workers() -> int:
    """Decoding threads where none are asked for: one for each core this process may use, at most 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MOST_WORKERS, cores)


class Group(NamedTuple):
    """The images at positions ``g * batch_size ..`` of a source.

    A row of `pixels` belongs to a position, not to the n-th image that could be read: an image's feature is then
    computed in the same row of the same shape whether its neighbours were read, skipped or already done.
    """

    pixels: Tensor
    """float32 ``[batch_size, 3, S, S]``."""
    rows: list[int]
    """Rows of `pixels` that hold an image; those that follow are of these images, in the same order."""
    items: list[ImageItem]
    contents: list[bytes]
    """Digests of their encoded bytes, 16 bytes each."""
    digests: list[bytes]
    """Digests of their pixels."""
    broken: list[BrokenImageError]
    size: int
    """Images of the source that the group stands for."""


def decoded_groups(
    source: ImageSource,
    batch_size: int,
    image_size: int,
    preprocess: Preprocess,
    skip_ids: Container[int],
    workers: int | None = None,
) -> Iterator[Group]:
    """Groups of images, in the source's order; images of `skip_ids` are not decoded.

    Parameters
    ----------
    preprocess : callable
        Gives the ``[3, image_size, image_size]`` float32 input of one image and its digest. Called from several
        threads.
    workers : int, optional
        Decoding threads; `default_workers` if None, and 0 decodes in the calling thread, when a group is asked for.
        At most two groups, or two images for each thread if that is more, are decoded ahead of the caller.

    Raises
    ------
    ValueError
        If `workers` is negative.
    """
    workers = default_workers() if workers is None else workers
    if workers < 0:
        raise ValueError(f"workers must be at least 0 (decode in the main thread), got {workers}.")
    return _groups(source, batch_size, image_size, preprocess, skip_ids, workers)


def _groups(
    source: ImageSource,
    batch_size: int,
    image_size: int,
    preprocess: Preprocess,
    skip_ids: Container[int],
    workers: int,
) -> Iterator[Group]:
    positions = iter(range(0, len(source), batch_size))
    ahead = max(GROUPS_AHEAD, -(-2 * workers // batch_size)) if workers else 0
    waiting: deque[_Pending] = deque()
    pool = ThreadPoolExecutor(workers, "revelio-decode") if workers else None
    try:
        while True:
            while len(waiting) <= ahead and (start := next(positions, None)) is not None:
                pixels = np.zeros((batch_size, 3, image_size, image_size), np.float32)
                items = [source[p] for p in range(start, min(start + batch_size, len(source)))]
                waiting.append(_Pending(pool, items, pixels, preprocess, skip_ids))
            if not waiting:
                return
            yield waiting.popleft().group()
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)


class _Pending:
    """A group on its way: `_wait` finishes the image of a row, which a thread of the pool may have begun."""

    def __init__(
        self,
        pool: ThreadPoolExecutor | None,
        items: list[ImageItem],
        pixels: np.ndarray,
        preprocess: Preprocess,
        skip_ids: Container[int],
    ):
        self._items = items
        self._pixels = pixels
        self._preprocess = preprocess
        wanted = [row for row, item in enumerate(items) if item.image_id not in skip_ids]
        self._wait: dict[int, Callable[[], tuple[bytes, bytes]]] = {
            row: functools.partial(self._decode, row) if pool is None else pool.submit(self._decode, row).result
            for row in wanted
        }

    def _decode(self, row: int) -> tuple[bytes, bytes]:
        with nvtx_range("decode"):
            image, content = self._items[row].decode()
            self._pixels[row], digest = self._preprocess(image)
        return content, digest

    def group(self) -> Group:
        """The group, once its images are decoded; raises what decoding raised, unless an image is just broken."""
        found: dict[int, tuple[bytes, bytes]] = {}
        broken: list[BrokenImageError] = []
        for row, wait in self._wait.items():
            try:
                found[row] = wait()
            except BrokenImageError as error:
                broken.append(error)
        return Group(
            torch.from_numpy(self._pixels),
            list(found),
            [self._items[row] for row in found],
            [content for content, _ in found.values()],
            [digest for _, digest in found.values()],
            broken,
            len(self._items),
        )
