"""FLUX.1 (dev, schnell): a rectified-flow transformer on packed latents, with two kinds of blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from revelio_fast.models.families import OUTPUT, Conditioning
from revelio_fast.models.text_transformer import BLANK_TOKENS, TextTransformer

PACK = 2
GUIDANCE = 3.5
NATIVE_LATENTS = 128


class Flux(TextTransformer):
    """See `TextTransformer`. Conditioning: ``text [P, tokens, width]`` and ``pooled [P, width]``.

    Two by two latents are one token. Timestep t means ``x_t = (1 - t/1000) x + t/1000 noise``. A model with guidance
    built in (dev) is told its pipeline's default, 3.5.
    """

    def _channels(self) -> int:
        return super()._channels() // PACK**2

    def _patch(self) -> int:
        return PACK

    def _native_side(self) -> int:
        return NATIVE_LATENTS

    def embed(self, prompts: Sequence[str]) -> Conditioning:
        text, pooled, _ = self._encoded(prompts, prompt_2=None)
        return {"text": text, "pooled": pooled}

    def _inputs(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> dict[str, Any]:
        packed = F.pixel_unshuffle(noisy, PACK)
        rows, columns = (torch.arange(size, device=noisy.device, dtype=noisy.dtype) for size in packed.shape[2:])
        places = torch.zeros(*packed.shape[2:], 3, device=noisy.device, dtype=noisy.dtype)
        places[..., 1] = rows[:, None]
        places[..., 2] = columns
        text = conditioning["text"]
        guidance = torch.full(noisy.shape[:1], GUIDANCE, device=noisy.device)
        return {
            "hidden_states": packed.flatten(2).transpose(1, 2),
            "timestep": timesteps / self.num_timesteps,
            "encoder_hidden_states": text,
            "pooled_projections": conditioning["pooled"],
            "img_ids": places.flatten(0, 1),
            "txt_ids": torch.zeros(text.shape[1], 3, device=noisy.device, dtype=noisy.dtype),
            "guidance": guidance if self._config["guidance_embeds"] else None,
        }

    def _blank(self) -> Conditioning:
        return {
            "text": torch.empty(1, BLANK_TOKENS, self._config["joint_attention_dim"]),
            "pooled": torch.empty(1, self._config["pooled_projection_dim"]),
        }

    def _fold(self, name: str, output: Any) -> Tensor | None:
        if name == OUTPUT:
            tokens = output[0]
            grid = self.latent_shape[1] // PACK
            return F.pixel_shuffle(tokens.transpose(1, 2).unflatten(2, (grid, grid)), PACK)
        return super()._fold(name, output)
