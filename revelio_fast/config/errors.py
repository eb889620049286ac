"""`ConfigError`, and the sentences that pydantic's complaints become."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from typing import Any

from revelio_fast.settings import SettingsError

Path = tuple[str | int, ...]


class ConfigError(ValueError):
    """A configuration cannot be read or is wrong; one line of the message for each problem."""


def sentences(error: dict[str, Any], keys_at: Callable[[Path], Sequence[str]]) -> list[tuple[Path, str]]:
    """Return each place of a pydantic error with a sentence: what is wrong, and what would be right."""
    where: Path = tuple(error["loc"])
    wrong = error.get("ctx", {}).get("error")
    if isinstance(wrong, SettingsError):
        paths = [(*where, *name.split(".")) for name in wrong.problems]
        texts = [
            text.replace(name, dotted(path), 1)
            for path, (name, text) in zip(paths, wrong.problems.items(), strict=True)
        ]
        return [(path, f"{text}.") for path, text in zip(paths, texts, strict=True)]
    return [(where, _sentence(error, where, keys_at))]


def _sentence(error: dict[str, Any], where: Path, keys_at: Callable[[Path], Sequence[str]]) -> str:
    name = dotted(where)
    kind, value, context = error["type"], error.get("input"), error.get("ctx", {})
    if kind == "unexpected_keyword_argument":
        allowed = keys_at(where[:-1])
        close = difflib.get_close_matches(str(where[-1]), allowed, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}? " if close else ""
        return f"{name} is not a setting: {hint}Allowed here: {', '.join(sorted(allowed))}."
    if kind in ("missing", "missing_argument"):
        return f"{name} is missing: it must be given."
    if kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", str(context["expected"]))
        close = difflib.get_close_matches(str(value), allowed, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        return f"{name} is {value!r}: {hint}Allowed are {context['expected']}."
    if kind == "value_error":
        text = str(context.get("error", error["msg"])).rstrip(".")
        return f"{name}: {text}." if name else f"{text}."
    if kind == "dataclass_type":
        return f"{name or 'the configuration'} is {value!r}: expected settings, one 'name: value' a line."
    text = error["msg"].removeprefix("Input ")
    return f"{name} is {value!r}: it {text}."


def dotted(path: Path) -> str:
    """``("source", "limit")`` as ``source.limit``, ``("layers", 1)`` as ``layers[1]``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
