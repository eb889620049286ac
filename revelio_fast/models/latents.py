"""From pixels to what is noised: the VAE's latents, or the pixels themselves."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from revelio_fast.models.families import read_config
from revelio_fast.models.parts import load_part
from revelio_fast.models.spec import ModelError, ModelSpec
from revelio_fast.profiling import nvtx_range


class Pixels:
    """Models that denoise images themselves: nothing is encoded.

    Attributes
    ----------
    factor : int
        Pixels of a side per latent.
    channels : int
    words : str
        What messages call it.
    """

    factor = 1
    channels = 3
    words = "images"

    def __init__(self, spec: ModelSpec):
        self._spec = spec

    def load(self) -> None:
        """Load the weights."""

    def encode(self, pixels: Tensor) -> Tensor:
        """Images ``[B, 3, S, S]`` in [-1, 1] to what is noised, ``[B, channels, S / factor, S / factor]`` float32."""
        return pixels.to(self._spec.device, torch.float32)


class VaeLatents(Pixels):
    """Latents of an AutoencoderKL: the mode of its posterior, shifted and scaled as its configuration says."""

    words = "its VAE"

    def __init__(self, spec: ModelSpec):
        super().__init__(spec)
        config = read_config(spec.model, "vae/config.json", spec.revision)
        if config.get("_class_name", "AutoencoderKL") != "AutoencoderKL":
            raise ModelError(f"The VAE of {spec.model} is a {config['_class_name']}; only AutoencoderKL is known here.")
        self.factor = 2 ** (len(config["block_out_channels"]) - 1)
        self.channels = int(config["latent_channels"])
        # A VAE that says so (SDXL's) overflows in float16; bfloat16 has float32's range.
        full = config.get("force_upcast") and spec.torch_dtype == torch.float16
        self._dtype = torch.float32 if full else spec.torch_dtype
        self._vae: Any = None

    def load(self) -> None:
        vae = load_part("AutoencoderKL", self._spec, "vae", torch_dtype=self._dtype)
        del vae.decoder
        vae.post_quant_conv = None
        self._vae = to_device(vae, self._spec.device, self._dtype)

    def encode(self, pixels: Tensor) -> Tensor:
        with nvtx_range("vae"), torch.no_grad():
            posterior = self._vae.encode(as_input(pixels, self._spec.device, self._dtype)).latent_dist
            shift = self._vae.config.get("shift_factor", None) or 0.0
            return (posterior.mode().float() - shift) * self._vae.config.scaling_factor


def as_input(images: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """On the device, in the dtype, and in the layout that `to_device` gave the network's weights."""
    layout = torch.contiguous_format if dtype == torch.float32 else torch.channels_last
    return images.to(device, dtype).contiguous(memory_format=layout)


def to_device(network: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """The network for inference on the device; channels-last below float32, where that is faster."""
    network.to(device).requires_grad_(False).eval()
    if dtype != torch.float32:
        network.to(memory_format=torch.channels_last)
    return network
