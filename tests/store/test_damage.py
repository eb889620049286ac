"""Damage: each kind is reported with the file and what to do."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
from safetensors.torch import save_file

from revelio_fast.store import ActivationStore, StoreError


@pytest.fixture
def store(tmp_path):
    ActivationStore.from_tensors(tmp_path / "s", torch.randn(10, 3), shard_rows=4)
    return tmp_path / "s"


def edit(store, **fields) -> None:
    path = store / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def relist(store, number: int) -> None:
    """Make the manifest agree with a shard's size, so that only its contents are wrong."""
    manifest = json.loads((store / "manifest.json").read_text())
    manifest["shards"][number]["bytes"] = (store / manifest["shards"][number]["file"]).stat().st_size
    edit(store, shards=manifest["shards"])


def test_not_a_store(tmp_path):
    with pytest.raises(StoreError, match="does not exist"):
        ActivationStore.open(tmp_path / "nothing")
    with pytest.raises(StoreError, match=r"it has no manifest.json"):
        ActivationStore.open(tmp_path)
    for content in ("{}", "[1]", '{"kind": "something"}'):
        (tmp_path / "manifest.json").write_text(content)
        with pytest.raises(StoreError, match="does not describe an activation store"):
            ActivationStore.open(tmp_path)
    for content in (b"{", b"\xff\xfe\x00", pickle.dumps({"a": 1})):
        (tmp_path / "manifest.json").write_bytes(content)
        with pytest.raises(StoreError, match="cannot be read as JSON"):
            ActivationStore.open(tmp_path)


def test_manifest_of_a_newer_schema(store):
    edit(store, schema_version=2)
    with pytest.raises(StoreError, match=r"schema version 2, this revelio_fast reads version 1. Update"):
        ActivationStore.open(store)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"d": "wide"}, "lacks a field or has a wrong one"),
        ({"shards": [{"file": "x"}]}, "lacks a field or has a wrong one"),
        ({"rows": 11}, "says 11 rows but its shards add up to 10"),
        ({"dtype": "int4"}, "names the dtype 'int4'"),
        ({"d": 4}, r"shape \[4, 3\], the manifest says \[4, 4\]"),
        ({"dtype": "float16"}, "holds torch.float32, the manifest says float16"),
    ],
)
def test_edited_manifest(store, fields, message):
    edit(store, **fields)
    with pytest.raises(StoreError, match=message):
        ActivationStore.open(store)


def test_a_manifest_cannot_point_outside_the_store(store):
    manifest = json.loads((store / "manifest.json").read_text())
    manifest["shards"][0]["file"] = "../other.safetensors"
    edit(store, shards=manifest["shards"])
    with pytest.raises(StoreError, match="lies outside the store"):
        ActivationStore.open(store)


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


def test_altered_shard_is_found_by_verify(store):
    path = store / "shard-00000.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 0x10
    path.write_bytes(data)
    opened = ActivationStore.open(store)
    with pytest.raises(StoreError, match=r"shard-00000.safetensors was altered: its SHA-256"):
        opened.verify()


@pytest.mark.parametrize("content", [b"not a safetensors file", pickle.dumps(torch.ones(3).tolist())])
def test_a_shard_that_is_something_else(store, content):
    (store / "shard-00000.safetensors").write_bytes(content)
    relist(store, 0)
    with pytest.raises(StoreError, match=r"shard-00000.safetensors cannot be read"):
        ActivationStore.open(store)


def test_a_shard_without_our_tensors(store):
    save_file({"weights": torch.ones(4, 3)}, store / "shard-00000.safetensors")
    relist(store, 0)
    with pytest.raises(StoreError, match=r"shard-00000.safetensors cannot be read"):
        ActivationStore.open(store)
    tensors = {"features": torch.ones(4, 3), "image_ids": torch.arange(3), "labels": torch.arange(4)}
    save_file(tensors, store / "shard-00000.safetensors")
    relist(store, 0)
    with pytest.raises(StoreError, match="one image id and one label for each row"):
        ActivationStore.open(store)
