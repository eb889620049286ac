"""Sources of maps: variants, mirroring, selections of rows, and the key a checkpoint belongs to."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from revelio_fast.classifiers import CachedMaps, DiffCConfig, train_on

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
