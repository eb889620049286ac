"""Stable Diffusion XL (base and Turbo): two text encoders, a pooled embedding, and the sizes the network is told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from revelio_fast.models.families import Conditioning, read_config
from revelio_fast.models.spec import ModelError, ModelSpec
from revelio_fast.models.stable_diffusion import BLANK_TOKENS, StableDiffusion
from revelio_fast.models.text_encoder import TextEncoder


class StableDiffusionXL(StableDiffusion):
    """See `ModelFamily`. Layers as for `StableDiffusion`: three levels, ``down_ft0..2``, ``bottleneck``, ``up_ft0..2``.

    Conditioning: ``text`` (the last but one hidden states of both encoders side by side), ``pooled`` (the second
    encoder's projection) and ``time_ids`` (original size, crop, target size). Images are cut to squares of the
    extractor's size before the model sees them, so both sizes are that and the crop is (0, 0), as the pipeline's
    defaults have it. An empty prompt is embedded; it is not the zeros that sampling uses against the prompt.
    """

    def __init__(self, spec: ModelSpec):
        index = read_config(spec.model, "model_index.json", spec.revision)
        if not (index.get("text_encoder") or [None])[0]:
            raise ModelError(
                f"{spec.model} has only its second text encoder: a refiner, which continues where the base model "
                "stops. Give the base model or SDXL Turbo."
            )
        super().__init__(spec)
        self._second = TextEncoder(spec, "_2")

    def embed(self, prompts: Sequence[str]) -> Conditioning:
        first, second = (encoder(prompts, output_hidden_states=True) for encoder in (self._text, self._second))
        text = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        side = self.image_size
        ids = torch.tensor([[side, side, 0, 0, side, side]] * len(prompts), device=text.device, dtype=text.dtype)
        return {"text": text, "pooled": second.text_embeds, "time_ids": ids}

    def release_text(self) -> None:
        self._text.release()
        self._second.release()

    def _inputs(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> dict[str, Any]:
        added = {"text_embeds": conditioning["pooled"], "time_ids": conditioning["time_ids"]}
        return super()._inputs(noisy, timesteps, conditioning) | {"added_cond_kwargs": added}

    def _blank(self) -> Conditioning:
        config = self._config
        pooled = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
        return {
            "text": torch.empty(1, BLANK_TOKENS, config["cross_attention_dim"]),
            "pooled": torch.empty(1, pooled),
            "time_ids": torch.empty(1, 6),
        }
