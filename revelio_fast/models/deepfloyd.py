"""DeepFloyd-IF, stage I: a UNet that denoises images of 64 x 64 pixels themselves, told of the prompt by T5."""

from __future__ import annotations

from collections.abc import Sequence

from revelio_fast.models.families import Conditioning
from revelio_fast.models.latents import Pixels
from revelio_fast.models.spec import ModelError, ModelSpec
from revelio_fast.models.stable_diffusion import BLANK_TOKENS, StableDiffusion
from revelio_fast.models.text_encoder import TextEncoder


class DeepFloyd(StableDiffusion):
    """See `ModelFamily`. Layers are named as for `StableDiffusion`; nothing is encoded, the pixels are noised.

    Conditioning: ``{"text": [P, 77, width]}``, T5's last hidden state of the prompt in lower case.
    """

    space = Pixels

    def __init__(self, spec: ModelSpec):
        super().__init__(spec)
        # The length IF was trained with; T5 itself knows no limit.
        self._text = TextEncoder(spec, length=BLANK_TOKENS)

    def _channels(self) -> int:
        channels = super()._channels()
        if channels == 2 * Pixels.channels:
            raise ModelError(f"{self._spec.model} is a later stage of IF, which enlarges images: give stage I.")
        return channels

    def _why_step(self) -> str:
        return "in pixels"

    def embed(self, prompts: Sequence[str]) -> Conditioning:
        return {"text": self._text([prompt.lower().strip() for prompt in prompts], use_mask=True)[0]}
