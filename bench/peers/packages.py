"""The peers' packages: how each is imported and installed, and the clear error where it is absent."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import os
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import NamedTuple

from bench.measure import Missing

EXTRA = "pip install '.[bench]'"
NO_DEPS = f"{EXTRA} && pip install --no-deps -r bench/peers/requirements.txt"


class NotInstalled(Missing):
    """A peer, or something it imports, is absent; the message says how to install it."""


class Package(NamedTuple):
    """A peer's package.

    Attributes
    ----------
    distribution, module : str
        Its names for pip and for import.
    install : str
        The command that installs it.
    not_needed : tuple of str
        Modules that its own ``__init__`` imports and that no measured line uses: empty ones stand in for them.
    environment : tuple of pairs
        Variables that it reads when it is imported.
    """

    distribution: str
    module: str
    install: str = EXTRA
    not_needed: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()


FAISS = Package("faiss-cpu", "faiss")
# Where Triton is installed sparsify would decode with it, on CPU tensors too, and fail.
SPARSIFY = Package("eai-sparsify", "sparsify", environment=(("SPARSIFY_DISABLE_TRITON", "1"),))
SAELENS = Package("sae-lens", "sae_lens")
# nnsight runs the language models whose activations a buffer collects; the old release asked for (<0.4) pins others.
DICTIONARY_LEARNING = Package("dictionary-learning", "dictionary_learning", NO_DEPS, ("nnsight",))
# Vision models and plots, which import timm, torchvision, OpenCV and a function that matplotlib removed.
OVERCOMPLETE = Package("overcomplete", "overcomplete", NO_DEPS, ("overcomplete.models", "overcomplete.visualization"))


def load(package: Package) -> ModuleType:
    """Import a peer.

    Raises
    ------
    NotInstalled
        If it, or something that it imports, is absent.
    """
    os.environ.update(package.environment)
    try:
        with contextlib.redirect_stdout(sys.stderr), _empty(package.not_needed):
            return importlib.import_module(package.module)
    except ModuleNotFoundError as error:
        missing = error.name or package.module
        why = "is not installed" if missing == package.module else f"cannot be imported, {missing} is missing"
        raise NotInstalled(f"{package.distribution} {why}: {package.install}", name=missing) from error


def version(package: Package) -> str:
    """Installed version of a peer."""
    return importlib.metadata.version(package.distribution)


@contextlib.contextmanager
def _empty(names: tuple[str, ...]) -> Iterator[None]:
    """Modules of these names, with None for every attribute, as long as the block lasts."""
    added = {name: ModuleType(name) for name in names if name not in sys.modules}
    for module in added.values():
        module.__dict__["__getattr__"] = _nothing
    sys.modules.update(added)
    try:
        yield
    finally:
        for name in added:
            sys.modules.pop(name, None)


def _nothing(name: str) -> None:
    if name.startswith("__"):  # what importlib asks of a module
        raise AttributeError(name)
