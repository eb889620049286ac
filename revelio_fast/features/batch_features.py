"""Features of one batch: latents once, noise and one forward for every timestep, averaged over draws of the noise."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from revelio_fast.features.config import ExtractConfig
from revelio_fast.features.fixed_shape import FixedShapeForward
from revelio_fast.features.noise import image_noise
from revelio_fast.models.embedded_prompts import EmbeddedPrompts
from revelio_fast.models.families import Conditioning, ModelFamily
from revelio_fast.profiling import nvtx_range

Key = tuple[str, int]


class BatchFeatures:
    """Calls the family for a batch; on a GPU its forward, pooled or not, is one captured graph per shape."""

    def __init__(
        self,
        family: ModelFamily,
        embedded: EmbeddedPrompts,
        config: ExtractConfig,
        timesteps: tuple[int, ...],
    ):
        self._family = family
        self._embedded = embedded
        self._config = config
        self._timesteps = timesteps
        self.pooled = FixedShapeForward(self._pool, family.device)
        self.maps = FixedShapeForward(family.forward, family.device)

    def __call__(
        self,
        pixels: Tensor,
        digests: list[bytes],
        rows: list[int],
        texts: list[str],
        upcoming: Iterable[str],
        pool: bool,
        draw: int = 0,
    ) -> dict[Key, Tensor]:
        """Features of the images in `rows` of `pixels`, whose noise is drawn from `digests` of their pixels.

        `upcoming` texts may be embedded along with theirs.
        """
        run = self.pooled if pool else self.maps
        latents = self._family.encode(pixels)
        picked = torch.tensor(rows, device=latents.device)
        conditioning = self._conditioning(len(latents), rows, texts, upcoming)
        found: dict[Key, Tensor] = {}
        draws = self._config.noise_samples
        for timestep in self._timesteps:
            steps = torch.full((len(latents),), timestep, device=latents.device)
            total: dict[str, Tensor] = {}
            for sample in range(draws):
                with nvtx_range("noise"):
                    noise = torch.zeros(latents.shape)
                    noise[rows] = image_noise(self._config.seed, digests, timestep, sample, latents.shape[1:], draw)
                    noisy = self._family.add_noise(latents, noise.to(latents.device), timestep)
                for layer, value in run(noisy, steps, conditioning).items():
                    part = value[picked]
                    if draws > 1:
                        part = part.float()
                    total[layer] = part if sample == 0 else total[layer] + part
                    if sample == draws - 1 and sample:
                        total[layer] = (total[layer] / draws).to(value.dtype)
            for layer in self._config.layers:
                found[layer, timestep] = total[layer]
        return found

    def _conditioning(self, count: int, rows: list[int], texts: list[str], upcoming: Iterable[str]) -> Conditioning:
        """What the network is told of each of `count` images; those not in `rows` get some other image's prompt."""
        distinct = list(dict.fromkeys(texts))
        which = torch.zeros(count, dtype=torch.int64)
        which[rows] = torch.tensor([distinct.index(text) for text in texts])
        told = self._embedded.rows(distinct, upcoming)
        return {name: value[which.to(value.device)] for name, value in told.items()}

    def _pool(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> dict[str, Tensor]:
        with torch.no_grad():
            maps = self._family.forward(noisy, timesteps, conditioning)
            return {name: value.float().mean((2, 3)) for name, value in maps.items()}
