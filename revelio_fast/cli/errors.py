"""How the command line shows errors: a sentence and exit code 1; with REVELIO_DEBUG=1 the traceback."""

from __future__ import annotations

import os
import sys
from typing import Any

import typer
from typer.core import TyperGroup

DEBUG = "REVELIO_DEBUG"


def user_errors() -> tuple[type[BaseException], ...]:
    """The exceptions whose message was written for the user; any other is a bug and keeps its traceback."""
    from revelio_fast.ops.dispatch import BackendError
    from revelio_fast.store import StoreError

    return (ValueError, OSError, ImportError, StoreError, BackendError)


class SentenceGroup(TyperGroup):
    """Runs a command; an error meant for the user becomes its message on stderr."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command named on the command line."""
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
            if os.environ.get(DEBUG, "0") not in ("", "0") or not isinstance(error, user_errors()):
                raise
            typer.echo(f"Error: {str(error).strip() or type(error).__name__}", err=True)
            raise typer.Exit(1) from None


def comma_list(text: str, option: str) -> list[str]:
    """``"a, b"`` as ``["a", "b"]``."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise typer.BadParameter(f"{text!r} names nothing", param_hint=option)
    return parts


def number_list(text: str, option: str) -> list[int]:
    """``"25,200"`` as ``[25, 200]``."""
    try:
        return [int(part) for part in comma_list(text, option)]
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no list of numbers such as 25,200", param_hint=option) from None
