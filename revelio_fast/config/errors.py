"""`ConfigError`, and the sentences that pydantic's complaints become."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from typing import Any

Path = tuple[str | int, ...]


class ConfigError(ValueError):
    """A configuration cannot be read or is wrong; one line of the message for each problem."""


def sentence(error: dict[str, Any], keys_at: Callable[[Path], Sequence[str]]) -> tuple[Path, str]:
    """Return the place of a pydantic error and a sentence that says what is wrong and what would be right."""
    where: Path = tuple(error["loc"])
    name = dotted(where)
    kind, value, context = error["type"], error.get("input"), error.get("ctx", {})
    if kind == "extra_forbidden":
        allowed = keys_at(where[:-1])
        close = difflib.get_close_matches(str(where[-1]), allowed, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}? " if close else ""
        return where, f"{name} is not a setting: {hint}Allowed here: {', '.join(sorted(allowed))}."
    if kind == "missing":
        return where, f"{name} is missing: it must be given."
    if kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", str(context["expected"]))
        close = difflib.get_close_matches(str(value), allowed, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        return where, f"{name} is {value!r}: {hint}Allowed are {context['expected']}."
    if kind == "value_error":
        text = str(context.get("error", error["msg"]))
        # Settings are also checked as a whole; such an error begins with the name of one of them.
        first = text.split(" ", 1)[0]
        parts = first.split(".")
        if parts[0] not in keys_at(where):
            parts = parts[1:]
        if parts and parts[0] in keys_at(where):
            where, text = (*where, *parts), text.removeprefix(first)
            name = dotted(where)
            return where, f"{name}{text}."
        return where, f"{name}: {text}." if name else f"{text}."
    if kind in ("model_type", "model_attributes_type"):
        return where, f"{name or 'the configuration'} is {value!r}: expected settings, one 'name: value' a line."
    text = error["msg"].removeprefix("Input ")
    return where, f"{name} is {value!r}: it {text}."


def dotted(path: Path) -> str:
    """``("source", "limit")`` as ``source.limit``, ``("layers", 1)`` as ``layers[1]``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
