"""One shard file: writing it, checking it, and mapping it into memory."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import NoReturn

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from revelio_fast.atomic import atomic_write_bytes
from revelio_fast.store.manifest import DTYPES, Manifest, Shard, StoreError

TENSORS = ("features", "image_ids", "labels")
_FIX = "Restore the file from a copy, or delete the store and extract the features again."


def write_shard(folder: Path, name: str, features: Tensor, image_ids: Tensor, labels: Tensor) -> Shard:
    """Write one shard atomically and return its manifest entry.

    Parameters
    ----------
    features : Tensor
        ``[rows, d]`` in the stored dtype.
    image_ids, labels : Tensor
        ``[rows]`` int64; stored in the smallest type that holds them.
    """
    tensors = dict(zip(TENSORS, (features, _narrow(image_ids), _narrow(labels)), strict=True))
    data = save({key: value.contiguous() for key, value in tensors.items()})
    atomic_write_bytes(folder / name, data)
    return Shard(name, features.shape[0], len(data), hashlib.sha256(data).hexdigest())


def _narrow(values: Tensor) -> Tensor:
    """The same integers in the smallest type that holds them; as int64, ids and labels would add 2.5 % to d = 320."""
    low, high = (int(values.min()), int(values.max())) if len(values) else (0, 0)
    for dtype in (torch.int8, torch.int16, torch.int32):
        if torch.iinfo(dtype).min <= low and high <= torch.iinfo(dtype).max:
            return values.to(dtype)
    return values


def check_size(folder: Path, shard: Shard) -> None:
    """Raise StoreError if the file is missing or has another size than its manifest entry."""
    path = folder / shard.file
    if not path.is_file():
        raise StoreError(f"The shard {path} is missing. {_FIX}")
    size = path.stat().st_size
    if size != shard.bytes:
        what = "truncated" if size < shard.bytes else "altered"
        raise StoreError(f"The shard {path} is {what}: {size} bytes instead of {shard.bytes}. {_FIX}")


def refuse_unreadable(folder: Path, shard: Shard, error: int | None) -> NoReturn:
    """Raise StoreError for a shard that could not be read while it was in use: `error` is errno, None for its end."""
    check_size(folder, shard)
    why = os.strerror(error) if error is not None else "it ends too early"
    raise StoreError(f"The shard {folder / shard.file} cannot be read ({why}). {_FIX}")


def features_start(path: Path) -> int:
    """Byte at which the features begin in a shard that `map_shard` has accepted."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return 8 + length + json.loads(file.read(length))["features"]["data_offsets"][0]


def check_sum(folder: Path, shard: Shard) -> None:
    """Raise StoreError if the file's SHA-256 is not that of its manifest entry."""
    check_size(folder, shard)
    with open(folder / shard.file, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != shard.sha256:
        raise StoreError(
            f"The shard {folder / shard.file} was altered: its SHA-256 is {found[:12]}..., "
            f"the manifest says {shard.sha256[:12]}.... {_FIX}"
        )


def map_shard(folder: Path, shard: Shard, manifest: Manifest) -> tuple[Tensor, Tensor, Tensor]:
    """Memory-map a shard: features ``[rows, d]`` in the stored dtype, image ids and labels ``[rows]`` int64."""
    check_size(folder, shard)
    path = folder / shard.file
    try:
        with safe_open(path, framework="pt") as file:
            features, image_ids, labels = (file.get_tensor(name) for name in TENSORS)
    except (SafetensorError, OSError) as error:
        raise StoreError(f"The shard {path} cannot be read ({error}). {_FIX}") from error
    if features.shape != (shard.rows, manifest.d):
        raise StoreError(
            f"The shard {path} holds features of shape {list(features.shape)}, "
            f"the manifest says {[shard.rows, manifest.d]}. {_FIX}"
        )
    if features.dtype != DTYPES[manifest.dtype]:
        raise StoreError(f"The shard {path} holds {features.dtype}, the manifest says {manifest.dtype}. {_FIX}")
    if not image_ids.shape == labels.shape == (shard.rows,):
        raise StoreError(f"The shard {path} does not hold one image id and one label for each row. {_FIX}")
    if image_ids.is_floating_point() or labels.is_floating_point():
        raise StoreError(f"The shard {path} holds image ids or labels that are no integers. {_FIX}")
    return features, image_ids.to(torch.int64), labels.to(torch.int64)
