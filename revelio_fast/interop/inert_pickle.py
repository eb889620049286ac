"""Reads the tensors and plain values of a torch.save file without calling anything the file names.

Classes that the file mentions become `Inert` records that only remember their state; the few functions that rebuild
tensors are replaced by our own; whatever else it names of Python's standard library, plain data apart, is refused.
"""

from __future__ import annotations

import math
import pickle
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
}

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


def read_torch_zip(path: Path) -> Any:
    """The object in a file of `torch.save` (zip format).

    Raises
    ------
    ValueError
        If the file is not in that format, is damaged, or names a function that could act.
    """
    if not zipfile.is_zipfile(path):
        raise ValueError(
            f"{path} is not a file of torch.save (no zip archive): bare pickles are never loaded, since they can "
            "execute code"
        )
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    with archive:
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError(f"{path} is a zip archive, but not one of torch.save")
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise ValueError(
                f"{path} was refused: it is compressed, which torch.save never does, and may be a zip bomb"
            )
        try:
            with archive.open(pickles[0]) as file:
                return _Reader(file, archive, pickles[0].removesuffix("data.pkl")).load()
        except pickle.UnpicklingError as error:
            raise ValueError(f"{path} was refused: {error}") from error
        except Exception as error:  # a hostile or damaged stream can fail in any way
            raise ValueError(f"{path} is damaged: {error!r}") from error


class _Reader(pickle.Unpickler):
    def __init__(self, file: Any, archive: zipfile.ZipFile, prefix: str) -> None:
        super().__init__(file)
        self.archive, self.prefix = archive, prefix

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda data, requires_grad, hooks: data
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if (module, name) in HARMLESS or module in HARMLESS_MODULES:
            return type(name, (Inert,), {"__module__": module})
        if module.split(".")[0] in sys.stdlib_module_names or module.split(".")[0] == "__builtin__":
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which could execute code")
        return type(name, (Inert,), {"__module__": module})

    def persistent_load(self, identifier: Any) -> Tensor:
        kind, dtype, key, _, count = identifier
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"it holds a storage of an unknown kind, {identifier[:2]}")
        data = bytearray(self.archive.read(f"{self.prefix}data/{key}"))
        return torch.frombuffer(data, dtype=dtype, count=count) if count else torch.empty(0, dtype=dtype)


def _tensor(storage: Tensor, offset: int, size: tuple, stride: tuple, *_: Any) -> Tensor:
    if math.prod(size) > len(storage):
        raise pickle.UnpicklingError(
            f"a tensor of shape {list(size)} claims more than the {len(storage)} stored numbers"
        )
    return storage.as_strided(size, stride, offset).clone()
