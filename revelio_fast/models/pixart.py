"""PixArt-alpha and -sigma: a transformer on VAE latents with cross attention to T5's embedding of the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from revelio_fast.models.families import Conditioning
from revelio_fast.models.text_transformer import BLANK_TOKENS, TextTransformer


class PixArt(TextTransformer):
    """See `TextTransformer`. Conditioning: ``text [P, tokens, width]``, ``mask [P, tokens]``, and the image's size.

    Prompts are padded to the pipeline's default length (120 tokens for alpha, 300 for sigma).
    """

    def embed(self, prompts: Sequence[str]) -> Conditioning:
        text, mask, *_ = self._encoded(prompts, do_classifier_free_guidance=False)
        side = torch.full((len(prompts), 2), float(self.image_size), device=text.device, dtype=text.dtype)
        return {"text": text, "mask": mask, "size": side, "aspect": torch.ones_like(side[:, :1])}

    def _inputs(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> dict[str, Any]:
        told = self._config.get("use_additional_conditions")
        sized = int(self._config["sample_size"]) == 128 if told is None else told
        return {
            "hidden_states": noisy,
            "timestep": timesteps,
            "encoder_hidden_states": conditioning["text"],
            "encoder_attention_mask": conditioning["mask"],
            "added_cond_kwargs": {
                "resolution": conditioning["size"] if sized else None,
                "aspect_ratio": conditioning["aspect"] if sized else None,
            },
        }

    def _blank(self) -> Conditioning:
        return {
            "text": torch.empty(1, BLANK_TOKENS, self._config["caption_channels"]),
            "mask": torch.empty(1, BLANK_TOKENS),
            "size": torch.empty(1, 2),
            "aspect": torch.empty(1, 1),
        }
