"""A tiny Stable Diffusion with random weights, built once, and a few pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from examples.make_random_model import save_random_model


@pytest.fixture(scope="session")
def tiny_sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline folder: three up blocks, VAE reduction 4, native size 32 px."""
    return save_random_model("sd15", tmp_path_factory.mktemp("tiny") / "sd", "tiny", torch.float32)


def picture(number: int, size: tuple[int, int] = (48, 40)) -> Image.Image:
    """A smooth coloured picture, another for each number."""
    rng = np.random.default_rng(number)
    small = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def class_folder(tmp_path: Path) -> Path:
    """Eleven pictures in two class folders."""
    root = tmp_path / "pictures"
    for number in range(11):
        folder = root / ("cat" if number < 5 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        picture(number).save(folder / f"{number:02d}.png")
    return root
