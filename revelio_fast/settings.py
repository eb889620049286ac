"""What all settings classes share: the allowed values of a field, its check, its text for help, JSON.

A settings class is a frozen dataclass that derives from `Settings`. Its NumPy docstring says what each field means. The
checks, the section of a YAML file (`revelio_fast.config`), the flags of a command (`revelio_fast.cli.flags`) and what a
manifest says are made from it.
"""

from __future__ import annotations

import functools
import inspect
import json
import math
import re
import types
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from revelio_fast.renamed import Renamed

T = TypeVar("T")
S = TypeVar("S", bound="Settings")
SEEDS = 2**63  # what a seed must lie below
BOUNDS = {"at_least": "of at least", "above": "above", "at_most": "of at most", "below": "below"}


class SettingsError(ValueError):
    """Settings are wrong; one line of the message for each.

    Attributes
    ----------
    problems : dict of str to str
        By field: a sentence that begins with its name.
    """

    def __init__(self, problems: Mapping[str, str]):
        super().__init__("\n".join(problems.values()))
        self.problems = dict(problems)


def option(
    default: T,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    separator: str = ",",
    prefix: str = "",
) -> T:
    """A field of a settings class.

    Parameters
    ----------
    default
    at_least, above, at_most, below : float, optional
        Bounds of a number.
    separator : str
        What separates the items of a tuple that is written as one text.
    prefix : str
        Of a field that holds settings itself: what the names of its flags begin with.
    """
    bounds = {"at_least": at_least, "above": above, "at_most": at_most, "below": below}
    about = {"separator": separator, "prefix": prefix, "bounds": {n: v for n, v in bounds.items() if v is not None}}
    return field(default=default, metadata=about)


@dataclass(frozen=True)
class Settings:
    """Base of all settings classes: checks each field by its type and bounds when it is made.

    Raises
    ------
    SettingsError
        If a value is not allowed.
    """

    # Read by pydantic when a section of a YAML file is validated.
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "allow_inf_nan": False}

    # Old names of fields; see `revelio_fast.renamed`.
    __renamed__: ClassVar[Mapping[str, Renamed]] = {}

    def __post_init__(self) -> None:
        problems = {each.name: self._problem(each.name) for each in fields(self)}
        found = {name: f"{name} {words}, got {getattr(self, name)!r}" for name, words in problems.items() if words}
        if found:
            raise SettingsError(found)

    def as_json(self) -> dict[str, Any]:
        """All settings as JSON values."""
        return json.loads(json.dumps(asdict(self)))

    def part(self, kind: type[S], **changes: Any) -> S:
        """The fields that a settings class shares with this one, as that class."""
        mine = {each.name for each in fields(self)}
        return kind(**{each.name: getattr(self, each.name) for each in fields(kind) if each.name in mine} | changes)

    def _problem(self, name: str) -> str:
        """What a field must be, if it is not; else an empty text."""
        kind, optional = plain_type(type(self), name)
        value = getattr(self, name)
        if value is None and optional:
            return ""
        if get_origin(kind) is Literal:
            allowed = get_args(kind)
            return "" if value in allowed else f"must be one of {', '.join(map(repr, allowed))}"
        if kind not in (int, float):
            return ""
        bounds = bounds_of(type(self), name)
        whole = isinstance(value, int) and not isinstance(value, bool)
        number = whole if kind is int else whole or (isinstance(value, float) and math.isfinite(value))
        if number and all(_within(value, bound, limit) for bound, limit in bounds.items()):
            return ""
        words = " and ".join(f"{BOUNDS[bound]} {limit}" for bound, limit in bounds.items())
        return f"must be a {'whole number' if kind is int else 'number'}{' ' if words else ''}{words}"


def metadata_of(kind: type, name: str) -> Mapping[str, Any]:
    """What `option` was told of a field, besides its default."""
    return kind.__dict__["__dataclass_fields__"][name].metadata


def bounds_of(kind: type, name: str) -> dict[str, float]:
    """The bounds of a field, by the parameters of `option`."""
    return metadata_of(kind, name).get("bounds", {})


def types_of(kind: Any) -> dict[str, Any]:
    """The type of each field, in order."""
    return _hints(kind)


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {each.name: hints[each.name] for each in fields(kind)}


def plain_type(kind: type, name: str) -> tuple[Any, bool]:
    """The type of a field without ``None``, and whether it may be None."""
    hint = types_of(kind)[name]
    if get_origin(hint) in (Union, types.UnionType):
        (plain,) = (each for each in get_args(hint) if each is not type(None))
        return plain, True
    return hint, False


def is_settings(kind: Any) -> bool:
    """Whether a type is a settings class."""
    return isinstance(kind, type) and issubclass(kind, Settings)


def split(kind: type, name: str, value: Any) -> Any:
    """A value for a field: where the field is a tuple, a text is taken apart and a single value is a list of one."""
    if get_origin(plain_type(kind, name)[0]) is not tuple or value is None or isinstance(value, list | tuple):
        return value
    if not isinstance(value, str):
        return [value]
    separator = metadata_of(kind, name).get("separator", ",")
    return [part.strip() for part in value.split(separator) if part.strip()]


@functools.cache
def texts_of(kind: Any) -> dict[str, str]:
    """What the docstring of a class, or of its bases, says of each field."""
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        section = re.split(r"^(\w+)\n-+$", inspect.cleandoc(each.__dict__.get("__doc__") or ""), flags=re.MULTILINE)
        parts = dict(zip(section[1::2], section[2::2], strict=True)).get("Parameters", "")
        for names, text in re.findall(r"^(\S[^:\n]*) : .*\n((?:[ \t]+.*\n?|\n)*)", parts, flags=re.MULTILINE):
            words = " ".join(text.split()).replace("`", "")
            found |= {name.strip(): words for name in names.split(",")}
    return found


def help_of(kind: type, name: str) -> str:
    """The first sentence on a field."""
    text = texts_of(kind).get(name, "")
    return re.split(r"(?<=\.)\s+(?=[A-Z\"'(])", text, maxsplit=1)[0]


def _within(value: float, bound: str, limit: float) -> bool:
    return {"at_least": value >= limit, "above": value > limit, "at_most": value <= limit, "below": value < limit}[
        bound
    ]
