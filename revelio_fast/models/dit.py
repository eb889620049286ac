"""DiT-XL/2 at 256 and 512 px: a class-conditioned transformer on VAE latents, read with the null class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from revelio_fast.models.denoiser import Denoiser
from revelio_fast.models.families import OUTPUT, Conditioning, read_config
from revelio_fast.models.spec import ModelError
from revelio_fast.models.transformer_layers import BLOCKS


class DiT(Denoiser):
    """See `ModelFamily`. Layers: ``block0 .. block27``, or a module path. Tokens are folded into ``[B, D, h, w]``.

    Conditioning: ``{"class_labels": [P] int64}``. The prompt ``""`` is the null class (1000), with which DiT was
    trained to do without a label; others are the number or the name of an ImageNet class.

    With ``compat="authors"`` the features are those of the authors' code, for comparison with its results only: the
    latents get no noise, though the network is told the timestep, and the tokens ``[B, h w, D]`` are *viewed* as
    ``[B, D, h, w]`` without a transpose, so that a channel holds values of one or two tokens. Pooled features
    depend on the order, too: each is the mean of such a channel.
    """

    layout = BLOCKS
    has_authors_form = True

    def _patch(self) -> int:
        return int(self._config["patch_size"])

    def _why_step(self) -> str:
        return "the VAE's reduction times the patch size"

    def embed(self, prompts: Sequence[str]) -> Conditioning:
        labels = [self._label(prompt) for prompt in prompts]
        return {"class_labels": torch.tensor(labels, device=self._spec.device)}

    def release_text(self) -> None:
        """There is none."""

    def _label(self, prompt: str) -> int:
        null = int(self._config["num_embeds_ada_norm"])
        if not prompt:
            return null
        if prompt.isdecimal() and int(prompt) <= null:
            return int(prompt)
        names = read_config(self._spec.model, "model_index.json", self._spec.revision).get("id2label") or {}
        for number, words in names.items():
            if prompt.strip().lower() in [word.strip().lower() for word in words.split(",")]:
                return int(number)
        raise ModelError(
            f"{self._spec.model} reads classes, not prompts: {prompt!r} is none of its {null} class names and no "
            f"number from 0 to {null - 1}. Leave the prompt empty for no class."
        )

    def add_noise(self, latents: Tensor, noise: Tensor, timestep: int | Tensor) -> Tensor:
        return latents if self._spec.compat == "authors" else super().add_noise(latents, noise, timestep)

    def _inputs(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> dict[str, Any]:
        return {"hidden_states": noisy, "timestep": timesteps, "class_labels": conditioning["class_labels"]}

    def _blank(self) -> Conditioning:
        return {"class_labels": torch.zeros(1, dtype=torch.int64)}

    def _fold(self, name: str, output: Any) -> Tensor | None:
        folded = super()._fold(name, output)
        if folded is None or name == OUTPUT or self._spec.compat == "paper":
            return folded
        return folded.flatten(2).transpose(1, 2).reshape(folded.shape)
