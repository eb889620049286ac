"""How much disk a store takes, how exactly it holds features, and integers of every size."""

from __future__ import annotations

import json

import pytest
import torch

from revelio_fast.features.to_store import SHARD_ROWS
from revelio_fast.store import ActivationStore


@pytest.mark.parametrize(("d", "first_id"), [(1280, 1_200_000), (640, 1_200_000), (320, 0)])
def test_pooled_bf16_takes_two_bytes_a_channel_and_one_percent(tmp_path, d, first_id):
    """All widths of Stable Diffusion's layers, ImageNet's labels and ids, as an extraction writes them.

    Ids beyond 32,767 and labels take 6 bytes a row: 0.94 % at d = 320, where the manifest's fixed 4 kB do not matter
    in a store that large but would in these 10,000 rows.
    """
    rows = 10_000
    metadata = {"class_names": [f"class name {number}" for number in range(102)], "layer": "up_ft1", "timestep": 25}
    features, ids = torch.randn(rows, d), torch.arange(rows) + first_id
    labels = torch.randint(0, 1000, (rows,))
    with ActivationStore.create(tmp_path / "s", d, torch.bfloat16, SHARD_ROWS, **metadata) as writer:
        for start in range(0, rows, 500):
            part = slice(start, start + 500)
            writer.append(features[part], ids[part], labels[part])
    disk = sum(file.stat().st_size for file in (tmp_path / "s").iterdir())
    assert rows * d * 2 < disk <= rows * d * 2 * 1.01
    store = ActivationStore.open(tmp_path / "s")
    assert torch.equal(store.image_ids, ids) and torch.equal(store.labels, labels)
    # bfloat16 keeps 8 significant bits: rounding to nearest changes a value by at most 2^-8 of it.
    assert ((store.features() - features).abs() <= features.abs() * 2**-8).all()


@pytest.mark.parametrize(
    ("largest", "dtype"), [(127, "I8"), (128, "I16"), (2**15, "I32"), (2**31 - 1, "I32"), (2**31, "I64")]
)
def test_ids_and_labels_of_any_size_come_back_as_int64(tmp_path, largest, dtype):
    ids, labels = torch.tensor([0, largest, largest - 1]), torch.tensor([-1, -1, largest])
    store = ActivationStore.from_tensors(tmp_path / "s", torch.ones(3, 2), ids, labels)
    assert store.image_ids.dtype == store.labels.dtype == torch.int64
    assert torch.equal(store.image_ids, ids) and torch.equal(store.labels, labels)
    data = (tmp_path / "s" / "shard-00000.safetensors").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert header["image_ids"]["dtype"] == header["labels"]["dtype"] == dtype


def test_names_and_contents_cost_their_bytes(tmp_path):
    rows, name = 1000, "class/0123456789.png"
    with ActivationStore.create(tmp_path / "s", 4, shard_rows=rows) as writer:
        contents = torch.randint(1, 256, (rows, 16), dtype=torch.uint8)
        writer.append(torch.ones(rows, 4), torch.arange(rows), names=[name] * rows, contents=contents)
    size = (tmp_path / "s" / "shard-00000.safetensors").stat().st_size
    # Features 16, id 2, label 1, name and its length, digest; then header and checksums.
    assert size <= rows * (16 + 2 + 1 + len(name) + 1 + 16) + 700
