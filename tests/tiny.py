"""Small stand-ins that many tests share: a picture by number, the key of its noise, a CLIP folder of random weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from revelio_fast.data.preprocess import model_input
from tools.random_model.tokenizers import save_clip_tokenizer


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


def digests(images: Sequence[Image.Image], size: int) -> list[bytes]:
    """What the noise of images is drawn from, at an input size."""
    return [model_input(image, size).digest for image in images]
