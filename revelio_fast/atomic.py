"""Files that appear whole or not at all: write to a temporary name, fsync, rename."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from revelio_fast.folder_lock import FolderLock


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path; on success what lies there is fsynced and renamed to `path`.

    The temporary file has the name of `path`, in a folder beside it whose name starts with a dot and ends in ``.tmp``.
    If the block raises, the folder is removed and `path` is untouched. A kill leaves it behind, harmless, and the
    next `atomic_path` of the same `path` removes it; the folder of a process that is still writing is left alone.
    The file gets the permissions of an ordinary new file, whoever wrote it.

    Raises
    ------
    OSError
        If the file cannot be written; it names `path`. A safetensors error caused by the system becomes one, too.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _temporary_folder(target) as folder, _errors_name(target, folder):
        temporary = folder / target.name
        yield temporary
        # The folder was made with the user's umask; libraries make their files private to the user.
        os.chmod(temporary, folder.stat().st_mode & 0o666)
        _fsync(temporary)
        os.replace(temporary, target)
        _fsync(target.parent)


def atomic_write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` to `path` atomically and durably."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def atomic_write_json(path: str | os.PathLike[str], obj: Any) -> None:
    """Write `obj` as indented JSON with a final newline, keys in the order given."""
    atomic_write_bytes(path, (json.dumps(obj, indent=2, ensure_ascii=False) + "\n").encode())


def remove_temporaries(folder: str | os.PathLike[str]) -> None:
    """Remove what killed writers left directly in `folder`; for who holds the folder's `FolderLock`."""
    for path in Path(folder).glob(".*.tmp"):
        if path.is_dir():
            _remove_unused(path)
        else:  # of version 0.1
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _temporary_folder(target: Path) -> Iterator[Path]:
    """An empty folder that no other writer of `target` uses, removed at the end; what killed ones left goes first."""
    # Numbered, not random: what a killed writer left has a name that the next one meets. The lock tells it from a
    # folder in use.
    names = (target.parent / f".{target.name}.{number}.tmp" for number in itertools.count())
    folder, lock = next(claimed for claimed in map(_claimed, names) if claimed is not None)
    try:
        for left in itertools.takewhile(Path.exists, names):
            _remove_unused(left)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()


def _claimed(folder: Path) -> tuple[Path, FolderLock] | None:
    """Make `folder`, or empty what a killed writer left there, and lock it; None where another writer uses it."""
    while True:
        # not exist_ok=True: it raises for a folder that vanishes while mkdir looks at it
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
        try:
            lock = FolderLock(folder)
        except BlockingIOError:
            return None
        except FileNotFoundError:
            continue  # its owner has just removed it
        if not lock.held:  # no locks here: a name that nobody else can have
            lock.release()
            unique = folder.with_name(f"{folder.stem}.{uuid.uuid4().hex[:8]}.tmp")
            folder.rename(unique)
            return unique, FolderLock(unique)
        if lock.is_of(folder):
            for left in folder.iterdir():
                left.unlink()
            return folder, lock
        lock.release()


def _remove_unused(folder: Path) -> None:
    """Remove a temporary folder if no writer holds its lock."""
    with contextlib.suppress(OSError):
        lock = FolderLock(folder)
        if lock.held:
            shutil.rmtree(folder, ignore_errors=True)
        lock.release()


@contextlib.contextmanager
def _errors_name(target: Path, folder: Path) -> Iterator[None]:
    """Errors of the system that name no file, or the temporary one, name `target` instead."""
    try:
        yield
    except OSError as error:
        ours = error.filename is None or Path(os.fsdecode(error.filename)).is_relative_to(folder)
        if error.errno is None or not ours:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(target)) from error
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(target)) from error


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
