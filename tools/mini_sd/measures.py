"""What `tools/evaluate_mini_sd.py` measures: samples, denoising error, linear probes, captions told apart."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from torch import Tensor

from revelio_fast.concepts import ProbeResult, flat_features, linear_probe, pixel_features
from revelio_fast.data import open_source
from revelio_fast.features import FeatureExtractor
from tools.mini_sd.data import DIGIT_NAMES, to_square
from tools.mini_sd.design import embed
from tools.mini_sd.training import encode

LAYERS = ["bottleneck", "up_ft0", "up_ft1", "up_ft2"]
PROBE_TIMESTEPS = [25, 200]
DENOISING_TIMESTEPS = [25, 200, 500]
ZERO_SHOT_TIMESTEPS = [200, 350, 500, 650, 800]
CAPTIONS = [f"a handwritten {name}" for name in DIGIT_NAMES]


class Digits(NamedTuple):
    """Images with their labels, int64 [N]."""

    images: list[Image.Image]
    labels: Tensor


def load_digits(split: str, per_class: int) -> Digits:
    """The first `per_class` digits of each class of a split."""
    items, count = [], [0] * 10
    for item in open_source("digits", split=split):
        if count[item.label] < per_class:
            count[item.label] += 1
            items.append(item)
    return Digits([i.load() for i in items], torch.tensor([i.label for i in items]))


def load_pipeline(model: Path) -> StableDiffusionPipeline:
    """The model in float32, from disk only."""
    pipeline = StableDiffusionPipeline.from_pretrained(model, local_files_only=True).to(torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def random_unet(unet: UNet2DConditionModel, seed: int = 0) -> UNet2DConditionModel:
    """The same architecture, initialised afresh."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet2DConditionModel.from_config(unet.config).eval()


def sample(
    pipeline: StableDiffusionPipeline, prompts: list[str], *, steps: int = 50, guidance: float = 3.0, seed: int = 0
) -> list[Image.Image]:
    """One image per prompt by DDIM; image i starts from the noise of seed + i."""
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    generators = [torch.Generator().manual_seed(seed + i) for i in range(len(prompts))]
    return pipeline(
        prompts, height=32, width=32, num_inference_steps=steps, guidance_scale=guidance, generator=generators
    ).images


