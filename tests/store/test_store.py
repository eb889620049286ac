"""The activation store: what goes in comes out, rows and maps alike, bad input is refused by name."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

from revelio_fast.store import ActivationStore, StoreError


def files_of(path: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(path.iterdir())}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("rows", "shard_rows"), [(0, 4), (1, 4), (8, 4), (11, 4), (11, 100)])
def test_round_trip(tmp_path, dtype, rows, shard_rows):
    features = torch.randn(rows, 5).to(dtype)
    ids, labels = torch.randperm(1000)[:rows], torch.randint(0, 9, (rows,))
    store = ActivationStore.from_tensors(
        tmp_path / "s",
        features,
        ids,
        labels,
        shard_rows=shard_rows,
        layer="up_ft1",
        timestep=25,
        class_names=["ä", "b"],
    )
    store.verify()
    assert (len(store), store.rows, store.d, store.dtype) == (rows, rows, 5, dtype)
    assert store.metadata == {"layer": "up_ft1", "timestep": 25, "class_names": ["ä", "b"]}
    assert torch.equal(store.features(dtype=None), features)
    assert torch.equal(store.features(), features.float()) and store.features() is store.features()
    assert torch.equal(store.image_ids, ids) and torch.equal(store.labels, labels)
    by_id = store.sorted_by_id()
    assert torch.equal(by_id.image_ids, ids.sort().values)
    assert torch.equal(by_id.features, features.float()[ids.argsort()])
    assert "up_ft1" in repr(store)


def test_files_and_manifest(tmp_path):
    ActivationStore.from_tensors(tmp_path / "s", torch.randn(10, 3), shard_rows=4, layer="bottleneck")
    names = ["manifest.json", "shard-00000.safetensors", "shard-00001.safetensors", "shard-00002.safetensors"]
    assert sorted(p.name for p in (tmp_path / "s").iterdir()) == names
    manifest = json.loads((tmp_path / "s" / "manifest.json").read_text())
    assert manifest["schema_version"] == 2 and manifest["complete"] is True
    assert (manifest["row_shape"], manifest["dtype"], manifest["rows"]) == ([3], "float32", 10)
    assert manifest["metadata"] == {"layer": "bottleneck"}
    assert [shard["rows"] for shard in manifest["shards"]] == [4, 4, 2]
    for shard in manifest["shards"]:
        assert shard["sha256"] == hashlib.sha256((tmp_path / "s" / shard["file"]).read_bytes()).hexdigest()


@pytest.mark.parametrize("shard_rows", [3, None])
def test_maps_are_rows_of_another_shape(tmp_path, shard_rows):
    maps = torch.randn(8, 2, 5, 4).bfloat16()
    store = ActivationStore.from_tensors(tmp_path / "s", maps, torch.arange(8) + 5, shard_rows=shard_rows)
    assert store.row_shape == (2, 5, 4) and store.nbytes == maps.nbytes and len(store) == 8
    some = torch.tensor([7, 0, 3, 3])
    assert torch.equal(store.read(some), maps[some])
    assert torch.equal(store.features(dtype=None), maps)
    assert torch.equal(next(store.blocks(5)).features, maps[:5].float())
    with pytest.raises(StoreError, match=r"holds maps of shape \[2, 5, 4\], where pooled features \[rows, d\]"):
        _ = store.d
    with (
        pytest.raises(StoreError, match=r"takes floating-point features of shape \[rows, 2, 5, 4\], got torch.float32"),
        ActivationStore.create(tmp_path / "s", (2, 5, 4), torch.bfloat16) as writer,
    ):
        writer.append(torch.zeros(1, 2, 4, 5), torch.tensor([99]))


def test_shards_are_of_64_mib_unless_told(tmp_path):
    for d, rows in ((1280, 13_107), (2**25, 1)):
        ActivationStore.create(tmp_path / str(d), d).close()
        assert json.loads((tmp_path / str(d) / "manifest.json").read_text())["shard_rows"] == rows
    # A store that was begun with shards of its own is continued with them.
    ActivationStore.create(tmp_path / "s", 3, shard_rows=4).close()
    with ActivationStore.create(tmp_path / "s", 3) as writer:
        writer.append(torch.ones(9, 3), torch.arange(9))
    assert len(list((tmp_path / "s").glob("shard-*"))) == 3


def test_float64_is_stored_as_float32_and_ids_and_labels_default(tmp_path):
    store = ActivationStore.from_tensors(tmp_path / "s", torch.ones(3, 2, dtype=torch.float64))
    assert store.dtype == torch.float32
    assert store.image_ids.tolist() == [0, 1, 2] and store.labels.tolist() == [-1, -1, -1]


def test_labels_may_come_with_some_batches_only(tmp_path):
    with ActivationStore.create(tmp_path / "s", 2) as writer:
        writer.append(torch.ones(2, 2), torch.tensor([5, 6]))
        writer.append(torch.ones(1, 2), torch.tensor([7]), torch.tensor([3]))
    assert ActivationStore.open(tmp_path / "s").labels.tolist() == [-1, -1, 3]


def test_files_do_not_depend_on_how_rows_are_appended(tmp_path):
    features = torch.randn(23, 3)
    for name, step in (("a", 1), ("b", 7), ("c", 23)):
        with ActivationStore.create(tmp_path / name, 3, shard_rows=5, seed=0) as writer:
            for start in range(0, 23, step):
                part = features[start : start + step]
                writer.append(part, torch.arange(start, start + part.shape[0]))
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b") == files_of(tmp_path / "c")


def test_blocks_are_in_stored_order_across_shards(tmp_path):
    features = torch.randn(23, 4)
    store = ActivationStore.from_tensors(tmp_path / "s", features, torch.arange(23).flip(0), shard_rows=5)
    blocks = list(store.blocks(7))
    assert [b.features.shape[0] for b in blocks] == [7, 7, 7, 2]
    assert torch.equal(torch.cat([b.features for b in blocks]), features)
    assert torch.equal(torch.cat([b.image_ids for b in blocks]), torch.arange(23).flip(0))


@pytest.mark.parametrize("stored", [torch.float32, torch.float16])
def test_rows_do_not_come_from_a_rounded_copy_that_someone_asked_for(tmp_path, stored):
    features = torch.randn(9, 4).to(stored)
    store = ActivationStore.from_tensors(tmp_path / "s", features)
    store.features(dtype=torch.bfloat16)
    (block,) = store.blocks(9)
    assert torch.equal(block.features, features.float())


def test_blocks_of_no_rows_are_refused(tmp_path):
    store = ActivationStore.from_tensors(tmp_path / "s", torch.randn(3, 2))
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        next(store.blocks(0))
    assert list(ActivationStore.from_tensors(tmp_path / "e", torch.empty(0, 2)).blocks(4)) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_feature_that_is_not_finite_is_refused_by_image_id(tmp_path, value):
    features = torch.randn(4, 3)
    features[2, 1] = value
    with ActivationStore.create(tmp_path / "s", 3) as writer:
        with pytest.raises(StoreError, match=r"image 107 holds NaN or infinity.*Nothing of this batch was stored"):
            writer.append(features, torch.tensor([100, 105, 107, 110]))
        writer.append(features[:2], torch.tensor([100, 105]))
    assert ActivationStore.open(tmp_path / "s").image_ids.tolist() == [100, 105]


def test_a_value_too_large_for_float16_is_refused(tmp_path):
    with (
        ActivationStore.create(tmp_path / "s", 1, torch.float16) as writer,
        pytest.raises(StoreError, match=r"image 8 is too large for float16: make the store bfloat16 or float32"),
    ):
        writer.append(torch.tensor([[1.0], [70_000.0]]), torch.tensor([7, 8]))


@pytest.mark.parametrize(
    ("features", "ids", "labels", "message"),
    [
        (torch.ones(2, 4), torch.arange(2), None, r"shape \[rows, 3\], got torch.float32 of shape \[2, 4\]"),
        (torch.ones(3), torch.arange(1), None, r"got torch.float32 of shape \[3\]"),
        (torch.ones(2, 3, dtype=torch.int64), torch.arange(2), None, "got torch.int64"),
        (torch.ones(2, 3), torch.arange(3), None, "image_ids must be 2 integers"),
        (torch.ones(2, 3), torch.ones(2), None, "image_ids must be 2 integers, got torch.float32"),
        (torch.ones(2, 3), torch.arange(2), torch.arange(1), "labels must be 2 integers"),
        (torch.ones(2, 3), torch.tensor([4, 4]), None, "Image id 4 is already in"),
        (torch.ones(1, 3), torch.tensor([99]), None, "Image id 99 is already in"),
    ],
)
def test_bad_rows_are_refused(tmp_path, features, ids, labels, message):
    with ActivationStore.create(tmp_path / "s", 3) as writer:
        writer.append(torch.ones(1, 3), torch.tensor([99]))
        with pytest.raises(StoreError, match=message):
            writer.append(features, ids, labels)
    assert ActivationStore.open(tmp_path / "s").image_ids.tolist() == [99]


def test_settings_a_store_cannot_have(tmp_path):
    with pytest.raises(StoreError, match=r"cannot hold torch.int8"):
        ActivationStore.create(tmp_path / "s", 3, torch.int8)
    with pytest.raises(StoreError, match="at least 1, got 0"):
        ActivationStore.create(tmp_path / "s", 0)
    with pytest.raises(StoreError, match="plain JSON"):
        ActivationStore.create(tmp_path / "s", 3, model=object())
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="is a file: give a folder"):
        ActivationStore.create(tmp_path / "file", 3)
    assert not (tmp_path / "s").exists()
