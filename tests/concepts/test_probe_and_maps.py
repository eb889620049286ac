"""Linear probes, baseline features and PCA maps."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from revelio_fast.concepts import (
    flat_features,
    linear_probe,
    pca_maps,
    pixel_features,
    pooled_features,
    wilson_interval,
)


def planted(rows: int, noise: float, d: int = 10, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.arange(rows) % classes
    centres = 3 * torch.eye(classes, d)
    scale = torch.logspace(-3, 3, d)
    return (centres[labels] + noise * torch.randn(rows, d)) * scale + 100 * scale, labels


def test_probe_reads_planted_classes_whatever_the_scale_of_columns():
    x, y = planted(400, noise=0.3)
    result = linear_probe(x[:200], y[:200], x[200:], y[200:])
    assert result.accuracy == 1.0 and result.converged
    assert result.interval == pytest.approx(wilson_interval(1.0, 200))
    assert (result.n_train, result.n_test, result.n_classes, result.d) == (200, 200, 4, 10)
    assert result.chance == 0.25


def test_probe_of_noise_is_at_chance():
    x, y = torch.randn(2000, 5), torch.randint(0, 4, (2000,))
    result = linear_probe(x[:1000], y[:1000], x[1000:], y[1000:])
    # Five standard errors of a share of 1/4 among 1000.
    assert abs(result.accuracy - 0.25) < 5 * (0.25 * 0.75 / 1000) ** 0.5


def test_probe_agrees_with_scikit_learn_used_directly():
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = planted(300, noise=2.0)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.5, max_iter=1000)).fit(x[:200].numpy(), y[:200])
    result = linear_probe(x[:200], y[:200], x[200:], y[200:], C=0.5)
    assert result.accuracy == model.score(x[200:].numpy(), y[200:].numpy())
    assert result.train_accuracy == model.score(x[:200].numpy(), y[:200].numpy())
    assert 0.3 < result.accuracy < 1.0


def test_probe_says_when_it_did_not_converge():
    x, y = planted(200, noise=2.0)
    assert not linear_probe(x, y, x, y, max_iter=1).converged


def test_probe_refuses_what_it_cannot_use():
    x, y = planted(20, noise=1.0)
    bad = x.clone()
    bad[3, 2] = float("nan")
    for arguments, message in (
        ((x, y[:19], x, y), r"train rows must be features \[rows, d\] with one label each"),
        ((x, y, x[:0], y[:0]), "test rows must be"),
        ((x, y.float(), x, y), r"train labels must be integers, got torch.float32"),
        ((bad, y, x, y), "train features hold NaN"),
        ((x, y, x[:, :3], y), "have 10 columns, test features 3"),
        ((x, torch.zeros_like(y), x, y), "at least two classes"),
    ):
        with pytest.raises(ValueError, match=message):
            linear_probe(*arguments)


def test_wilson_interval():
    # Newcombe (1998), Statistics in Medicine 17, table I, method 3: 81/263, 15/148, 0/20, 1/29.
    for hits, n, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert wilson_interval(hits / n, n) == pytest.approx((low, high), abs=5e-5)
    with pytest.raises(ValueError, match="at least one case"):
        wilson_interval(0.5, 0)


def test_pixel_features():
    wide = Image.new("L", (60, 30), 0)
    wide.paste(255, (15, 0, 45, 30))
    features = pixel_features([wide, Image.new("RGB", (8, 8), (255, 0, 51))], size=4)
    assert features.shape == (2, 48) and features.dtype == torch.float32
    # The centre square of the wide picture is white (bicubic sees a little of the black beside it).
    assert torch.equal(features[0].reshape(3, 4, 4)[:, :, 1:3], torch.ones(3, 4, 2)) and features[0].min() > 0.9
    torch.testing.assert_close(features[1].reshape(3, 16).mean(1), torch.tensor([1.0, 0.0, 0.2]))
    with pytest.raises(ValueError, match="no images"):
        pixel_features([])


def test_flat_and_pooled_features():
    maps = torch.randn(3, 4, 8, 8)
    assert torch.equal(flat_features(maps), maps.reshape(3, -1))
    coarse = flat_features(maps, max_features=64)
    assert coarse.shape == (3, 64)
    torch.testing.assert_close(coarse.reshape(3, 4, 4, 4)[1, 2, 0, 1], maps[1, 2, 0:2, 2:4].mean())
    torch.testing.assert_close(pooled_features(maps), maps.mean((2, 3)))
    assert pooled_features(maps.bfloat16()).dtype == torch.float32
    with pytest.raises(ValueError, match="at least the 4 channels"):
        flat_features(maps, max_features=3)
    with pytest.raises(ValueError, match=r"shape \[N, C, H, W\], got \[3, 4\]"):
        pooled_features(torch.ones(3, 4))


def test_pca_maps_find_planted_directions():
    """Three orthogonal directions of falling strength come out as red, green and blue."""
    factors = torch.rand(2, 3, 20, 20) * torch.tensor([8.0, 4.0, 2.0])[:, None, None]
    directions = torch.linalg.qr(torch.randn(12, 3)).Q
    maps = torch.einsum("nfhw,cf->nchw", factors, directions) + 5.0
    for joint in (True, False):
        colours = pca_maps(maps, joint=joint)
        assert colours.shape == (2, 3, 20, 20) and colours.min() == 0 and colours.max() == 1
        for image in range(2):
            for f in range(3):
                pair = torch.stack([colours[image, f].flatten(), factors[image, f].flatten()])
                # 400 positions mix independent factors by sampling error, and the ends are clipped.
                assert torch.corrcoef(pair)[0, 1].abs() > 0.95


def test_joint_pca_maps_share_colours():
    maps = torch.randn(1, 6, 9, 9).repeat(2, 1, 1, 1)
    maps[1] += 3.0
    joint, apart = pca_maps(maps, joint=True), pca_maps(maps)
    torch.testing.assert_close(apart[0], apart[1], rtol=0, atol=1e-4)
    assert not torch.allclose(joint[0], joint[1], atol=0.1)


def test_colours_do_not_depend_on_the_order_of_channels():
    """A solver returns eigenvectors of either sign, differently for each order: the sign has to be settled."""
    maps = torch.randn(1, 8, 12, 12) * torch.linspace(3, 1, 8)[:, None, None]
    for _ in range(8):
        torch.testing.assert_close(pca_maps(maps[:, torch.randperm(8)]), pca_maps(maps), rtol=0, atol=1e-5)


def test_pca_maps_survive_flat_maps_and_refuse_bad_ones():
    assert pca_maps(torch.ones(1, 5, 8, 8)).isfinite().all()
    with pytest.raises(ValueError, match="C >= 3"):
        pca_maps(torch.ones(1, 2, 8, 8))
    with pytest.raises(ValueError, match="NaN"):
        pca_maps(torch.full((1, 3, 8, 8), torch.nan))
