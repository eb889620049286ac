"""All that a shard holds besides the features, read and checked when a store is opened."""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from revelio_fast.store import schema1
from revelio_fast.store.checks import DTYPES, FIX, StoreError
from revelio_fast.store.manifest import Manifest, Shard
from revelio_fast.store.shards import CONTENT_BYTES, check_size, refuse_unreadable

_HEADER_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
_INTEGERS = {"U8": np.uint8, "I8": np.int8, "I16": np.int16, "I32": np.int32, "I64": np.int64}


class ShardIndex(NamedTuple):
    """All that a shard holds but the features.

    Attributes
    ----------
    start : int
        Byte of the file at which the features begin.
    image_ids, labels : Tensor
        ``[rows]`` int64.
    names : tuple or None
        The bytes of all names and their lengths ``[rows]``.
    contents : Tensor or None
        ``[rows, 16]`` uint8.
    block_crc32 : list of int or None
        None in schema 1.
    """

    start: int
    image_ids: Tensor
    labels: Tensor
    names: tuple[bytes, np.ndarray] | None = None
    contents: Tensor | None = None
    block_crc32: list[int] | None = None

    def decoded_names(self) -> list[str | None]:
        """The name of each row."""
        if self.names is None:
            return [None] * len(self.image_ids)
        text, lengths = self.names
        ends = np.maximum(lengths, 0).cumsum().tolist()
        return [
            text[end - length : end].decode("utf-8", "surrogateescape") if length >= 0 else None
            for end, length in zip(ends, lengths.tolist(), strict=True)
        ]


def read_index(folder: Path, shard: Shard, manifest: Manifest) -> ShardIndex:
    """Read and check all of a shard but its features.

    Raises
    ------
    StoreError
        If the file is missing, of another size, altered, or does not hold what the manifest says.
    """
    check_size(folder, shard)
    if manifest.raw_maps:
        return ShardIndex(0, *schema1.read_pairs(folder, shard.rows))
    path = folder / shard.file
    try:
        with open(path, "rb") as file:
            head = file.read(8)
            length = int.from_bytes(head, "little")
            if length > shard.bytes - 8:
                raise _Unfit("it is not a safetensors file")
            head += file.read(length)
            tensors = _Tensors(head[8:], shard.bytes - 8 - length)
            start, stop = (8 + length + place for place in tensors.features(shard, manifest))
            before = file.read(start - len(head))
            file.seek(stop)
            after = file.read()
    except OSError as error:
        refuse_unreadable(folder, shard, error.errno)
    except _Unfit as error:
        raise StoreError(f"The shard {path} does not hold what the manifest says: {error}. {FIX}") from None
    if shard.index_crc32 not in (None, zlib.crc32(after, zlib.crc32(before, zlib.crc32(head)))):
        raise StoreError(f"The shard {path} was altered: its ids, labels or checksums do not match the manifest. {FIX}")
    try:
        return tensors.index(start, stop, before, after, shard, manifest)
    except _Unfit as error:
        raise StoreError(f"The shard {path} does not hold what the manifest says: {error}. {FIX}") from None


class _Unfit(ValueError):
    """What a shard holds is not what it should."""


class _Tensors:
    """The header of a safetensors file, whose data has `size` bytes."""

    def __init__(self, header: bytes, size: int):
        self._size, self._header_end = size, 8 + len(header)
        try:
            self._entries = json.loads(header)
        except (ValueError, RecursionError):
            raise _Unfit("it is not a safetensors file") from None
        if not isinstance(self._entries, dict):
            raise _Unfit("it is not a safetensors file")

    def entry(self, name: str) -> tuple[Any, tuple[int, ...], int, int]:
        """Dtype, shape, first and last byte of a tensor."""
        try:
            found = self._entries[name]
            shape, (first, last) = tuple(found["shape"]), found["data_offsets"]
            whole = all(type(value) is int and value >= 0 for value in (*shape, first, last))
        except (KeyError, TypeError, ValueError):
            raise _Unfit(f"it has no {name}") from None
        if not whole or not first <= last <= self._size:
            raise _Unfit(f"its {name} lie outside the file")
        return found.get("dtype"), shape, first, last

    def features(self, shard: Shard, manifest: Manifest) -> tuple[int, int]:
        """Where the features lie, after the header."""
        dtype, shape, first, last = self.entry("features")
        wanted = (shard.rows, *manifest.row_shape)
        if shape != wanted:
            raise _Unfit(f"its features have shape {list(shape)}, the manifest says {list(wanted)}")
        if not isinstance(dtype, str) or _HEADER_DTYPES.get(dtype) != manifest.dtype:
            raise _Unfit(f"its features are {dtype}, the manifest says {manifest.dtype}")
        if last - first != math.prod(wanted) * DTYPES[manifest.dtype].itemsize:
            raise _Unfit("its features lie outside the file")
        return first, last

    def index(self, start: int, stop: int, before: bytes, after: bytes, shard: Shard, manifest: Manifest) -> ShardIndex:
        """The other tensors, from the bytes before and after the features."""
        end = self._header_end

        def integers(name: str, shape: tuple[int, ...]) -> np.ndarray:
            dtype, found, first, last = self.entry(name)
            kind = _INTEGERS.get(dtype) if isinstance(dtype, str) else None
            if kind is None:
                raise _Unfit(f"its {name} are no integers")
            if found != shape or last - first != math.prod(shape) * np.dtype(kind).itemsize:
                raise _Unfit(f"it does not hold one of the {name} for each row")
            if end + last <= start:
                data = before[first:last]
            elif end + first >= stop:
                data = after[end + first - stop : end + last - stop]
            else:
                raise _Unfit(f"its {name} lie among its features")
            return np.frombuffer(data, kind).reshape(shape)

        rows = (shard.rows,)
        ids, labels = (torch.from_numpy(integers(name, rows).astype(np.int64)) for name in ("image_ids", "labels"))
        names = contents = checksums = None
        if "names" in self._entries:
            lengths = integers("name_lengths", rows).astype(np.int64)
            size = max(1, int(np.maximum(lengths, 0).sum()))
            names = integers("names", (size,)).tobytes(), lengths
        if "contents" in self._entries:
            contents = torch.from_numpy(integers("contents", (*rows, CONTENT_BYTES)).copy())
        if shard.index_crc32 is not None:
            blocks = -(-shard.rows // manifest.block_rows)
            checksums = integers("block_crc32", (blocks,)).astype(np.int32).view(np.uint32).tolist()
        return ShardIndex(start, ids, labels, names, contents, checksums)
