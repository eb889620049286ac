"""Interruption: a killed or failed writer loses little, and continuing gives the files of an undisturbed run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
import torch

from revelio_fast.store import ActivationStore, StoreError, StoreWriter, shards
from revelio_fast.store import writer as writer_module
from revelio_fast.store.manifest import Manifest
from tests.conftest import REPOSITORY
from tests.store.test_store import files_of

METADATA = {"layer": "up_ft1", "timestep": 25}


def features_of(ids: range | list[int]) -> torch.Tensor:
    return torch.tensor([[i, i * 0.5, -i] for i in ids], dtype=torch.float32).reshape(-1, 3)


def fill(path, upto: int = 50, step: int = 4, flush_every: int = 0) -> None:
    """The whole job, or the rest of it."""
    with ActivationStore.create(path, 3, shard_rows=8, **METADATA) as writer:
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
    with pytest.raises(KeyError), ActivationStore.create(tmp_path / "s", 3, shard_rows=8, **METADATA) as writer:
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
from tests.store.test_resume import METADATA, features_of
writer = ActivationStore.create(sys.argv[1], 3, shard_rows=8, **METADATA)
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


def stopped_before(change: int, path) -> bool:
    """Run the job in a child that ends, without cleaning up, before its change of files number `change`."""
    child = os.fork()
    if child:
        return os.WEXITSTATUS(os.waitpid(child, 0)[1]) == 9
    done = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal done
        changes = event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod")
        if changes or (event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")):
            done += 1
            if done > change:
                os._exit(9)

    sys.addaudithook(hook)
    try:
        fill(path, upto=10, flush_every=2)
    finally:
        os._exit(0)


def test_any_change_of_files_can_be_the_last(tmp_path):
    fill(tmp_path / "undisturbed", upto=10)
    change = 0
    while stopped_before(change, tmp_path / f"{change}"):
        path = tmp_path / f"{change}"
        if (path / "manifest.json").exists():
            store = ActivationStore.open(path, allow_incomplete=True)
            store.verify()
            assert torch.equal(store.features(), features_of(range(store.rows)))
        fill(path, upto=10)
        assert files_of(path) == files_of(tmp_path / "undisturbed"), f"stopped before change {change}"
        change += 1
    assert change > 30


def test_leftovers_of_a_kill_between_shard_and_manifest_are_cleared(tmp_path):
    fill(tmp_path / "undisturbed")
    with pytest.raises(KeyError), ActivationStore.create(tmp_path / "s", 3, shard_rows=8, **METADATA) as writer:
        writer.append(features_of(range(20)), torch.arange(20))
        raise KeyError
    for name in ("shard-00002.safetensors", "partial-00002-2.safetensors", ".shard-00002.safetensors.ab.tmp"):
        (tmp_path / "s" / name).write_bytes(b"half a shard")
    left = tmp_path / "s" / ".shard-00002.safetensors.0.tmp"
    left.mkdir()
    (left / "shard-00002.safetensors").write_bytes(b"half a shard")
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


@pytest.mark.parametrize("after", ["shard", "manifest"])
def test_a_kill_while_a_finished_store_is_continued_loses_nothing(tmp_path, after, monkeypatch):
    """The next full shard takes the name of the short last one: at no moment may the manifest list the wrong file."""
    fill(tmp_path / "s", upto=20)
    written = []

    class Killed(BaseException):
        pass

    def killed_after(function, at):
        def call(*arguments, **keywords):
            found = function(*arguments, **keywords)
            written.append(1)
            if len(written) == at:
                raise Killed
            return found

        return call

    for at in range(1, 6):
        written.clear()
        if after == "shard":
            monkeypatch.setattr(writer_module, "write_shard", killed_after(shards.write_shard, at))
        else:
            monkeypatch.setattr(Manifest, "write", killed_after(Manifest.write, at))
        monkeypatch.setattr(StoreWriter, "abandon", StoreWriter._let_go)
        try:
            fill(tmp_path / "s", upto=50)
        except Killed:
            monkeypatch.undo()
            store = ActivationStore.open(tmp_path / "s", allow_incomplete=True)
            store.verify()
            assert store.rows >= 20 and torch.equal(store.features(), features_of(range(store.rows)))
        monkeypatch.undo()
    fill(tmp_path / "s")
    fill(tmp_path / "undisturbed")
    assert files_of(tmp_path / "s") == files_of(tmp_path / "undisturbed")


@pytest.mark.parametrize("files", [["shard-00000.safetensors"], ["partial-00000-2.safetensors"], ["maps.raw"]])
def test_data_without_a_manifest_is_never_deleted(tmp_path, files):
    """Finding 1 of the fault campaign: the finished shards of a store whose manifest was lost went without a word."""
    if files == ["shard-00000.safetensors"]:
        fill(tmp_path)
        (tmp_path / "manifest.json").unlink()
    else:
        (tmp_path / files[0]).write_bytes(b"maps")
    before = files_of(tmp_path)
    with pytest.raises(StoreError, match=rf"holds data of a store, {files[0]} for one, but no manifest.json: restore"):
        fill(tmp_path)
    assert files_of(tmp_path) == before


def test_shards_that_an_older_manifest_does_not_list_are_not_deleted(tmp_path):
    fill(tmp_path, upto=16)
    older = (tmp_path / "manifest.json").read_bytes()
    fill(tmp_path)
    (tmp_path / "manifest.json").write_bytes(older)
    before = files_of(tmp_path)
    with pytest.raises(StoreError, match=r"shard-0000\d.safetensors is not listed in manifest.json, which is older"):
        fill(tmp_path)
    assert files_of(tmp_path) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"row_shape": 4}, r"row_shape was \(3,\), now \(4,\)"),
        ({"dtype": torch.float16}, "dtype was 'float32', now 'float16'"),
        ({"shard_rows": 9}, "shard_rows was 8, now 9"),
        ({"timestep": 200}, "timestep was 25, now 200"),
        ({"prompt": "a cat"}, "prompt was None, now 'a cat'"),
    ],
)
def test_other_settings_are_refused(tmp_path, change, message):
    fill(tmp_path / "s", upto=5)
    with pytest.raises(StoreError, match=message):
        ActivationStore.create(tmp_path / "s", **{"row_shape": 3, "shard_rows": 8, **METADATA, **change})


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


def test_a_forked_child_does_not_keep_the_lock(tmp_path):
    """Finding 12: a child made while a store was written held the lock after the writer had closed it."""
    for end in ("close", "abandon", "drop"):
        writer = ActivationStore.create(tmp_path / "s", 3)
        begun, ended = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            writer._lock.release()  # what its garbage collector would do: the parent's lock stays
            os.write(begun[1], b"x")
            os.read(ended[0], 1)
            os._exit(0)
        try:
            os.read(begun[0], 1)
            with pytest.raises(StoreError, match="Another process is writing"):
                ActivationStore.create(tmp_path / "s", 3)
            if end != "drop":
                getattr(writer, end)()
            del writer
            ActivationStore.create(tmp_path / "s", 3).close()
        finally:
            os.write(ended[1], b"x")
            os.waitpid(child, 0)


def test_an_unfinished_store_that_moves_on_is_a_store_error(tmp_path):
    writer = ActivationStore.create(tmp_path / "s", 3, shard_rows=8)
    writer.append(features_of(range(3)), torch.arange(3))
    writer.flush()
    store = ActivationStore.open(tmp_path / "s", allow_incomplete=True)
    writer.append(features_of(range(3, 9)), torch.arange(3, 9))
    with pytest.raises(StoreError, match=r"partial-00000-3.safetensors is missing"):
        store.read(torch.tensor([0]))
    writer.close()


def test_a_writer_that_is_dropped_lets_go_of_the_folder(tmp_path):
    ActivationStore.create(tmp_path / "s", 3)
    ActivationStore.create(tmp_path / "s", 3).close()
