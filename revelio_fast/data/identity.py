"""What an image is known by: its name in the source, an id made from the name, and digests of its bytes and pixels.

- The *name* is the key of an image within its source: the path of a file relative to the folder or the CSV file, or the
  id or row of a table; `/` between folders, Unicode NFC.
- The *id* is a 63-bit hash of the name. It does not change when other images come, go, or change their order.
- The *content* is a digest of the encoded bytes. It tells a changed file from an unchanged one without decoding it.
- The *pixel digest* is that of the 8-bit RGB square a model sees. The noise of an image is drawn from it
  (`revelio_fast.features.noise`): the same pixels get the same noise, whether they come from a file, a table, a PIL
  image or a tensor, and under whatever name.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from revelio_fast.data.errors import SourceError

if TYPE_CHECKING:
    from PIL.Image import Image

DIGEST_BYTES = 16


def normal_name(name: str) -> str:
    """The name in Unicode's composed form (NFC): file systems differ in the form that they hand out."""
    return unicodedata.normalize("NFC", name)


def image_id_of(name: str) -> int:
    """The id of a name: the upper 63 bits of its BLAKE2b digest of 64 bits."""
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big") >> 1


def image_ids_of(names: Sequence[str], source: str) -> list[int]:
    """The ids of all names of a source.

    Raises
    ------
    SourceError
        If a name comes twice, or two names have the same id.
    """
    known: dict[int, str] = {}
    for name in names:
        image_id = image_id_of(name)
        if known.get(image_id) == name:
            raise SourceError(f"{source} names the image {name!r} twice: keep one, or it would count twice.")
        if image_id in known:
            raise SourceError(
                f"{source} has images {known[image_id]!r} and {name!r} whose ids, hashes of these names, are both "
                f"{image_id}: rename one of them."
            )
        known[image_id] = name
    return list(known)


def content_of(data: bytes) -> bytes:
    """The 16-byte digest of an image's encoded bytes."""
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()


def content_of_image(image: Image) -> bytes:
    """The same for an image that has no encoded bytes: of its mode, size, palette and pixels."""
    digest = hashlib.blake2b(f"{image.mode} {image.size} {image.getpalette()}".encode(), digest_size=DIGEST_BYTES)
    digest.update(image.tobytes())
    return digest.digest()


def pixel_digest(square: np.ndarray) -> bytes:
    """The 16-byte digest of what a model sees: uint8 RGB ``[S, S, 3]``."""
    digest = hashlib.blake2b(f"{square.shape}".encode(), digest_size=DIGEST_BYTES)
    digest.update(np.ascontiguousarray(square).data)
    return digest.digest()


def pixel_digests(pixels: Tensor) -> list[bytes]:
    """`pixel_digest` of inputs that are tensors already: ``[B, 3, S, S]`` in [-1, 1], rounded to 8 bits."""
    levels: Any = ((pixels.detach().cpu().float() + 1) * 127.5).round().clamp(0, 255).byte()
    return [pixel_digest(square) for square in levels.permute(0, 2, 3, 1).numpy()]


def digest_rows(digests: Sequence[bytes]) -> Tensor:
    """Digests as they are stored: uint8 ``[N, 16]``."""
    return torch.frombuffer(bytearray(b"".join(digests)), dtype=torch.uint8).view(-1, DIGEST_BYTES)
