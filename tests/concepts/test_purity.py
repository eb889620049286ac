"""label_purity against an oracle, planted latents, chance, and invariance."""

from __future__ import annotations

import json

import pytest
import torch

from revelio_fast.concepts import PurityResult, TopActivations, label_purity, rank_latents
from revelio_fast.ops import Code
from tests.concepts.oracles import purity as oracle

N, IMAGES, CLASSES = 60, 400, 8


def random_tops(images: int = IMAGES, n: int = N, k: int = 6, m: int = 12, seed: int = 0) -> TopActivations:
    """Latents that know nothing of the images."""
    generator = torch.Generator().manual_seed(seed)
    tops = TopActivations(n, m)
    indices = torch.stack([torch.randperm(n, generator=generator)[:k] for _ in range(images)])
    tops.update(Code(torch.rand(images, k, generator=generator), indices), torch.arange(images))
    return tops


def pure_tops(labels: torch.Tensor, m: int = 12) -> TopActivations:
    """Latent j is active for the images of class j only."""
    tops = TopActivations(CLASSES, m)
    tops.update(Code(torch.rand(len(labels), 1) + 0.1, labels[:, None].clone()), torch.arange(len(labels)))
    return tops


@pytest.fixture
def labels() -> torch.Tensor:
    return torch.randint(0, CLASSES, (IMAGES,))


@pytest.mark.parametrize("top_latents", [7, 1000])
@pytest.mark.parametrize("top_images", [2, 5, 10])
def test_measures_match_the_oracle(labels, top_latents, top_images):
    tops = random_tops()
    result = label_purity(tops, labels, top_latents=top_latents, top_images=top_images, permutations=3, bootstrap=3)
    named = dict(enumerate(labels.tolist()))
    ids, counts, means = tops.image_ids.tolist(), tops.counts.tolist(), tops.mean_activation.tolist()
    sigma, share, entropy, used = oracle(ids, counts, means, named, top_latents, top_images)
    # Both sides in float64; only the order of sums differs.
    assert (result.sigma_label, result.majority_share, result.entropy) == pytest.approx((sigma, share, entropy), 1e-12)
    assert result.latents == used and result.n_latents_used == len(used)


def test_a_mapping_and_a_vector_of_labels_give_the_same(labels):
    tops = random_tops()
    named = dict(reversed(list(enumerate(labels.tolist()))))
    assert label_purity(tops, labels) == label_purity(tops, named)


def test_pure_latents(labels):
    result = label_purity(pure_tops(labels), labels, permutations=200)
    assert (result.sigma_label, result.majority_share, result.entropy, result.entropy_normalised) == (
        0,
        1,
        0,
        0,
    )
    assert all(p == 1 / 201 for p in result.p_value.values())
    assert all(low == high for low, high in result.interval.values())
    assert result.chance["sigma_label"] > 1.5 and result.chance["majority_share"] < 0.5


def test_random_latents_are_within_chance_about_as_often_as_promised():
    """The chance interval is 95 %: 40 independent draws miss it 2 times on average, more than 7 with p < 0.001."""
    misses = {"sigma_label": 0, "majority_share": 0, "entropy": 0}
    for seed in range(40):
        generator = torch.Generator().manual_seed(100 + seed)
        labels = torch.randint(0, CLASSES, (IMAGES,), generator=generator)
        result = label_purity(random_tops(seed=seed), labels, permutations=200, bootstrap=10)
        for name in misses:
            low, high = result.chance_interval[name]
            misses[name] += not low <= getattr(result, name) <= high
    assert all(count <= 7 for count in misses.values()), misses


def test_renumbering_classes_changes_sigma_only(labels):
    tops = pure_tops(labels)
    tops.merge(random_tops(n=CLASSES))
    renumbered = torch.tensor([4, 0, 7, 2, 70, 5, 1, 33])[labels]
    before, after = (label_purity(tops, each, permutations=50) for each in (labels, renumbered))
    for name in ("majority_share", "entropy", "entropy_normalised"):
        assert getattr(before, name) == getattr(after, name)
        assert before.p_value[name] == after.p_value[name] and before.chance[name] == after.chance[name]
    assert before.sigma_label != pytest.approx(after.sigma_label, rel=0.1)


def test_chance_of_the_paper_for_pets():
    """37 balanced classes of about 100 images: the expected deviation of ten labels is 10.51.

    With 1000 latents a shuffle's mean has a spread of about 0.08 and the mean of 200 shuffles of 0.006: 0.03 is 5
    spreads; the ranking's images are drawn without replacement, which shifts it by less than 0.01.
    """
    labels = torch.arange(3680) % 37
    result = label_purity(random_tops(images=3680, n=1000, k=32, m=10), labels, permutations=200, bootstrap=10)
    assert result.n_latents_used == 1000 and result.n_classes == 37
    assert result.chance["sigma_label"] == pytest.approx(10.51, abs=0.03)
    low, high = result.chance_interval["sigma_label"]
    assert low < 10.51 < high


