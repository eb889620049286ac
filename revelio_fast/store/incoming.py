"""What a writer is given, checked: the settings of a store, and rows."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from revelio_fast.store.checks import DTYPES, StoreError
from revelio_fast.store.manifest import Manifest, rows_of_a_block
from revelio_fast.store.shards import CONTENT_BYTES, RowBlock

NO_LABEL = -1
SHARD_BYTES = 1 << 26


def wanted_manifest(
    row_shape: int | tuple[int, ...], dtype: torch.dtype, shard_rows: int | None, metadata: dict[str, Any]
) -> Manifest:
    """The manifest of a store that is about to begin."""
    names = {value: key for key, value in DTYPES.items()}
    if dtype not in names:
        raise StoreError(f"A store cannot hold {dtype}: choose one of {', '.join(DTYPES)}.")
    shape = (row_shape,) if isinstance(row_shape, int) else tuple(int(size) for size in row_shape)
    if not shape or min(shape) < 1 or (shard_rows is not None and shard_rows < 1):
        raise StoreError(f"row_shape and shard_rows must be at least 1, got {row_shape} and {shard_rows}.")
    try:
        metadata = json.loads(json.dumps(metadata))
    except (TypeError, ValueError) as error:
        raise StoreError(f"What a store says of itself must be plain JSON values: {error}.") from error
    if shard_rows is None:
        shard_rows = max(1, SHARD_BYTES // (math.prod(shape) * dtype.itemsize))
    return Manifest(metadata, shape, names[dtype], int(shard_rows), rows_of_a_block(shape, dtype))


def check_same(path: Path, found: Manifest, wanted: Manifest, fixed_shards: bool) -> None:
    """Raise StoreError unless the store at `path` was begun with the settings that are wanted now."""
    fields = ["row_shape", "dtype", *(["shard_rows"] if fixed_shards and not found.raw_maps else [])]
    pairs = {name: (getattr(found, name), getattr(wanted, name)) for name in fields}
    for name in {*found.metadata, *wanted.metadata}:
        pairs[name] = (found.metadata.get(name), wanted.metadata.get(name))
    different = [f"{name} was {old!r}, now {new!r}" for name, (old, new) in sorted(pairs.items()) if old != new]
    if different:
        raise StoreError(
            f"{path} already holds another store: {'; '.join(different)}. "
            "Choose another folder, delete this one, or run with the settings it was begun with."
        )


def checked_rows(
    path: Path,
    manifest: Manifest,
    features: Tensor,
    image_ids: Tensor,
    labels: Tensor | None,
    names: Sequence[str | None] | None,
    contents: Tensor | None,
) -> RowBlock:
    """The arguments of `StoreWriter.append`, copied; raises StoreError for what does not fit."""
    shape = manifest.row_shape
    if features.shape[1:] != shape or features.ndim != len(shape) + 1 or not features.is_floating_point():
        wanted = ", ".join(map(str, shape))
        raise StoreError(
            f"The store {path} takes floating-point features of shape [rows, {wanted}], "
            f"got {features.dtype} of shape {list(features.shape)}."
        )
    rows = features.shape[0]
    image_ids = _integers(torch.as_tensor(image_ids), rows, "image_ids")
    labels = torch.full((rows,), NO_LABEL) if labels is None else _integers(torch.as_tensor(labels), rows, "labels")
    given: list[str | None] = [None] * rows if names is None else list(names)
    if len(given) != rows or any(not isinstance(name, str | None) for name in given):
        raise StoreError(f"names must be {rows} strings or None, got {len(given)}: {given[:3]!r:.100}.")
    if contents is None:
        contents = torch.zeros(rows, CONTENT_BYTES, dtype=torch.uint8)
    if contents.shape != (rows, CONTENT_BYTES) or contents.dtype != torch.uint8:
        raise StoreError(
            f"contents must be uint8 of shape [{rows}, {CONTENT_BYTES}], "
            f"got {contents.dtype} of shape {list(contents.shape)}."
        )
    stored = features.detach().to("cpu", DTYPES[manifest.dtype], copy=True)
    bad = (~stored.isfinite()).flatten(1).any(1).nonzero().flatten()
    if len(bad):
        ids = ", ".join(str(int(image_ids[i])) for i in bad[:5]) + (" ..." if len(bad) > 5 else "")
        finite = features.detach()[bad.to(features.device)].isfinite().all()
        cause = (
            f"is too large for {manifest.dtype}: make the store bfloat16 or float32"
            if finite
            else "holds NaN or infinity: look at that image, or run the model in float32"
        )
        raise StoreError(f"The feature of image {ids} {cause}. Nothing of this batch was stored.")
    return RowBlock(stored, image_ids, labels, given, contents.to("cpu", copy=True))


def _integers(values: Tensor, rows: int, name: str) -> Tensor:
    if values.shape != (rows,) or values.is_floating_point() or values.is_complex():
        raise StoreError(f"{name} must be {rows} integers, got {values.dtype} of shape {list(values.shape)}.")
    return values.detach().to("cpu", torch.int64, copy=True)
