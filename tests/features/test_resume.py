"""A kill, Ctrl-C or full disk in the middle of an extraction: the rerun's files are those of an undisturbed run."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from revelio_fast.data import open_source
from revelio_fast.store import ActivationStore, StoreWriter
from tests.features import killed_extraction
from tests.tiny import picture

REPOSITORY = Path(__file__).resolve().parents[2]
PICTURES = 40


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def rows_on_disk(out: Path) -> int:
    manifests = list(out.glob("*/*/manifest.json"))
    read = (json.loads(path.read_text()) for path in manifests)
    return sum(manifest["rows"] for manifest in read)


@pytest.mark.parametrize(
    ("what", "how"), [("stores", signal.SIGKILL), ("maps", signal.SIGKILL), ("stores", signal.SIGINT)]
)
def test_resume_is_bit_identical(tiny_sd: Path, tmp_path: Path, what: str, how: signal.Signals) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(PICTURES):
        picture(number).save(pictures / f"{number:03d}.png")
    out, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    process = subprocess.Popen(
        [sys.executable, "-m", killed_extraction.__name__, what, str(tiny_sd), str(pictures), str(out)],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 120
    while process.poll() is None and rows_on_disk(out) < 20 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.poll() is None, process.stderr.read().decode() if process.stderr else ""
    process.send_signal(how)
    _, said = process.communicate()
    if how == signal.SIGINT:
        assert b"KeyboardInterrupt" in said
        # All that was computed is saved: the stores agree to the row, and are whole.
        stores = [ActivationStore.open(path.parent, allow_incomplete=True) for path in out.glob("*/*/manifest.json")]
        assert len(stores) == 4 and len({tuple(store.image_ids.tolist()) for store in stores}) == 1
        assert not any(store.complete for store in stores)
        for store in stores:
            store.verify()
    assert 20 <= rows_on_disk(out) < 4 * PICTURES
    survivors = {name: data for name, data in contents(out).items() if Path(name).name.startswith("shard-")}

    source = open_source(pictures)
    killed_extraction.run(what, tiny_sd, source, out)
    killed_extraction.run(what, tiny_sd, source, undisturbed)
    found, expected = contents(out), contents(undisturbed)
    assert sorted(found) == sorted(expected)
    for name, data in expected.items():
        assert found[name] == data, f"{name} differs"
    for name, data in survivors.items():
        assert found[name] == data, f"{name} was written again"


@pytest.mark.parametrize("what", ["stores", "maps"])
def test_an_error_of_the_writing_thread_is_the_error_of_the_extraction(
    tiny_sd: Path, class_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    real, calls = StoreWriter.append, []

    def full(self: object, *rows: object) -> None:
        assert threading.current_thread().name == "revelio-write"
        calls.append(self)
        if len(calls) > 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, *rows)

    monkeypatch.setattr(StoreWriter, "append", full)
    source = open_source(class_folder)
    with pytest.raises(OSError, match="No space left on device"):
        killed_extraction.run(what, tiny_sd, source, tmp_path / "full")
    # Four stores: one batch of three images in each, and half of the next. What was appended is safe.
    assert len(calls) == 7 and rows_on_disk(tmp_path / "full") == 6 * 3
    monkeypatch.undo()
    killed_extraction.run(what, tiny_sd, source, tmp_path / "full")
    killed_extraction.run(what, tiny_sd, source, tmp_path / "undisturbed")
    assert contents(tmp_path / "full") == contents(tmp_path / "undisturbed")


def test_a_second_run_computes_nothing(
    tiny_sd: Path, class_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files are read again, to see whether they have changed, and none is decoded."""
    source = open_source(class_folder)
    killed_extraction.run("stores", tiny_sd, source, tmp_path / "out")
    before = contents(tmp_path / "out")

    def refuse(_: object) -> object:
        raise AssertionError("a finished image was decoded again")

    monkeypatch.setattr("revelio_fast.data.image_source.decode", refuse)
    killed_extraction.run("stores", tiny_sd, source, tmp_path / "out")
    assert contents(tmp_path / "out") == before


def test_new_images_are_added_to_a_finished_extraction(tiny_sd: Path, class_folder: Path, tmp_path: Path) -> None:
    """`limit` leaves ids as they are, so a trial run on some images can be completed later."""
    for what in ("stores", "maps"):
        out = tmp_path / what
        killed_extraction.run(what, tiny_sd, open_source(class_folder, limit=4), out)
        first = rows_on_disk(out)
        killed_extraction.run(what, tiny_sd, open_source(class_folder), out)
        assert (first, rows_on_disk(out)) == (4 * 4, 4 * 11)
