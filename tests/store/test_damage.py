"""Damage: each kind is reported with the file and what to do."""

from __future__ import annotations

import json
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from revelio_fast.store import ActivationStore, StoreError
from revelio_fast.store.manifest import Manifest, content_digest


@pytest.fixture
def store(tmp_path: Path) -> Path:
    ActivationStore.from_tensors(tmp_path / "s", torch.randn(10, 3), shard_rows=4)
    return tmp_path / "s"


def sign(store: Path, content: dict[str, Any]) -> None:
    """Write a manifest that agrees with its own checksum: only its fields are wrong."""
    (store / "manifest.json").write_text(json.dumps({**content, "sha256": content_digest(content)}))


def edit(store: Path, **fields: Any) -> None:
    sign(store, {**json.loads((store / "manifest.json").read_text()), **fields})


def edit_shard(store: Path, number: int, **fields: Any) -> None:
    shards = json.loads((store / "manifest.json").read_text())["shards"]
    shards[number].update(fields)
    edit(store, shards=shards)


def relist(store: Path, number: int) -> None:
    """Make the manifest agree with a shard's size and index, so that only what it holds is wrong."""
    path = store / Manifest.read(store).shards[number].file
    edit_shard(store, number, bytes=path.stat().st_size, index_crc32=None)


def test_not_a_store(tmp_path):
    with pytest.raises(StoreError, match="does not exist"):
        ActivationStore.open(tmp_path / "nothing")
    with pytest.raises(StoreError, match=r"it has no manifest.json"):
        ActivationStore.open(tmp_path)
    for content in ("{}", "[1]", '{"kind": "something"}'):
        (tmp_path / "manifest.json").write_text(content)
        with pytest.raises(StoreError, match="does not describe an activation store"):
            ActivationStore.open(tmp_path)
    for content in (b"{", b"\xff\xfe\x00", pickle.dumps({"a": 1}), b"[" * 200_000, b'{"rows": 1' + b"0" * 5000 + b"}"):
        (tmp_path / "manifest.json").write_bytes(content)
        with pytest.raises(StoreError, match="cannot be read as JSON"):
            ActivationStore.open(tmp_path)


@pytest.mark.parametrize("version", [3, 0, "2", None, 2.0, True])
def test_manifest_of_another_schema(store, version):
    edit(store, schema_version=version)
    with pytest.raises(StoreError, match=r"has schema version .*, this revelio_fast reads versions 1 and 2. Update"):
        ActivationStore.open(store)


