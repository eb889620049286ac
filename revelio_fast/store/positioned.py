"""Rows of a store straight from its shards by positioned reads: nothing stays mapped, and damage is a sentence."""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from revelio_fast.ops import cpu_runtime
from revelio_fast.store.checks import DTYPES, FIX, StoreError
from revelio_fast.store.manifest import Manifest
from revelio_fast.store.shard_index import ShardIndex
from revelio_fast.store.shards import bytes_of, check_sum, refuse_unreadable

FILE_ENDED = -1
CHECKED_TOGETHER = 1 << 25  # bytes of blocks that are read for their checksums alone at a time


class PositionedRows:
    """Reads rows ``[r, *row_shape]`` in the stored dtype; memory and open files do not grow with the store.

    The rows of one request are read in the order of the files, neighbours together, and all of them are announced to
    the disk before the first is waited for. By csrc/store/read_rows.cpp, without a Python call per row; where the
    extension is not built, by a loop here.

    A block of rows is compared with its checksum when the first of them is read: from the rows asked for where they
    are the whole block, else the block is read once more. In a shard of schema 1 the block is the whole file.
    """

    def __init__(self, folder: Path, manifest: Manifest, indexes: Sequence[ShardIndex]):
        self._folder, self._shards, self._indexes = folder, manifest.shards, indexes
        self._row_shape, self._dtype = manifest.row_shape, DTYPES[manifest.dtype]
        self._row_bytes, self._block_rows = manifest.row_bytes, manifest.block_rows
        self._paths = [str(folder / shard.file) for shard in manifest.shards]
        self._bases = torch.tensor([index.start for index in indexes], dtype=torch.int64)
        self._starts = _cumulated([shard.rows for shard in manifest.shards])
        self._first_rows = self._starts.tolist()
        rows_of_blocks = [
            shard.rows if index.block_crc32 is None else manifest.block_rows
            for shard, index in zip(manifest.shards, indexes, strict=True)
        ]
        self._rows_of_blocks = torch.tensor(rows_of_blocks, dtype=torch.int64)
        self._first_blocks = _cumulated(
            [-(-shard.rows // rows) for shard, rows in zip(manifest.shards, rows_of_blocks, strict=True)]
        )
        self._unchecked = torch.ones(int(self._first_blocks[-1]), dtype=torch.bool)
        if manifest.raw_maps:
            self._unchecked.zero_()

    def read(self, rows: Tensor) -> Tensor:
        """The rows at these int64 positions, in their order.

        Raises
        ------
        IndexError
            For a position outside the store.
        StoreError
            If a shard is missing, truncated, altered or cannot be read.
        """
        out = torch.empty(len(rows), *self._row_shape, dtype=self._dtype)
        if not len(rows):
            return out
        ordered, places = rows.to("cpu", torch.int64).sort()
        total = int(self._starts[-1])
        for wrong in (int(ordered[0]), int(ordered[-1])):
            if not 0 <= wrong < total:
                raise IndexError(f"rows must lie in [0, {total}), got {wrong}")
        self._fill(ordered, places, out)
        self._check(ordered, places, out)
        return out

    def _fill(self, ordered: Tensor, places: Tensor, out: Tensor) -> None:
        shard, error = self._read(ordered, places, out)
        if error in (errno.EMFILE, errno.ENFILE):
            shard, error = self._read_one_by_one(ordered, places, out)
        if error:
            refuse_unreadable(self._folder, self._shards[shard], None if error == FILE_ENDED else error)

    def _read(self, ordered: Tensor, places: Tensor, out: Tensor) -> tuple[int, int]:
        """Fill `out`; the shard that could not be read and why: errno, or -1 where it ended too early, or 0."""
        native_read = getattr(cpu_runtime.load(), "read_rows", None) if not cpu_runtime.unavailable() else None
        if native_read is None:
            return self._read_one_by_one(ordered, places, out)
        return native_read(
            self._paths, bases=self._bases, starts=self._starts, rows=ordered, places=places, out=out,
            count=len(ordered), row_bytes=self._row_bytes,
        )  # fmt: skip

    def _read_one_by_one(self, ordered: Tensor, places: Tensor, out: Tensor) -> tuple[int, int]:
        """As `_read`, in Python, with one file open at a time."""
        size = self._row_bytes
        pieces = bytes_of(out)
        shards = self._shards_of(ordered)
        offsets = (self._bases[shards] + (ordered - self._starts[shards]) * size).tolist()
        open_shard, descriptor = -1, -1
        try:
            for shard, offset, place in zip(shards.tolist(), offsets, places.tolist(), strict=True):
                if shard != open_shard:
                    if descriptor >= 0:
                        os.close(descriptor)
                    open_shard, descriptor = shard, -1
                    descriptor = os.open(self._paths[shard], os.O_RDONLY)
                piece = pieces[place * size : (place + 1) * size]
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

    def _shards_of(self, ordered: Tensor) -> Tensor:
        return torch.searchsorted(self._starts, ordered, right=True) - 1

    def _check(self, ordered: Tensor, places: Tensor, out: Tensor) -> None:
        """Compare the blocks that the rows lie in with their checksums, those that were not compared before."""
        if not self._unchecked.any():
            return
        shards = self._shards_of(ordered)
        blocks = self._first_blocks[shards] + (ordered - self._starts[shards]) // self._rows_of_blocks[shards]
        blocks = blocks[self._unchecked[blocks]].unique_consecutive()
        if not len(blocks):
            return
        shards = torch.searchsorted(self._first_blocks, blocks, right=True) - 1
        starts = self._starts[shards] + (blocks - self._first_blocks[shards]) * self._rows_of_blocks[shards]
        stops = torch.minimum(starts + self._rows_of_blocks[shards], self._starts[shards + 1])
        # A block that was asked for whole lies in `out` as in the file: no break between its first and last row.
        breaks = torch.zeros(len(ordered), dtype=torch.int64)
        breaks[1:] = ((ordered.diff() != 1) | (places.diff() != 1)).cumsum(0)
        low, high = torch.searchsorted(ordered, starts), torch.searchsorted(ordered, stops) - 1
        whole = (high - low == stops - starts - 1) & (breaks[low] == breaks[high])
        data, size = bytes_of(out), self._row_bytes
        again = []
        columns = (shards, starts, stops, places[low], whole)
        for shard, start, stop, place, is_whole in zip(*(column.tolist() for column in columns), strict=True):
            if self._indexes[shard].block_crc32 is None:
                check_sum(self._folder, self._shards[shard])
            elif is_whole:
                self._compare(shard, start, stop, data[place * size : (place + stop - start) * size])
            else:
                again.append((shard, start, stop))
        for part in _batched(again, max(1, CHECKED_TOGETHER // (self._block_rows * size))):
            rows = torch.cat([torch.arange(start, stop) for _, start, stop in part])
            read = torch.empty(len(rows), size, dtype=torch.uint8)
            self._fill(rows, torch.arange(len(rows)), read)
            data, at = bytes_of(read), 0
            for shard, start, stop in part:
                self._compare(shard, start, stop, data[at : (at := at + (stop - start) * size)])
        self._unchecked[blocks] = False

    def _compare(self, shard: int, start: int, stop: int, data: memoryview) -> None:
        checksums, first = self._indexes[shard].block_crc32, self._first_rows[shard]
        assert checksums is not None
        if zlib.crc32(data) != checksums[(start - first) // self._block_rows]:
            raise StoreError(
                f"The shard {self._paths[shard]} was altered: its rows {start - first} to {stop - first - 1} do not "
                f"match their checksum. {FIX}"
            )


def _cumulated(counts: list[int]) -> Tensor:
    return torch.tensor([0, *counts], dtype=torch.int64).cumsum(0)


def _batched(items: list[tuple[int, int, int]], size: int) -> Iterator[list[tuple[int, int, int]]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
