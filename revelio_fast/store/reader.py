"""The activation store as its readers see it: checked at opening, read by position, shuffled in whole batches."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from revelio_fast.store.manifest import DTYPES, Manifest, StoreError
from revelio_fast.store.memory import available_memory
from revelio_fast.store.positioned import PositionedRows
from revelio_fast.store.shards import check_sum, map_shard
from revelio_fast.store.writer import StoreWriter

_BLOCK = 4096  # rows read at a time where all are


class Rows(NamedTuple):
    """Some rows of a store: features ``[r, d]``, image ids and labels ``[r]`` int64 (label -1: none)."""

    features: Tensor
    image_ids: Tensor
    labels: Tensor


class ActivationStore:
    """Features of one layer at one timestep for many images; open with `open`, make with `create` or `from_tensors`.

    Attributes
    ----------
    path : Path
    d : int
        Width of a feature.
    rows : int
        Number of images (also ``len(store)``).
    dtype : torch.dtype
        As stored: float32, bfloat16 or float16.
    about : dict
        What the features are: model, layer, timestep, prompt, seed, class_names ...
    image_ids, labels : Tensor
        ``[rows]`` int64, in stored order; label -1 means none.
    complete : bool
        False for a store whose writer has not finished (opened with ``allow_incomplete=True``).
    """

    def __init__(self, path: str | os.PathLike[str], manifest: Manifest):
        self.path = Path(path)
        self.d = manifest.d
        self.rows = manifest.rows
        self.dtype = DTYPES[manifest.dtype]
        self.about = manifest.about
        self.complete = manifest.complete
        self._manifest = manifest
        ids, labels = [torch.empty(0, dtype=torch.int64)], [torch.empty(0, dtype=torch.int64)]
        for shard in manifest.shards:
            _, shard_ids, shard_labels = map_shard(self.path, shard, manifest)
            ids.append(shard_ids.clone())
            labels.append(shard_labels.clone())
        self.image_ids, self.labels = torch.cat(ids), torch.cat(labels)
        self._files = PositionedRows(self.path, manifest)
        self._held: dict[torch.dtype, Tensor] = {}

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, allow_incomplete: bool = False) -> ActivationStore:
        """Open a store; checks the manifest and the size, shape and dtype of every shard, but not checksums.

        Raises
        ------
        StoreError
            If there is no store, a shard is missing, truncated or of another shape, the manifest is of a newer
            schema, or the store is unfinished and `allow_incomplete` is False.
        """
        manifest = Manifest.read(Path(path))
        if not manifest.complete and not allow_incomplete:
            raise StoreError(
                f"The store {path} is unfinished ({manifest.rows} rows so far): run the command that was writing it "
                "again, it continues there; or open it with allow_incomplete=True."
            )
        return cls(path, manifest)

    @staticmethod
    def create(
        path: str | os.PathLike[str],
        d: int,
        dtype: torch.dtype = torch.float32,
        shard_rows: int = 65_536,
        **about: Any,
    ) -> StoreWriter:
        """Begin a store, or continue the one at `path` if it has the same `d`, `dtype`, `shard_rows` and `about`.

        Parameters
        ----------
        d : int
            Width of a feature.
        dtype : torch.dtype
            Stored type: float32, bfloat16 or float16.
        shard_rows : int
            Rows of a shard: what a kill can cost at most.
        **about
            What the features are, as JSON values.

        Returns
        -------
        StoreWriter
            Its `done_ids` tells which images can be skipped. A store that is already complete is continued too.

        Raises
        ------
        StoreError
            If `path` holds a store with other settings, a damaged one, or another process is writing there.
        """
        return StoreWriter(path, d, dtype, shard_rows, about)

    @classmethod
    def from_tensors(
        cls,
        path: str | os.PathLike[str],
        features: Tensor,
        image_ids: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        shard_rows: int = 65_536,
        **about: Any,
    ) -> ActivationStore:
        """Write a store from tensors in memory and open it.

        Parameters
        ----------
        features : Tensor
            ``[rows, d]``; float32, bfloat16 and float16 are stored as they are, float64 as float32.
        image_ids : Tensor, optional
            ``[rows]`` distinct integers; 0, 1, ... by default.
        labels : Tensor, optional
            ``[rows]`` integers.

        Raises
        ------
        StoreError
            If `path` already holds rows, or for what `StoreWriter.append` refuses.
        """
        if features.ndim != 2:
            raise StoreError(f"features must have shape [rows, d], got {list(features.shape)}.")
        dtype = torch.float32 if features.dtype == torch.float64 else features.dtype
        ids = torch.arange(features.shape[0]) if image_ids is None else image_ids
        writer = cls.create(path, features.shape[1], dtype, shard_rows, **about)
        if writer.rows:
            writer.abandon()
            raise StoreError(f"{path} already holds {writer.rows} rows: delete the folder or choose another.")
        with writer:
            writer.append(features, ids, labels)
        return cls.open(path)

    def __len__(self) -> int:
        return self.rows

    def __repr__(self) -> str:
        about = ", ".join(f"{key}={self.about[key]!r}" for key in ("model", "layer", "timestep") if key in self.about)
        return f"ActivationStore({str(self.path)!r}, rows={self.rows}, d={self.d}, {self.dtype}{about and ', '}{about})"

    def features(self, dtype: torch.dtype | None = torch.float32) -> Tensor:
        """All features ``[rows, d]`` in memory, read once and kept; ``dtype=None`` keeps the stored type.

        The tensor is shared by all callers: do not change it in place.
        """
        wanted = dtype or self.dtype
        if wanted not in self._held:
            whole = torch.empty(self.rows, self.d, dtype=wanted)
            for start in range(0, self.rows, _BLOCK):
                block = torch.arange(start, min(start + _BLOCK, self.rows))
                whole[start : start + _BLOCK] = self.read(block)
            self._held[wanted] = whole
        return self._held[wanted]

    def gather(self, rows: Tensor) -> Rows:
        """The given rows (int64 positions, any order) with float32 features."""
        return Rows(self._gather_features(rows), self.image_ids[rows], self.labels[rows])

    def _gather_features(self, rows: Tensor) -> Tensor:
        held = self.held()
        return (held[rows] if held is not None else self.read(rows)).float()

    def read(self, rows: Tensor) -> Tensor:
        """Features ``[r, d]`` in the stored dtype of the given rows (int64 positions, any order), from the files.

        Positioned reads in the order of the files: memory does not grow with the store, as with mapped pages it would.

        Raises
        ------
        IndexError
            For a position outside the store.
        StoreError
            If a shard was removed, cut short or cannot be read.
        """
        return self._files.read(rows)

    def held(self) -> Tensor | None:
        """The features in memory, if they are there in a type that loses nothing."""
        return self._held.get(self.dtype, self._held.get(torch.float32))

    def blocks(self, batch_size: int) -> Iterator[Rows]:
        """All rows once, in stored order, `batch_size` at a time, read from disk as they are needed."""
        _positive("batch_size", batch_size)
        for start in range(0, self.rows, batch_size):
            yield self.gather(torch.arange(start, min(start + batch_size, self.rows)))

    def batches(
        self,
        batch_size: int,
        seed: int,
        *,
        drop_last: bool = False,
        epochs: int | None = None,
        start_batch: int = 0,
    ) -> Iterator[Rows]:
        """Shuffled batches, one permutation per epoch, the same for the same (seed, rows, batch_size).

        Parameters
        ----------
        batch_size : int
            Rows of a batch; a store with fewer rows gives all of them each time (unless `drop_last`).
        seed : int
            Non-negative; every epoch's permutation follows from (seed, epoch).
        drop_last : bool
            Leave out an epoch's last, shorter batch.
        epochs : int, optional
            Stop after so many; endless by default.
        start_batch : int
            Skip so many batches, counted from the first of epoch 0, without reading them: resumes a run.

        Yields
        ------
        Rows
            ``(features [r, d] float32, image_ids [r], labels [r])``.
        """
        _positive("batch_size", batch_size)
        if start_batch < 0:
            raise ValueError(f"start_batch must not be negative, got {start_batch}.")
        per_epoch = self.rows // batch_size if drop_last else -(-self.rows // batch_size)
        if per_epoch == 0:
            raise StoreError(
                f"The store {self.path} has {self.rows} rows: too few for a batch of {batch_size}"
                f"{' with drop_last=True' if drop_last and self.rows else ''}. Lower the batch size or extract more."
            )
        return self._shuffled(batch_size, seed, per_epoch, epochs, start_batch)

    def _shuffled(self, size: int, seed: int, per_epoch: int, epochs: int | None, start: int) -> Iterator[Rows]:
        if self.held() is None and self._fits_in_memory():
            self.features(dtype=None)
        epoch, first = divmod(start, per_epoch)
        while epochs is None or epoch < epochs:
            order = torch.randperm(self.rows, generator=_generator(seed, epoch))
            for batch in range(first, per_epoch):
                yield self.gather(order[batch * size : (batch + 1) * size])
            epoch, first = epoch + 1, 0

    def _fits_in_memory(self) -> bool:
        """Whether the stored features take at most half of the memory that is available now."""
        return self.rows * self.d * self.dtype.itemsize <= available_memory() // 2

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


def _generator(seed: int, epoch: int) -> torch.Generator:
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}.")
    state = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))


def _positive(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}.")