def seeded_noise(shape: torch.Size, seed: int) -> Tensor:
    """Standard normal noise."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def latents_of(pipeline: StableDiffusionPipeline, images: list[Image.Image]) -> Tensor:
    """Scaled latent modes [N, 4, 8, 8]."""
    return encode(pipeline.vae, torch.stack([to_square(image) for image in images]))


@torch.no_grad()
def squared_errors(unet, scheduler, z: Tensor, states: Tensor, timestep: int, seed: int) -> Tensor:
    """Mean squared error of the predicted noise per image, [N]."""
    noise = seeded_noise(z.shape, seed)
    noisy = scheduler.add_noise(z, noise, torch.full((len(z),), timestep))
    parts = [
        unet(x, timestep, s).sample - target
        for x, s, target in zip(noisy.split(100), states.split(100), noise.split(100), strict=True)
    ]
    return torch.cat(parts).square().mean((1, 2, 3))


@torch.no_grad()
def denoising(pipeline: StableDiffusionPipeline, digits: Digits) -> list[dict]:
    """Error per timestep: trained with the caption and with the empty prompt, random weights, best multiple."""
    z, scheduler = latents_of(pipeline, digits.images), pipeline.scheduler
    states = embed(pipeline.text_encoder, pipeline.tokenizer, [*CAPTIONS, ""])
    own, empty = states[digits.labels], states[-1:].expand(len(z), -1, -1)
    fresh, rows = random_unet(pipeline.unet), []
    for t in DENOISING_TIMESTEPS:
        noise = seeded_noise(z.shape, t)
        noisy = scheduler.add_noise(z, noise, torch.full((len(z),), t))
        multiple = (noisy * noise).sum() / noisy.square().sum()
        rows.append(
            {
                "timestep": t,
                "caption": squared_errors(pipeline.unet, scheduler, z, own, t, t).mean().item(),
                "empty_prompt": squared_errors(pipeline.unet, scheduler, z, empty, t, t).mean().item(),
                "random_weights": squared_errors(fresh, scheduler, z, own, t, t).mean().item(),
                "best_multiple_of_input": F.mse_loss(multiple * noisy, noise).item(),
            }
        )
    return rows


@torch.no_grad()
def zero_shot(pipeline: StableDiffusionPipeline, digits: Digits) -> dict:
    """Class of the caption with the lowest error, summed over timesteps; all captions share the noise."""
    z = latents_of(pipeline, digits.images)
    states = embed(pipeline.text_encoder, pipeline.tokenizer, CAPTIONS)
    total = torch.zeros(len(z), len(CAPTIONS))
    for t in ZERO_SHOT_TIMESTEPS:
        for c, state in enumerate(states):
            expanded = state.expand(len(z), -1, -1)
            total[:, c] += squared_errors(pipeline.unet, pipeline.scheduler, z, expanded, t, t)
    right = (total.argmin(1) == digits.labels).float().mean().item()
    return {"accuracy": right, "n": len(z), "timesteps": ZERO_SHOT_TIMESTEPS, "chance": 1 / len(CAPTIONS)}


@torch.no_grad()
def reconstruction(pipeline: StableDiffusionPipeline, digits: Digits) -> float:
    """Mean absolute error of the VAE's restored images, in grey levels of 255."""
    images = torch.stack([to_square(image) for image in digits.images])
    z = latents_of(pipeline, digits.images) / pipeline.vae.config.scaling_factor
    restored = torch.cat([pipeline.vae.decode(part).sample for part in z.split(100)])
    return ((restored.clamp(-1, 1) + 1) * 127.5 - images).abs().mean().item()


def features(model: Path, digits: Digits, random_weights: bool) -> dict[tuple[str, int], Tensor]:
    """Pooled features [N, C] of all probed layers and timesteps, empty prompt."""
    extractor = FeatureExtractor.from_pretrained(model, LAYERS, PROBE_TIMESTEPS, random_weights=random_weights)
    parts = [extractor.extract(digits.images[i : i + 100]) for i in range(0, len(digits.images), 100)]
    return {key: torch.cat([part[key] for part in parts]) for key in extractor.keys}


def probes(pipeline: StableDiffusionPipeline, model: Path, train: Digits, test: Digits) -> list[dict]:
    """Linear probes of pooled features, trained and random, and of the two baselines without a network."""
    rows = []
    for random_weights in (False, True):
        x, y = features(model, train, random_weights), features(model, test, random_weights)
        for layer, t in x:
            result = linear_probe(x[layer, t], train.labels, y[layer, t], test.labels)
            what = "random weights" if random_weights else "mini-sd"
            rows.append({"features": what, "layer": layer, "timestep": t, **figures(result)})
    for what, make in (
        ("raw pixels", pixel_features),
        ("VAE latents", lambda images: flat_features(latents_of(pipeline, images))),
    ):
        x, y = make(train.images), make(test.images)
        result = linear_probe(x, train.labels, y, test.labels)
        rows.append({"features": what, "layer": None, "timestep": None, **figures(result)})
    return rows


def figures(result: ProbeResult) -> dict:
    """A probe's result without the marks of single images."""
    return {name: value for name, value in result.as_dict().items() if name not in ("correct", "images")}


def recognised(images: list[Image.Image], labels: Tensor, train: Digits) -> dict:
    """Share of samples that a linear classifier of real digits' pixels reads as what their caption says."""
    result = linear_probe(pixel_features(train.images), train.labels, pixel_features(images), labels)
    return {"accuracy": result.accuracy, "interval": result.interval, "n": result.n_test}
