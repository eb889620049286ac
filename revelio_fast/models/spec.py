"""What an extractor is asked for: its model, layers, timesteps and precision, checked; and the errors of models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from revelio_fast.assets import mini_sd_path
from revelio_fast.renamed import Renamed, renamed
from revelio_fast.settings import SEEDS, Settings, option

MINI_SD = "mini-sd"
CPU = torch.device("cpu")
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class ModelError(ValueError):
    """A model cannot be loaded or used as asked; the message says why and what to give instead."""


class LayerError(ModelError):
    """A layer does not exist; the message lists those that do, with their shapes."""


@renamed(official=Renamed("compat", {True: "authors", False: "paper"}))
@dataclass(frozen=True)
class ModelConfig(Settings):
    """Which part of a diffusion model is read, and how; the model's half of `ExtractConfig`.

    Parameters
    ----------
    model : str
        'mini-sd' (part of this package), a folder in diffusers format, or a Hub id such as owner/name.
    revision : str, optional
        Branch, tag or commit of a Hub model.
    layers : sequence of str
        Layer names, as `revelio-fast layers MODEL` lists them. ``"bottleneck"``, ``"down_ft0"`` .., ``"up_ft0"`` ..
        (the paper's names) of a UNet, ``"block0"`` .. of a transformer, ``"output"`` (what the whole network predicts),
        or module paths of the network.
    image_size : int, optional
        Side of the images in pixels; the model's own by default (512 for Stable Diffusion 1.5).
    dtype : {"float32", "bf16", "fp16"}
        Of the weights. The latter two run channels-last.
    seed : int
        Seed of the noise, and of random weights.
    random_weights : bool
        Initialise the denoising network afresh: the baseline. The VAE and the prompt stay the model's.
    compat : {"paper", "authors"}
        "authors" is for DiT only and reproduces the authors' code, for comparison with its numbers. No noise is added,
        and tokens are viewed as maps without the transpose, which scrambles them (`revelio_fast.models.dit.DiT`).
    compile : bool
        Compile the truncated network with torch.compile. The first forward of a batch shape takes long, and results
        differ in the rounding.
    """

    model: str = MINI_SD
    revision: str | None = None
    layers: tuple[str, ...] = ("bottleneck", "up_ft0", "up_ft1", "up_ft2")
    image_size: int | None = option(None, at_least=1)
    dtype: Literal["float32", "bf16", "fp16"] = "float32"
    seed: int = option(0, at_least=0, below=SEEDS)
    random_weights: bool = False
    compat: Literal["paper", "authors"] = "paper"
    compile: bool = False


@dataclass(frozen=True)
class ModelSpec(ModelConfig):
    """What a model family is given: the settings, and the device.

    Parameters
    ----------
    device : torch.device
    """

    device: torch.device = CPU

    @property
    def torch_dtype(self) -> torch.dtype:
        """That of the weights."""
        return DTYPES[self.dtype]

    @property
    def location(self) -> str:
        """The folder of the model, or its Hub id."""
        return model_location(self.model)


def model_location(model: str) -> str:
    """The folder of the packaged model for ``"mini-sd"``; any other folder or Hub id as it is.

    Raises
    ------
    FileNotFoundError
        If this installation came without mini-sd.
    """
    return str(mini_sd_path()) if model == MINI_SD else model


def dtype_name(dtype: torch.dtype | str) -> str:
    """The name that `ModelConfig` has for a dtype: of ``torch.bfloat16`` or ``"bfloat16"``, ``"bf16"``."""
    long = "float32" if dtype == "fp32" else str(dtype).removeprefix("torch.")
    return next((name for name, found in DTYPES.items() if found == getattr(torch, long, None)), long)


def checked_timesteps(timesteps: Sequence[int], count: int) -> tuple[int, ...]:
    """The timesteps as whole numbers; raises ModelError for one that a model with `count` of them does not have."""
    for timestep in timesteps:
        if isinstance(timestep, bool) or int(timestep) != timestep or not 0 <= timestep < count:
            raise ModelError(f"timestep {timestep!r} does not exist: this model has 0 to {count - 1}.")
    return tuple(int(timestep) for timestep in timesteps)
