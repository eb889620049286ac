"""Interruption: a killed or failed writer loses little, and continuing gives the files of an undisturbed run."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
import torch

from revelio_fast.store import ActivationStore, StoreError
from tests.conftest import REPOSITORY
from tests.store.test_store import files_of

ABOUT = {"layer": "up_ft1", "timestep": 25}


def features_of(ids: range | list[int]) -> torch.Tensor:
    return torch.tensor([[i, i * 0.5, -i] for i in ids], dtype=torch.float32).reshape(-1, 3)


def fill(path, upto: int = 50, step: int = 4, flush_every: int = 0) -> None:
    """The whole job, or the rest of it."""
    with ActivationStore.create(path, 3, shard_rows=8, **ABOUT) as writer:
        todo = [i for i in range(upto) if i not in writer.done_ids]
        for number, start in enumerate(range(0, len(todo), step)):
            ids = todo[start : start + step]
            writer.append(features_of(ids), torch.tensor(ids))
            if flush_every and number % flush_every == 0:
                writer.flush()


@pytest.mark.parametrize("after", [0, 1, 7, 8, 9, 20, 24, 49, 50])
@pytest.mark.parametrize("flush", [False, True])
def test_continuing_after_an_exception_gives_the_same_files(tmp_path, after, flush):
    fill(tmp_path / "undisturbed")
    with pytest.raises(KeyError), ActivationStore.create(tmp_path / "s", 3, shard_rows=8, **ABOUT) as writer:
        for i in range(after):
            writer.append(features_of([i]), torch.tensor([i]))
            if flush:
                writer.flush()
        raise KeyError
    with pytest.raises(StoreError, match=f"unfinished \\({after} rows so far\\)"):
        ActivationStore.open(tmp_path / "s")
    partial = ActivationStore.open(tmp_path / "s", allow_incomplete=True)
    partial.verify()
    assert partial.image_ids.tolist() == list(range(after)) and not partial.complete
    fill(tmp_path / "s", step=3)
    assert files_of(tmp_path / "s") == files_of(tmp_path / "undisturbed")


KILLED = """
import sys, time, torch
from revelio_fast.store import ActivationStore
from tests.store.test_resume import ABOUT, features_of
writer = ActivationStore.create(sys.argv[1], 3, shard_rows=8, **ABOUT)
for i in range(50):
    if i in writer.done_ids:
        continue
    writer.append(features_of([i]), torch.tensor([i]))
    if i % 3 == 0 and sys.argv[2] == "flush":
        writer.flush()
    print(i, flush=True)
    time.sleep(0.002)
"""


@pytest.mark.parametrize("flush", ["flush", "no"])
def test_sigkill_again_and_again_loses_at_most_a_shard_and_ends_in_the_same_files(tmp_path, flush):
    fill(tmp_path / "undisturbed")
    path, done = tmp_path / "s", 0
    for stop_at in (3, 17, 18, 30, 41):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(path), flush],
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
        )
        assert process.stdout is not None
        last = -1
        for line in process.stdout:
            last = int(line)
            if last >= stop_at:
                break
        process.send_signal(signal.SIGKILL)
        process.wait()
        store = ActivationStore.open(path, allow_incomplete=True)
        store.verify()
        assert store.image_ids.tolist() == list(range(store.rows))
        assert torch.equal(store.features(), features_of(range(store.rows)))
        assert store.rows >= done and store.rows > last - 8
        done = store.rows
    fill(path)
    assert files_of(path) == files_of(tmp_path / "undisturbed")


def test_leftovers_of_a_kill_between_shard_and_manifest_are_cleared(tmp_path):
    fill(tmp_path / "undisturbed")
    with pytest.raises(KeyError), ActivationStore.create(tmp_path / "s", 3, shard_rows=8, **ABOUT) as writer:
        writer.append(features_of(range(20)), torch.arange(20))
        raise KeyError
    for name in ("shard-00002.safetensors", "partial-00002-2.safetensors", ".shard-00002.safetensors.ab.tmp"):
        (tmp_path / "s" / name).write_bytes(b"half a shard")
    fill(tmp_path / "s")
    assert files_of(tmp_path / "s") == files_of(tmp_path / "undisturbed")


def test_done_ids_are_those_on_disk(tmp_path):
    writer = ActivationStore.create(tmp_path / "s", 3, shard_rows=8)
    writer.append(features_of(range(10)), torch.arange(10))
    assert writer.done_ids == set(range(8)) and writer.rows == 10
    writer.flush()
    assert writer.done_ids == set(range(10))
    before = files_of(tmp_path / "s")
    writer.flush()
    assert files_of(tmp_path / "s") == before
    writer.close()
    writer.close()
    assert ActivationStore.open(tmp_path / "s").rows == 10
    with pytest.raises(StoreError, match="is closed"):
        writer.append(features_of([11]), torch.tensor([11]))


def test_a_complete_store_continues_with_more_images(tmp_path):
    fill(tmp_path / "s", upto=20)
    before = files_of(tmp_path / "s")
    fill(tmp_path / "s", upto=20)
    assert files_of(tmp_path / "s") == before
    fill(tmp_path / "s", upto=50)
    fill(tmp_path / "undisturbed")
    assert files_of(tmp_path / "s") == files_of(tmp_path / "undisturbed")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"d": 4}, "d was 3, now 4"),
        ({"dtype": torch.float16}, "dtype was 'float32', now 'float16'"),
        ({"shard_rows": 9}, "shard_rows was 8, now 9"),
        ({"timestep": 200}, "timestep was 25, now 200"),
        ({"prompt": "a cat"}, "prompt was None, now 'a cat'"),
    ],
)
def test_other_settings_are_refused(tmp_path, change, message):
    fill(tmp_path / "s", upto=5)
    with pytest.raises(StoreError, match=message):
        ActivationStore.create(tmp_path / "s", **{"d": 3, "shard_rows": 8, **ABOUT, **change})


def test_from_tensors_does_not_add_to_a_store(tmp_path):
    ActivationStore.from_tensors(tmp_path / "s", torch.ones(2, 3))
    before = files_of(tmp_path / "s")
    with pytest.raises(StoreError, match="already holds 2 rows"):
        ActivationStore.from_tensors(tmp_path / "s", torch.ones(2, 3), torch.tensor([7, 8]))
    assert files_of(tmp_path / "s") == before


def test_two_writers_at_once_are_refused(tmp_path):
    with (
        ActivationStore.create(tmp_path / "s", 3),
        pytest.raises(StoreError, match="Another process is writing"),
    ):
        ActivationStore.create(tmp_path / "s", 3)
    ActivationStore.create(tmp_path / "s", 3).close()


def test_a_damaged_shard_stops_the_continuation(tmp_path):
    fill(tmp_path / "s", upto=20)
    shard = tmp_path / "s" / "shard-00001.safetensors"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    with pytest.raises(StoreError, match=r"shard-00001.safetensors was altered"):
        fill(tmp_path / "s", upto=50)


def test_a_writer_that_is_dropped_lets_go_of_the_folder(tmp_path):
    ActivationStore.create(tmp_path / "s", 3)
    ActivationStore.create(tmp_path / "s", 3).close()
