"""Stable Diffusion 3 and 3.5: a rectified-flow transformer over the tokens of prompt and image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from revelio_fast.models.families import Conditioning
from revelio_fast.models.text_transformer import BLANK_TOKENS, TextTransformer


class StableDiffusion3(TextTransformer):
    """See `TextTransformer`. Conditioning: ``text [P, tokens, width]`` and ``pooled [P, width]``.

    Timestep t means ``x_t = (1 - t/1000) x + t/1000 noise``: it is the time the network is told.
    """

    def embed(self, prompts: Sequence[str]) -> Conditioning:
        text, _, pooled, _ = self._encoded(prompts, prompt_2=None, prompt_3=None, do_classifier_free_guidance=False)
        return {"text": text, "pooled": pooled}

    def _inputs(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> dict[str, Any]:
        return {
            "hidden_states": noisy,
            "timestep": timesteps,
            "encoder_hidden_states": conditioning["text"],
            "pooled_projections": conditioning["pooled"],
        }

    def _blank(self) -> Conditioning:
        return {
            "text": torch.empty(1, BLANK_TOKENS, self._config["joint_attention_dim"]),
            "pooled": torch.empty(1, self._config["pooled_projection_dim"]),
        }
