"""The writer of a store: rows in, checksummed shards out, safe against a kill at any moment."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import weakref
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from revelio_fast.store.manifest import DTYPES, FILE_NAME, Manifest, StoreError
from revelio_fast.store.shards import check_sum, map_shard, write_shard

NO_LABEL = -1


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
        self, path: str | os.PathLike[str], d: int, dtype: torch.dtype, shard_rows: int, about: dict[str, Any]
    ):
        self.path = Path(path)
        self._closed = False
        wanted = _wanted(d, dtype, shard_rows, about)
        if self.path.exists() and not self.path.is_dir():
            raise StoreError(f"{self.path} is a file: give a folder for the store.")
        self.path.mkdir(parents=True, exist_ok=True)
        self._release = weakref.finalize(self, os.close, _lock(self.path))
        try:
            self._begin(wanted)
        except BaseException:
            self._release()
            raise

    def _begin(self, wanted: Manifest) -> None:
        self._pending: list[tuple[Tensor, Tensor, Tensor]] = []
        self._pending_rows = 0
        self._done: set[int] = set()
        if (self.path / FILE_NAME).exists():
            self._manifest = Manifest.read(self.path)
            _check_same(self.path, self._manifest, wanted)
            self._load_done()
        else:
            self._manifest = wanted
            wanted.write(self.path)
        self._known = set(self._done)
        self._remove_strays()

    def _load_done(self) -> None:
        for number, shard in enumerate(self._manifest.shards):
            check_sum(self.path, shard)
            features, image_ids, labels = map_shard(self.path, shard, self._manifest)
            self._done.update(image_ids.tolist())
            if shard.rows < self._manifest.shard_rows:
                if number != len(self._manifest.shards) - 1:
                    raise StoreError(f"The shard {self.path / shard.file} is short but not the last: extract again.")
                self._pending.append((features.clone(), image_ids.clone(), labels.clone()))
                self._pending_rows = shard.rows

    def _remove_strays(self) -> None:
        listed = {shard.file for shard in self._manifest.shards}
        for pattern in ("shard-*.safetensors", "partial-*.safetensors", ".*.tmp"):
            for path in self.path.glob(pattern):
                if path.name not in listed:
                    path.unlink()

    @property
    def done_ids(self) -> set[int]:
        """Image ids of the rows that are safe on disk (a copy)."""
        return set(self._done)

    @property
    def rows(self) -> int:
        """Rows appended so far, on disk or held back."""
        return len(self._known)

    def append(self, features: Tensor, image_ids: Tensor, labels: Tensor | None = None) -> None:
        """Add rows, in the order given.

        Parameters
        ----------
        features : Tensor
            ``[r, d]`` floating point, on any device; converted to the store's dtype.
        image_ids : Tensor
            ``[r]`` integers, each new to this store.
        labels : Tensor, optional
            ``[r]`` integers; -1 (also the default) means none.

        Raises
        ------
        StoreError
            For a wrong shape or dtype, an image id already stored, or a feature that is NaN or infinite (or becomes
            so in a float16 store). Nothing of the call is kept then.
        """
        if self._closed:
            raise StoreError(f"The writer of {self.path} is closed: create it again to append.")
        features, image_ids, labels = self._checked(features, image_ids, labels)
        new = image_ids.tolist()
        seen = self._known
        if len(set(new)) != len(new) or not seen.isdisjoint(new):
            repeated = sorted({i for n, i in enumerate(new) if i in seen or i in new[:n]})
            raise StoreError(
                f"Image id {repeated[0]} is already in {self.path} (or twice in this batch): "
                "skip the ids of `done_ids` when resuming, and give each image its own id."
            )
        if not new:
            return
        self._known.update(new)
        self._pending.append((features, image_ids, labels))
        self._pending_rows += len(new)
        if self._pending_rows >= self._manifest.shard_rows:
            self._write_full_shards()

    def _checked(self, features: Tensor, image_ids: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        d = self._manifest.d
        if features.ndim != 2 or features.shape[1] != d or not features.is_floating_point():
            raise StoreError(
                f"The store {self.path} takes floating-point features of shape [rows, {d}], "
                f"got {features.dtype} of shape {list(features.shape)}."
            )
        rows = features.shape[0]
        image_ids = _integers(torch.as_tensor(image_ids), rows, "image_ids")
        labels = torch.full((rows,), NO_LABEL) if labels is None else _integers(torch.as_tensor(labels), rows, "labels")
        stored = features.detach().to("cpu", DTYPES[self._manifest.dtype], copy=True)
        bad = (~stored.isfinite()).any(1).nonzero().flatten()
        if len(bad):
            ids = ", ".join(str(int(image_ids[i])) for i in bad[:5]) + (" ..." if len(bad) > 5 else "")
            finite = features.detach()[bad.to(features.device)].isfinite().all()
            cause = (
                f"is too large for {self._manifest.dtype}: make the store bfloat16 or float32"
                if finite
                else "holds NaN or infinity: look at that image, or run the model in float32"
            )
            raise StoreError(f"The feature of image {ids} {cause}. Nothing of this batch was stored.")
        return stored, image_ids, labels

    def _write_full_shards(self) -> None:
        size = self._manifest.shard_rows
        features, image_ids, labels = self._joined()
        full = features.shape[0] // size * size
        for start in range(0, full, size):
            part = slice(start, start + size)
            self._put("shard", features[part], image_ids[part], labels[part])
        self._pending = [(features[full:].clone(), image_ids[full:].clone(), labels[full:].clone())]
        self._pending_rows = features.shape[0] - full

    def _joined(self) -> tuple[Tensor, Tensor, Tensor]:
        features, image_ids, labels = (torch.cat(parts) for parts in zip(*self._pending, strict=True))
        return features, image_ids, labels

    def _put(self, kind: str, features: Tensor, image_ids: Tensor, labels: Tensor, complete: bool = False) -> None:
        """Write a shard that begins where the full shards end, in place of the partial one if there is one."""
        size = self._manifest.shard_rows
        full = [shard for shard in self._manifest.shards if shard.rows == size]
        partial = self._manifest.shards[len(full) :]
        rows = f"-{features.shape[0]}" if kind == "partial" else ""
        shard = write_shard(self.path, f"{kind}-{len(full):05d}{rows}.safetensors", features, image_ids, labels)
        self._manifest.shards = [*full, shard]
        self._manifest.complete = complete
        self._manifest.write(self.path)
        for old in partial:
            if old.file != shard.file:
                (self.path / old.file).unlink(missing_ok=True)
        self._done.update(image_ids.tolist())

    def flush(self) -> None:
        """Save the rows held back, too. Costs writing the unfinished shard whole: not for every batch."""
        if self._closed or not self._pending_rows or len(self._done) == len(self._known):
            return
        self._put("partial", *self._joined())

    def close(self) -> None:
        """Write the last shard and mark the store complete. Closing twice does nothing."""
        if self._closed:
            return
        last = self._manifest.shards[-1] if self._manifest.shards else None
        unchanged = self._manifest.complete and len(self._done) == len(self._known)
        if self._pending_rows and not unchanged:
            if last is not None and last.file.startswith("shard-") and last.rows < self._manifest.shard_rows:
                self._put("partial", *self._joined())
            self._put("shard", *self._joined(), complete=True)
        elif not unchanged:
            self._manifest.complete = True
            self._manifest.write(self.path)
        self._closed = True
        self._pending = []
        self._release()

    def abandon(self) -> None:
        """Save the rows held back and let go of the store without marking it complete."""
        if self._closed:
            return
        try:
            self.flush()
        finally:
            self._closed = True
            self._pending = []
            self._release()

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


def _wanted(d: int, dtype: torch.dtype, shard_rows: int, about: dict[str, Any]) -> Manifest:
    names = {value: key for key, value in DTYPES.items()}
    if dtype not in names:
        raise StoreError(f"A store cannot hold {dtype}: choose one of {', '.join(DTYPES)}.")
    if d < 1 or shard_rows < 1:
        raise StoreError(f"d and shard_rows must be at least 1, got d={d}, shard_rows={shard_rows}.")
    try:
        about = json.loads(json.dumps(about))
    except (TypeError, ValueError) as error:
        raise StoreError(f"What a store says of itself must be plain JSON values: {error}.") from error
    return Manifest(about=about, d=int(d), dtype=names[dtype], shard_rows=int(shard_rows))


def _check_same(path: Path, found: Manifest, wanted: Manifest) -> None:
    pairs = {name: (getattr(found, name), getattr(wanted, name)) for name in ("d", "dtype", "shard_rows")}
    for name in {*found.about, *wanted.about}:
        pairs[name] = (found.about.get(name), wanted.about.get(name))
    different = [f"{name} was {old!r}, now {new!r}" for name, (old, new) in sorted(pairs.items()) if old != new]
    if different:
        raise StoreError(
            f"{path} already holds another store: {'; '.join(different)}. "
            "Choose another folder, delete this one, or run with the settings it was begun with."
        )


def _integers(values: Tensor, rows: int, name: str) -> Tensor:
    if values.shape != (rows,) or values.is_floating_point() or values.is_complex():
        raise StoreError(f"{name} must be {rows} integers, got {values.dtype} of shape {list(values.shape)}.")
    return values.detach().to("cpu", torch.int64, copy=True)


def _lock(path: Path) -> int:
    """Hold an advisory lock on the folder; the system lets go of it when the process ends, however it ends."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise StoreError(f"Another process is writing to {path}: wait for it, or choose another folder.") from error
    except OSError:
        # Some network file systems know no locks; writing there works all the same, only unguarded.
        return descriptor
    return descriptor
