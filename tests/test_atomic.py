"""Files that appear whole or not at all: after kills, beside other writers, on a full disk; their permissions."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from revelio_fast.atomic import atomic_path, atomic_write_bytes, atomic_write_json, remove_temporaries
from tests.conftest import REPOSITORY


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    for text in ("one", "two"):
        with atomic_path(tmp_path / "new" / "a.txt") as temporary:
            assert temporary.name == "a.txt" and temporary.parent.parent == tmp_path / "new"
            temporary.write_text(text)
        assert (tmp_path / "new" / "a.txt").read_text() == text
    atomic_write_json(tmp_path / "new" / "b.json", {"b": "ä"})
    assert (tmp_path / "new" / "b.json").read_text() == '{\n  "b": "ä"\n}\n'
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a.txt", "b.json"]


def test_an_error_leaves_the_old_file(tmp_path: Path) -> None:
    atomic_write_bytes(tmp_path / "a", b"old")
    with pytest.raises(KeyError), atomic_path(tmp_path / "a") as temporary:
        temporary.write_bytes(b"half")
        raise KeyError
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_bytes() == b"old"


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_files_have_the_permissions_of_new_files(tmp_path: Path, umask: int, mode: int) -> None:
    """Finding 3: safetensors writes files that nobody but the user can read."""
    before = os.umask(umask)
    try:
        with atomic_path(tmp_path / "a.safetensors") as temporary:
            save_file({"x": torch.ones(2)}, temporary)
        atomic_write_bytes(tmp_path / "b", b"b")
    finally:
        os.umask(before)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("a.safetensors", "b")] == [mode, mode]


KILLED = """
import os, signal, sys, torch
from safetensors.torch import save_file
from revelio_fast.atomic import atomic_path
for path in sys.argv[1:]:
    with atomic_path(path) as temporary:
        save_file({"x": torch.ones(3)}, temporary)
        (temporary.parent / ".tmpAbCdEf").write_bytes(b"what safetensors itself leaves behind")
        if path == sys.argv[-1]:
            os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_kill_left_goes_with_the_next_write(tmp_path: Path) -> None:
    """Finding 9."""
    path = tmp_path / "a.safetensors"
    for _ in range(2):
        process = subprocess.run([sys.executable, "-c", KILLED, str(path)], cwd=REPOSITORY)
        assert process.returncode == -signal.SIGKILL and not path.exists() and len(list(tmp_path.iterdir())) == 1
    with atomic_path(path) as temporary:
        assert list(temporary.parent.iterdir()) == []
        save_file({"x": torch.zeros(3)}, temporary)
    assert [each.name for each in tmp_path.iterdir()] == ["a.safetensors"] and not load_file(path)["x"].any()
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "other")], cwd=REPOSITORY)
    (tmp_path / ".other.12ab34cd.tmp").write_bytes(b"of version 0.1")
    assert len(list(tmp_path.iterdir())) == 3
    remove_temporaries(tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_writer_at_work_is_left_alone(tmp_path: Path) -> None:
    inside, go_on, ends = threading.Event(), threading.Event(), []

    def slow() -> None:
        with atomic_path(tmp_path / "a") as temporary:
            temporary.write_bytes(b"slow")
            inside.set()
            go_on.wait(30)
        ends.append("slow")

    thread = threading.Thread(target=slow)
    thread.start()
    assert inside.wait(30)
    remove_temporaries(tmp_path)
    atomic_write_bytes(tmp_path / "a", b"quick")
    assert (tmp_path / "a").read_bytes() == b"quick" and not ends
    go_on.set()
    thread.join()
    assert ends == ["slow"] and (tmp_path / "a").read_bytes() == b"slow"
    assert [each.name for each in tmp_path.iterdir()] == ["a"]


def test_many_writers_of_one_file(tmp_path: Path) -> None:
    contents = [bytes([number]) * 5000 for number in range(8)]
    failed = []

    def write(data: bytes) -> None:
        try:
            for _ in range(10):
                atomic_write_bytes(tmp_path / "a", data)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(data,)) for data in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed and (tmp_path / "a").read_bytes() in contents
    assert [each.name for each in tmp_path.iterdir()] == ["a"]


FULL = """
import resource, sys, torch
from safetensors.torch import save_file
from revelio_fast.atomic import atomic_path, atomic_write_bytes
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
for name, write in (
    ("bytes", lambda path: path.write_bytes(bytes(20_000))),
    ("safetensors", lambda path: save_file({"x": torch.ones(5000)}, path)),
):
    try:
        with atomic_path(f"{sys.argv[1]}/{name}") as temporary:
            write(temporary)
    except OSError as error:
        print(type(error).__name__, error)
"""


def test_what_the_system_refuses_names_the_file(tmp_path: Path) -> None:
    """Finding 4: "[Errno 28]" without a file, and a SafetensorError that no command turns into a sentence.

    A limit on the size of files stands for a full disk: the same calls fail, with another number.
    """
    process = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    words = os.strerror(errno.EFBIG)
    assert process.stdout.splitlines() == [
        f"OSError [Errno {errno.EFBIG}] {words}: '{tmp_path / name}'" for name in ("bytes", "safetensors")
    ]
    assert not list(tmp_path.iterdir())


def test_other_errors_stay_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="elsewhere"), atomic_path(tmp_path / "a"):
        os.stat("/no/such/elsewhere")
    with pytest.raises(SafetensorError, match="no number"), atomic_path(tmp_path / "a"):
        raise SafetensorError("no number")
    with pytest.raises(FileNotFoundError) as caught, atomic_path(tmp_path / "a"):
        pass  # nothing was written
    assert caught.value.filename == str(tmp_path / "a")
    with pytest.raises(OSError, match=r"No space left on device: '.*/a'"), atomic_path(tmp_path / "a"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert not list(tmp_path.iterdir())
