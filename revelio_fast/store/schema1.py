"""What version 0.1 wrote: stores with checksums of whole shards only, and map stores of two flat files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from revelio_fast.store.checks import DTYPES, FIX, StoreError, WrongField, dtype_name, shape_of, unreadable, whole

MAP_KIND = "revelio_fast.map_store"
MAPS, PAIRS = "maps.raw", "rows.raw"  # the maps, row after row; (image id, label) int64 pairs


def as_schema_2(content: dict[str, Any]) -> dict[str, Any]:
    """A schema-1 manifest in the words of schema 2; raises WrongField."""
    found = {**content, "metadata": content.get("about")}
    if content.get("kind") != MAP_KIND:
        return {**found, "row_shape": [whole(content, "d", 1)]}
    shape = shape_of(content, "shape", 0)
    if len(shape) != 4:
        raise WrongField(f"'shape' is {list(shape)}, expected [N, C, H, W]")
    rows, size = shape[0], math.prod(shape) * DTYPES[dtype_name(content)].itemsize
    shards = [{"file": MAPS, "rows": rows, "bytes": size}] if rows else []
    return {**found, "row_shape": list(shape[1:]), "rows": rows, "shard_rows": max(1, rows), "shards": shards}


def read_pairs(folder: Path, rows: int) -> tuple[Tensor, Tensor]:
    """Image ids and labels ``[rows]`` of a schema-1 map store.

    Raises
    ------
    StoreError
        If their file is missing or has another size than the manifest says.
    """
    path = folder / PAIRS
    try:
        data = path.read_bytes() if path.is_file() else None
    except OSError as error:
        raise StoreError(unreadable(path, error.errno)) from error
    if data is None or len(data) != rows * 16:
        found = "is missing" if data is None else f"has {len(data)}"
        raise StoreError(f"{path} should have {rows * 16} bytes but {found}. {FIX}")
    table = torch.frombuffer(bytearray(data), dtype=torch.int64).view(-1, 2)
    return table[:, 0].contiguous(), table[:, 1].contiguous()
