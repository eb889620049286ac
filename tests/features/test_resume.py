"""SIGKILL in the middle of an extraction: the rerun's files are those of an undisturbed run, byte for byte."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from revelio_fast.features import open_source
from tests.features import killed_extraction
from tests.features.conftest import picture

REPOSITORY = Path(__file__).resolve().parents[2]
PICTURES = 40


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def rows_on_disk(out: Path, what: str) -> int:
    manifests = list(out.glob("*/*/manifest.json"))
    read = (json.loads(path.read_text()) for path in manifests)
    return sum(m["shape"][0] if what == "maps" else m["rows"] for m in read)


@pytest.mark.parametrize("what", ["stores", "maps"])
def test_resume_after_sigkill_is_bit_identical(tiny_sd: Path, tmp_path: Path, what: str) -> None:
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
    while process.poll() is None and rows_on_disk(out, what) < 20 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.poll() is None, process.stderr.read().decode() if process.stderr else ""
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert 20 <= rows_on_disk(out, what) < 4 * PICTURES
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


def test_a_second_run_computes_nothing(tiny_sd: Path, class_folder: Path, tmp_path: Path) -> None:
    source = open_source(class_folder)
    killed_extraction.run("stores", tiny_sd, source, tmp_path / "out")
    before = contents(tmp_path / "out")

    def refuse(_: int) -> object:
        raise AssertionError("a finished image was decoded again")

    source._opener = refuse  # type: ignore[assignment]
    killed_extraction.run("stores", tiny_sd, source, tmp_path / "out")
    assert contents(tmp_path / "out") == before


def test_new_images_are_added_to_a_finished_extraction(tiny_sd: Path, class_folder: Path, tmp_path: Path) -> None:
    """`limit` leaves ids as they are, so a trial run on some images can be completed later."""
    for what in ("stores", "maps"):
        out = tmp_path / what
        killed_extraction.run(what, tiny_sd, open_source(class_folder, limit=4), out)
        first = rows_on_disk(out, what)
        killed_extraction.run(what, tiny_sd, open_source(class_folder), out)
        assert (first, rows_on_disk(out, what)) == (4 * 4, 4 * 11)
