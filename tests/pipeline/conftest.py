"""The settings of a whole run over a tiny model and forty labelled pictures."""

from __future__ import annotations

from pathlib import Path

import pytest


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
