"""One shard file: what it holds, writing it, and checking it as a whole.

A shard is a safetensors file. Besides ``features [rows, *row_shape]`` it holds one entry a row of ``image_ids`` and
``labels`` (the smallest integer type that holds them) and, where they are known, of ``names`` (UTF-8, one after the
other), ``name_lengths`` (in bytes, -1 for none) and ``contents`` (16 bytes, zeros for none); and ``block_crc32``, the
CRC-32 of the features of each block of rows, as int32.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from revelio_fast.atomic import atomic_write_bytes
from revelio_fast.store.checks import FIX, StoreError, unreadable
from revelio_fast.store.manifest import Shard

CONTENT_BYTES = 16


class RowBlock(NamedTuple):
    """Rows on their way into a shard.

    Attributes
    ----------
    features : Tensor
        ``[rows, *row_shape]`` in the stored dtype.
    image_ids, labels : Tensor
        ``[rows]`` int64.
    names : list of str or None
    contents : Tensor
        ``[rows, 16]`` uint8.
    """

    features: Tensor
    image_ids: Tensor
    labels: Tensor
    names: list[str | None]
    contents: Tensor

    def part(self, start: int, stop: int | None = None) -> RowBlock:
        """Some of the rows."""
        rows = slice(start, stop)
        return RowBlock(
            self.features[rows], self.image_ids[rows], self.labels[rows], self.names[rows], self.contents[rows]
        )

    @staticmethod
    def joined(parts: Sequence[RowBlock]) -> RowBlock:
        """The rows of all parts, in memory of their own."""
        return RowBlock(
            torch.cat([part.features for part in parts]),
            torch.cat([part.image_ids for part in parts]),
            torch.cat([part.labels for part in parts]),
            [name for part in parts for name in part.names],
            torch.cat([part.contents for part in parts]),
        )


def write_shard(folder: Path, name: str, rows: RowBlock, block_rows: int) -> Shard:
    """Write one shard atomically and return its manifest entry."""
    features = rows.features.contiguous()
    tensors = {
        "features": features,
        "image_ids": _narrow(rows.image_ids),
        "labels": _narrow(rows.labels),
        "block_crc32": _block_checksums(features, block_rows),
    }
    if any(each is not None for each in rows.names):
        encoded = [None if each is None else each.encode("utf-8", "surrogateescape") for each in rows.names]
        text = b"".join(filter(None, encoded)) or b"\0"
        tensors["names"] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        tensors["name_lengths"] = _narrow(torch.tensor([-1 if each is None else len(each) for each in encoded]))
    if bool(rows.contents.any()):
        tensors["contents"] = rows.contents
    data = save({key: value.contiguous() for key, value in tensors.items()})
    atomic_write_bytes(folder / name, data)
    start, stop = _features_range(data)
    index_crc32 = zlib.crc32(memoryview(data)[stop:], zlib.crc32(memoryview(data)[:start]))
    return Shard(name, len(features), len(data), hashlib.sha256(data).hexdigest(), index_crc32)


def _narrow(values: Tensor) -> Tensor:
    """The same integers in the smallest type that holds them; as int64, ids and labels would add 2.5 % to d = 320."""
    low, high = (int(values.min()), int(values.max())) if len(values) else (0, 0)
    for dtype in (torch.int8, torch.int16, torch.int32):
        if torch.iinfo(dtype).min <= low and high <= torch.iinfo(dtype).max:
            return values.to(dtype)
    return values


def bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor."""
    return memoryview(tensor.flatten().view(torch.uint8).numpy().data).cast("B")


def _block_checksums(features: Tensor, block_rows: int) -> Tensor:
    data, size = bytes_of(features), block_rows * features[0].nbytes
    found = [zlib.crc32(data[start : start + size]) for start in range(0, len(data), size)]
    return torch.from_numpy(np.array(found, dtype=np.uint32).view(np.int32))


def _features_range(data: bytes) -> tuple[int, int]:
    length = int.from_bytes(data[:8], "little")
    first, last = json.loads(data[8 : 8 + length])["features"]["data_offsets"]
    return 8 + length + first, 8 + length + last


def check_size(folder: Path, shard: Shard) -> None:
    """Raise StoreError if the file is missing or has another size than its manifest entry."""
    path = folder / shard.file
    try:
        if not path.is_file():
            raise StoreError(f"The shard {path} is missing. {FIX}")
        size = path.stat().st_size
    except OSError as error:
        raise StoreError("The shard " + unreadable(path, error.errno)) from error
    if size != shard.bytes:
        what = "truncated" if size < shard.bytes else "altered"
        raise StoreError(f"The shard {path} is {what}: {size} bytes instead of {shard.bytes}. {FIX}")


def refuse_unreadable(folder: Path, shard: Shard, error: int | None) -> NoReturn:
    """Raise StoreError for a shard that could not be read while it was in use: `error` is errno, None for its end."""
    check_size(folder, shard)
    raise StoreError("The shard " + unreadable(folder / shard.file, error))


def check_sum(folder: Path, shard: Shard) -> None:
    """Raise StoreError if the file's SHA-256 is not that of its manifest entry."""
    check_size(folder, shard)
    if shard.sha256 is None:
        return
    try:
        with open(folder / shard.file, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        refuse_unreadable(folder, shard, error.errno)
    if found != shard.sha256:
        raise StoreError(
            f"The shard {folder / shard.file} was altered: its SHA-256 is {found[:12]}..., "
            f"the manifest says {shard.sha256[:12]}.... {FIX}"
        )
