"""How the command line shows errors and warnings: a sentence each; with REVELIO_DEBUG=1 an error's traceback."""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Collection, Mapping
from typing import Any

import typer
from typer.core import TyperGroup

from revelio_fast.renamed import RenamedWarning
from revelio_fast.settings import types_of

DEBUG = "REVELIO_DEBUG"


def user_errors() -> tuple[type[BaseException], ...]:
    """The exceptions whose message was written for the user; any other is a bug and keeps its traceback."""
    from revelio_fast.ops.dispatch import BackendError
    from revelio_fast.store import StoreError

    return (ValueError, OSError, ImportError, StoreError, BackendError)


def spoken(text: str, flags: Mapping[str, str], settings: Collection[str] = ()) -> str:
    """A message in the spelling of the command line: ``on_error='skip'`` as ``--on-error skip``.

    Parameters
    ----------
    flags : mapping of str to str
        By the name of a setting the parameter that fills it, e.g. ``{"batch_size": "extract_batch"}``.
    settings : collection of str
        Names of settings that are given as ``--set on_error=skip``.
    """

    def flag(name: str) -> str:
        return f"--{flags[name].replace('_', '-')}"

    def assignment(match: re.Match[str]) -> str:
        name, value = match[1], match[2].strip("'\"")
        return f"{flag(name)} {value}" if name in flags else f"--set {name}={value}" if name in settings else match[0]

    text = re.sub(r"(?<![\w.-])([a-z_]+)=('[^']*'|\"[^\"]*\"|[\w.]+)", assignment, text)
    for name in sorted(flags, key=len, reverse=True):
        # A name with an underscore is no word of a sentence; any other only where a sentence is about it.
        place = r"(?<![\w.'-])" if "_" in name else r"(?:(?<=^)|(?<=\n))"
        text = re.sub(rf"{place}{name}(?![\w'=-])", flag(name), text)
    return text


def one_line(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """Show a warning without the place in the code, as `warnings.showwarning`."""
    typer.echo(f"{'Note' if issubclass(category, RenamedWarning) else 'Warning'}: {message}", err=True)


class SentenceGroup(TyperGroup):
    """Runs a command; an error meant for the user becomes its message on stderr, a warning one line."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command named on the command line."""
        debug = os.environ.get(DEBUG, "0") not in ("", "0")
        with warnings.catch_warnings():
            if not debug:
                warnings.showwarning = one_line
                warnings.simplefilter("default", RenamedWarning)
            try:
                return super().invoke(ctx)
            except KeyboardInterrupt:
                typer.echo("Interrupted. What was finished is kept: the same command continues there.", err=True)
                raise typer.Exit(130) from None
            except BrokenPipeError:
                # The reader of our output went away (`revelio-fast doctor | head`): nothing is wrong.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                raise typer.Exit(0) from None
            except Exception as error:
                if debug or not isinstance(error, user_errors()):
                    raise
                typer.echo(f"Error: {self._words(error, ctx) or type(error).__name__}", err=True)
                raise typer.Exit(1) from None

    def _words(self, error: Exception, ctx: Any) -> str:
        if isinstance(error, OSError) and error.filename is not None and error.strerror:
            return f"{error.filename}: {error.strerror[0].lower()}{error.strerror[1:]}."
        command = self.commands.get(ctx.invoked_subcommand)
        flags = {each.name: each.name for each in command.params if each.name} if command is not None else {}
        if "dry_run" in flags:
            from revelio_fast.config import RunConfig

            return spoken(str(error).strip(), {}, types_of(RunConfig))
        return spoken(str(error).strip(), {"out_dir": "out", **flags} if "out" in flags else flags)
