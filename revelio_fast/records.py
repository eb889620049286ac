"""`Record`: a dataclass of results that becomes JSON and comes back as it was."""

from __future__ import annotations

import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Self, Union, get_args, get_origin, get_type_hints


class Record:
    """Base of dataclasses that hold results.

    JSON has no tuples, no integer keys and no NaN: they become lists, text and null, and `from_dict` undoes that by the
    types of the fields. A field with ``metadata={"json": False}`` stays out, and comes back as its default.
    """

    def as_dict(self) -> dict[str, Any]:
        """The record as JSON values."""
        return {
            each.name: json_value(getattr(self, each.name))
            for each in fields(self)  # type: ignore[arg-type]
            if each.metadata.get("json", True)
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The record that `as_dict` was called on.

        Raises
        ------
        ValueError
            If a field is missing, or one is named that the record does not have.
        """
        hints = get_type_hints(cls)
        known = {each.name: each for each in fields(cls) if each.metadata.get("json", True)}  # type: ignore[arg-type]
        unknown = [name for name in values if name not in known]
        missing = [
            name
            for name, each in known.items()
            if name not in values and each.default is MISSING and each.default_factory is MISSING
        ]
        if unknown or missing:
            raise ValueError(
                f"These values are no {cls.__name__}: unknown fields {unknown}, missing fields {missing}. "
                "They were written by another version of revelio_fast: run the command again."
            )
        return cls(**{name: _typed(value, hints[name]) for name, value in values.items()})


def json_value(value: Any) -> Any:
    """The value as JSON knows it: null for NaN and infinity, text for keys and for whatever has no type there."""
    if isinstance(value, Record):
        return value.as_dict()
    if isinstance(value, Mapping):
        return {str(key): json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | None) else str(value)


def _typed(value: Any, hint: Any) -> Any:
    """A JSON value as the type that a field declares."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in parts:
            return None
        (hint,) = [part for part in parts if part is not type(None)][:1]
        return _typed(value, hint)
    if hint is float:
        return math.nan if value is None else float(value)
    if is_dataclass(hint) and isinstance(hint, type) and issubclass(hint, Record):
        return hint.from_dict(value)
    if hint is Path:
        return Path(value)
    if origin is tuple:
        inner = [parts[0]] * len(value) if parts[-1] is Ellipsis else parts
        return tuple(_typed(item, part) for item, part in zip(value, inner, strict=True))
    if origin in (list, Sequence):
        return [_typed(item, parts[0]) for item in value]
    if origin in (dict, Mapping):
        return {_key(key, parts[0]): _typed(item, parts[1]) for key, item in value.items()}
    return value


def _key(text: str, hint: Any) -> Any:
    return int(text) if hint is int else text