def test_sigma_curve_is_the_running_mean():
    tops = random_tops(images=3000, n=350)
    labels = torch.randint(0, CLASSES, (3000,))
    result = label_purity(tops, labels, top_latents=200, permutations=2, bootstrap=2)
    assert list(result.sigma_curve) == [100, 200, 300, result.n_latents_qualified]
    assert result.sigma_curve[200] == pytest.approx(result.sigma_label, rel=1e-12)
    hundred = label_purity(tops, labels, top_latents=100, permutations=2, bootstrap=2)
    assert result.sigma_curve[100] == pytest.approx(hundred.sigma_label, rel=1e-12)


def test_ranking_by_the_paper_needs_more_than_ten_active_images():
    tops = TopActivations(4, 12)
    counts = (10, 11, 30, 12)
    strength = (9.0, 1.0, 2.0, 5.0)
    for latent, (count, value) in enumerate(zip(counts, strength, strict=True)):
        indices = torch.full((count, 1), latent)
        tops.update(Code(torch.full((count, 1), value), indices), torch.arange(count))
    assert rank_latents(tops).tolist() == [3, 2, 1]
    assert rank_latents(tops, "frequency").tolist() == [2, 3, 1]
    assert rank_latents(tops, "max").tolist() == [3, 2, 1]
    result = label_purity(tops, torch.arange(30) % 2, permutations=2, bootstrap=2)
    assert result.ranking == "paper" and "mean activation" in result.ranking_text
    assert result.n_latents_used == 3 and "Only 3 of the 1000 latents asked for" in result.note
    with pytest.raises(ValueError, match="ranking must be one of paper, frequency, max"):
        label_purity(tops, torch.arange(30), ranking="best")


def test_unlabelled_images(labels):
    tops = pure_tops(labels)
    one = int(tops.image_ids[3, 4])
    some = labels.clone()
    some[one] = -1
    result = label_purity(tops, some, permutations=2, bootstrap=2)
    assert 3 not in result.latents and "have no label: 1." in result.note
    assert result.n_images == IMAGES - 1
    named = {i: label for i, label in enumerate(labels.tolist()) if i != one}
    assert label_purity(tops, named, permutations=2, bootstrap=2) == result
    with pytest.raises(ValueError, match="None of the images has a label"):
        label_purity(tops, torch.full((IMAGES,), -1))


def test_labels_of_images_that_were_not_seen_are_mentioned(labels):
    result = label_purity(pure_tops(labels[:300]), labels, permutations=2, bootstrap=2)
    assert "Labels of 400 images were given but only 300 were seen" in result.note


def test_what_cannot_be_measured_is_refused(labels):
    with pytest.raises(ValueError, match=r"No latent can be judged: none is active in more than 10 images"):
        label_purity(random_tops(images=20), labels)
    with pytest.raises(ValueError, match=r"top_images must be between 2 and the 12 images kept of each latent, got 13"):
        label_purity(random_tops(), labels, top_images=13)
    with pytest.raises(ValueError, match="vector of integers indexed by image id"):
        label_purity(random_tops(), labels.float())
    with pytest.raises(ValueError, match="must be at least 1"):
        label_purity(random_tops(), labels, permutations=0)


def test_one_class_is_measured_and_noted():
    result = label_purity(random_tops(), torch.zeros(IMAGES, dtype=torch.int64), permutations=5, bootstrap=5)
    assert result.majority_share == 1 and result.entropy_normalised == 0
    assert "same label" in result.note and all(p == 1 for p in result.p_value.values())


def test_same_seed_same_result_and_json(labels):
    tops = random_tops()
    a, b, c = (label_purity(tops, labels, permutations=20, bootstrap=20, seed=s) for s in (1, 1, 2))
    assert a == b and a.chance != c.chance and a.sigma_label == c.sigma_label
    assert PurityResult.from_dict(json.loads(json.dumps(a.as_dict()))) == a


def test_bootstrap_interval_covers_the_mean_and_shrinks(labels):
    few = label_purity(random_tops(), labels, top_latents=8, permutations=2)
    many = label_purity(random_tops(), labels, top_latents=60, permutations=2)
    for result in (few, many):
        for name, (low, high) in result.interval.items():
            assert low < getattr(result, name) < high
    widths = [high - low for low, high in (r.interval["sigma_label"] for r in (few, many))]
    assert widths[1] < widths[0]
