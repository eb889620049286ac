"""A thread that decodes and preprocesses the next images while the model works on the present ones.

It uses PIL and numpy only: a torch operation there would start a team of OpenMP threads of its own, and the two teams
would fight for the cores.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Container, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from revelio_fast.data.image_source import BrokenImageError, ImageItem, ImageSource
from revelio_fast.profiling import nvtx_range

if TYPE_CHECKING:
    from PIL.Image import Image


class Group(NamedTuple):
    """The images at positions ``g * batch_size ..`` of a source.

    A row of `pixels` belongs to a position, not to the n-th image that could be read: an image's feature is then
    computed in the same row of the same shape whether its neighbours were read, skipped or already done.
    """

    pixels: Tensor
    rows: list[int]
    items: list[ImageItem]
    broken: list[BrokenImageError]
    size: int


def decoded_groups(
    source: ImageSource,
    batch_size: int,
    image_size: int,
    preprocess: Callable[[Image], Tensor],
    skip_ids: Container[int],
    ahead: int = 2,
) -> Iterator[Group]:
    """Groups of images, in order, at most `ahead` of the reader; images of `skip_ids` are not decoded.

    `preprocess` gives the ``[3, image_size, image_size]`` float32 input of one image.
    """
    ready: queue.Queue[Group | BaseException | None] = queue.Queue(maxsize=ahead)
    stop = threading.Event()

    def put(thing: Group | BaseException | None) -> None:
        while not stop.is_set():
            try:
                return ready.put(thing, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for start in range(0, len(source), batch_size):
                if stop.is_set():
                    return
                positions = range(start, min(start + batch_size, len(source)))
                items = [source[p] for p in positions]
                put(_decode(items, np.zeros((batch_size, 3, image_size, image_size), np.float32), preprocess, skip_ids))
            put(None)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=work, name="revelio-decode", daemon=True)
    thread.start()
    try:
        while (thing := ready.get()) is not None:
            if isinstance(thing, BaseException):
                raise thing
            yield thing
    finally:
        stop.set()
        thread.join()


def _decode(
    items: list[ImageItem], pixels: np.ndarray, preprocess: Callable[[Image], Tensor], skip_ids: Container[int]
) -> Group:
    rows, read, broken = [], [], []
    with nvtx_range("decode"):
        for row, item in enumerate(items):
            if item.image_id in skip_ids:
                continue
            try:
                pixels[row] = preprocess(item.load()).numpy()
            except BrokenImageError as error:
                broken.append(error)
                continue
            rows.append(row)
            read.append(item)
    return Group(torch.from_numpy(pixels), rows, read, broken, len(items))
