"""Reads the tensors and plain values of a torch.save file, or of a pickle, without calling anything the file names.

Classes that the file mentions become `Inert` records that only remember their state; the few functions that rebuild
tensors are replaced by our own; whatever else it names of Python's standard library, plain data apart, is refused.
Tensors are views of storages that are read once, so a file takes no more memory than it has bytes.
"""

from __future__ import annotations

import gzip
import io
import math
import pickle
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
# How torch.save began a file before its zip format: what pickled tensors still hold their numbers in.
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_START = pickle.dumps(LEGACY_MAGIC, protocol=2)
# A gzip file may grow by so much, or to so many bytes: beyond is no autoencoder, but a bomb.
MOST_GROWTH, ALWAYS_ALLOWED = 100, 2**26

# Plain data that a settings object may hold: kept as `Inert`, like any foreign class.
HARMLESS = {("builtins", "set"), ("builtins", "frozenset"), ("__builtin__", "set"), ("__builtin__", "frozenset")}
HARMLESS_MODULES = {"pathlib", "datetime", "argparse", "types"}


class Inert:
    """Stands for an object of a foreign class: its arguments and its state, and no behaviour."""

    state: Any = None  # a pickle restores an object without fields with neither __init__ nor __setstate__

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        self.arguments = arguments
        self.state = dict(keywords)

    def __setstate__(self, state: Any) -> None:
        self.state = state


def read_torch_file(path: Path) -> Any:
    """The object in a file of `torch.save`, in the zip format or the one before it.

    Raises
    ------
    ValueError
        If the file is in neither format, is damaged, or names a function that could act.
    """
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            if file.read(len(LEGACY_START)) == LEGACY_START:
                file.seek(0)
                return _guarded(path, lambda: _read_legacy(file, path.stat().st_size))
        raise ValueError(
            f"{path} is not a file of torch.save: it is cut short, or a bare pickle, and those are never loaded, since "
            "they can execute code"
        )
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    with archive:
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError(f"{path} is a zip archive, but not one of torch.save")
        members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise ValueError(
                f"{path} was refused: it is compressed, which torch.save never does, and may be a zip bomb"
            )
        if sum(member.file_size for member in members) > path.stat().st_size:
            raise ValueError(f"{path} was refused: its members overlap, which torch.save never does")
        storages = _ZipStorages(archive, pickles[0].removesuffix("data.pkl"))
        with archive.open(pickles[0]) as file:
            return _guarded(path, lambda: _Reader(file, storages).load())


def read_gzip_pickle(path: Path) -> Any:
    """The object in a gzip file of `pickle.dump`, in which tensors carry their numbers along.

    Raises
    ------
    ValueError
        If the file is no such file, is damaged, or names a function that could act.
    """
    most = max(ALWAYS_ALLOWED, MOST_GROWTH * path.stat().st_size)
    with gzip.open(path) as file:
        return _guarded(path, lambda: _Reader(_Bounded(file, most), _no_storage).load())


def _guarded(path: Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path} was refused: {error}") from error
    except Exception as error:  # a hostile or damaged stream can fail in any way
        raise ValueError(f"{path} is damaged: {error!r}") from error


class _Reader(pickle.Unpickler):
    """An unpickler that builds no foreign object; `storage` gives the numbers of a (dtype, key, count)."""

    def __init__(self, file: Any, storage: Callable[[torch.dtype, str, int], Tensor]) -> None:
        super().__init__(file)
        self.storage = storage

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda data, requires_grad, hooks: data
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return lambda data: _read_legacy(io.BytesIO(data), len(data))
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if (module, name) in HARMLESS or module in HARMLESS_MODULES:
            return type(name, (Inert,), {"__module__": module})
        if module.split(".")[0] in sys.stdlib_module_names or module.split(".")[0] == "__builtin__":
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which could execute code")
        return type(name, (Inert,), {"__module__": module})

    def persistent_load(self, identifier: Any) -> Tensor:
        kind, dtype, key, _, count, *view = identifier
        if kind != "storage" or not isinstance(dtype, torch.dtype) or any(view):
            raise pickle.UnpicklingError(f"it holds a storage of an unknown kind, {identifier[:2]}")
        return self.storage(dtype, str(key), count)


class _ZipStorages:
    """The storages of a zip file, each read once."""

    def __init__(self, archive: zipfile.ZipFile, prefix: str) -> None:
        self.archive, self.prefix = archive, prefix
        self.read: dict[tuple[str, torch.dtype], Tensor] = {}

    def __call__(self, dtype: torch.dtype, key: str, count: int) -> Tensor:
        if (key, dtype) not in self.read:
            data = bytearray(self.archive.read(f"{self.prefix}data/{key}"))
            self.read[key, dtype] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        storage = self.read[key, dtype]
        if count > len(storage):
            raise pickle.UnpicklingError(f"storage {key} claims {count} numbers, the file has {len(storage)}")
        return storage[:count]


def _read_legacy(file: BinaryIO, size: int) -> Any:
    """The object in a stream of the format before zip: pickles, then the storages that they named."""
    storages: dict[str, Tensor] = {}
    left = size

    def storage(dtype: torch.dtype, key: str, count: int) -> Tensor:
        nonlocal left
        if key not in storages:
            left -= count * dtype.itemsize
            if left < 0:
                raise pickle.UnpicklingError(f"storage {key} claims {count} numbers, more than the file has")
            storages[key] = torch.empty(count, dtype=dtype)
        return storages[key]

    magic, _, system = (_Reader(file, _no_storage).load() for _ in range(3))
    if magic != LEGACY_MAGIC or not system["little_endian"]:
        raise pickle.UnpicklingError("it begins like no file of torch.save on a little-endian machine")
    found = _Reader(file, storage).load()
    for key in _Reader(file, _no_storage).load():
        tensor = storages[str(key)]
        count = int.from_bytes(file.read(8), "little")
        data = file.read(count * tensor.element_size())
        if count != len(tensor) or len(data) != count * tensor.element_size():
            raise pickle.UnpicklingError(f"storage {key} does not have the {len(tensor)} numbers it claims")
        if count:
            tensor.copy_(torch.frombuffer(bytearray(data), dtype=tensor.dtype))
    return found


def _no_storage(dtype: torch.dtype, key: str, count: int) -> Tensor:
    raise pickle.UnpicklingError("it refers to a storage where none can be")


class _Bounded:
    """A stream that refuses to give more than so many bytes."""

    def __init__(self, file: gzip.GzipFile, most: int) -> None:
        self.file, self.left = file, most

    def read(self, size: int = -1) -> bytes:
        return self._count(self.file.read(size if 0 <= size <= self.left else self.left + 1))

    def readline(self) -> bytes:
        return self._count(self.file.readline(self.left + 1))

    def _count(self, data: bytes) -> bytes:
        self.left -= len(data)
        if self.left < 0:
            raise pickle.UnpicklingError(f"it unpacks to more than {MOST_GROWTH} times its size")
        return data


def _tensor(storage: Tensor, offset: int, size: tuple, stride: tuple, *_: Any) -> Tensor:
    if math.prod(size) > len(storage):
        raise pickle.UnpicklingError(
            f"a tensor of shape {list(size)} claims more than the {len(storage)} stored numbers"
        )
    return storage.as_strided(size, stride, storage.storage_offset() + offset)
