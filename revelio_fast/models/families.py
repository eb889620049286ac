"""Model families: what a family must offer, and the registry from a pipeline's class name to the family's class."""

from __future__ import annotations

import importlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from revelio_fast.data.hub_id import is_hub_id
from revelio_fast.models.spec import MINI_SD, ModelConfig, ModelError, ModelSpec, model_location

_HERE = "revelio_fast.models"
FAMILIES: dict[str, str] = {
    "StableDiffusionPipeline": f"{_HERE}.stable_diffusion:StableDiffusion",
    "StableDiffusionImg2ImgPipeline": f"{_HERE}.stable_diffusion:StableDiffusion",
    "StableDiffusionInpaintPipelineLegacy": f"{_HERE}.stable_diffusion:StableDiffusion",
    "StableDiffusionXLPipeline": f"{_HERE}.sdxl:StableDiffusionXL",
    "StableDiffusionXLImg2ImgPipeline": f"{_HERE}.sdxl:StableDiffusionXL",
    "DiTPipeline": f"{_HERE}.dit:DiT",
    "IFPipeline": f"{_HERE}.deepfloyd:DeepFloyd",
    "IFSuperResolutionPipeline": f"{_HERE}.deepfloyd:DeepFloyd",
    "PixArtAlphaPipeline": f"{_HERE}.pixart:PixArt",
    "PixArtSigmaPipeline": f"{_HERE}.pixart:PixArt",
    "StableDiffusion3Pipeline": f"{_HERE}.sd3:StableDiffusion3",
    "FluxPipeline": f"{_HERE}.flux:Flux",
}
"""``_class_name`` of model_index.json -> ``"module:class"`` of the `ModelFamily`. A new family adds its line here."""


OUTPUT = "output"
"""The layer name of the network's own output, at the size of the latents; nothing is cut off for it."""

Conditioning = dict[str, Tensor]
"""What a network is told besides the noisy latents and the timestep: tensors ``[B, ...]`` by name."""


class LayerCost(NamedTuple):
    """One line of the layer table.

    Attributes
    ----------
    name : str
    shape : tuple of int
        (C, H, W) of the feature map at the extractor's image size.
    compute_share : float
        Multiply-adds up to this layer's output over those of a full forward.
    parameters : int
        Parameters that are needed up to this layer.
    parameter_share : float
        The same over all parameters of the network.
    """

    name: str
    shape: tuple[int, int, int]
    compute_share: float
    parameters: int
    parameter_share: float


