"""Baseline features and PCA maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from revelio_fast.concepts import (
    flat_features,
    pca_maps,
    pixel_features,
    pooled_features,
)


def test_pixels_are_those_that_a_model_is_given(tiny_sd):
    """Odd sizes, transparency, palettes and 16 bit: the baseline sees what the extractor hands to the VAE."""
    from revelio_fast.features import FeatureExtractor

    extractor = FeatureExtractor.from_pretrained(tiny_sd, ["bottleneck"], [25])
    colours = Image.effect_noise((61, 45), 90).convert("RGB")
    transparent = colours.convert("RGBA")
    transparent.putalpha(Image.linear_gradient("L").resize((61, 45)))
    deep = Image.fromarray((np.arange(61 * 45).reshape(45, 61) * 23 % 65536).astype(np.uint16))
    pictures = [colours, transparent, colours.convert("P"), colours.resize((20, 200)), deep]
    given = []
    extractor.family.encode = given.append
    extractor.latents(pictures)
    features = pixel_features(pictures, extractor.image_size)
    assert torch.equal(features, given[0].reshape(5, -1)) and features.dtype == torch.float32
    assert features.min() >= -1 and features.max() <= 1
    assert not torch.equal(features[0], features[1])
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
