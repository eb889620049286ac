"""The lock on a folder: one holder, gone with its process, and not kept by children."""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from revelio_fast import folder_lock
from revelio_fast.folder_lock import FolderLock
from tests.conftest import REPOSITORY

HOLDER = """
import sys
from revelio_fast.folder_lock import FolderLock
lock = FolderLock(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    first = FolderLock(tmp_path)
    with pytest.raises(BlockingIOError, match=rf"^Another process is writing to {tmp_path}: wait for it"):
        FolderLock(tmp_path)
    first.release()
    first.release()
    second = FolderLock(tmp_path)
    assert second.held and second.is_of(tmp_path) and not second.is_of(tmp_path.parent)
    del second
    gc.collect()
    FolderLock(tmp_path).release()


@pytest.mark.parametrize("how", ["kill", "end"])
def test_it_ends_with_its_process(tmp_path: Path, how: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=REPOSITORY
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        with pytest.raises(BlockingIOError):
            FolderLock(tmp_path)
        if how == "kill":
            process.send_signal(signal.SIGKILL)
        process.communicate()
    FolderLock(tmp_path).release()


def test_a_child_that_outlives_its_parent_does_not_keep_it(tmp_path: Path) -> None:
    forking = HOLDER.replace('print("held"', "import os, time\nif os.fork() == 0:\n    time.sleep(60)\nprint('held'")
    with subprocess.Popen(
        [sys.executable, "-c", forking, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=REPOSITORY,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None and process.stdout.readline() == b"held\n"
            process.send_signal(signal.SIGKILL)
            process.wait()
            FolderLock(tmp_path).release()
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def test_a_file_system_without_locks_is_written_to_unguarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(folder_lock.fcntl, "flock", refuse)
    first, second = FolderLock(tmp_path), FolderLock(tmp_path)
    assert not first.held and not second.held
    from revelio_fast.atomic import atomic_path

    with atomic_path(tmp_path / "a") as one, atomic_path(tmp_path / "a") as two:
        assert one.parent != two.parent
        one.write_bytes(b"1")
        two.write_bytes(b"2")
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and fcntl is folder_lock.fcntl
    with pytest.raises(FileNotFoundError):
        FolderLock(tmp_path / "nothing")
