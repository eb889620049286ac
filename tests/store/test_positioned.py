"""Rows read by position: the same as from memory, by the extension and without it, and damage met in use."""

import pytest
import torch

from revelio_fast.ops import cpu_runtime
from revelio_fast.store import ActivationStore, StoreError, positioned


@pytest.fixture(params=["extension", "python"])
def way(request, monkeypatch):
    if request.param == "python":
        monkeypatch.setattr(cpu_runtime, "unavailable", lambda: "not built")
    elif cpu_runtime.unavailable() or not hasattr(cpu_runtime.load(), "read_rows"):
        pytest.skip("revelio_fast._C is not built")
    return request.param


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shard_rows", [1, 7, 64, 5000])
def test_any_rows_in_any_order(tmp_path, way, dtype, shard_rows):
    # 70 files are more than are open at a time, 1500 rows more than one readv takes.
    count = {1: 70, 7: 100}.get(shard_rows, 1500)
    features = torch.randn(count, 5).to(dtype)
    store = ActivationStore.from_tensors(tmp_path / "s", features, shard_rows=shard_rows)
    every, some = torch.arange(count), torch.randint(0, count, (500,))
    for rows in (every, every.flip(0), torch.randperm(count), some, some.int(), some[:1], some[:0]):
        got = store.read(rows)
        assert got.dtype == dtype and torch.equal(got, features[rows.long()])
    assert torch.equal(store.gather(some).features, features[some].float())
    assert torch.equal(store.features(dtype=None), features)


@pytest.mark.parametrize("wrong", [-1, 10])
def test_rows_outside_are_named(tmp_path, way, wrong):
    store = ActivationStore.from_tensors(tmp_path / "s", torch.randn(10, 3), shard_rows=4)
    with pytest.raises(IndexError, match=rf"rows must lie in \[0, 10\), got {wrong}"):
        store.read(torch.tensor([3, wrong]))


def test_shards_damaged_in_use_are_named(tmp_path, way):
    x = torch.randn(10, 3)
    store = ActivationStore.from_tensors(tmp_path / "s", x, shard_rows=4)
    shard = tmp_path / "s" / "shard-00001.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) - 60])  # ids, labels and the end of the features
    assert torch.equal(store.read(torch.tensor([0, 9])), x[[0, 9]])
    with pytest.raises(StoreError, match=r"shard-00001.safetensors is truncated: \d+ bytes instead of \d+. Restore"):
        store.read(torch.tensor([0, 7]))
    shard.unlink()
    with pytest.raises(StoreError, match=r"shard-00001.safetensors is missing. Restore the file from a copy"):
        store.read(torch.tensor([5]))
    shard.mkdir()
    with pytest.raises(StoreError, match=r"shard-00001.safetensors"):
        store.read(torch.tensor([5]))


def test_an_extension_of_an_older_build_does_not_stop_reading(tmp_path, monkeypatch):
    x = torch.randn(10, 3)
    store = ActivationStore.from_tensors(tmp_path / "s", x, shard_rows=4)
    monkeypatch.setattr(cpu_runtime, "load", object)
    monkeypatch.setattr(cpu_runtime, "unavailable", str)
    assert torch.equal(store.read(torch.tensor([7, 2])), x[[7, 2]])
    assert positioned.cpu_runtime is cpu_runtime
