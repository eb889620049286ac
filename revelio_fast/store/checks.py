"""The error of a store, what to do about files that cannot be read, and checked reading of a manifest's fields."""

from __future__ import annotations

import errno
import math
import os
from pathlib import Path
from typing import Any

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
MOST = 2**48  # no count or size is larger: sums and products stay far from the end of int64
FIX = "Restore the file from a copy, or delete the store and extract the features again."
_PERMISSION = "Ask its owner for permission to read it."
_ADVICE = {
    errno.EMFILE: "This process has too many files open: raise the limit with `ulimit -n`.",
    errno.ENFILE: "The machine has too many files open: close other programs.",
    errno.ENOMEM: "The machine is out of memory: close other programs.",
    errno.EACCES: _PERMISSION,
    errno.EPERM: _PERMISSION,
    errno.EIO: "The disk did not deliver it: look at the system's log, and copy the store to another disk.",
    errno.ENOENT: f"It was removed. {FIX}",
}


class StoreError(RuntimeError):
    """A store is missing, damaged or used against its contract; the message names the file and the fix."""


class WrongField(ValueError):
    """A field of a manifest is missing or has a wrong type."""


def unreadable(path: Path, error: int | None) -> str:
    """The sentence for a file that cannot be read: `error` is errno, None where the file ends too early.

    Only where the file itself is damaged or gone does it advise to replace it.
    """
    why = "it ends too early" if error is None else os.strerror(error)
    advice = FIX if error is None else _ADVICE.get(error, "The file itself may be whole: try again.")
    return f"{path} cannot be read ({why}). {advice}"


def whole(content: dict[str, Any], name: str, least: int = 0) -> int:
    """The integer `name` of a JSON object."""
    value = content.get(name)
    if type(value) is not int or not least <= value <= MOST:
        raise WrongField(f"{name!r} is {_short(value)}, expected an integer of at least {least}")
    return value


def entry(content: dict[str, Any], name: str, kind: type) -> Any:
    """The value `name` of a JSON object, which is of this type."""
    value = content.get(name)
    if type(value) is not kind:
        raise WrongField(f"{name!r} is {_short(value)}, expected a {kind.__name__}")
    return value


def dtype_name(content: dict[str, Any]) -> str:
    """The dtype of a JSON object."""
    value = content.get("dtype")
    if not isinstance(value, str) or value not in DTYPES:
        raise WrongField(f"the dtype is {_short(value)}, known are {', '.join(DTYPES)}")
    return value


def shape_of(content: dict[str, Any], name: str, least: int = 1) -> tuple[int, ...]:
    """The shape `name` of a JSON object; its sizes are at least `least`."""
    value = entry(content, name, list)
    if not value or any(type(size) is not int or not least <= size <= MOST for size in value):
        raise WrongField(f"{name!r} is {_short(value)}, expected a list of integers of at least {least}")
    if math.prod(value) > MOST:
        raise WrongField(f"{name!r} is {_short(value)}: too large")
    return tuple(value)


def _short(value: Any) -> str:
    if isinstance(value, dict) or (isinstance(value, list) and not all(type(each) is int for each in value[:8])):
        return "an object" if isinstance(value, dict) else "a list"
    text = repr(value[:8] if isinstance(value, list) else value)
    return text if len(text) <= 60 else f"{text[:57]}..."
