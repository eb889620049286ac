"""SD 1.5 and DiT-XL/2 at their real sizes, bf16, random weights: against the unmodified network with hooks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from revelio_fast.features import FeatureExtractor
from revelio_fast.models import layer_table
from tests.models.oracles import plain_features
from tests.tiny import picture
from tools.make_random_model import save_random_model

# The published UNet's; and DiT's, width w, whose blocks have an embedding of timestep and class each in diffusers.
w = 1152
BLOCK = (256 * w + w + w * w + w + 1001 * w) + 6 * (w * w + w) + 4 * (w * w + w) + (8 * w * w + 5 * w)
PARAMETERS = {"sd15": 859_520_964, "dit": 28 * BLOCK + (16 * w + w) + (2 * w * w + 2 * w) + (32 * w + 32)}


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize(
    ("family", "paths", "widths"),
    [
        ("sd15", {"bottleneck": "mid_block", "up_ft1": "up_blocks.1"}, {"bottleneck": (1280, 4), "up_ft1": (1280, 16)}),
        ("dit", {"block6": "transformer_blocks.6", "block14": "transformer_blocks.14"}, {"block14": (1152, 16)}),
    ],
)
def test_real_sizes(family: str, paths: dict[str, str], widths: dict[str, Any], tmp_path: Path) -> None:
    model = save_random_model(family, tmp_path / family, "real")
    images, prompt = [picture(0, (300, 256)), picture(1, (256, 256))], "3" if family == "dit" else "a cat"
    raw = plain_features(family, model, paths, images, 200, prompt, 256, torch.bfloat16)
    extractor = FeatureExtractor.from_pretrained(model, list(paths), [200], prompt, image_size=256, dtype="bf16")
    found = extractor.extract(images, pool=False)
    for layer in paths:
        expected = raw[layer].float()
        if family == "dit":
            expected = expected.transpose(1, 2).unflatten(2, (16, 16))
        # Rounded to bf16 at every one of some hundred operations, in another layout: as in test_bf16_is_near_float32.
        error = float((found[layer, 200].float() - expected).norm() / expected.norm())
        assert error < 2**-5, (layer, error)
        other = float((found[layer, 200].float() - expected.flip(0)).norm() / expected.norm())
        assert other > 10 * error, (layer, error, other)
    shapes = extractor.layer_shapes()
    assert {layer: shapes[layer][:2] for layer in widths} == widths
    table = {row.name: row for row in layer_table(model, 256)}
    last = table[list(paths)[-1]]
    assert sum(p.numel() for p in extractor.family.network.parameters()) == last.parameters
    assert round(last.parameters / last.parameter_share) == PARAMETERS[family]
