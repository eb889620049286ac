"""The forward process: how much noise a timestep means, and what the network was trained to predict from it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from revelio_fast.models.families import read_config
from revelio_fast.models.parts import load_part
from revelio_fast.models.spec import ModelError, ModelSpec


class Diffusion:
    """Denoising diffusion: ``x_t = sqrt(a_t) x + sqrt(1 - a_t) noise``, with a_t as the model's scheduler says."""

    def __init__(self, spec: ModelSpec):
        self._scheduler = load_part("DDPMScheduler", spec, "scheduler")
        self.num_timesteps = int(self._scheduler.config.num_train_timesteps)
        self.prediction = str(self._scheduler.config.prediction_type)
        self.alphas_cumprod: Tensor = self._scheduler.alphas_cumprod

    def add_noise(self, latents: Tensor, noise: Tensor, timestep: int | Tensor) -> Tensor:
        return self._scheduler.add_noise(latents, noise.to(latents), rows_of(timestep, latents))

    def target(self, latents: Tensor, noise: Tensor, timestep: int | Tensor) -> Tensor:
        if self.prediction == "v_prediction":
            return self._scheduler.get_velocity(latents, noise.to(latents), rows_of(timestep, latents))
        return noise.to(latents) if self.prediction == "epsilon" else latents


class Flow:
    """Rectified flow (SD3, Flux): ``x_t = (1 - s) x + s noise`` with ``s = t / num_timesteps``; predicts noise - x.

    The timestep is the one the network is told. A scheduler's shift decides only which timesteps sampling visits.
    """

    prediction = "flow"

    def __init__(self, config: dict[str, Any]):
        self.num_timesteps = int(config["num_train_timesteps"])
        share = torch.arange(self.num_timesteps, dtype=torch.float64) / self.num_timesteps
        self.alphas_cumprod = ((1 - share) ** 2 / ((1 - share) ** 2 + share**2)).float()

    def add_noise(self, latents: Tensor, noise: Tensor, timestep: int | Tensor) -> Tensor:
        share = (rows_of(timestep, latents).to(latents.dtype) / self.num_timesteps).view(-1, 1, 1, 1)
        return (1 - share) * latents + share * noise.to(latents)

    def target(self, latents: Tensor, noise: Tensor, timestep: int | Tensor) -> Tensor:
        return noise.to(latents) - latents


def open_schedule(spec: ModelSpec) -> Diffusion | Flow:
    """The forward process of a model, by its scheduler's configuration.

    Raises
    ------
    ModelError
        If it is neither a diffusion with betas nor a rectified flow.
    """
    config = read_config(spec.model, "scheduler/scheduler_config.json", spec.revision)
    if str(config.get("_class_name")).startswith("FlowMatch"):
        return Flow(config)
    if "beta_schedule" not in config and config.get("trained_betas") is None:
        raise ModelError(
            f"The scheduler of {spec.model} is a {config.get('_class_name')}, which gives no betas: only diffusion "
            "schedules with betas and rectified flows are known here."
        )
    return Diffusion(spec)


def rows_of(timestep: int | Tensor, latents: Tensor) -> Tensor:
    """One timestep a row, int64."""
    if isinstance(timestep, int):
        return torch.full((latents.shape[0],), timestep, device=latents.device)
    return timestep.to(latents.device)
