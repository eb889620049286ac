"""The manifest of a store: what it holds, in which shards, with which checksums."""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from revelio_fast.atomic import atomic_write_json
from revelio_fast.store import schema1
from revelio_fast.store.checks import (
    DTYPES,
    FIX,
    StoreError,
    WrongField,
    dtype_name,
    entry,
    shape_of,
    unreadable,
    whole,
)

SCHEMA_VERSION = 2
KIND = "revelio_fast.activation_store"
FILE_NAME = "manifest.json"
BLOCK_BYTES = 32_768
_SHARD_NAME = re.compile(r"(shard|partial)-\d+(-\d+)?\.safetensors")


@dataclass(frozen=True)
class Shard:
    """One file of a store.

    Attributes
    ----------
    file : str
    rows : int
    bytes : int
    sha256 : str or None
        Of the whole file; None for the maps of a schema-1 map store, which has no checksums.
    index_crc32 : int or None
        CRC-32 of all bytes but the features, checked when the store is opened; None in schema 1.
    """

    file: str
    rows: int
    bytes: int
    sha256: str | None
    index_crc32: int | None = None


@dataclass
class Manifest:
    """The contents of ``manifest.json``.

    Attributes
    ----------
    metadata : dict
        What the features are (model, layer, timestep, prompt, seed, class_names ...), as JSON values.
    row_shape : tuple of int
        Of one row: ``(d,)`` of pooled features, ``(C, H, W)`` of maps.
    dtype : str
        ``"float32"``, ``"bfloat16"`` or ``"float16"``.
    shard_rows : int
        Rows of every shard but the last.
    block_rows : int
        Rows that share a checksum: of about 32 KiB, at least one.
    complete : bool
        Whether the writer finished.
    shards : list of Shard
        In row order. While a store is being written its last shard may be a ``partial-*`` file.
    raw_maps : bool
        Whether this is a map store of schema 1: one file ``maps.raw``, which nothing can be appended to.
    """

    metadata: dict[str, Any]
    row_shape: tuple[int, ...]
    dtype: str
    shard_rows: int
    block_rows: int
    complete: bool = False
    shards: list[Shard] = field(default_factory=list)
    raw_maps: bool = False

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)

    @property
    def row_bytes(self) -> int:
        return math.prod(self.row_shape) * DTYPES[self.dtype].itemsize

    def write(self, folder: Path) -> None:
        """Replace the manifest in `folder` atomically."""
        content = {
            "kind": KIND,
            "schema_version": SCHEMA_VERSION,
            "complete": self.complete,
            "rows": self.rows,
            "row_shape": list(self.row_shape),
            "dtype": self.dtype,
            "shard_rows": self.shard_rows,
            "block_rows": self.block_rows,
            "metadata": self.metadata,
            "shards": [asdict(shard) for shard in self.shards],
        }
        atomic_write_json(folder / FILE_NAME, {**content, "sha256": content_digest(content)})

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read and check the manifest of `folder`, of this schema or an older one.

        Raises
        ------
        StoreError
            If there is none, it is not JSON, not a store's, of a newer schema, altered, or its fields contradict.
        """
        path = folder / FILE_NAME
        content = _read_content(folder, path)
        kind, version = content.get("kind"), content.get("schema_version")
        if kind not in (KIND, schema1.MAP_KIND):
            raise StoreError(f'{path} does not describe an activation store (its "kind" is not {KIND!r}).')
        if type(version) is not int or not 1 <= version <= SCHEMA_VERSION:
            raise StoreError(
                f"{path} has schema version {version!r:.60}, this revelio_fast reads versions 1 and {SCHEMA_VERSION}. "
                "Update revelio_fast, or extract the features again."
            )
        try:
            manifest = cls._of(schema1.as_schema_2(content) if version == 1 else content)
        except WrongField as error:
            raise StoreError(f"{path} has a wrong field: {error}. {FIX}") from None
        if version > 1 and content.get("sha256") != content_digest(content):
            raise StoreError(f"{path} was altered: its contents do not match its SHA-256. {FIX}")
        manifest._check(path, content)
        return manifest

    @classmethod
    def _of(cls, content: dict[str, Any]) -> Manifest:
        row_shape, dtype = shape_of(content, "row_shape"), dtype_name(content)
        whole(content, "rows")
        return cls(
            metadata=entry(content, "metadata", dict),
            row_shape=row_shape,
            dtype=dtype,
            shard_rows=whole(content, "shard_rows", 1),
            block_rows=whole(content, "block_rows", 1)
            if "block_rows" in content
            else rows_of_a_block(row_shape, DTYPES[dtype]),
            complete=entry(content, "complete", bool),
            shards=[_shard(each, content["kind"]) for each in entry(content, "shards", list)],
            raw_maps=content["kind"] == schema1.MAP_KIND,
        )

    def _check(self, path: Path, content: dict[str, Any]) -> None:
        if self.rows != content.get("rows", self.rows):
            raise StoreError(
                f"{path} says {content['rows']} rows but its shards add up to {self.rows}: it was altered. {FIX}"
            )
        files = [shard.file for shard in self.shards]
        for file in files:
            if not (self.raw_maps or _SHARD_NAME.fullmatch(file)):
                raise StoreError(f"{path} lists {file!r:.60}, which is not the name of a shard of this store. {FIX}")
        if len(set(files)) != len(files):
            twice = next(file for number, file in enumerate(files) if file in files[:number])
            raise StoreError(f"{path} lists the shard {twice} twice. {FIX}")


def rows_of_a_block(row_shape: tuple[int, ...], dtype: torch.dtype) -> int:
    """Rows that share a checksum."""
    return max(1, BLOCK_BYTES // (math.prod(row_shape) * dtype.itemsize))


def content_digest(content: dict[str, Any]) -> str:
    """SHA-256 of a manifest's JSON values but the digest itself, whatever the order of the keys."""
    signed = {key: value for key, value in content.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(signed, sort_keys=True).encode()).hexdigest()


def _shard(content: Any, kind: str) -> Shard:
    if not isinstance(content, dict):
        raise WrongField(f"'shards' holds {content!r:.60}, expected objects")
    return Shard(
        entry(content, "file", str),
        whole(content, "rows", 1),
        whole(content, "bytes", 1),
        None if kind == schema1.MAP_KIND else entry(content, "sha256", str),
        None if content.get("index_crc32") is None else whole(content, "index_crc32"),
    )


def _read_content(folder: Path, path: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise StoreError(f"There is no activation store at {folder}: the folder does not exist.")
    if not path.is_file():
        raise StoreError(
            f"{folder} is not an activation store: it has no {FILE_NAME}. "
            "Give the folder of one layer and timestep, as `revelio-fast extract` writes it."
        )
    try:
        content = json.loads(path.read_bytes().decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path} cannot be read as JSON ({error}). {FIX}") from error
    except OSError as error:
        raise StoreError(unreadable(path, error.errno)) from error
    if not isinstance(content, dict):
        raise StoreError(f"{path} does not describe an activation store: it is not a JSON object. {FIX}")
    return content
