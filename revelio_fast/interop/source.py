"""`Source`: what lies at a path or on the Hub, looked at once, before any format claims it."""

from __future__ import annotations

import json
import os
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from revelio_fast.interop.inert_pickle import Inert, read_gzip_pickle, read_torch_file
from revelio_fast.ksae.semantics import Semantics

PICKLES = (".pt", ".pth", ".pkl.gz")


class Given(NamedTuple):
    """What the caller says because the file does not, or against it: each may be None (see `from_pretrained`)."""

    k: float | None = None
    rule: str | None = None
    threshold: float | None = None


class Checkpoint(NamedTuple):
    """An autoencoder as a reader returns it: the arguments of `KSparseAutoencoder.from_rows`."""

    rows: dict[str, Tensor]
    k: float | None
    semantics: Semantics
    where: str
    metadata: dict[str, Any] | None = None


class Source:
    """A file or a folder that may hold an autoencoder; contents are read on first use and kept.

    Attributes
    ----------
    path : Path
    names : frozenset of str
        Files in the folder; of a file its own name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        files = [file for file in path.iterdir() if file.is_file()] if path.is_dir() else [path]
        self.names = frozenset(file.name for file in files if not file.name.startswith("."))
        self._saved: dict[str, Any] = {}

    @property
    def folder(self) -> Path:
        """The folder that the files are in."""
        return self.path if self.path.is_dir() else self.path.parent

    def has(self, *names: str) -> bool:
        """Whether this is a folder with all these files."""
        return self.path.is_dir() and self.names.issuperset(names)

    def json(self, name: str) -> dict[str, Any]:
        """The object in a JSON file of the folder.

        Raises
        ------
        ValueError
            If it is no JSON object.
        """
        try:
            found = json.loads((self.folder / name).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{self.folder / name} is damaged ({error})") from error
        if not isinstance(found, dict):
            raise ValueError(f"{self.folder / name} is damaged: expected a JSON object, found {type(found).__name__}")
        return found

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of a safetensors file of the folder.

        Raises
        ------
        ValueError
            If it is damaged.
        """
        try:
            return load_file(self.folder / name)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{self.folder / name} is not a readable safetensors file ({error})") from error

    def saved(self, name: str | None = None) -> Any:
        """What torch.save or pickle wrote into the file, or into one of the folder, with foreign objects inert."""
        path = self.path if name is None else self.folder / name
        if path.name not in self._saved:
            self._saved[path.name] = read_gzip_pickle(path) if path.name.endswith(".gz") else read_torch_file(path)
        return self._saved[path.name]

    @cached_property
    def state(self) -> dict[str, Any]:
        """The dictionary in a file of torch.save; empty for a folder or a file that holds something else."""
        if self.path.is_dir() or not self.path.name.endswith(PICKLES):
            return {}
        saved = self.saved()
        return saved if isinstance(saved, dict) else {}

    def describe(self) -> str:
        """What is there, in words for an error: file names, or the keys of a dictionary with their shapes."""
        if self.path.is_dir():
            return f"a folder with {_some(sorted(self.names)) or 'no files'}"
        if not self.path.name.endswith(PICKLES):
            return f"a file {self.path.name}"
        saved = self.saved()
        if isinstance(saved, Inert):
            return f"a pickled {type(saved).__module__}.{type(saved).__name__}"
        if not isinstance(saved, dict):
            return f"a saved {type(saved).__name__}"
        return f"a dictionary of {_keys(saved) or 'nothing'}"


def locate(path: str | os.PathLike[str], revision: str | None, hub_files: list[str]) -> Source:
    """What `path` names: a file, a folder, or on the Hub ``owner/name[/path]``, of which `hub_files` are fetched.

    A file that is part of a folder's format stands for the folder, a training's output for the model in it, and a
    folder with one pickle and nothing else that is known for that pickle.

    Raises
    ------
    FileNotFoundError
        If nothing is there.
    """
    found = Path(path).expanduser()
    if not found.exists():
        local = found.is_absolute() or os.fspath(path).startswith(".") or os.fspath(path).count("/") < 2
        if local and found.name.endswith((*PICKLES, ".safetensors", ".json")):
            raise FileNotFoundError(f"there is no file {found}")
        found = _from_hub(os.fspath(path), revision, hub_files)
    if (found / "model" / "model.safetensors").is_file():
        found = found / "model"
    if found.is_file() and not found.name.endswith(PICKLES) and found.name in hub_files:
        found = found.parent
    source = Source(found)
    if found.is_dir() and not source.names.intersection(hub_files):
        pickles = sorted(name for name in source.names if name.endswith(PICKLES))
        if len(pickles) == 1:
            return Source(found / pickles[0])
    return source


def _from_hub(name: str, revision: str | None, files: list[str]) -> Path:
    parts = name.split("/")
    if len(parts) < 2 or name.startswith((".", "/", "~")) or not all(parts):
        raise FileNotFoundError(f"{name!r} is neither a folder nor the name of a Hub repository (owner/name)")
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ImportError("reading from the Hub needs huggingface_hub: pip install 'revelio-fast[models]'") from error
    repository, inside = "/".join(parts[:2]), "/".join(parts[2:])
    wanted = [inside, *(f"{inside}/{file}" for file in files)] if inside else files
    try:
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=wanted))
    except (OSError, ValueError) as error:  # Hub errors, and its refusals of names
        first = str(error).strip().split("\n")[0]
        raise FileNotFoundError(
            f"{repository!r} is no local folder, and cannot be fetched from the Hugging Face Hub "
            f"({type(error).__name__}: {first})"
        ) from error
    if not (folder / inside).exists():
        raise FileNotFoundError(f"the Hub repository {repository!r} has no {inside}")
    return folder / inside


def _keys(saved: dict[Any, Any]) -> str:
    shown = []
    for key, value in saved.items():
        if isinstance(value, Tensor):
            shown.append(f"{key} {list(value.shape)}")
        elif isinstance(value, dict):
            shown.append(f"{key} {{{_keys(value)}}}")
        else:
            shown.append(f"{key} ({type(value).__name__})")
    return _some(shown)


def _some(words: list[str], most: int = 12) -> str:
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")
