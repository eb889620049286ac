"""TopActivations and top_images against a plain-Python oracle; merging; files."""

from __future__ import annotations

import pickle

import pytest
import torch
from safetensors.torch import save_file

from revelio_fast.concepts import TopActivations, top_images
from revelio_fast.ops import Code
from revelio_fast.store import ActivationStore
from tests.concepts.oracles import DenseSAE, strongest

N, M = 12, 4


def random_code(rows: int, k: int = 5) -> Code:
    """Values on a coarse grid, so that ties are common, and some are negative or zero."""
    values = torch.randint(-2, 5, (rows, k)).float().sort(1, descending=True).values
    return Code(values, torch.stack([torch.randperm(N)[:k] for _ in range(rows)]))


def entries(code: Code, ids: torch.Tensor) -> list[tuple[int, int, float]]:
    return [
        (int(j), int(i), float(v))
        for row, i in enumerate(ids)
        for v, j in zip(code.values[row], code.indices[row], strict=True)
    ]


def check(tops: TopActivations, expected: tuple[list, list, list, list]) -> None:
    values, ids, counts, means = expected
    assert tops.values.tolist() == values
    assert tops.image_ids.tolist() == ids
    assert tops.counts.tolist() == counts
    # float64 sums of small integers are exact; the division rounds once on both sides.
    assert tops.mean_activation.tolist() == means


@pytest.mark.parametrize("repeated", [False, True])
def test_updates_match_the_oracle(repeated):
    tops, seen = TopActivations(N, M), []
    for _ in range(5):
        code = random_code(9)
        ids = torch.randint(0, 6, (9,)) if repeated else torch.arange(9) + len(seen)
        tops.update(code, ids)
        seen += entries(code, ids)
    check(tops, strongest(seen, N, M))
    assert tops.n_images == 45
    assert torch.equal(tops.density, tops.counts.double() / 45)


@pytest.mark.parametrize("repeated", [False, True])
def test_merging_shards_equals_one_pass_in_any_order(repeated):
    codes = [random_code(9) for _ in range(3)]
    ids = [torch.randint(0, 6, (9,)) if repeated else torch.arange(9) + 9 * i for i in range(3)]
    parts = []
    for code, images in zip(codes, ids, strict=True):
        parts.append(TopActivations(N, M))
        parts[-1].update(code, images)
    whole = [entry for code, images in zip(codes, ids, strict=True) for entry in entries(code, images)]
    for order in ([0, 1, 2], [2, 0, 1]):
        merged = TopActivations(N, M)
        for i in order:
            merged.merge(parts[i])
        check(merged, strongest(whole, N, M))
        assert merged.n_images == 27


def test_merge_needs_the_same_sizes():
    with pytest.raises(ValueError, match="12 latents x 5 images into 12 x 4"):
        TopActivations(N, M).merge(TopActivations(N, M + 1))
    with pytest.raises(ValueError, match="at least 1, got n_latents=0"):
        TopActivations(0)


@pytest.mark.parametrize("batch_size", [7, 100])
def test_top_images_reads_a_store_in_any_batches(tmp_path, batch_size):
    features, ids = torch.randn(50, 6), torch.randperm(300)[:50]
    store = ActivationStore.from_tensors(tmp_path / "s", features, ids, shard_rows=16, layer="up_ft1")
    sae = DenseSAE(N, 6, k=3)
    tops = top_images(sae, store, M, batch_size=batch_size)
    values, places, counts, _ = strongest(entries(sae.encode(features), ids), N, M)
    assert tops.image_ids.tolist() == places and tops.counts.tolist() == counts
    # The same products in blocks of other sizes may round differently.
    torch.testing.assert_close(tops.values, torch.tensor(values))
    assert tops.about == {"layer": "up_ft1", "compat": "paper"} and tops.n_images == 50


