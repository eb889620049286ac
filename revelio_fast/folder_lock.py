"""A lock on a folder: one writer at a time; it ends with the process, however that ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import weakref
from pathlib import Path

_descriptors: set[int] = set()


class FolderLock:
    """An advisory lock on a folder, held from construction to `release` or the end of the object or process.

    A child made by fork does not hold its parent's locks. File systems without locks (some network file systems) are
    written to unguarded: `held` is False there.

    Parameters
    ----------
    folder : path
        Exists.

    Raises
    ------
    BlockingIOError
        If another process, or another lock of this one, holds the folder.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self._descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        self.held = True
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise BlockingIOError(
                f"Another process is writing to {folder}: wait for it, or choose another folder."
            ) from None
        except OSError:
            self.held = False
        _descriptors.add(self._descriptor)
        self._release = weakref.finalize(self, _let_go, self._descriptor)

    def release(self) -> None:
        """Let go of the folder. Releasing twice does nothing."""
        self._release()

    def is_of(self, folder: Path) -> bool:
        """Whether what lies at `folder` now is the folder that was locked."""
        try:
            return os.path.samestat(os.fstat(self._descriptor), folder.stat())
        except FileNotFoundError:
            return False


def _let_go(descriptor: int) -> None:
    if descriptor not in _descriptors:
        return  # in a child of the process that took the lock
    _descriptors.discard(descriptor)
    # Closing alone would leave the lock with a child that shares the open folder.
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def _forget() -> None:
    """In a child: its copies of the descriptors would keep the parent's locks alive after the parent's end."""
    while _descriptors:
        with contextlib.suppress(OSError):
            os.close(_descriptors.pop())


os.register_at_fork(after_in_child=_forget)
