"""The command `revelio-fast`; `main` is its entry point, `revelio_fast.cli.app` has the commands."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line."""
    try:
        from revelio_fast.cli.app import app
    except ImportError as error:
        if error.name not in ("typer", "pydantic", "yaml", "click"):
            raise
        sys.exit(f"The command line needs the package {error.name}: pip install 'revelio-fast[cli]'")
    app()
