"""Stores that version 0.1 wrote (``version_0_1/``, files of that very version) are still read and continued."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from revelio_fast.features import MapStore
from revelio_fast.store import ActivationStore, StoreError
from tests.store.test_store import files_of

WRITTEN = Path(__file__).parent / "version_0_1"
METADATA = {"layer": "up_ft1", "timestep": 25, "class_names": ["ä", "b"]}
ROWS = torch.arange(30).view(10, 3).bfloat16() / 4
MAPS = torch.arange(90).view(5, 2, 3, 3).bfloat16() / 8


@pytest.fixture
def stores(tmp_path: Path) -> Path:
    return Path(shutil.copytree(WRITTEN, tmp_path / "stores"))


def test_rows_are_read(stores):
    store = ActivationStore.open(stores / "rows")
    store.verify()
    assert (store.rows, store.d, store.dtype, store.metadata) == (10, 3, torch.bfloat16, METADATA)
    assert torch.equal(store.read(torch.arange(10)), ROWS) and torch.equal(store.features(), ROWS.float())
    assert store.image_ids.tolist() == list(range(0, 70, 7)) and store.labels.tolist() == [0, 1] * 5
    assert store.names is None and store.contents is None


def test_altered_rows_are_noticed_when_their_shard_is_first_read(stores):
    path = stores / "rows" / "shard-00001.safetensors"
    data = bytearray(path.read_bytes())
    data[data.index(ROWS[4:8].view(torch.int16).numpy().tobytes()) + 1] ^= 0x40
    path.write_bytes(data)
    store = ActivationStore.open(stores / "rows")
    assert torch.equal(store.read(torch.tensor([0, 9])), ROWS[[0, 9]])
    with pytest.raises(StoreError, match=r"shard-00001.safetensors was altered: its SHA-256"):
        store.read(torch.tensor([5]))


def test_a_finished_store_is_left_as_it_is_and_can_be_continued(stores):
    before = files_of(stores / "rows")
    with ActivationStore.create(stores / "rows", 3, torch.bfloat16, 4, **METADATA) as writer:
        assert len(writer.done_ids) == 10
    assert files_of(stores / "rows") == before
    with ActivationStore.create(stores / "rows", 3, torch.bfloat16, 4, **METADATA) as writer:
        writer.append(ROWS[:3], torch.arange(1, 4), torch.zeros(3, dtype=torch.int64))
    store = ActivationStore.open(stores / "rows")
    store.verify()
    assert torch.equal(store.read(torch.arange(13)), torch.cat([ROWS, ROWS[:3]]))
    after = files_of(stores / "rows")
    assert {name for name in before if after.get(name) == before[name]} == {
        "shard-00000.safetensors", "shard-00001.safetensors"
    }  # fmt: skip


def test_an_unfinished_store_is_continued(stores):
    with pytest.raises(StoreError, match=r"unfinished \(6 rows so far\)"):
        ActivationStore.open(stores / "unfinished")
    with ActivationStore.create(stores / "unfinished", 3, torch.bfloat16, 4, **METADATA) as writer:
        assert writer.done_ids == set(range(0, 42, 7))
        writer.append(ROWS[6:], torch.arange(6, 10) * 7, torch.arange(6, 10) % 2)
    store = ActivationStore.open(stores / "unfinished")
    assert torch.equal(store.read(torch.arange(10)), ROWS) and store.labels.tolist() == [0, 1] * 5


def test_maps_are_read(stores):
    store = MapStore.open(stores / "maps")
    assert (len(store), store.row_shape, store.metadata) == (5, (2, 3, 3), METADATA)
    assert torch.equal(store.maps, MAPS) and torch.equal(store.read(torch.tensor([4, 1])), MAPS[[4, 1]])
    assert store.image_ids.tolist() == [0, 7, 14, 21, 28] and store.labels.tolist() == [0, 1, 0, 1, 0]
    assert store.variants() == []


def test_a_repeated_extraction_accepts_finished_maps_but_adds_nothing(stores):
    before = files_of(stores / "maps")
    with ActivationStore.create(stores / "maps", (2, 3, 3), torch.bfloat16, **METADATA) as writer:
        assert writer.done_ids == {0, 7, 14, 21, 28}
        with pytest.raises(StoreError, match=r"maps in the format of version 0.1: they can be read, but nothing"):
            writer.append(MAPS[:1], torch.tensor([99]))
    assert files_of(stores / "maps") == before
    with pytest.raises(StoreError, match="dtype was 'bfloat16', now 'float32'"):
        ActivationStore.create(stores / "maps", (2, 3, 3), torch.float32, **METADATA)


def test_unfinished_maps_are_neither_read_nor_deleted(stores):
    before = files_of(stores / "unfinished_maps")
    with pytest.raises(StoreError, match="were never finished by version"):
        MapStore.open(stores / "unfinished_maps")
    with pytest.raises(StoreError, match="began to write; this version cannot finish"):
        ActivationStore.create(stores / "unfinished_maps", (2, 3, 3), torch.bfloat16, **METADATA)
    assert files_of(stores / "unfinished_maps") == before


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shape": [5, 2, 3]}, r"'shape' is \[5, 2, 3\], expected \[N, C, H, W\]"),
        ({"shape": "wide"}, "'shape' is 'wide', expected a list"),
        ({"shape": None}, "'shape' is None, expected a list"),
        ({"shape": [5, 0, 3, 3]}, r"'row_shape' is \[0, 3, 3\]"),
        ({"shape": [5.0, 2, 3, 3]}, "'shape' is a list"),
        ({"shape": [2**40, 2**40, 3, 3]}, "too large"),
        ({"shape": [4, 2, 3, 3]}, r"maps.raw is altered: 180 bytes instead of 144"),
        ({"about": 3}, "'metadata' is 3, expected a dict"),
        ({"dtype": "int4"}, "the dtype is 'int4'"),
        ({"schema_version": 2}, "wrong field"),
    ],
)
def test_wrong_fields_of_a_map_manifest_are_named(stores, fields, message):
    path = stores / "maps" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    with pytest.raises(StoreError, match=message):
        MapStore.open(stores / "maps")


def test_truncated_maps_are_named(stores):
    (stores / "maps" / "rows.raw").write_bytes(b"x" * 79)
    with pytest.raises(StoreError, match=r"rows.raw should have 80 bytes but has 79"):
        MapStore.open(stores / "maps")
    (stores / "maps" / "maps.raw").unlink()
    with pytest.raises(StoreError, match=r"maps.raw is missing"):
        MapStore.open(stores / "maps")
