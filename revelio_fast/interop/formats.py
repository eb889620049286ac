"""The registry of checkpoint formats, how a file finds its format, and the two calls behind `from_pretrained` and
`save_as`: `read` and `write`.

A format is one module with `FILES` (the names of its files in a folder), `recognises(source)`, `read(source, given)`
and `write(sae, path)`, and one line in `FORMATS`. docs/formats.md says what each reads, writes and refuses.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Protocol, cast

import torch

from revelio_fast.interop.source import Checkpoint, Given, Source, locate
from revelio_fast.ksae.model import KSparseAutoencoder
from revelio_fast.ksae.semantics import RULES

_HERE = "revelio_fast.interop"
FORMATS: dict[str, str] = {
    "revelio_fast": f"{_HERE}.own_folder",
    "authors": f"{_HERE}.official",
    "saelens": f"{_HERE}.saelens",
    "sparsify": f"{_HERE}.sparsify",
    "dictionary_learning": f"{_HERE}.dictionary_learning",
    "openai": f"{_HERE}.openai",
    "sdxl_unbox": f"{_HERE}.sdxl_unbox",
    "overcomplete": f"{_HERE}.overcomplete",
}
"""Name of a format -> its module."""


class Format(Protocol):
    """What a format's module offers."""

    FILES: tuple[str, ...]

    def recognises(self, source: Source) -> bool:
        """Whether what is there looks like this format, by names of files and keys alone."""

    def read(self, source: Source, given: Given) -> Checkpoint:
        """The autoencoder; ValueError if it is damaged or computes what `Semantics` has no words for."""

    def write(self, sae: KSparseAutoencoder, path: Path) -> None:
        """Write it; ValueError if the format has no words for what it computes."""


def find(name: str) -> Format:
    """The module of a format, by its name; hyphens are as good as underscores.

    Raises
    ------
    ValueError
        If there is no such format.
    """
    module = FORMATS.get(name.replace("-", "_"))
    if module is None:
        raise ValueError(f"format must be auto or one of {', '.join(FORMATS)}, got {name!r}")
    return cast(Format, importlib.import_module(module))


def recognise(source: Source) -> str:
    """The name of the one format that a source is in.

    Raises
    ------
    ValueError
        If it looks like none or like several: the message says what was found.
    """
    names = [name for name in FORMATS if find(name).recognises(source)]
    if len(names) == 1:
        return names[0]
    what = f"{source.path} is {source.describe()}"
    if names:
        raise ValueError(f"{what}: {' and '.join(names)} read that differently, so pass format= one of them")
    raise ValueError(
        f"{what}: that is none of the known formats ({', '.join(FORMATS)}). docs/formats.md says what each consists "
        "of; with format= the error says what is missing"
    )


def detect(path: str | os.PathLike[str], format: str = "auto", revision: str | None = None) -> tuple[str, Source]:
    """The format's name, found out where it is "auto", and what lies at a path or on the Hub.

    Of a Hub repository only files are fetched that some format has a name for.
    """
    name = format.replace("-", "_")
    if name != "auto":
        find(name)
    source = locate(path, revision, sorted({file for format in FORMATS for file in find(format).FILES}))
    return recognise(source) if name == "auto" else name, source


def read_source(name: str, source: Source, given: Given) -> Checkpoint:
    """Read a source as a format, with what the caller says of it."""
    if given.rule is not None and given.rule not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}, got {given.rule!r}")
    try:
        checkpoint = find(name).read(source, given)
    except (AttributeError, KeyError, TypeError, IndexError, FileNotFoundError) as error:
        if isinstance(error, FileNotFoundError) and error.errno is None:  # a sentence of ours
            raise
        # A foreign file has its names, and something else behind one of them.
        raise ValueError(
            f"{source.path} is not of the format {name}, or damaged ({error!r}): it is {source.describe()}"
        ) from error
    return _with(checkpoint, given)


def read(
    path: str | os.PathLike[str],
    format: str = "auto",
    revision: str | None = None,
    k: float | None = None,
    rule: str | None = None,
    threshold: float | None = None,
) -> Checkpoint:
    """Read an autoencoder; the arguments are those of `KSparseAutoencoder.from_pretrained`."""
    return read_source(*detect(path, format, revision), Given(k, rule, threshold))


def write(sae: KSparseAutoencoder, path: str | os.PathLike[str], format: str) -> None:
    """Write an autoencoder; the arguments are those of `KSparseAutoencoder.save_as`."""
    find(format).write(sae, Path(path))


def _with(checkpoint: Checkpoint, given: Given) -> Checkpoint:
    """The checkpoint with what the caller says in the place of what the file says."""
    rows, semantics = checkpoint.rows, checkpoint.semantics
    if given.threshold is not None:
        found = rows.setdefault("threshold", torch.full_like(rows["b_enc"], given.threshold))
        if not torch.allclose(found, torch.full_like(found, given.threshold)):
            raise ValueError(
                f"{checkpoint.where} says its thresholds, {found.min():.6g} to {found.max():.6g}, so threshold= is not "
                "for it: change sae.threshold after reading"
            )
    if given.rule is not None and given.rule != semantics.rule:
        relu = {"topk": "before" if semantics.relu != "none" else "none", "abs_topk": "none"}.get(given.rule, "before")
        semantics = replace(semantics, rule=given.rule, relu=relu)
    k = checkpoint.k if given.k is None else given.k
    return checkpoint._replace(rows=rows, semantics=semantics, k=k)
