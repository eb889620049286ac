"""The writer of a store: rows in, checksummed shards out, safe against a kill at any moment."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from revelio_fast.atomic import remove_temporaries
from revelio_fast.folder_lock import FolderLock
from revelio_fast.store import schema1
from revelio_fast.store.checks import StoreError
from revelio_fast.store.incoming import check_same, checked_rows, wanted_manifest
from revelio_fast.store.manifest import FILE_NAME, Manifest
from revelio_fast.store.positioned import PositionedRows
from revelio_fast.store.shard_index import read_index
from revelio_fast.store.shards import CONTENT_BYTES, RowBlock, check_sum, write_shard


class StoreWriter:
    """Appends rows to a store; made by `ActivationStore.create`.

    Rows are held back until a shard is full. A shard is written under a temporary name, fsynced, renamed and only
    then listed in the manifest, so a kill loses at most the rows held back. `flush` saves those as well, in a
    ``partial-*`` file that the full shard replaces later: shard boundaries depend on the number of rows alone, and
    the files of an interrupted and resumed run are byte-identical to those of an undisturbed one.

    Used as a context manager, a normal exit closes the store and marks it complete; an exception flushes the rows
    held back and leaves the store unfinished, to be continued later.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        row_shape: int | tuple[int, ...],
        dtype: torch.dtype,
        shard_rows: int | None,
        metadata: dict[str, Any],
    ):
        self.path = Path(path)
        self._closed = False
        wanted = wanted_manifest(row_shape, dtype, shard_rows, metadata)
        if self.path.exists() and not self.path.is_dir():
            raise StoreError(f"{self.path} is a file: give a folder for the store.")
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self._lock = FolderLock(self.path)
        except BlockingIOError as error:
            raise StoreError(str(error)) from None
        try:
            self._begin(wanted, fixed_shards=shard_rows is not None)
        except BaseException:
            self._lock.release()
            raise

    def _begin(self, wanted: Manifest, fixed_shards: bool) -> None:
        self._pending: list[RowBlock] = []
        self._pending_rows = 0
        self._done: set[int] = set()
        if (self.path / FILE_NAME).exists():
            self._manifest = Manifest.read(self.path)
            check_same(self.path, self._manifest, wanted, fixed_shards)
            self._load_done()
        else:
            self._refuse_shards_without_manifest()
            self._manifest = wanted
            wanted.write(self.path)
        self._known = set(self._done)
        self._remove_strays()

    def _load_done(self) -> None:
        shards, size = self._manifest.shards, self._manifest.shard_rows
        if self._manifest.raw_maps and not self._manifest.complete:
            raise StoreError(
                f"{self.path} holds maps that version 0.1 began to write; this version cannot finish them. "
                "Choose another folder, or delete this one."
            )
        indexes = [read_index(self.path, shard, self._manifest) for shard in shards]
        for number, (shard, index) in enumerate(zip(shards, indexes, strict=True)):
            if shard.index_crc32 is None:
                check_sum(self.path, shard)
            self._done.update(index.image_ids.tolist())
            if shard.rows < size and number != len(shards) - 1:
                raise StoreError(f"The shard {self.path / shard.file} is short but not the last: extract again.")
        if shards and shards[-1].rows < size:
            rows, index = shards[-1].rows, indexes[-1]
            places = torch.arange(self._manifest.rows - rows, self._manifest.rows)
            features = PositionedRows(self.path, self._manifest, indexes).read(places)
            contents = torch.zeros(rows, CONTENT_BYTES, dtype=torch.uint8) if index.contents is None else index.contents
            self._pending = [RowBlock(features, index.image_ids, index.labels, index.decoded_names(), contents)]
            self._pending_rows = rows

    def _refuse_shards_without_manifest(self) -> None:
        for pattern in ("shard-*", "partial-*", f"{schema1.MAPS}*", f"{schema1.PAIRS}*"):
            for left in sorted(self.path.glob(pattern)):
                raise StoreError(
                    f"{self.path} holds data of a store, {left.name} for one, but no {FILE_NAME}: restore it from a "
                    "copy, choose another folder, or delete the files yourself if they are not needed."
                )

    def _remove_strays(self) -> None:
        """Remove what a kill left: temporary files, and the shard that it wrote but did not list."""
        listed = {shard.file for shard in self._manifest.shards}
        next_shard = f"shard-{self._full_shards():05d}.safetensors"
        strays = [path for path in self.path.glob("shard-*.safetensors") if path.name not in listed]
        for path in strays:
            if path.name != next_shard:
                raise StoreError(
                    f"{path} is not listed in {FILE_NAME}, which is older than the file or belongs to another store: "
                    "restore the right manifest from a copy, or delete the file yourself if it is not needed."
                )
        for path in [*strays, *self.path.glob("partial-*.safetensors")]:
            if path.name not in listed:
                path.unlink()
        remove_temporaries(self.path)

    def _full_shards(self) -> int:
        return sum(shard.rows == self._manifest.shard_rows for shard in self._manifest.shards)

    @property
    def done_ids(self) -> set[int]:
        """Image ids of the rows that are safe on disk (a copy)."""
        return set(self._done)

    @property
    def rows(self) -> int:
        """Rows appended so far, on disk or held back."""
        return len(self._known)

    def append(
        self,
        features: Tensor,
        image_ids: Tensor,
        labels: Tensor | None = None,
        names: Sequence[str | None] | None = None,
        contents: Tensor | None = None,
    ) -> None:
        """Add rows, in the order given.

        Parameters
        ----------
        features : Tensor
            ``[r, *row_shape]`` floating point, on any device; converted to the store's dtype.
        image_ids : Tensor
            ``[r]`` integers, each new to this store.
        labels : Tensor, optional
            ``[r]`` integers; -1 (also the default) means none.
        names : sequence of str or None, optional
            The key of each image in its source.
        contents : Tensor, optional
            ``[r, 16]`` uint8: a digest of each image; zeros mean none.

        Raises
        ------
        StoreError
            For a wrong shape or dtype, an image id already stored, or a feature that is NaN or infinite (or becomes
            so in a float16 store). Nothing of the call is kept then.
        """
        if self._closed:
            raise StoreError(f"The writer of {self.path} is closed: create it again to append.")
        block = checked_rows(self.path, self._manifest, features, image_ids, labels, names, contents)
        new = block.image_ids.tolist()
        seen = self._known
        if len(set(new)) != len(new) or not seen.isdisjoint(new):
            repeated = sorted({i for n, i in enumerate(new) if i in seen or i in new[:n]})
            raise StoreError(
                f"Image id {repeated[0]} is already in {self.path} (or twice in this batch): "
                "skip the ids of `done_ids` when resuming, and give each image its own id."
            )
        if not new:
            return
        if self._manifest.raw_maps:
            raise StoreError(
                f"{self.path} holds maps in the format of version 0.1: they can be read, but nothing can be added. "
                "Choose another folder, or delete this one."
            )
        self._known.update(new)
        self._pending.append(block)
        self._pending_rows += len(new)
        if self._pending_rows >= self._manifest.shard_rows:
            self._write_full_shards()

    def _write_full_shards(self) -> None:
        size = self._manifest.shard_rows
        rows = RowBlock.joined(self._pending)
        self._make_way(rows)
        full = self._pending_rows // size * size
        for start in range(0, full, size):
            self._put("shard", rows.part(start, start + size))
        # Joined, the rest has memory of its own and does not keep the shards'.
        self._pending = [RowBlock.joined([rows.part(full)])]
        self._pending_rows -= full

    def _make_way(self, rows: RowBlock) -> None:
        """Rename a finished store's short last shard, whose name the next shard takes, by writing a partial one."""
        last = self._manifest.shards[-1] if self._manifest.shards else None
        if last is not None and last.file.startswith("shard-") and last.rows < self._manifest.shard_rows:
            self._put("partial", rows.part(0, last.rows))

    def _put(self, kind: str, rows: RowBlock, complete: bool = False) -> None:
        """Write a shard that begins where the full shards end, in place of the partial one if there is one."""
        full = self._full_shards()
        replaced = self._manifest.shards[full:]
        count = f"-{len(rows.image_ids)}" if kind == "partial" else ""
        name = f"{kind}-{full:05d}{count}.safetensors"
        shard = write_shard(self.path, name, rows, self._manifest.block_rows)
        self._manifest.shards = [*self._manifest.shards[:full], shard]
        self._manifest.complete = complete
        self._manifest.write(self.path)
        for old in replaced:
            if old.file != shard.file:
                (self.path / old.file).unlink(missing_ok=True)
        self._done.update(rows.image_ids.tolist())

    def flush(self) -> None:
        """Save the rows held back, too. Costs writing the unfinished shard whole: not for every batch."""
        if self._closed or not self._pending_rows or len(self._done) == len(self._known):
            return
        self._put("partial", RowBlock.joined(self._pending))

    def close(self) -> None:
        """Write the last shard and mark the store complete. Closing twice does nothing."""
        if self._closed:
            return
        unchanged = self._manifest.complete and len(self._done) == len(self._known)
        if self._pending_rows and not unchanged:
            rows = RowBlock.joined(self._pending)
            self._make_way(rows)
            self._put("shard", rows, complete=True)
        elif not unchanged:
            self._manifest.complete = True
            self._manifest.write(self.path)
        self._let_go()

    def abandon(self) -> None:
        """Save the rows held back and let go of the store without marking it complete."""
        if self._closed:
            return
        try:
            self.flush()
        finally:
            self._let_go()

    def _let_go(self) -> None:
        self._closed = True
        self._pending = []
        self._lock.release()

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            with contextlib.suppress(OSError):
                self.abandon()
