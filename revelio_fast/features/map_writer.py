"""The writer of a map store: appends maps to a flat file, records how far it is safe, finishes by a rename."""

from __future__ import annotations

import fcntl
import json
import os
import weakref
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import torch
from torch import Tensor

from revelio_fast.atomic import atomic_write_json

SCHEMA_VERSION = 1
KIND = "revelio_fast.map_store"
MANIFEST = "manifest.json"
MAPS = "maps.raw"
ROWS = "rows.raw"
UNFINISHED = ".part"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SYNC_BYTES = 1 << 28
SYNC_ROWS = 1024


class MapStoreError(RuntimeError):
    """A map store is missing, damaged, unfinished or was made with other settings."""


class MapWriter:
    """Appends maps; made by `extract_maps`, one per layer and timestep.

    While it is written, the folder holds ``maps.raw.part`` (the maps, row after row, native byte order) and
    ``rows.raw.part`` ((image id, label) int64 pairs); the manifest says how many rows of both are safely on disk.
    Continuing cuts off what lies beyond. Closing renames both and marks the manifest complete.
    """

    def __init__(self, folder: Path, shape: tuple[int, int, int], dtype: torch.dtype, about: dict[str, Any]):
        names = {value: key for key, value in DTYPES.items()}
        if dtype not in names:
            raise MapStoreError(f"Maps cannot be stored as {dtype}: choose one of {', '.join(DTYPES)}.")
        self.folder = folder
        self._dtype = dtype
        self._map_shape = shape
        self._row_bytes = torch.Size(shape).numel() * dtype.itemsize
        self._manifest: dict[str, Any] = {
            "kind": KIND,
            "schema_version": SCHEMA_VERSION,
            "complete": False,
            "shape": [0, *shape],
            "dtype": names[dtype],
            "about": json.loads(json.dumps(about)),
        }
        folder.mkdir(parents=True, exist_ok=True)
        self._release = weakref.finalize(self, os.close, _lock(folder))
        try:
            self._begin()
        except BaseException:
            self._release()
            raise

    def _begin(self) -> None:
        path = self.folder / MANIFEST
        if path.is_file():
            try:
                found = dict(json.loads(path.read_text(encoding="utf-8")))
            except (json.JSONDecodeError, UnicodeDecodeError, TypeError, ValueError) as error:
                raise MapStoreError(
                    f"{path} cannot be read as JSON ({error}): delete {self.folder} and extract again."
                ) from error
            self._check_same(found)
            self._manifest = found
        rows = self._manifest["shape"][0]
        if self._manifest["complete"]:
            self._reopen()
        self._rows = self._file(ROWS, rows * 16)
        self._maps = self._file(MAPS, rows * self._row_bytes)
        self._rows.seek(0)
        pairs = torch.frombuffer(bytearray(self._rows.read() or b"\0" * 16), dtype=torch.int64).view(-1, 2)
        self.done_ids: set[int] = set(pairs[:rows, 0].tolist())
        self._unsaved = 0
        self._record()

    def _reopen(self) -> None:
        """Make a finished store appendable: there may be images it does not hold."""
        self._manifest["complete"] = False
        self._record()
        for name in (MAPS, ROWS):
            if (self.folder / name).is_file():
                os.replace(self.folder / name, self.folder / (name + UNFINISHED))

    def _file(self, name: str, size: int) -> BinaryIO:
        path = self.folder / (name + UNFINISHED)
        if not path.exists() and (self.folder / name).is_file():
            os.replace(self.folder / name, path)
        file = path.open("r+b" if path.exists() else "w+b")
        found = file.seek(0, os.SEEK_END)
        if found < size:
            file.close()
            raise MapStoreError(
                f"{path} has {found} bytes but its manifest promises {size}: delete {self.folder} and extract again."
            )
        file.truncate(size)
        file.seek(size)
        return file

    def _check_same(self, found: dict[str, Any]) -> None:
        pairs = {name: (found.get(name), self._manifest[name]) for name in ("kind", "schema_version", "dtype")}
        pairs["map shape"] = (found.get("shape", [0])[1:], list(self._map_shape))
        about, wanted = found.get("about", {}), self._manifest["about"]
        pairs |= {name: (about.get(name), wanted.get(name)) for name in {*about, *wanted}}
        different = [f"{name} was {a!r}, now {b!r}" for name, (a, b) in sorted(pairs.items()) if a != b]
        if different:
            raise MapStoreError(
                f"{self.folder} already holds something else: {'; '.join(different)}. "
                "Choose another folder, delete this one, or run with the settings it was begun with."
            )

    def append(self, maps: Tensor, image_ids: Tensor, labels: Tensor) -> None:
        """Add rows: maps ``[r, C, H, W]`` of any floating dtype and device, ids and labels ``[r]``.

        Raises
        ------
        MapStoreError
            If a map holds NaN or infinity in the store's dtype; nothing of the call is kept.
        """
        if not len(image_ids):
            return
        stored = maps.detach().to("cpu", self._dtype).contiguous()
        bad = (~stored.flatten(1).isfinite()).any(1).nonzero().flatten()
        if len(bad):
            raise MapStoreError(
                f"The map of image {int(image_ids[bad[0]])} holds NaN or infinity as {self._dtype}: look at that "
                "image, or run the model and the store in float32."
            )
        self._maps.write(stored.flatten().view(torch.uint8).numpy().data)
        self._rows.write(torch.stack([image_ids, labels], dim=1).contiguous().numpy().tobytes())
        self._manifest["shape"][0] += len(image_ids)
        self._unsaved += len(image_ids)
        if self._unsaved * self._row_bytes >= SYNC_BYTES or self._unsaved >= SYNC_ROWS:
            self.sync()

    def sync(self) -> None:
        """Make the rows so far safe on disk."""
        for file in (self._maps, self._rows):
            file.flush()
            os.fsync(file.fileno())
        self._unsaved = 0
        self._record()

    def _record(self) -> None:
        atomic_write_json(self.folder / MANIFEST, self._manifest)

    def close(self) -> None:
        """Finish the store."""
        self.sync()
        self._maps.close()
        self._rows.close()
        for name in (MAPS, ROWS):
            os.replace(self.folder / (name + UNFINISHED), self.folder / name)
        self._manifest["complete"] = True
        self._record()
        self._release()

    def __enter__(self) -> MapWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.sync()
            self._maps.close()
            self._rows.close()
            self._release()


def _lock(folder: Path) -> int:
    """An advisory lock on the folder that ends with the process, however that ends."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise MapStoreError(
            f"Another process is writing to {folder}: wait for it, or choose another folder."
        ) from error
    return descriptor
