"""Builds a random-weights pipeline of Stable Diffusion 1.5's size: a stand-in where the real one cannot be had.

    python -m examples.make_random_sd15 /tmp/sd15

The folder has the layout and the layer shapes of the real model (UNet 860 M parameters, VAE 84 M, CLIP text encoder
123 M; bf16), so that time and memory can be measured. Its features mean nothing. Without a download there is no CLIP
vocabulary: the tokenizer knows single bytes only. `save_random_pipeline` takes other configurations, too.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

UNET_SD15: dict[str, Any] = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
VAE_SD15: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "sample_size": 512,
    "scaling_factor": 0.18215,
}
TEXT_SD15: dict[str, Any] = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "projection_dim": 768,
}
SCHEDULER: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "steps_offset": 1,
}


def save_random_pipeline(
    folder: str | Path,
    unet: dict[str, Any] = UNET_SD15,
    vae: dict[str, Any] = VAE_SD15,
    text: dict[str, Any] = TEXT_SD15,
    dtype: torch.dtype = torch.bfloat16,
    seed: int = 0,
) -> Path:
    """Write a StableDiffusionPipeline folder with random weights; returns the folder."""
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    folder = Path(folder)
    torch.manual_seed(seed)
    before = torch.get_default_dtype()
    # Under the default dtype nothing is built in float32 first: 2.3 instead of 3.6 GiB at the peak.
    torch.set_default_dtype(dtype)
    try:
        UNet2DConditionModel(**unet).to(dtype).save_pretrained(folder / "unet")
        AutoencoderKL(**vae).to(dtype).save_pretrained(folder / "vae")
        CLIPTextModel(CLIPTextConfig(**text)).to(dtype).save_pretrained(folder / "text_encoder")
    finally:
        torch.set_default_dtype(before)
    DDPMScheduler(**SCHEDULER).save_pretrained(folder / "scheduler")
    save_byte_tokenizer(folder / "tokenizer", text["max_position_embeddings"])
    index = {
        "_class_name": "StableDiffusionPipeline",
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDPMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    return folder


def save_byte_tokenizer(folder: Path, length: int) -> None:
    """A CLIPTokenizer without merges: each byte of the prompt is a token."""
    folder.mkdir(parents=True, exist_ok=True)
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = [chr(byte) for byte in printable] + [chr(256 + n) for n in range(len(others))]
    start, end = "<|startoftext|>", "<|endoftext|>"
    words = [*letters, *(letter + "</w>" for letter in letters), start, end]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": length,
        "bos_token": start,
        "eos_token": end,
        "unk_token": end,
        "pad_token": end,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(f"wrote {save_random_pipeline(arguments.folder, seed=arguments.seed)}")


if __name__ == "__main__":
    main()
