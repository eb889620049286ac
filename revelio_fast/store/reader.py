"""The activation store as its readers see it: checked when it is opened and when rows are first read, by position."""

from __future__ import annotations

import functools
import math
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from revelio_fast.store.checks import DTYPES, StoreError
from revelio_fast.store.manifest import Manifest
from revelio_fast.store.positioned import PositionedRows
from revelio_fast.store.shard_index import read_index
from revelio_fast.store.shards import CONTENT_BYTES, check_sum
from revelio_fast.store.writer import StoreWriter

_BLOCK_BYTES = 1 << 25  # read at a time where all rows are


class Rows(NamedTuple):
    """Some rows of a store: features ``[r, *row_shape]``, image ids and labels ``[r]`` int64 (label -1: none)."""

    features: Tensor
    image_ids: Tensor
    labels: Tensor


class ActivationStore:
    """Features of one layer at one timestep for many images; open with `open`, make with `create` or `from_tensors`.

    Attributes
    ----------
    path : Path
    row_shape : tuple of int
        ``(d,)`` of pooled features, ``(C, H, W)`` of maps.
    rows : int
        Number of images (also ``len(store)``).
    dtype : torch.dtype
        As stored: float32, bfloat16 or float16.
    metadata : dict
        What the features are: model, layer, timestep, prompt, seed, class_names ...
    image_ids, labels : Tensor
        ``[rows]`` int64, in stored order; label -1 means none.
    contents : Tensor or None
        ``[rows, 16]`` uint8: the digest of each image, zeros where it is not known; None where no row has one.
    complete : bool
        False for a store whose writer has not finished (opened with ``allow_incomplete=True``).
    """

    def __init__(self, path: str | os.PathLike[str], manifest: Manifest):
        self.path = Path(path)
        self.row_shape = manifest.row_shape
        self.rows = manifest.rows
        self.dtype = DTYPES[manifest.dtype]
        self.metadata = manifest.metadata
        self.complete = manifest.complete
        self._manifest = manifest
        self._indexes = [read_index(self.path, shard, manifest) for shard in manifest.shards]
        none = torch.empty(0, dtype=torch.int64)
        self.image_ids = torch.cat([none, *(index.image_ids for index in self._indexes)])
        self.labels = torch.cat([none, *(index.labels for index in self._indexes)])
        self.contents: Tensor | None = None
        if any(index.contents is not None for index in self._indexes):
            self.contents = torch.zeros(self.rows, CONTENT_BYTES, dtype=torch.uint8)
            parts = self.contents.split([shard.rows for shard in manifest.shards])
            for part, index in zip(parts, self._indexes, strict=True):
                if index.contents is not None:
                    part.copy_(index.contents)
        self._files = PositionedRows(self.path, manifest, self._indexes)
        self._held: dict[torch.dtype, Tensor] = {}

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, allow_incomplete: bool = False) -> Self:
        """Open a store, of this version or an older one.

        The manifest, and of every shard the size, the header, the ids and the labels are checked now; features are
        compared with their checksums when they are first read, all of them by `verify`. Maps written by version 0.1
        have no checksums.

        Raises
        ------
        StoreError
            If there is no store, a shard is missing, truncated or altered, the manifest is of a newer schema, or the
            store is unfinished and `allow_incomplete` is False.
        """
        manifest = Manifest.read(Path(path))
        if not manifest.complete and manifest.raw_maps:
            raise StoreError(
                f"The maps in {path} were never finished by version 0.1: delete the folder, extract again."
            )
        if not manifest.complete and not allow_incomplete:
            raise StoreError(
                f"The store {path} is unfinished ({manifest.rows} rows so far): run the command that was writing it "
                "again, it continues there; or open it with allow_incomplete=True."
            )
        return cls(path, manifest)

    @staticmethod
    def create(
        path: str | os.PathLike[str],
        row_shape: int | tuple[int, ...],
        dtype: torch.dtype = torch.float32,
        shard_rows: int | None = None,
        **metadata: Any,
    ) -> StoreWriter:
        """Begin a store, or continue the one at `path` if it has the same shape, dtype, shards and metadata.

        Parameters
        ----------
        row_shape : int or tuple of int
            The width d of a feature, or the shape of a map.
        dtype : torch.dtype
            Stored type: float32, bfloat16 or float16.
        shard_rows : int, optional
            Rows of a shard: what a kill can cost at most. By default those of the store that is continued, or as many
            as fill 64 MiB.
        **metadata
            What the features are, as JSON values.

        Returns
        -------
        StoreWriter
            Its `done_ids` tells which images can be skipped. A store that is already complete is continued too.

        Raises
        ------
        StoreError
            If `path` holds a store with other settings, a damaged one, shards without a manifest, or another process
            is writing there.
        """
        return StoreWriter(path, row_shape, dtype, shard_rows, metadata)

    @classmethod
    def from_tensors(
        cls,
        path: str | os.PathLike[str],
        features: Tensor,
        image_ids: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        shard_rows: int | None = None,
        **metadata: Any,
    ) -> Self:
        """Write a store from tensors in memory and open it.

        Parameters
        ----------
        features : Tensor
            ``[rows, *row_shape]``; float32, bfloat16 and float16 are stored as they are, float64 as float32.
        image_ids : Tensor, optional
            ``[rows]`` distinct integers; 0, 1, ... by default.
        labels : Tensor, optional
            ``[rows]`` integers.

        Raises
        ------
        StoreError
            If `path` already holds rows, or for what `StoreWriter.append` refuses.
        """
        if features.ndim < 2:
            raise StoreError(f"features must have shape [rows, d] or [rows, C, H, W], got {list(features.shape)}.")
        dtype = torch.float32 if features.dtype == torch.float64 else features.dtype
        ids = torch.arange(features.shape[0]) if image_ids is None else image_ids
        writer = cls.create(path, tuple(features.shape[1:]), dtype, shard_rows, **metadata)
        if writer.rows:
            writer.abandon()
            raise StoreError(f"{path} already holds {writer.rows} rows: delete the folder or choose another.")
        with writer:
            writer.append(features, ids, labels)
        return cls.open(path)

    @property
    def d(self) -> int:
        """Width of a pooled feature.

        Raises
        ------
        StoreError
            If the store holds maps.
        """
        if len(self.row_shape) != 1:
            raise StoreError(
                f"The store {self.path} holds maps of shape {list(self.row_shape)}, where pooled features [rows, d] "
                "are needed: run the extraction without --maps."
            )
        return self.row_shape[0]

    @property
    def about(self) -> dict[str, Any]:
        """The old name of `metadata`, for one release."""
        warnings.warn("ActivationStore.about is called metadata now", DeprecationWarning, stacklevel=2)
        return self.metadata

    @functools.cached_property
    def names(self) -> list[str | None] | None:
        """The key of each row's image in its source, None where it has none; None where no row has one.

        Rows of a store without names are known by their image ids alone, which are positions in the source.
        """
        if all(index.names is None for index in self._indexes):
            return None
        return [name for index in self._indexes for name in index.decoded_names()]

    def __len__(self) -> int:
        return self.rows

    def __repr__(self) -> str:
        what = [f"{key}={self.metadata[key]!r}" for key in ("model", "layer", "timestep") if key in self.metadata]
        shape = f"d={self.row_shape[0]}" if len(self.row_shape) == 1 else f"row_shape={self.row_shape}"
        known = "names" if any(index.names is not None for index in self._indexes) else "positions only"
        parts = [repr(str(self.path)), f"rows={self.rows}", shape, str(self.dtype), *what, f"images by {known}"]
        return f"{type(self).__name__}({', '.join(parts)})"

    def features(self, dtype: torch.dtype | None = torch.float32) -> Tensor:
        """All features ``[rows, *row_shape]`` in memory, read once and kept; ``dtype=None`` keeps the stored type.

        The tensor is shared by all callers: do not change it in place.
        """
        wanted = dtype or self.dtype
        if wanted not in self._held:
            whole = torch.empty(self.rows, *self.row_shape, dtype=wanted)
            step = max(1, _BLOCK_BYTES // self._manifest.row_bytes)
            for start in range(0, self.rows, step):
                block = torch.arange(start, min(start + step, self.rows))
                whole[start : start + step] = self.read(block)
            self._held[wanted] = whole
        return self._held[wanted]

    @property
    def nbytes(self) -> int:
        """Bytes of all features in the stored type."""
        return self.rows * math.prod(self.row_shape) * self.dtype.itemsize

    def gather(self, rows: Tensor) -> Rows:
        """The given rows (int64 positions, any order) with float32 features."""
        held = self.held()
        features = held[rows] if held is not None else self.read(rows)
        return Rows(features.float(), self.image_ids[rows], self.labels[rows])

    def read(self, rows: Tensor) -> Tensor:
        """Features ``[r, *row_shape]`` in the stored dtype of the given rows (int64 positions, any order), from disk.

        Positioned reads in the order of the files: memory does not grow with the store, as with mapped pages it would.

        Raises
        ------
        IndexError
            For a position outside the store.
        StoreError
            If a shard was removed, cut short or altered, or cannot be read.
        """
        return self._files.read(rows)

    def held(self) -> Tensor | None:
        """The features in memory, if they are there in a type that loses nothing."""
        return self._held.get(self.dtype, self._held.get(torch.float32))

    def blocks(self, batch_size: int) -> Iterator[Rows]:
        """All rows once, in stored order, `batch_size` at a time, read from disk as they are needed."""
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
        for start in range(0, self.rows, batch_size):
            yield self.gather(torch.arange(start, min(start + batch_size, self.rows)))

    def sorted_by_id(self) -> Rows:
        """All rows in rising order of image id, in memory, features float32."""
        order = self.image_ids.argsort()
        return Rows(self.features()[order], self.image_ids[order], self.labels[order])

    def verify(self) -> None:
        """Read everything and compare checksums.

        Raises
        ------
        StoreError
            Naming the first file that is missing, truncated or altered.
        """
        for shard in self._manifest.shards:
            check_sum(self.path, shard)
