"""Old names of options, which work for one more release: `renamed` for classes and functions, `new_names` for files.

When the release is over, this file goes, with each ``@renamed(...)`` and what reads ``__renamed__``.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

C = TypeVar("C", bound=Callable[..., Any])


class RenamedWarning(DeprecationWarning):
    """An option was given by its old name."""


@dataclass(frozen=True)
class Renamed:
    """The new name of an option, and the new value of each old one where those changed too."""

    new: str
    values: Mapping[Any, Any] = field(default_factory=dict)

    def old_value(self, value: Any) -> Any:
        """The old value of a new one."""
        return next((old for old, new in self.values.items() if new == value), value)


def renamed(**old: str | Renamed) -> Callable[[C], C]:
    """Decorate a settings class or a function: keywords by their old names work, with a `RenamedWarning`.

    A class keeps its old names as attributes to read, too, and those of its bases.
    """
    table = {name: each if isinstance(each, Renamed) else Renamed(each) for name, each in old.items()}

    def decorate(target: C) -> C:
        if not isinstance(target, type):
            return _accepting(target, table)  # type: ignore[return-value]
        whole = {**getattr(target, "__renamed__", {}), **table}
        for name, each in table.items():
            setattr(target, name, property(functools.partial(_read, each)))
        target.__renamed__ = whole  # type: ignore[attr-defined]
        target.__init__ = _accepting(target.__init__, whole)  # type: ignore[misc]
        return target

    return decorate


def new_names(
    table: Mapping[str, Renamed], values: Mapping[str, Any], say: Callable[[str, str], None]
) -> dict[str, Any]:
    """Settings by their new names; `say` gets each old one, and a sentence about it.

    Raises
    ------
    ValueError
        If both names of an option are given.
    """
    found = dict(values)
    for name, each in table.items():
        if name not in found:
            continue
        value = found.pop(name)
        if each.new in found:
            raise ValueError(f"{name} is the old name of {each.new}: give only {each.new}")
        found[each.new] = each.values.get(value, value) if each.values else value
        given = f"={found[each.new]!r}" if each.values else ""
        say(name, f"{name} is called {each.new} now: use {each.new}{given}, the old name goes with the next release")
    return found


def _read(each: Renamed, settings: Any) -> Any:
    return each.old_value(getattr(settings, each.new))


def _accepting(function: Callable[..., Any], table: Mapping[str, Renamed]) -> Callable[..., Any]:
    @functools.wraps(function)
    def accepting(*arguments: Any, **keywords: Any) -> Any:
        if not table.keys().isdisjoint(keywords):
            keywords = new_names(table, keywords, lambda _, text: warnings.warn(text, RenamedWarning, stacklevel=4))
        return function(*arguments, **keywords)

    return accepting