DEEP: list[Any] = []
for _ in range(500):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"row_shape": "wide"}, "'row_shape' is 'wide', expected a list"),
        ({"row_shape": [0]}, r"'row_shape' is \[0\], expected a list of integers of at least 1"),
        ({"row_shape": [1e400]}, "'row_shape' is a list, expected a list of integers"),
        ({"row_shape": [2**40, 2**40]}, "too large"),
        ({"row_shape": []}, r"'row_shape' is \[\]"),
        ({"row_shape": DEEP}, "'row_shape' is a list, expected"),
        ({"shards": [{"file": "shard-00000.safetensors"}]}, "'rows' is None, expected an integer of at least 1"),
        ({"shards": [3]}, "'shards' holds 3, expected objects"),
        ({"shards": {}}, "'shards' is an object, expected a list"),
        ({"shards": DEEP}, "'shards' holds"),
        ({"rows": 11}, "says 11 rows but its shards add up to 10"),
        ({"rows": 1e400}, "'rows' is inf, expected an integer"),
        ({"rows": 10.0}, "'rows' is 10.0, expected an integer"),
        ({"rows": 10**20}, "'rows' is 1000"),
        ({"shard_rows": 0}, "'shard_rows' is 0, expected an integer of at least 1"),
        ({"shard_rows": "4"}, "'shard_rows' is '4', expected an integer"),
        ({"block_rows": -1}, "'block_rows' is -1"),
        ({"complete": 1}, "'complete' is 1, expected a bool"),
        ({"metadata": []}, r"'metadata' is \[\], expected a dict"),
        ({"dtype": "int4"}, "the dtype is 'int4', known are float32, bfloat16, float16"),
        ({"dtype": ["float32"]}, "the dtype is a list"),
        ({"row_shape": [4]}, r"shape \[4, 3\], the manifest says \[4, 4\]"),
        ({"row_shape": [1, 3]}, r"shape \[4, 3\], the manifest says \[4, 1, 3\]"),
        ({"dtype": "float16"}, "features are F32, the manifest says float16"),
    ],
)
def test_edited_manifest(store, fields, message):
    edit(store, **fields)
    with pytest.raises(StoreError, match=message):
        ActivationStore.open(store)
    with pytest.raises(StoreError):
        ActivationStore.create(store, 3, shard_rows=4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"file": "../other.safetensors"}, "lists '../other.safetensors', which is not the name of a shard"),
        ({"file": ".."}, r"lists '..', which is not the name of a shard"),
        ({"file": "/etc/passwd"}, "lists '/etc/passwd', which is not the name of a shard"),
        ({"file": 7}, "'file' is 7, expected a str"),
        ({"file": None}, "'file' is None, expected a str"),
        ({"file": "shard-00001.safetensors"}, "lists the shard shard-00001.safetensors twice"),
        ({"rows": 0}, "'rows' is 0, expected an integer of at least 1"),
        ({"bytes": 1e400}, "'bytes' is inf, expected an integer"),
        ({"sha256": None}, "'sha256' is None, expected a str"),
        ({"index_crc32": "x"}, "'index_crc32' is 'x', expected an integer"),
        ({"index_crc32": 5}, r"shard-00000.safetensors was altered: its ids, labels or checksums"),
    ],
)
def test_edited_shard_entry(store, fields, message):
    edit_shard(store, 0, **fields)
    with pytest.raises(StoreError, match=message):
        ActivationStore.open(store)


def test_any_altered_manifest_is_noticed(store):
    path = store / "manifest.json"
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(StoreError, match=r"manifest.json"):
            ActivationStore.open(store)


def mutated(files: dict[str, bytes], rng: random.Random) -> dict[str, bytes | None]:
    """The files with one random fault: bits, bytes, pieces, lengths, files exchanged, doubled or gone."""
    changed: dict[str, bytes | None] = dict(files)
    name, other = rng.choice(list(files)), rng.choice(list(files))
    data = bytearray(files[name])
    at, length = rng.randrange(len(data)), rng.randrange(1, 40)
    match rng.randrange(8):
        case 0:
            data[at] ^= 1 << rng.randrange(8)
        case 1:
            data[at : at + length] = rng.randbytes(length)
        case 2:
            del data[at : at + length]
        case 3:
            data[at:at] = rng.randbytes(length)
        case 4:
            data[at : at + length] = bytes(length)
        case 5:
            del data[at:]
        case 6:
            changed[other], data = files[name], bytearray(files[other])
        case 7:
            return changed | {name: None}
    return changed | {name: bytes(data)}


@pytest.mark.parametrize("row_shape", [(700,), (3, 4, 5)])
def test_no_damage_is_used_silently(tmp_path, row_shape):
    """Finding 2: of 90 damaged row stores 23 were read as if nothing were wrong, of 80 map stores 18."""
    path, features = tmp_path / "s", torch.randn(40, *row_shape)
    with ActivationStore.create(path, row_shape, shard_rows=15, layer="up_ft1") as writer:
        writer.append(features, torch.arange(40), torch.arange(40) % 3, [f"{i}.png" for i in range(40)])
    whole = {file.name: file.read_bytes() for file in path.iterdir()}
    rng, noticed = random.Random(0), 0
    for _ in range(400):
        for name, data in mutated(whole, rng).items():
            (path / name).unlink(missing_ok=True)
            if data is not None:
                (path / name).write_bytes(data)
        try:
            store = ActivationStore.open(path)
            found = store.read(torch.arange(40))
        except StoreError as error:
            assert str(path) in str(error)
            noticed += 1
        else:
            assert torch.equal(found, features) and store.metadata == {"layer": "up_ft1"}
            assert store.image_ids.tolist() == list(range(40)) and store.names == [f"{i}.png" for i in range(40)]
            assert store.labels.tolist() == [i % 3 for i in range(40)]
    assert noticed > 350


