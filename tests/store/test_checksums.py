"""Features are compared with their checksums when they are first read; what cannot be read says why, and what to do."""

from __future__ import annotations

import errno
import os
import resource
import zlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from revelio_fast.ops import cpu_runtime
from revelio_fast.store import ActivationStore, StoreError, positioned
from revelio_fast.store.checks import unreadable

ROWS, WIDTH = 300, 640  # 12 rows of float32 share a checksum


@pytest.fixture
def store(tmp_path: Path) -> ActivationStore:
    return ActivationStore.from_tensors(tmp_path / "s", torch.randn(ROWS, WIDTH), shard_rows=100)


def alter(path: Path, row: int) -> None:
    """Flip one exponent bit of one feature."""
    features = load_file(path)["features"]
    data = bytearray(path.read_bytes())
    data[data.index(features[row].numpy().tobytes()) + 7] ^= 0x40
    path.write_bytes(data)


def test_every_block_has_the_checksum_of_its_bytes(store):
    for file in sorted(store.path.glob("shard-*")):
        tensors = load_file(file)
        found = [value % 2**32 for value in tensors["block_crc32"].tolist()]
        assert found == [zlib.crc32(block.numpy().tobytes()) for block in tensors["features"].split(12)]
    assert len(found) == 9


@pytest.mark.parametrize("where", ["before it is opened", "after"])
@pytest.mark.parametrize(
    "rows",
    [
        torch.arange(ROWS),
        torch.randperm(ROWS, generator=torch.Generator().manual_seed(1)),
        torch.tensor([150]),
        torch.tensor([147, 2, 151, 151, 298]),
        torch.arange(148, 160),  # the block, whole
        torch.arange(159, 147, -1),
        torch.tensor([148, 148, *range(150, 160)]),  # as many rows as the block, but not all of it
    ],
)
def test_altered_features_are_never_used(store, where, rows):
    """Finding 2: one flipped exponent bit ended in "training diverged: lower lr"."""
    if where == "after":
        alter(store.path / "shard-00001.safetensors", 50)
    else:
        alter(store.path / "shard-00001.safetensors", 50)
        store = ActivationStore.open(store.path)
    whole = torch.cat([torch.arange(148), torch.arange(160, ROWS)])
    assert store.read(whole).shape == (len(whole), WIDTH)  # all blocks but the damaged one
    for _ in range(2):
        with pytest.raises(StoreError, match=r"shard-00001.safetensors was altered: its rows 48 to 59 do not match"):
            store.read(rows)
    with pytest.raises(StoreError, match="was altered"):
        store.features()


@pytest.mark.parametrize("way", ["extension", "python"])
def test_a_block_is_compared_once(store, way, monkeypatch):
    if way == "python":
        monkeypatch.setattr(cpu_runtime, "unavailable", lambda: "not built")
    compared = []
    real = zlib.crc32

    def counted(data, *start):
        compared.append(len(data))
        return real(data, *start)

    opened = ActivationStore.open(store.path)
    monkeypatch.setattr(positioned.zlib, "crc32", counted)
    assert torch.equal(opened.read(torch.tensor([3, 250])), store.features()[[3, 250]])
    compared.clear()
    for rows in (torch.tensor([3, 5]), torch.arange(ROWS), torch.randperm(ROWS)):
        assert torch.equal(opened.read(rows), store.features()[rows])
    assert sum(compared) == (ROWS - 24) * WIDTH * 4


def test_altered_ids_and_labels_are_noticed_at_opening(tmp_path):
    ActivationStore.from_tensors(tmp_path / "s", torch.randn(10, 3), torch.arange(10), torch.arange(10), shard_rows=4)
    path = tmp_path / "s" / "shard-00001.safetensors"
    whole = path.read_bytes()
    features = whole.index(load_file(path)["features"].numpy().tobytes())
    for place in [*range(0, features, 5), *range(features + 48, len(whole))]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(StoreError, match=r"shard-00001.safetensors (was altered|does not hold)"):
            ActivationStore.open(tmp_path / "s")


def test_a_map_store_cut_short_while_it_is_open_is_a_sentence(tmp_path):
    """Finding 7: memory-mapped maps ended in SIGBUS."""
    store = ActivationStore.from_tensors(tmp_path / "s", torch.randn(6, 4, 64, 64), shard_rows=3)
    path = tmp_path / "s" / "shard-00001.safetensors"
    os.truncate(path, path.stat().st_size // 2)
    assert store.read(torch.tensor([1])).shape == (1, 4, 64, 64)
    with pytest.raises(StoreError, match=r"shard-00001.safetensors is truncated: \d+ bytes instead of \d+"):
        store.read(torch.tensor([5]))


def test_few_file_descriptors_are_enough(tmp_path):
    """Finding 8: with 64 descriptors and 200 shards the advice was to delete the store."""
    features = torch.randn(30, 3)
    store = ActivationStore.from_tensors(tmp_path / "s", features, shard_rows=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    here = max(int(name) for name in os.listdir("/proc/self/fd")) + 1
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (here + 8, hard))
        assert torch.equal(ActivationStore.open(tmp_path / "s").read(torch.arange(30)), features)
        held = []
        try:
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            pass
        with pytest.raises(StoreError, match=r"Too many open files.*ulimit -n") as caught:
            store.read(torch.arange(30))
        for descriptor in held:
            os.close(descriptor)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert "delete" not in str(caught.value)


@pytest.mark.parametrize(
    "number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE]
)
def test_good_data_is_never_to_be_deleted(store, number, monkeypatch):
    assert "delete" not in unreadable(store.path, number)

    def failing(*arguments):
        raise OSError(number, os.strerror(number), str(arguments[0]))

    monkeypatch.setattr(cpu_runtime, "unavailable", lambda: "not built")
    monkeypatch.setattr(positioned.os, "open", failing)
    with pytest.raises(StoreError, match=os.strerror(number)) as caught:
        store.read(torch.arange(3))
    assert "shard-00000.safetensors" in str(caught.value) and "delete" not in str(caught.value)
