"""Flags made from settings: a parameter of a command whose type is a settings class becomes a flag for each field.

    @with_flags
    def extract(source: ..., config: ExtractConfig, crops: Annotated[CropConfig, Fields(only=("min_scale",))]): ...

Names, types, bounds, defaults and help are the class's own; old names are hidden flags.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, get_args, get_origin

import typer

from revelio_fast.cli.errors import spoken
from revelio_fast.progress import Notice
from revelio_fast.renamed import Renamed, RenamedWarning, new_names
from revelio_fast.settings import (
    Settings,
    SettingsError,
    bounds_of,
    help_of,
    is_settings,
    metadata_of,
    plain_type,
    split,
    types_of,
)


@dataclass(frozen=True)
class Fields:
    """Which fields of a settings class become flags, and flags that are not called as their field."""

    only: tuple[str, ...] | None = None
    without: tuple[str, ...] = ()
    named: Mapping[str, str] = field(default_factory=dict)

    def of(self, kind: type[Settings]) -> list[str]:
        """The chosen fields."""
        return [name for name in self.only or types_of(kind) if name not in self.without]


@dataclass(frozen=True)
class _Group:
    """A settings class whose fields are flags: fields by flag, old flags, and the settings within."""

    kind: type[Settings]
    flags: dict[str, str]
    old: dict[str, tuple[str, Renamed]]
    within: dict[str, _Group]

    def names(self) -> dict[str, str]:
        """Flags by the fields they fill, those within included."""
        found = {name: flag for flag, name in self.flags.items()}
        return found | {name: flag for each in self.within.values() for name, flag in each.names().items()}

    def build(self, values: Mapping[str, Any]) -> Settings:
        """The settings that some flags ask for."""
        given = {name: split(self.kind, name, values[flag]) for flag, name in self.flags.items()}
        given = {name: _items(self.kind, name, value) for name, value in given.items()}
        for flag, (old, each) in self.old.items():
            if values[flag] is not None:
                given.pop(each.new)
                given |= new_names({old: each}, {old: values[flag]}, self._say)
        given |= {name: group.build(values) for name, group in self.within.items()}
        return self.kind(**given)

    def _say(self, _: str, text: str) -> None:
        names = self.names() | {old: flag for flag, (old, _) in self.old.items()}
        warnings.warn(spoken(text, names), RenamedWarning, stacklevel=2)


def with_flags(command: Callable[..., None]) -> Callable[..., None]:
    """The command with flags in the place of settings; ``quiet`` also leaves out warnings that only inform."""
    signature = inspect.signature(command, eval_str=True)
    groups: dict[str, _Group] = {}
    parameters: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        kind, fields = _settings_of(parameter.annotation)
        if kind is None:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
        else:
            groups[parameter.name] = _group(kind, fields, "", parameters)

    @functools.wraps(command)
    def run(**values: Any) -> None:
        if values.get("quiet"):
            warnings.simplefilter("ignore", Notice)
        try:
            built = {name: group.build(values) for name, group in groups.items()}
        except SettingsError as error:
            names = {name: flag for group in groups.values() for name, flag in group.names().items()}
            raise typer.BadParameter(spoken(str(error), names)) from None
        command(**{name: built.get(name, values.get(name)) for name in signature.parameters})

    del run.__wrapped__  # typer must read the signature below
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _settings_of(annotation: Any) -> tuple[type[Settings] | None, Fields]:
    kind, *more = get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)
    return (kind if is_settings(kind) else None), next((each for each in more if isinstance(each, Fields)), Fields())


def _group(kind: type[Settings], fields: Fields, prefix: str, parameters: list[inspect.Parameter]) -> _Group:
    """Append a settings class's flags to `parameters`."""
    group = _Group(kind, {}, {}, {})
    for name in fields.of(kind):
        about = metadata_of(kind, name)
        if is_settings(types_of(kind)[name]):
            group.within[name] = _group(types_of(kind)[name], Fields(), f"{about['prefix']}_", parameters)
            continue
        flag = fields.named.get(name, prefix + name)
        group.flags[flag] = name
        bounds = bounds_of(kind, name)
        plain, optional = plain_type(kind, name)
        default: Any = kind.__dataclass_fields__[name].default
        if get_origin(plain) is tuple:
            plain, default = str, None if default is None else about.get("separator", ",").join(map(str, default))
        info = typer.Option(help=help_of(kind, name), show_default=default not in (None, ""),
            min=bounds.get("at_least"), max=bounds.get("at_most"),
        )  # fmt: skip
        parameters.append(_parameter(flag, plain | None if optional else plain, info, default))
    for old, each in kind.__renamed__.items():
        if each.new in group.flags.values() and "." not in old and prefix + old not in group.flags:
            plain = type(next(iter(each.values))) if each.values else plain_type(kind, each.new)[0]
            group.old[prefix + old] = (old, each)
            parameters.append(_parameter(prefix + old, plain | None, typer.Option(hidden=True), None))
    return group


def _parameter(name: str, kind: Any, info: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info])


def number_list(text: str, option: str) -> list[int]:
    """``"25,200"`` as ``[25, 200]``."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no list of numbers such as 25,200", param_hint=option) from None


def _items(kind: type[Settings], name: str, value: Any) -> Any:
    """The items of a tuple in their type; other values as they are."""
    plain = plain_type(kind, name)[0]
    if get_origin(plain) is not tuple or value is None:
        return value
    if get_args(plain)[0] is not int:
        return tuple(value)
    try:
        return tuple(int(part) for part in value)
    except ValueError:
        raise SettingsError(
            {name: f"{name} is {','.join(value)!r}, which is no list of numbers such as 25,200"}
        ) from None
