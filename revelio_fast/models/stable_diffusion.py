"""Stable Diffusion 1.x and 2.x, and any latent diffusion pipeline with a UNet2DConditionModel and one text encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from revelio_fast.models.denoiser import Denoiser
from revelio_fast.models.families import Conditioning
from revelio_fast.models.spec import ModelSpec
from revelio_fast.models.text_encoder import TextEncoder
from revelio_fast.models.unet_layers import UNET

BLANK_TOKENS = 77


class StableDiffusion(Denoiser):
    """See `ModelFamily`. Layers: ``down_ft0..``, ``bottleneck``, ``up_ft0..``, or a module path of the UNet.

    Conditioning: ``{"text": [P, tokens, width]}``, the text encoder's last hidden state.
    Latents are the mode of the VAE's posterior times its scaling factor, as in the paper.
    """

    layout = UNET

    def __init__(self, spec: ModelSpec):
        super().__init__(spec)
        self._text = TextEncoder(spec)

    def embed(self, prompts: Sequence[str]) -> Conditioning:
        return {"text": self._text(prompts)[0]}

    def release_text(self) -> None:
        self._text.release()

    def _inputs(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> dict[str, Any]:
        return {"sample": noisy, "timestep": timesteps, "encoder_hidden_states": conditioning["text"]}

    def _blank(self) -> Conditioning:
        width = self._config.get("encoder_hid_dim") or self._config["cross_attention_dim"]
        return {"text": torch.empty(1, BLANK_TOKENS, width if isinstance(width, int) else width[0])}
