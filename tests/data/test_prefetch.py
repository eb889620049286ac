"""Decoding workers: order, bits, broken images, a bound on what is decoded ahead, no OpenMP teams, no hangs."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from revelio_fast.data import ImageSource, open_source
from revelio_fast.data.prefetch import Group, decoded_groups, default_workers
from revelio_fast.data.preprocess import image_to_tensor, model_input
from tests.conftest import REPOSITORY
from tests.tiny import picture

WORKERS = [0, 1, 2, 5]
TO_32 = functools.partial(model_input, size=32)


def groups(source: ImageSource, workers: int | None, batch_size: int = 4, skip: frozenset[int] = frozenset()):
    return decoded_groups(source, batch_size, 32, TO_32, skip, workers)


def pictures(opener, count: int) -> ImageSource:
    return ImageSource("pictures", [str(n) for n in range(count)], [-1] * count, str, opener)


@pytest.mark.parametrize("workers", [*WORKERS, None])
def test_order_and_bits_do_not_depend_on_the_workers(workers: int | None) -> None:
    def slower_at_the_front(number: int) -> Image.Image:
        time.sleep(0.01 * (4 - number % 5))
        return picture(number)

    found = list(groups(pictures(slower_at_the_front, 11), workers))
    assert [group.size for group in found] == [4, 4, 3] and [group.rows for group in found][-1] == [0, 1, 2]
    assert [item.name for group in found for item in group.items] == [str(n) for n in range(11)]
    for group in found:
        for row, item in zip(group.rows, group.items, strict=True):
            assert torch.equal(group.pixels[row], image_to_tensor(picture(int(item.name)), 32))
    assert not found[-1].pixels[3].any()


@pytest.mark.parametrize("workers", WORKERS)
def test_broken_and_skipped_images_leave_their_rows_empty(class_folder: Path, workers: int) -> None:
    (class_folder / "cat" / "01.png").write_text("no picture")
    source = open_source(class_folder)
    ids = source.image_ids
    first, *_ = groups(source, workers, skip=frozenset({ids[2]}))
    assert first.rows == [0, 3] and [item.image_id for item in first.items] == [ids[0], ids[3]]
    assert [error.image_id for error in first.broken] == [ids[1]] and "01.png" in str(first.broken[0])
    assert not first.pixels[1:3].any() and first.pixels[0].any()


@pytest.mark.parametrize("workers", WORKERS)
def test_an_unexpected_error_is_raised_in_its_turn(workers: int) -> None:
    def opener(number: int) -> Image.Image:
        if number == 6:
            raise RuntimeError("the disk is gone")
        return picture(number)

    stream = groups(pictures(opener, 20), workers)
    assert next(stream).rows == [0, 1, 2, 3]
    with pytest.raises(RuntimeError, match="the disk is gone"):
        next(stream)
    assert not decoding_threads()


def decoding_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("revelio-decode")]


@pytest.mark.parametrize("batch_size, workers, most", [(4, 1, 12), (4, 5, 16), (1, 3, 7), (4, 0, 4)])
def test_only_a_few_groups_are_decoded_ahead(batch_size: int, workers: int, most: int) -> None:
    """The group at hand, and two more or two images for each thread."""
    decoded = []

    def opener(number: int) -> Image.Image:
        decoded.append(number)
        return picture(number)

    stream = groups(pictures(opener, 200), workers, batch_size)
    next(stream)
    time.sleep(0.5)
    assert len(decoded) == most and sorted(decoded) == list(range(most))
    next(stream)
    stream.close()
    assert not decoding_threads() and len(decoded) <= most + batch_size


def test_a_wrong_number_of_workers_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match=r"workers must be at least 0 .*got -1"):
        groups(pictures(picture, 3), -1)
    assert 1 <= default_workers() <= 8


RUN = """
import functools, os, sys, threading, time
import torch
from revelio_fast.data import ImageSource
from revelio_fast.data.prefetch import decoded_groups
from revelio_fast.data.preprocess import model_input
from tests.tiny import picture

def tasks():
    return len(os.listdir("/proc/self/task"))

def large(number):
    return picture(number, (700, 500))

def stream(count, opener=large):
    source = ImageSource("pictures", [str(n) for n in range(count)], [0] * count, str, opener)
    return decoded_groups(source, 2, 512, functools.partial(model_input, size=512), (), 3)
"""
TEAMS = """
torch.set_num_threads(4)
torch.ones(1 << 20).sum()
before = tasks()
counts = [tasks() for _ in stream(12)]

def with_torch():
    torch.ones(1 << 20).sum()
    counts.append(tasks())

thread = threading.Thread(target=with_torch)
thread.start()
thread.join()
print(before, max(counts[:-1]), counts[-1])
"""
FORKED = """
torch.set_num_threads(4)
torch.ones(1 << 20).sum()
next(stream(12))
child = os.fork()
if child == 0:
    os._exit(0 if len([group.rows for group in stream(4)]) == 2 else 1)
print(os.waitpid(child, 0)[1])
"""
SLOW = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what runs in the background without it
def slow(number):
    time.sleep(0.2)
    return picture(number)

try:
    for group in stream(1000, slow):
        print("group", flush=True)
except KeyboardInterrupt:
    print(sum(thread.name.startswith("revelio-decode") for thread in threading.enumerate()), "left", flush=True)
    raise
"""


def start(script: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", RUN + script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY
    )


def output(script: str) -> str:
    process = start(script)
    found, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return found


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads in /proc")
def test_decoding_starts_no_team_of_openmp_threads() -> None:
    """It would fight the model's for the cores; the count would show it, as it does for a thread that uses torch."""
    before, decoding, with_torch = map(int, output(TEAMS).split())
    assert decoding <= before + 3 and with_torch >= before + 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_forked_child_decodes_although_the_parent_has_openmp_and_decoding_threads() -> None:
    assert output(FORKED).strip() == "0"


def test_ctrl_c_ends_the_workers() -> None:
    process = start(SLOW)
    assert process.stdout is not None and process.stdout.readline() == "group\n"
    sent = time.monotonic()
    process.send_signal(signal.SIGINT)
    found, errors = process.communicate(timeout=60)
    assert found.splitlines()[-1] == "0 left" and "KeyboardInterrupt" in errors
    # An image in work takes 0.2 s; leaving Python 2 or 3. The 1000 images would have taken over a minute.
    assert time.monotonic() - sent < 20


@pytest.mark.parametrize("workers", [0, 4])
def test_parquet_rows_are_read_by_several_threads(shared_data: Path, workers: int) -> None:
    pytest.importorskip("datasets")
    source = open_source(shared_data / "cifar10_12k", split="test", limit=300)
    found: list[Group] = list(groups(source, workers, 16))
    assert sum(len(group.rows) for group in found) == 300
    for group in found[::5]:
        assert torch.equal(group.pixels[3], image_to_tensor(group.items[3].load(), 32))
