"""Extraction against the authors' loop: python -m bench extract FOLDER --work one|sweep|block [--json FILE].

FOLDER is a pipeline in diffusers format; where the real weights cannot be had, random ones of tools/ do. The loop of
the authors' extract_feature.py is written here from its description: for each layer and timestep anew it embeds the
empty prompt, encodes the images, adds noise and runs the whole network in float32 with a hook on the layer. It is given
our noise, so that the features can be compared, and pools like us instead of writing full maps.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.measure import compare, stamp
from revelio_fast.data.identity import pixel_digests
from revelio_fast.features import FeatureExtractor
from revelio_fast.features.noise import image_noise

UNET_LAYERS = {"bottleneck": "mid_block"} | {f"up_ft{i}": f"up_blocks.{i}" for i in range(4)}
WORK = {
    "one": (["up_ft1"], [25]),
    "sweep": (["bottleneck", "up_ft0", "up_ft1", "up_ft2"], [0, 25, 100, 200, 300, 500]),  # the paper's tables 2 and 3
    "block": (["block14"], [25]),
}


class AuthorsLoop:
    """Stable Diffusion or DiT as their code runs it: whole networks, float32, one layer and timestep at a time."""

    def __init__(self, folder: Path):
        from diffusers import AutoencoderKL, DDPMScheduler, DiTTransformer2DModel, UNet2DConditionModel

        self.dit = (folder / "transformer").is_dir()
        network: Any = DiTTransformer2DModel if self.dit else UNet2DConditionModel
        self.network = network.from_pretrained(folder / ("transformer" if self.dit else "unet")).float().eval()
        self.vae = AutoencoderKL.from_pretrained(folder / "vae").float().eval()
        self.scheduler = DDPMScheduler.from_pretrained(folder / "scheduler")
        if not self.dit:
            from transformers import AutoTokenizer, CLIPTextModel

            self.tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
            self.text = CLIPTextModel.from_pretrained(folder / "text_encoder").float().eval()

    @torch.no_grad()
    def __call__(self, pixels: Tensor, layer: str, timestep: int) -> Tensor:
        found: list[Tensor] = []
        path = f"transformer_blocks.{layer[5:]}" if self.dit else UNET_LAYERS[layer]
        hook = self.network.get_submodule(path).register_forward_hook(lambda *event: found.append(event[2]))
        latents = self.vae.encode(pixels).latent_dist.mode() * self.vae.config.scaling_factor
        noise = image_noise(0, pixel_digests(pixels), timestep, 0, latents.shape[1:])
        steps = torch.full((len(pixels),), timestep)
        noisy = self.scheduler.add_noise(latents, noise, steps)
        if self.dit:
            self.network(noisy, steps, class_labels=torch.full_like(steps, 1000))
        else:
            tokens = self.tokenizer(
                "", padding="max_length", max_length=self.tokenizer.model_max_length, return_tensors="pt"
            )
            text = self.text(tokens.input_ids)[0].expand(len(pixels), -1, -1)
            self.network(noisy, steps, encoder_hidden_states=text)
        hook.remove()
        out = found[0][0] if isinstance(found[0], tuple) else found[0]
        return out.mean(1 if self.dit else (2, 3))


def variants(folder: Path, work: str, images: int, image_size: int, ours: list[str]) -> dict[str, Any]:
    """Name -> all features of the work, one after another as one row an image."""
    torch.manual_seed(0)
    layers, timesteps = WORK[work]
    pixels = torch.rand(images, 3, image_size, image_size) * 2 - 1
    keys = [(layer, timestep) for timestep in timesteps for layer in layers]
    theirs = AuthorsLoop(folder)

    def ours_as(dtype: str):
        extractor = FeatureExtractor.from_pretrained(folder, layers, timesteps, image_size=image_size, dtype=dtype)

        def run() -> Tensor:
            features = extractor.extract(pixels)
            return torch.cat([features[key] for key in keys], 1)

        return run

    return {
        "authors' loop, float32": lambda: torch.cat([theirs(pixels, *key) for key in keys], 1),
        **{f"revelio_fast, {dtype}": ours_as(dtype) for dtype in ours},
    }


def main(arguments: list[str]) -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(prog="python -m bench extract", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--work", choices=WORK, default="one")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--dtypes", default="float32,bf16", help="of our side, comma-separated")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    about = stamp(options.repeats)
    layers, timesteps = WORK[options.work]
    shape = f"{options.images} images of {options.image_size} px, {len(layers)} layers x {len(timesteps)} timesteps"
    ways = variants(options.folder, options.work, options.images, options.image_size, options.dtypes.split(","))
    rows = compare(f"extract {options.work}", shape, ways, options.repeats)
    for row in rows:
        print(
            f"{row['impl']:<26}{row['median_s']:>9.3f} s{row['ratio']:>8.2f}x   relative error {row['max_rel_err']:.1e}"
        )
    if options.json:
        options.json.write_text(json.dumps({"stamp": about, "rows": rows}, indent=2) + "\n")
