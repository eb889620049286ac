"""Features of every family as its pipeline's documentation has them: whole networks, own hooks, noise written out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from torch import Tensor

from revelio_fast.data import image_to_tensor
from revelio_fast.features.noise import image_noise
from tests.tiny import digests


def load(model: Path, part: str, dtype: torch.dtype = torch.float32) -> Any:
    """A part by the class model_index.json names."""
    library, name = json.loads((model / "model_index.json").read_text())[part]
    kind = getattr(transformers if library == "transformers" else diffusers, name)
    if "okenizer" in name:
        return kind.from_pretrained(model / part)
    key = "dtype" if library == "transformers" else "torch_dtype"
    return kind.from_pretrained(model / part, **{key: dtype}).eval()


def alphas(model: Path) -> Tensor:
    """Share of the signal's variance left at each timestep, from the betas of the scheduler's configuration."""
    config = json.loads((model / "scheduler" / "scheduler_config.json").read_text())
    steps, start, end = (config[name] for name in ("num_train_timesteps", "beta_start", "beta_end"))
    if config["beta_schedule"] == "linear":
        betas = torch.linspace(start, end, steps)
    elif config["beta_schedule"] == "scaled_linear":
        betas = torch.linspace(start**0.5, end**0.5, steps) ** 2
    else:
        times = torch.arange(steps + 1, dtype=torch.float64) / steps
        bars = torch.cos((times + 0.008) / 1.008 * torch.pi / 2) ** 2
        betas = (1 - bars[1:] / bars[:-1]).clamp(max=0.999).float()
    return torch.cumprod(1 - betas, 0)


def clean(model: Path, images: Sequence[Any], size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """What is noised: scaled modes of the VAE's posterior, or pixels where there is no VAE."""
    pixels = torch.stack([image_to_tensor(image, size) for image in images])
    if not (model / "vae").is_dir():
        return pixels
    vae = load(model, "vae", dtype)
    mode = vae.encode(pixels.to(dtype)).latent_dist.mode().float()
    return (mode - (vae.config.shift_factor or 0)) * vae.config.scaling_factor


def noised(model: Path, latents: Tensor, keys: Sequence[bytes], timestep: int, seed: int = 0) -> Tensor:
    noise = image_noise(seed, keys, timestep, 0, latents.shape[1:])
    if "shift" in json.loads((model / "scheduler" / "scheduler_config.json").read_text()):
        return (1 - timestep / 1000) * latents + timestep / 1000 * noise
    kept = alphas(model)[timestep]
    return kept**0.5 * latents + (1 - kept) ** 0.5 * noise


def tokens(model: Path, suffix: str, prompt: str, length: int = 77) -> Any:
    tokenizer = load(model, f"tokenizer{suffix}")
    return tokenizer([prompt], padding="max_length", max_length=length, truncation=True, return_tensors="pt")


def told(family: str, model: Path, prompt: str, size: int, rows: int, dtype: torch.dtype) -> dict[str, Any]:
    """The keyword arguments of the network's forward besides the noisy input and the timestep."""
    if family == "dit":
        return {"class_labels": torch.full((rows,), int(prompt or 1000))}
    first = load(model, "text_encoder", dtype)
    if family in ("sd15", "sd21"):
        text = first(tokens(model, "", prompt).input_ids).last_hidden_state
        return {"encoder_hidden_states": text.repeat(rows, 1, 1)}
    if family == "if":
        given = tokens(model, "", prompt.lower())
        text = first(given.input_ids, attention_mask=given.attention_mask).last_hidden_state
        return {"encoder_hidden_states": text.repeat(rows, 1, 1)}
    if family == "pixart":
        given = tokens(model, "", prompt.lower(), 120)
        text = first(given.input_ids, attention_mask=given.attention_mask).last_hidden_state
        return {
            "encoder_hidden_states": text.repeat(rows, 1, 1),
            "encoder_attention_mask": given.attention_mask.repeat(rows, 1),
            "added_cond_kwargs": {
                "resolution": torch.tensor([[size, size]], dtype=dtype).repeat(rows, 1),
                "aspect_ratio": torch.ones(rows, 1, dtype=dtype),
            },
        }
    if family == "flux":
        pooled = first(tokens(model, "", prompt).input_ids).pooler_output
        text = load(model, "text_encoder_2", dtype)(tokens(model, "_2", prompt, 512).input_ids).last_hidden_state
        return {
            "encoder_hidden_states": text.repeat(rows, 1, 1),
            "pooled_projections": pooled.repeat(rows, 1),
            "txt_ids": torch.zeros(512, 3),
            "guidance": torch.full((rows,), 3.5),
        }
    one = first(tokens(model, "", prompt).input_ids, output_hidden_states=True)
    second = load(model, "text_encoder_2", dtype)
    two = second(tokens(model, "_2", prompt).input_ids, output_hidden_states=True)
    clips = torch.cat([one.hidden_states[-2], two.hidden_states[-2]], dim=2)
    if family == "sdxl":
        return {
            "encoder_hidden_states": clips.repeat(rows, 1, 1),
            "added_cond_kwargs": {
                "text_embeds": two.text_embeds.repeat(rows, 1),
                "time_ids": torch.tensor([[size, size, 0, 0, size, size]], dtype=dtype).repeat(rows, 1),
            },
        }
    t5 = load(model, "text_encoder_3", dtype)(tokens(model, "_3", prompt, 256).input_ids).last_hidden_state
    wide = torch.nn.functional.pad(clips, (0, t5.shape[2] - clips.shape[2]))
    return {
        "encoder_hidden_states": torch.cat([wide, t5], dim=1).repeat(rows, 1, 1),
        "pooled_projections": torch.cat([one.text_embeds, two.text_embeds], dim=1).repeat(rows, 1),
    }


def plain_features(
    family: str,
    model: Path,
    paths: dict[str, str],
    images: Sequence[Any],
    timestep: int,
    prompt: str,
    size: int,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Any]:
    """The raw outputs of the modules in `paths`, and under ``"prediction"`` the network's own."""
    network = load(model, "transformer" if (model / "transformer").is_dir() else "unet", dtype)
    found: dict[str, Any] = {}
    for name, path in paths.items():
        network.get_submodule(path).register_forward_hook(lambda _m, _i, out, name=name: found.__setitem__(name, out))
    with torch.no_grad():
        given = told(family, model, prompt, size, len(images), dtype)
        latents = clean(model, images, size, dtype)
        noisy = noised(model, latents, digests(images, size), timestep).to(dtype).contiguous()
        steps = torch.full((len(images),), timestep)
        if family == "flux":
            rows, channels, side = noisy.shape[0], noisy.shape[1], noisy.shape[2] // 2
            places = [[0, y, x] for y in range(side) for x in range(side)]
            packed = noisy.view(rows, channels, side, 2, side, 2).permute(0, 2, 4, 1, 3, 5)
            packed = packed.reshape(rows, side * side, 4 * channels)
            out = network(packed, timestep=steps / 1000, img_ids=torch.tensor(places).float(), **given).sample
            out = out.view(rows, side, side, channels, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(noisy.shape)
        else:
            out = network(noisy, timestep=steps, **given).sample
    return found | {"prediction": out[:, : noisy.shape[1]]}
