"""A tiny Stable Diffusion with random weights, and forty labelled pictures in two folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from examples.make_random_model import save_random_model
from tests.features.conftest import save_tiny_clip


@pytest.fixture(scope="session")
def tiny_sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_model("sd15", tmp_path_factory.mktemp("pipeline") / "sd", "tiny", torch.float32)


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_clip(tmp_path_factory.mktemp("clip") / "clip")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``dark`` and ``light`` class folders of twenty pictures each: any feature tells them apart."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name, level in (("dark", 40), ("light", 200)):
        (root / name).mkdir()
        for number in range(20):
            small = np.clip(rng.normal(level, 25, (5, 5, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(small).resize((36, 32), Image.Resampling.BICUBIC).save(root / name / f"{number:02}.png")
    return root


@pytest.fixture
def settings(tiny_sd: Path, pictures: Path, tmp_path: Path) -> str:
    """A whole run in YAML: one layer and timestep, all baselines, Diff-C."""
    return f"""\
model: {tiny_sd}
source:
  spec: {pictures}
  test_share: 0.25
layers: [bottleneck]
timesteps: [25]
batch_size: 10
sae: {{k: 24, expansion_factor: 1, steps: 30, batch_size: 30, warmup_steps: 5, lr: 0.003}}
purity: {{kept: 10, top_images: 5, permutations: 20, bootstrap: 20}}
baselines: {{pixel_size: 8}}
diffc: {{width: 8, epochs: 3, lr: 0.003, lr_min: 0.001}}
report: {{sheets: 0}}
out_dir: {tmp_path / "run"}
"""