def test_missing_shard(store):
    (store / "shard-00001.safetensors").unlink()
    with pytest.raises(StoreError, match=r"shard-00001.safetensors is missing. Restore the file"):
        ActivationStore.open(store)


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_truncated_shard(store, keep):
    path = store / "shard-00002.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(StoreError, match=r"shard-00002.safetensors is truncated: \d+ bytes instead of \d+"):
        ActivationStore.open(store)


def test_altered_features_are_found_by_verify(store):
    path = store / "shard-00000.safetensors"
    data = bytearray(path.read_bytes())
    at = data.index(load_file(path)["features"].numpy().tobytes())
    data[at + 3] ^= 0x10
    path.write_bytes(data)
    opened = ActivationStore.open(store)
    with pytest.raises(StoreError, match=r"shard-00000.safetensors was altered: its SHA-256"):
        opened.verify()


@pytest.mark.parametrize(
    "content",
    [
        b"not a safetensors file",
        pickle.dumps(torch.ones(3).tolist()),
        (4).to_bytes(8, "little") + b"{[}]" + b"0" * 90,
        (2).to_bytes(8, "little") + b"[]" + b"0" * 90,
        (1 << 62).to_bytes(8, "little") + b"{}",
        (100_000).to_bytes(8, "little") + b"[" * 100_000,
    ],
)
def test_a_shard_that_is_something_else(store, content):
    (store / "shard-00000.safetensors").write_bytes(content)
    relist(store, 0)
    with pytest.raises(StoreError, match=r"shard-00000.safetensors does not hold .*: it is not a safetensors file"):
        ActivationStore.open(store)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"dtype": "F32", "shape": [4, 3], "data_offsets": [0, 10**6]}, "its features lie outside the file"),
        ({"dtype": "F32", "shape": [4, 3], "data_offsets": [-8, 40]}, "its features lie outside the file"),
        ({"dtype": "F32", "shape": [4, 3], "data_offsets": [0, 8]}, "its features lie outside the file"),
        ({"dtype": "F32", "shape": [4, 3.0], "data_offsets": [0, 48]}, "its features lie outside the file"),
        ({"dtype": {}, "shape": [4, 3], "data_offsets": [0, 48]}, "its features are"),
        ({"dtype": "F32", "shape": 4, "data_offsets": [0, 48]}, "it has no features"),
        ({"dtype": "F32", "shape": [4, 3], "data_offsets": "ab"}, "its features lie outside the file"),
        (None, "it has no features"),
    ],
)
def test_lying_headers(store, entry, message):
    header = json.dumps({"features": entry}).encode()
    (store / "shard-00000.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(48))
    relist(store, 0)
    with pytest.raises(StoreError, match=message):
        ActivationStore.open(store)


def test_a_shard_with_other_tensors(store):
    path = store / "shard-00000.safetensors"
    save_file({"weights": torch.ones(4, 3)}, path)
    relist(store, 0)
    with pytest.raises(StoreError, match="it has no features"):
        ActivationStore.open(store)
    good = {"features": torch.ones(4, 3), "image_ids": torch.arange(4), "labels": torch.arange(4)}
    for change, message in (
        ({"image_ids": torch.arange(3)}, "it does not hold one of the image_ids for each row"),
        ({"labels": torch.ones(4)}, "its labels are no integers"),
        ({"name_lengths": torch.arange(4), "names": torch.ones(5, dtype=torch.uint8)}, "one of the names for each row"),
        ({"contents": torch.ones(4, 8, dtype=torch.uint8)}, "one of the contents for each row"),
    ):
        save_file({**good, **change}, path)
        relist(store, 0)
        with pytest.raises(StoreError, match=message):
            ActivationStore.open(store)
    save_file(good, path)  # int64 ids and labels, as another writer may choose
    relist(store, 0)
    assert ActivationStore.open(store).labels.tolist()[:4] == [0, 1, 2, 3]
