"""A tiny Stable Diffusion with random weights, built once, and a few pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from examples.make_random_model import save_random_model
from examples.random_model.tokenizers import save_clip_tokenizer


@pytest.fixture(scope="session")
def tiny_sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline folder: three up blocks, VAE reduction 4, native size 32 px."""
    return save_random_model("sd15", tmp_path_factory.mktemp("tiny") / "sd", "tiny", torch.float32)


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_clip(tmp_path_factory.mktemp("tiny") / "clip")


def save_tiny_clip(folder: Path) -> Path:
    """A CLIP folder with random weights, as ``save_pretrained`` writes it: 32 px, byte tokens."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    shared = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {"vocab_size": 514, "bos_token_id": 512, "eos_token_id": 513, "max_position_embeddings": 77}
    torch.manual_seed(1)
    # Weights ten times the usual size: with those of the usual size all images look alike to it.
    config = CLIPConfig(
        text_config={**shared, **text, "projection_dim": 16, "initializer_factor": 10.0},
        vision_config={**shared, "image_size": 32, "patch_size": 8, "projection_dim": 16, "initializer_factor": 10.0},
        projection_dim=16,
    )
    CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    save_clip_tokenizer(folder, 77)
    return folder


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
