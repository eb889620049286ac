"""One image decoded: from a file, from the bytes in a table's cell, or as PIL has it already; upright, size checked."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from revelio_fast.data.identity import content_of, content_of_image
from revelio_fast.data.preprocess import upright

if TYPE_CHECKING:
    from PIL.Image import Image

Encoded: TypeAlias = "bytes | str | os.PathLike[str] | Image"
"""What a source hands out: the encoded bytes, the file that holds them, or an image that has none."""

FORMATS = ("jpg", "jpeg", "jfif", "png", "webp", "avif", "bmp", "gif", "tif", "tiff", "ppm", "pgm", "jp2")
"""Endings of the files that a folder is searched for; of animations and stacks, the first picture is used."""


class Decoded(NamedTuple):
    """An upright image in whatever mode it is stored, and the digest of its encoded bytes."""

    image: Image
    content: bytes


def decode(encoded: Encoded) -> Decoded:
    """Decode one image; raises what `unreadable` lists."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(encoded, Image.Image):
        _check_size(encoded)
        encoded.load()
        return Decoded(upright(encoded), content_of_image(encoded))
    data = encoded if isinstance(encoded, bytes) else Path(encoded).read_bytes()
    try:
        opened = Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        # Pillow's own words name a buffer by its address, which is another in every run.
        raise OSError("it is no image in a format that Pillow reads") from None
    with opened as image:
        _check_size(image)
        image.load()
        return Decoded(upright(image), content_of(data))


def content_digest(encoded: Encoded) -> bytes:
    """The content that `decode` would return; files and bytes are not decoded for it."""
    from PIL import Image

    if isinstance(encoded, Image.Image):
        encoded.load()
        return content_of_image(encoded)
    return content_of(encoded if isinstance(encoded, bytes) else Path(encoded).read_bytes())


def unreadable() -> tuple[type[BaseException], ...]:
    """The errors that mean: this image is broken, too large, or none."""
    from PIL.Image import DecompressionBombError, DecompressionBombWarning

    return (
        OSError, SyntaxError, ValueError, EOFError, struct.error, DecompressionBombError, DecompressionBombWarning
    )  # fmt: skip


def _check_size(image: Image) -> None:
    from PIL import Image as PilImage

    limit, (width, height) = PilImage.MAX_IMAGE_PIXELS, image.size
    if limit is not None and width * height > limit:
        raise ValueError(
            f"it has {width} x {height} pixels, more than the limit of {limit:,} that guards against files made to "
            "fill the memory (PIL.Image.MAX_IMAGE_PIXELS; set it higher, or to None, for images that you trust)"
        )