class ModelFamily(ABC):
    """A diffusion model as the extractor sees it: images to latents, latents and noise to feature maps.

    A subclass is constructed as ``Family(spec)`` with a `ModelSpec` and loads nothing before `load`: layer names
    and costs come from the configuration alone.

    Attributes
    ----------
    num_timesteps : int
        Timesteps 0 .. num_timesteps - 1 exist.
    image_size : int
        Side of the input images in pixels, the model's own if the spec gave none.
    latent_shape : tuple of int
        ``[c, h, w]`` of what is noised.
    prediction : str
        What the layer `OUTPUT`, the network's own output, predicts: ``"epsilon"``, ``"v_prediction"``, ``"sample"``
        or, of a rectified flow, ``"flow"``. `target` gives the value it was trained towards.
    alphas_cumprod : Tensor
        ``[num_timesteps]`` float32: the signal's share of the noised latents' variance at each timestep.
    device : torch.device
    """

    num_timesteps: int
    image_size: int
    latent_shape: tuple[int, int, int]
    prediction: str
    alphas_cumprod: Tensor
    device: torch.device

    @abstractmethod
    def __init__(self, spec: ModelSpec):
        """Read the configuration and check the layers and the image size."""

    @abstractmethod
    def load(self) -> None:
        """Load the weights that the wanted layers need and truncate the network after the last."""

    @abstractmethod
    def embed(self, prompts: Sequence[str]) -> Conditioning:
        """What `forward` needs to know of some prompts, ``[P, ...]`` each, on the model's device.

        Loads the text encoder the first time and keeps it until `release_text`; needs no `load`.
        """

    @abstractmethod
    def release_text(self) -> None:
        """Let go of the text encoder; the next `embed` loads it again."""

    @abstractmethod
    def layer_table(self) -> list[LayerCost]:
        """All named layers in the order of computation."""

    @abstractmethod
    def layer_shapes(self, layers: Sequence[str]) -> dict[str, tuple[int, int, int]]:
        """(C, H, W) of these layers, names or module paths; raises LayerError."""

    @abstractmethod
    def encode(self, pixels: Tensor) -> Tensor:
        """Images ``[B, 3, S, S]`` in [-1, 1] to latents ``[B, c, h, w]`` float32."""

    @abstractmethod
    def add_noise(self, latents: Tensor, noise: Tensor, timestep: int | Tensor) -> Tensor:
        """The forward process at `timestep`, one for all or ``[B]`` int64; ``[B, c, h, w]`` float32."""

    @abstractmethod
    def target(self, latents: Tensor, noise: Tensor, timestep: int | Tensor) -> Tensor:
        """What the network's output should be for ``add_noise`` of the same arguments, by `prediction`."""

    @abstractmethod
    def forward(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> dict[str, Tensor]:
        """Feature maps ``[B, C, H, W]`` of every wanted layer, in the model's dtype.

        Parameters
        ----------
        noisy : Tensor
            ``[B, c, h, w]``, from `add_noise`.
        timesteps : Tensor
            ``[B]`` int64.
        conditioning : dict
            One row an image: rows of what `embed` gave, chosen by index or expanded.
        """


def find_family(model: str, revision: str | None = None) -> type[ModelFamily]:
    """The family of a local folder in diffusers format or of a Hub id, by its model_index.json.

    Raises
    ------
    ModelError
        If there is no such model, it is not a diffusers pipeline, or no family handles its class.
    """
    index = read_config(model, "model_index.json", revision)
    class_name = str(index.get("_class_name"))
    where = FAMILIES.get(class_name)
    if where is None:
        raise ModelError(
            f"{model} is a {class_name}; the families known here read {', '.join(sorted(FAMILIES))}. "
            "A new family is one file and one line in revelio_fast/models/families.py."
        )
    module, name = where.split(":")
    return getattr(importlib.import_module(module), name)


def open_family(config: ModelConfig, device: torch.device | str | None = None) -> ModelFamily:
    """The model that some settings name, checked by its configuration alone: no weights are read before `load`.

    Parameters
    ----------
    config : ModelConfig
    device : optional
        ``"cuda"`` if there is one, else ``"cpu"``.

    Raises
    ------
    ModelError
        If there is no such model, or a setting does not fit it.
    LayerError
        If a layer does not exist.
    """
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return find_family(config.model, config.revision)(config.part(ModelSpec, device=chosen))


def read_config(model: str, file: str, revision: str | None = None) -> dict:
    """A JSON file of a model, from its folder or the Hub.

    Raises
    ------
    ModelError
        If it is missing or no JSON.
    """
    model = model_location(model)
    folder = Path(model).expanduser()
    if folder.is_dir():
        path = folder / file
        if not path.is_file():
            raise ModelError(
                f"{folder} has no {file}: give a folder in diffusers format, as `pipeline.save_pretrained` writes it."
            )
    elif not is_hub_id(model):
        raise ModelError(
            f"There is no model folder {model}. Give a local folder, {MINI_SD!r}, or a Hub id such as 'owner/name'."
        )
    else:
        path = _from_hub(model, file, revision)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} cannot be read as JSON: {error}.") from error


def _from_hub(model: str, file: str, revision: str | None) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ModelError("Models need more packages: pip install 'revelio-fast[models]'.") from error
    try:
        # hf_hub_download fetches the same file, but asks a Hub that is out of reach five times more in half a minute
        folder = Path(snapshot_download(model, revision=revision, allow_patterns=[file]))
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise ModelError(
            f"{model!r} is no local folder, and its {file} cannot be fetched from the Hugging Face Hub "
            f"({type(error).__name__}: {first})."
        ) from error
    if not (folder / file).is_file():
        raise ModelError(f"{model!r} has no {file} on the Hugging Face Hub, or none in its copy here, {folder}.")
    return folder / file


def image_size_of(model: str | os.PathLike[str], image_size: int | None = None, revision: str | None = None) -> int:
    """The side in pixels that a model is given: `image_size`, or its own, which its configuration says."""
    return _described(model, image_size, revision).image_size


def layer_table(
    model: str | os.PathLike[str], image_size: int | None = None, revision: str | None = None
) -> list[LayerCost]:
    """The layers of a model with shapes and costs, from its configuration alone: no weights are read."""
    return _described(model, image_size, revision).layer_table()


def _described(model: str | os.PathLike[str], image_size: int | None, revision: str | None) -> ModelFamily:
    """A model of which no weights are read."""
    return open_family(ModelConfig(os.fspath(model), revision, layers=(), image_size=image_size), "cpu")
