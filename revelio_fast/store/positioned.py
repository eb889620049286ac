"""Rows of a store straight from its shards by positioned reads: nothing stays mapped, and damage is a sentence."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor

from revelio_fast.ops import cpu_runtime
from revelio_fast.store.manifest import DTYPES, Manifest
from revelio_fast.store.shards import features_start, refuse_unreadable

FILE_ENDED = -1


class PositionedRows:
    """Reads rows ``[r, d]`` in the stored dtype; memory and open files do not grow with the store.

    The rows of one request are read in the order of the files, neighbours together, and all of them are announced to
    the disk before the first is waited for. By csrc/store/read_rows.cpp, without a Python call per row; where the
    extension is not built, by a loop here.
    """

    def __init__(self, folder: Path, manifest: Manifest):
        self._folder, self._shards = folder, manifest.shards
        self._d, self._dtype = manifest.d, DTYPES[manifest.dtype]
        self._paths = [str(folder / shard.file) for shard in manifest.shards]
        self._bases = torch.tensor([features_start(folder / shard.file) for shard in manifest.shards])
        self._starts = torch.tensor([0, *(shard.rows for shard in manifest.shards)]).cumsum(0)

    def read(self, rows: Tensor) -> Tensor:
        """The rows at these int64 positions, in their order.

        Raises
        ------
        IndexError
            For a position outside the store.
        StoreError
            If a shard is missing, truncated or cannot be read.
        """
        out = torch.empty(len(rows), self._d, dtype=self._dtype)
        if not len(rows):
            return out
        ordered, places = rows.to("cpu", torch.int64).sort()
        total = int(self._starts[-1])
        for wrong in (int(ordered[0]), int(ordered[-1])):
            if not 0 <= wrong < total:
                raise IndexError(f"rows must lie in [0, {total}), got {wrong}")
        shard, error = self._read(ordered, places, out)
        if error:
            refuse_unreadable(self._folder, self._shards[shard], None if error == FILE_ENDED else error)
        return out

    def _read(self, ordered: Tensor, places: Tensor, out: Tensor) -> tuple[int, int]:
        """Fill `out`; the shard that could not be read and why: errno, or -1 where it ended too early, or 0."""
        row_bytes = self._d * self._dtype.itemsize
        native_read = getattr(cpu_runtime.load(), "read_rows", None) if not cpu_runtime.unavailable() else None
        if native_read is not None:
            return native_read(
                self._paths, bases=self._bases, starts=self._starts, rows=ordered, places=places, out=out,
                count=len(ordered), row_bytes=row_bytes,
            )  # fmt: skip
        pieces = memoryview(out.view(torch.uint8).numpy().data).cast("B")
        shards = (torch.searchsorted(self._starts, ordered, right=True) - 1).tolist()
        offsets = (self._bases[shards] + (ordered - self._starts[shards]) * row_bytes).tolist()
        open_shard, descriptor = -1, -1
        try:
            for shard, offset, place in zip(shards, offsets, places.tolist(), strict=True):
                if shard != open_shard:
                    if descriptor >= 0:
                        os.close(descriptor)
                    open_shard, descriptor = shard, -1
                    descriptor = os.open(self._paths[shard], os.O_RDONLY)
                piece = pieces[place * row_bytes : (place + 1) * row_bytes]
                while len(piece):
                    got = os.preadv(descriptor, [piece], offset)
                    if not got:
                        return shard, FILE_ENDED
                    piece, offset = piece[got:], offset + got
        except OSError as error:
            return open_shard, error.errno or FILE_ENDED
        finally:
            if descriptor >= 0:
                os.close(descriptor)
        return -1, 0
