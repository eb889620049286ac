"""The manifest of a store: what it holds, in which shards, with which checksums."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from revelio_fast.atomic import atomic_write_json

SCHEMA_VERSION = 1
KIND = "revelio_fast.activation_store"
FILE_NAME = "manifest.json"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class StoreError(RuntimeError):
    """A store is missing, damaged or used against its contract; the message names the file and the fix."""


@dataclass(frozen=True)
class Shard:
    """One file of a store: its name, number of rows, size in bytes and SHA-256."""

    file: str
    rows: int
    bytes: int
    sha256: str


@dataclass
class Manifest:
    """The contents of ``manifest.json``.

    Attributes
    ----------
    about : dict
        What the features are (model, layer, timestep, prompt, seed, class_names ...), as JSON values.
    d : int
        Width of a feature.
    dtype : str
        ``"float32"``, ``"bfloat16"`` or ``"float16"``.
    shard_rows : int
        Rows of every shard but the last.
    complete : bool
        Whether the writer finished.
    shards : list of Shard
        In row order. While a store is being written its last shard may be a ``partial-*`` file.
    """

    about: dict[str, Any]
    d: int
    dtype: str
    shard_rows: int
    complete: bool = False
    shards: list[Shard] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)

    def write(self, folder: Path) -> None:
        """Replace the manifest in `folder` atomically."""
        atomic_write_json(
            folder / FILE_NAME,
            {
                "kind": KIND,
                "schema_version": SCHEMA_VERSION,
                "complete": self.complete,
                "rows": self.rows,
                "d": self.d,
                "dtype": self.dtype,
                "shard_rows": self.shard_rows,
                "about": self.about,
                "shards": [vars(shard) for shard in self.shards],
            },
        )

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read and check the manifest of `folder`.

        Raises
        ------
        StoreError
            If there is none, it is not JSON, not a store's, of a newer schema, or its fields contradict.
        """
        path = folder / FILE_NAME
        if not folder.is_dir():
            raise StoreError(f"There is no activation store at {folder}: the folder does not exist.")
        if not path.is_file():
            raise StoreError(
                f"{folder} is not an activation store: it has no {FILE_NAME}. "
                "Give the folder of one layer and timestep, as `revelio-fast extract` writes it."
            )
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise StoreError(
                f"{path} cannot be read as JSON ({error}). "
                "Restore it from a copy, or delete the store and extract again."
            ) from error
        if not isinstance(raw, dict) or raw.get("kind") != KIND:
            raise StoreError(f'{path} does not describe an activation store (its "kind" is not {KIND!r}).')
        version = raw.get("schema_version")
        if version != SCHEMA_VERSION:
            raise StoreError(
                f"{path} has schema version {version!r}, this revelio_fast reads version {SCHEMA_VERSION}. "
                "Update revelio_fast, or extract the features again."
            )
        try:
            manifest = cls(
                about=dict(raw["about"]),
                d=int(raw["d"]),
                dtype=str(raw["dtype"]),
                shard_rows=int(raw["shard_rows"]),
                complete=bool(raw["complete"]),
                shards=[Shard(s["file"], int(s["rows"]), int(s["bytes"]), s["sha256"]) for s in raw["shards"]],
            )
            rows = int(raw["rows"])
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(
                f"{path} lacks a field or has a wrong one ({error!r}). Restore it from a copy, or extract again."
            ) from error
        manifest._check(path, rows)
        return manifest

    def _check(self, path: Path, rows: int) -> None:
        if self.dtype not in DTYPES:
            raise StoreError(f"{path} names the dtype {self.dtype!r}; known are {', '.join(DTYPES)}.")
        if self.rows != rows:
            raise StoreError(
                f"{path} says {rows} rows but its shards add up to {self.rows}: it was edited or is damaged. "
                "Restore it from a copy, or extract again."
            )
        for shard in self.shards:
            if Path(shard.file).name != shard.file:
                raise StoreError(f"{path} lists the shard {shard.file!r}, which lies outside the store.")
