"""Sources of maps: variants, mirroring, selections of rows, and the key a checkpoint belongs to."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from revelio_fast.classifiers import CachedMaps, DiffCConfig, train_on
from revelio_fast.store import ActivationStore, StoreError

N = 12


def numbered(variants: int) -> list[Tensor]:
    """Variant v of image i is constant 100 v + i, but for its first column, which is -1."""
    maps = []
    for variant in range(variants):
        each = (100 * variant + torch.arange(N)).float()[:, None, None, None].repeat(1, 2, 3, 4)
        each[..., 0] = -1
        maps.append(each)
    return maps


LABELS = torch.arange(N) % 3
ROWS = [torch.tensor([3, 0, 11]), torch.tensor([5, 4])]


def test_each_image_runs_through_all_its_variants() -> None:
    source = CachedMaps(numbered(3), LABELS)
    everything = [torch.arange(N)]
    seen = torch.stack([next(source.batches(everything, epoch))[:, 0, 0, 1] for epoch in range(3)])
    assert torch.equal(seen % 100, torch.arange(N).float().expand(3, N))
    assert torch.equal((seen // 100).sort(0).values, torch.tensor([0.0, 1, 2])[:, None].expand(3, N))
    # Not all images are at the same variant at once.
    assert len((seen[0] // 100).unique()) > 1
    assert torch.equal(seen[0], next(source.batches(everything, 3))[:, 0, 0, 1])


def test_batches_follow_from_rows_and_epoch_alone() -> None:
    source = CachedMaps(numbered(2), LABELS, mirror=True, seed=4)
    first = list(source.batches(ROWS, 7))
    assert [len(batch) for batch in first] == [3, 2]
    list(source.batches(ROWS, 8))
    again = list(CachedMaps(numbered(2), LABELS, mirror=True, seed=4).batches(ROWS[::-1], 7))
    assert torch.equal(first[0], again[1]) and torch.equal(first[1], again[0])


def test_half_of_the_maps_are_mirrored_anew_in_every_epoch() -> None:
    source = CachedMaps(numbered(1)[0], LABELS, mirror=True)
    mirrored = torch.stack([next(source.batches([torch.arange(N)], epoch))[:, 0, 0, -1] == -1 for epoch in range(50)])
    # 600 tosses have a standard deviation of 12.
    assert 240 < int(mirrored.sum()) < 360 and len(mirrored.unique(dim=0)) > 40
    whole = next(source.batches([torch.arange(N)], 0))
    assert torch.equal(torch.where(mirrored[0][:, None, None, None], whole.flip(3), whole), numbered(1)[0])


def test_a_selection_of_rows_copies_nothing() -> None:
    maps = numbered(1)[0]
    source = CachedMaps(maps, LABELS, rows=torch.tensor([2, 9, 4]))
    assert source.labels.tolist() == [2, 0, 1]
    assert next(source.batches([torch.tensor([1, 0])], 0))[:, 0, 0, 1].tolist() == [9, 2]
    maps[9] = 77
    assert next(source.batches([torch.tensor([1])], 0)).unique().tolist() == [77]


@pytest.fixture
def stores(tmp_path: Path) -> list[ActivationStore]:
    """`numbered(3)` in stores of three shards, bfloat16, which holds such numbers exactly."""
    return [
        ActivationStore.from_tensors(tmp_path / str(variant), maps.bfloat16(), shard_rows=5)
        for variant, maps in enumerate(numbered(3))
    ]


@pytest.mark.parametrize("count", [1, 3])
def test_a_store_gives_what_tensors_give(stores: list[ActivationStore], count: int) -> None:
    chosen = torch.tensor([11, 2, 9, 4, 0])
    given = [maps.bfloat16() for maps in numbered(3)][:count], stores[:count]
    tensors, stored = (CachedMaps(maps, LABELS, rows=chosen, mirror=True, seed=3) for maps in given)
    assert stored.shape == (2, 3, 4) and torch.equal(stored.labels, LABELS[chosen]) and stored.key() == tensors.key()
    for epoch in range(4):
        rows = [torch.tensor([4, 0]), torch.tensor([1, 2, 3]), torch.tensor([0])]
        pairs = list(zip(tensors.batches(rows, epoch), stored.batches(rows, epoch), strict=True))
        assert len(pairs) == 3 and all(torch.equal(a, b) and a.dtype == b.dtype for a, b in pairs)
    assert list(stored.batches([], 0)) == []
    assert CachedMaps(stores[0], LABELS).key() == CachedMaps(numbered(1)[0].bfloat16(), LABELS).key()


def test_a_stored_batch_is_read_while_the_batch_before_is_worked_on(
    stores: list[ActivationStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    read, asked = ActivationStore.read, []

    def watched(self: ActivationStore, rows: Tensor) -> Tensor:
        asked.append((threading.current_thread().name, len(rows)))
        return read(self, rows)

    monkeypatch.setattr(ActivationStore, "read", watched)
    batches = CachedMaps(stores[0], LABELS).batches([torch.arange(n) for n in (2, 3, 4, 5)], 0)
    for number in range(4):
        assert len(next(batches)) == number + 2
        deadline = time.monotonic() + 20
        while len(asked) < min(number + 2, 4) and time.monotonic() < deadline:
            time.sleep(0.001)
        assert asked == [("revelio-maps", n) for n in (2, 3, 4, 5)[: number + 2]], "one batch ahead, no further"
    batches.close()
    assert "revelio-maps" not in {thread.name for thread in threading.enumerate()}


def test_maps_that_break_during_training_are_named(stores: list[ActivationStore]) -> None:
    """Finding 7: memory-mapped maps ended in SIGBUS."""
    source = CachedMaps(stores, LABELS)
    path = stores[1].path / "shard-00001.safetensors"
    os.truncate(path, 100)
    with pytest.raises(StoreError, match=r"shard-00001.safetensors is truncated: 100 bytes"):
        list(source.batches([torch.arange(N)], 0))


def test_pooled_stores_are_refused(tmp_path: Path) -> None:
    store = ActivationStore.from_tensors(tmp_path / "s", torch.zeros(N, 6))
    with pytest.raises(ValueError, match=r"maps have shape \[12, 6\].*linear probe"):
        CachedMaps(store, LABELS)


def test_keys_tell_sources_apart() -> None:
    base = CachedMaps(numbered(2), LABELS)
    changed = numbered(2)
    changed[1][0, 0, 0, 0] = 5
    others = [
        CachedMaps(numbered(1), LABELS),
        CachedMaps(numbered(2), LABELS, mirror=True),
        CachedMaps(numbered(2), LABELS, seed=1),
        CachedMaps(numbered(2), LABELS.flip(0)),
        CachedMaps(numbered(2), LABELS, rows=torch.arange(N - 3)),
        CachedMaps(changed, LABELS),
    ]
    assert CachedMaps(numbered(2), LABELS).key() == base.key()
    assert len({source.key() for source in [base, *others]}) == 7


def test_variants_must_be_alike() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        CachedMaps([torch.zeros(N, 2, 3, 4), torch.zeros(N, 2, 3, 5)], LABELS)


@pytest.mark.parametrize("head", ["diffc", "resnet"])
def test_a_cut_off_run_on_variants_goes_on_to_the_same_weights(
    tmp_path: Path, interrupted_after_saves, head: str
) -> None:
    variants = [torch.randn(N, 2, 3, 4) for _ in range(3)]
    config = DiffCConfig(head=head, epochs=4, batch_size=5, width=8, lr=1e-3, lr_min=1e-4, dropout=0.2)

    def train(folder: str):
        halves = CachedMaps(variants, LABELS, seed=1), CachedMaps(variants[0], LABELS)
        return train_on(*halves, config, out_dir=tmp_path / folder, progress=False)

    whole = train("whole")
    with interrupted_after_saves(2):
        train("cut")
    resumed = train("cut")
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name
    assert torch.equal(whole.confusion, resumed.confusion)
