"""Who the rows are: names and digests of images beside their ids, and stores that have none."""

from __future__ import annotations

import pytest
import torch

from revelio_fast.store import ActivationStore, StoreError

NAMES = ["cat/ä 1.png", None, "", "dog/2.png", "b\udcff.png", "x", None]


def digests(rows: int) -> torch.Tensor:
    return torch.randint(0, 256, (rows, 16), dtype=torch.uint8).index_fill_(1, torch.tensor([0]), 1)


@pytest.mark.parametrize("step", [1, 3, 7])
def test_names_and_contents_come_back(tmp_path, step):
    features, contents = torch.randn(7, 3), digests(7)
    contents[1] = 0
    with ActivationStore.create(tmp_path / "s", 3, shard_rows=3) as writer:
        for start in range(0, 7, step):
            part = slice(start, start + step)
            writer.append(features[part], torch.arange(7)[part], names=NAMES[part], contents=contents[part])
            writer.flush()
    store = ActivationStore.open(tmp_path / "s")
    assert store.names == NAMES and torch.equal(store.contents, contents)
    assert torch.equal(store.features(), features)
    assert "images by names" in repr(store)
    store.verify()


def test_a_store_without_names_says_so(tmp_path):
    store = ActivationStore.from_tensors(tmp_path / "s", torch.ones(3, 2))
    assert store.names is None and store.contents is None and "images by positions only" in repr(store)


def test_names_may_come_with_some_rows_only(tmp_path):
    with ActivationStore.create(tmp_path / "s", 2, shard_rows=2) as writer:
        writer.append(torch.ones(2, 2), torch.arange(2))
        writer.append(torch.ones(3, 2), torch.arange(2, 5), names=["c", "d", "e"], contents=digests(3))
    store = ActivationStore.open(tmp_path / "s")
    assert store.names == [None, None, "c", "d", "e"]
    assert store.contents.any(1).tolist() == [False, False, True, True, True]


def test_names_survive_a_continuation(tmp_path):
    contents = digests(7)
    for upto in (2, 5, 7):
        with ActivationStore.create(tmp_path / "s", 3, shard_rows=3) as writer:
            ids = [i for i in range(upto) if i not in writer.done_ids]
            writer.append(torch.ones(len(ids), 3), torch.tensor(ids), None, [NAMES[i] for i in ids], contents[ids])
    store = ActivationStore.open(tmp_path / "s")
    assert store.names == NAMES and torch.equal(store.contents, contents)


def test_an_altered_name_is_noticed(tmp_path):
    with ActivationStore.create(tmp_path / "s", 3) as writer:
        writer.append(torch.ones(2, 3), torch.arange(2), names=["first.png", "second.png"], contents=digests(2))
    path = tmp_path / "s" / "shard-00000.safetensors"
    path.write_bytes(path.read_bytes().replace(b"second", b"secund"))
    with pytest.raises(StoreError, match=r"shard-00000.safetensors was altered: its ids, labels or checksums"):
        ActivationStore.open(tmp_path / "s")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"names": ["a"]}, "names must be 2 strings or None, got 1"),
        ({"names": ["a", 3]}, r"names must be 2 strings or None, got 2: \['a', 3\]"),
        ({"contents": torch.ones(2, 8, dtype=torch.uint8)}, r"contents must be uint8 of shape \[2, 16\], got"),
        ({"contents": torch.ones(2, 16)}, r"got torch.float32 of shape \[2, 16\]"),
    ],
)
def test_wrong_names_and_contents_are_refused(tmp_path, given, message):
    with ActivationStore.create(tmp_path / "s", 3) as writer, pytest.raises(StoreError, match=message):
        writer.append(torch.ones(2, 3), torch.arange(2), **given)
    assert ActivationStore.open(tmp_path / "s").rows == 0


def test_about_is_metadata_for_one_release(tmp_path):
    store = ActivationStore.from_tensors(tmp_path / "s", torch.ones(3, 2), layer="up_ft1")
    with pytest.warns(DeprecationWarning, match="about is called metadata now"):
        assert store.about == store.metadata == {"layer": "up_ft1"}
