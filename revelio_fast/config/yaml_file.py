"""Reading a run's configuration from YAML: values, where each stands, overrides, and errors with line numbers."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any

from pydantic import TypeAdapter, ValidationError

from revelio_fast.config.errors import ConfigError, Path, dotted, sentences
from revelio_fast.config.sections import SHARING_SEED, RunConfig
from revelio_fast.renamed import RenamedWarning, new_names
from revelio_fast.settings import SEEDS, is_settings, split, types_of


def load_config(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file.

    Parameters
    ----------
    path : path
    overrides : sequence of str
        ``"section.key=value"``, the value in YAML: ``"source.limit=100"``, ``"layers=up_ft0,up_ft1"``.

    Raises
    ------
    ConfigError
        If the file is missing or no YAML, a key is unknown, or a value is wrong; names the line of each.
    """
    file = FilePath(path)
    if file.is_dir():
        raise ConfigError(f"{file} is a folder: give the YAML file with the settings of the run.")
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"There is no file {file}: give the YAML file with the settings of the run.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}.") from None
    return parse_config(text, str(file), overrides)


def parse_config(text: str, name: str = "configuration", overrides: Sequence[str] = ()) -> RunConfig:
    """Read settings from YAML text; `name` is what error messages call it. See `load_config`."""
    import yaml

    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text) if node is not None else {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"{name}{place}: this is not valid YAML: {problem}.") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{name}: expected settings, one 'name: value' a line, found {type(values).__name__}.")
    places: dict[Path, str] = {}
    if node is not None:
        _note_lines(node, (), places, name)
    for override in overrides:
        _apply(values, override, places)
    notes: list[str] = []
    values = _current(RunConfig, values, (), places, notes)
    for note in notes:
        warnings.warn(note, RenamedWarning, stacklevel=2)
    if isinstance(seed := values.get("seed"), int) and 0 <= seed < SEEDS:
        for section in SHARING_SEED:
            if isinstance(given := values.setdefault(section, {}), dict):
                given.setdefault("seed", seed)
    try:
        return TypeAdapter(RunConfig).validate_python(values)
    except ValidationError as error:
        problems = [
            f"{_place(where, places) or f'{name}: '}{words}"
            for each in error.errors(include_url=False)
            for where, words in sentences(dict(each), lambda path: _keys_at(RunConfig, path))
        ]
        raise ConfigError("\n".join(dict.fromkeys(problems))) from None


def _current(kind: type, values: Any, path: Path, places: dict[Path, str], notes: list[str]) -> Any:
    """Values by their new names, and lists where settings are lists, in a section and those within it."""
    if not isinstance(values, dict):
        return values
    table = getattr(kind, "__renamed__", {})
    values = dict(values)
    for old, each in table.items():
        section, _, moved = old.rpartition(".")
        if section and isinstance(values.get(section), dict) and moved in values[section]:
            values[section] = dict(values[section])
            values[old] = values[section].pop(moved)
        if old in values:
            places[(*path, each.new)] = places.get((*path, *old.split(".")), "")

    def say(old: str, text: str) -> None:
        notes.append(f"{_place((*path, *old.split('.')), places)}{dotted((*path, text))}")

    try:
        values = new_names(table, values, say)
    except ValueError as error:
        raise ConfigError(f"{dotted((*path, str(error)))}.") from None
    kinds = types_of(kind)
    for key in values.keys() & kinds.keys():
        if is_settings(kinds[key]):
            values[key] = _current(kinds[key], values[key], (*path, key), places, notes)
        else:
            values[key] = split(kind, key, values[key])
    return values


def _note_lines(node: Any, path: Path, places: dict[Path, str], name: str) -> None:
    """Record where each setting stands; a key given twice is an error, where YAML would take the last."""
    import yaml

    if isinstance(node, yaml.MappingNode):
        first: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.value in first and key.value != "<<":
                where = dotted((*path, key.value))
                raise ConfigError(
                    f"{name}, line {line}: {where} is given twice, first in line {first[key.value]}: keep one."
                )
            first[key.value] = line
            places[(*path, key.value)] = f"{name}, line {line}"
            _note_lines(value, (*path, key.value), places, name)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            places[(*path, index)] = f"{name}, line {value.start_mark.line + 1}"
            _note_lines(value, (*path, index), places, name)


def _apply(values: dict[str, Any], override: str, places: dict[Path, str]) -> None:
    import yaml

    key, separator, text = override.partition("=")
    parts = tuple(key.strip().split("."))
    if not separator or not all(parts):
        raise ConfigError(f"--set {override}: expected section.key=value, for example source.limit=100.")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"--set {override}: {text!r} is not valid YAML; quote it if it is a text.") from None
    here = values
    for depth, part in enumerate(parts[:-1], start=1):
        if here.get(part) is None:
            here[part] = {}
        if not isinstance(here[part], dict):
            raise ConfigError(f"--set {override}: {dotted(parts[:depth])} is not a section, but a single value.")
        here = here[part]
    here[parts[-1]] = value
    places[parts] = f"--set {override}"


def _place(where: Path, places: Mapping[Path, str]) -> str:
    """Where the setting stands, or the nearest enclosing one that stands anywhere, with a colon; else nothing."""
    for end in range(len(where), 0, -1):
        if places.get(where[:end]):
            return f"{places[where[:end]]}: "
    return ""


def _keys_at(kind: type, path: Path) -> list[str]:
    """The settings allowed in the section at `path`."""
    for part in path:
        found = types_of(kind).get(str(part))
        if not isinstance(found, type) or not is_settings(found):
            return []
        kind = found
    return list(types_of(kind))