@pytest.mark.parametrize("batch_size", [7, 100])
def test_official_ranking_uses_all_positive_pre_activations(batch_size):
    features, sae = torch.randn(40, 6), DenseSAE(N, 6, k=3)
    tops = top_images(sae, features, M, batch_size=batch_size, compat="authors")
    dense = sae.pre_activations(features).relu()
    everything = [(j, i, float(dense[i, j])) for i in range(40) for j in range(N)]
    values, ids, counts, means = strongest(everything, N, M)
    assert tops.image_ids.tolist() == ids and tops.counts.tolist() == counts
    torch.testing.assert_close(tops.values, torch.tensor(values))
    torch.testing.assert_close(tops.mean_activation, torch.tensor(means, dtype=torch.float64), rtol=1e-5, atol=1e-6)
    # The authors' density, about a half, against k / n for the code.
    assert tops.density.mean() > 0.3 > 3 / N >= top_images(sae, features, M).density.mean()


def test_official_ranking_leaves_places_empty_where_nothing_is_positive():
    sae = DenseSAE(N, 6, k=3)
    sae.b_enc[5] = -1000.0
    tops = top_images(sae, torch.randn(10, 6), M, compat="authors")
    assert tops.image_ids[5].tolist() == [-1] * M and tops.counts[5] == 0 and tops.mean_activation[5] == 0


def test_official_ranking_breaks_ties_by_image_id(tmp_path):
    row = torch.randn(1, 6)
    ids = torch.tensor([9, 3, 7, 1, 5, 2])
    store = ActivationStore.from_tensors(tmp_path / "s", row.expand(6, 6).contiguous(), ids)
    sae = DenseSAE(N, 6, k=3)
    active = sae.pre_activations(row)[0] > 0
    for compat in ("paper", "authors"):
        tops = top_images(sae, store, M, compat=compat)
        assert tops.image_ids[tops.counts > 0].unique(dim=0).tolist() == [[1, 2, 3, 5]]
    assert torch.equal(tops.counts > 0, active)


def test_top_images_refuses_another_width_and_unknown_rankings():
    with pytest.raises(ValueError, match="reads features of width 6, the store holds width 5"):
        top_images(DenseSAE(N, 6, 3), torch.randn(4, 5))
    with pytest.raises(ValueError, match="compat must be one of paper, authors, got 'best'"):
        top_images(DenseSAE(N, 6, 3), torch.randn(4, 6), compat="best")


def test_save_and_load(tmp_path):
    tops = TopActivations(N, M, layer="up_ft1", timestep=25)
    tops.update(random_code(9), torch.arange(9))
    tops.save(tmp_path / "tops.safetensors")
    loaded = TopActivations.load(tmp_path / "tops.safetensors")
    for a, b in zip(tops.state, loaded.state, strict=True):
        assert torch.equal(a, b)
    assert loaded.about == {"layer": "up_ft1", "timestep": 25} and loaded.n_images == 9
    code = random_code(5)
    for each in (tops, loaded):
        each.update(code, torch.arange(9, 14))
    assert torch.equal(tops.values, loaded.values)
    loaded.save(tmp_path / "again.safetensors")
    tops.save(tmp_path / "tops.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "tops.safetensors").read_bytes()


def test_load_refuses_what_is_not_ours(tmp_path):
    path = tmp_path / "tops.safetensors"
    with pytest.raises(FileNotFoundError, match="no top activations at"):
        TopActivations.load(path)
    executed = tmp_path / "executed"

    class Evil:
        def __reduce__(self):
            return (open, (str(executed), "w"))

    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        TopActivations.load(path)
    assert not executed.exists()
    save_file({"weights": torch.ones(3)}, path)
    with pytest.raises(ValueError, match="does not hold top activations"):
        TopActivations.load(path)
    tops = TopActivations(N, M)
    tops.save(path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        TopActivations.load(path)
    tops.save(path)
    path.write_bytes(path.read_bytes().replace(b'schema_version\\": 1', b'schema_version\\": 7'))
    with pytest.raises(ValueError, match="schema version 7"):
        TopActivations.load(path)
    tops.save(path)
    path.write_bytes(path.read_bytes().replace(b'\\"n\\": 12', b'\\"n\\": 13'))
    with pytest.raises(ValueError, match="tensors do not fit its header"):
        TopActivations.load(path)
