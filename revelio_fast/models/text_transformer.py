"""The base of PixArt, SD3 and Flux: transformers told of a prompt as their own diffusers pipeline encodes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from revelio_fast.models.denoiser import Denoiser
from revelio_fast.models.families import OUTPUT
from revelio_fast.models.parts import text_pipeline
from revelio_fast.models.spec import ModelSpec
from revelio_fast.models.transformer_layers import BLOCKS

BLANK_TOKENS = 77


class TextTransformer(Denoiser):
    """See `ModelFamily`. Layers: ``block0 ..`` through all stacks of blocks, or a module path of the transformer.

    A block that gives both the prompt's and the image's tokens is read by the image's, folded into ``[B, D, h, w]``.
    """

    layout = BLOCKS

    def __init__(self, spec: ModelSpec):
        super().__init__(spec)
        self._pipeline: Any = None

    def _patch(self) -> int:
        return int(self._config["patch_size"])

    def _why_step(self) -> str:
        return "the VAE's reduction times the patch size"

    def _encoded(self, prompts: Sequence[str], **options: Any) -> tuple[Tensor, ...]:
        """What the pipeline's ``encode_prompt`` gives."""
        if self._pipeline is None:
            self._pipeline = text_pipeline(self._spec)
        with torch.no_grad():
            return self._pipeline.encode_prompt(list(prompts), device=self._spec.device, **options)

    def release_text(self) -> None:
        self._pipeline = None

    def _fold(self, name: str, output: Any) -> Tensor | None:
        if isinstance(output, tuple) and name != OUTPUT:
            tokens = (self.latent_shape[1] // self._patch()) ** 2
            # Prompts have 333 (SD3) or 512 (Flux) tokens, no square number: the count tells which are the image's.
            output = next((x for x in output if isinstance(x, Tensor) and x.ndim == 3 and x.shape[1] == tokens), None)
        return super()._fold(name, output)
