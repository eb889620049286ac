"""What all families share: a network tapped at the wanted layers and truncated after the last, and its layer table."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from revelio_fast import seeds
from revelio_fast.models.families import OUTPUT, Conditioning, LayerCost, ModelFamily, read_config
from revelio_fast.models.hooks import ActivationHooks, as_map
from revelio_fast.models.latents import Pixels, VaeLatents, as_input, to_device
from revelio_fast.models.meta_model import Layout, MetaModel
from revelio_fast.models.parts import library_class, load_part
from revelio_fast.models.schedule import open_schedule
from revelio_fast.models.spec import LayerError, ModelError, ModelSpec
from revelio_fast.profiling import nvtx_range


class Denoiser(ModelFamily):
    """See `ModelFamily`. A subclass says how its network is laid out, what it is told, and how prompts are embedded.

    Attributes
    ----------
    network : nn.Module
        After `load`: the denoising network, truncated.

    Raises
    ------
    ModelError
        If diffusers is missing, a part of the pipeline cannot be loaded, or the image size does not fit.
    LayerError
        If a layer does not exist.
    """

    layout: Layout
    has_authors_form = False
    space: type[Pixels] = VaeLatents
    network: Any

    def __init__(self, spec: ModelSpec):
        if spec.compat == "authors" and not self.has_authors_form:
            raise ModelError(
                f"compat='authors' reproduces what the authors' code does to DiT; {spec.model} is no DiT, and its "
                "features are the same either way: leave it out."
            )
        self._spec = spec
        self.device = spec.device
        self._config = read_config(spec.model, f"{self.layout.part}/config.json", spec.revision)
        self._space = self.space(spec)
        self._schedule = open_schedule(spec)
        self.num_timesteps = self._schedule.num_timesteps
        self.prediction = self._schedule.prediction
        self.alphas_cumprod = self._schedule.alphas_cumprod
        step = self._space.factor * self._patch()
        side = spec.image_size or self._native_side() * self._space.factor
        if side < step or side % step:
            raise ModelError(f"image_size must be a multiple of {step}, {self._why_step()}, got {side}.")
        self.image_size = side
        self.latent_shape = (self._channels(), side // self._space.factor, side // self._space.factor)
        if self.latent_shape[0] != self._space.channels:
            raise ModelError(
                f"The {self.layout.words} of {spec.model} takes {self.latent_shape[0]} channels but "
                f"{self._space.words} gives {self._space.channels}: an inpainting or depth model, "
                "which needs more than an image."
            )
        self._bones: MetaModel | None = None
        self.layer_shapes(spec.layers)

    @abstractmethod
    def _inputs(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> dict[str, Any]:
        """The arguments of the network's forward."""

    @abstractmethod
    def _blank(self) -> Conditioning:
        """Empty conditioning of one image, on the default device, to find shapes with."""

    def _channels(self) -> int:
        return int(self._config["in_channels"])

    def _native_side(self) -> int:
        """Side of the latents the model was made for."""
        return int(self._config["sample_size"])

    def _patch(self) -> int:
        """Latents of a side that the network takes together."""
        return 1

    def _why_step(self) -> str:
        return "the reduction of this model's VAE"

    def load(self) -> None:
        spec = self._spec
        self._space.load()
        network = self._random_network() if spec.random_weights else self._trained_network()
        paths = {name: self._path(name) for name in spec.layers}
        self.layout.truncate(network, list(paths.values()))
        self.network = to_device(network, spec.device, spec.torch_dtype)
        self._taps = ActivationHooks(self.network, paths, self._fold)
        if spec.compile:
            self.network.compile(dynamic=False)

    def _class(self) -> Any:
        return library_class(self._config["_class_name"], self._spec, self.layout.part)

    def _trained_network(self) -> Any:
        return load_part(self._config["_class_name"], self._spec, self.layout.part, torch_dtype=self._spec.torch_dtype)

    def _random_network(self) -> Any:
        """The same network with fresh weights (PyTorch's initialisation), the baseline of what training learned."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seeds.derive(self._spec.seed, "random weights"))
            return nn.Module.to(self._class().from_config(self._config), self._spec.torch_dtype)

    def encode(self, pixels: Tensor) -> Tensor:
        return self._space.encode(pixels)

    def add_noise(self, latents: Tensor, noise: Tensor, timestep: int | Tensor) -> Tensor:
        return self._schedule.add_noise(latents, noise, timestep)

    def target(self, latents: Tensor, noise: Tensor, timestep: int | Tensor) -> Tensor:
        return self._schedule.target(latents, noise, timestep)

    def forward(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> dict[str, Tensor]:
        with nvtx_range(self.layout.part), torch.no_grad():
            self._taps.clear()
            given = self._inputs(as_input(noisy, self._spec.device, self._spec.torch_dtype), timesteps, conditioning)
            self.network(**given, return_dict=False)
            found = self._taps.outputs
            self._taps.clear()
        return {name: found[name] for name in self._spec.layers}  # type: ignore[misc]

    def _fold(self, name: str, output: Any) -> Tensor | None:
        """A layer's output as a map. A learned variance, which follows the prediction, is left out."""
        value = as_map(output)
        return value[:, : self.latent_shape[0]] if name == OUTPUT and value is not None else value

    def layer_table(self) -> list[LayerCost]:
        return self._skeleton.costs()

    def layer_shapes(self, layers: Sequence[str]) -> dict[str, tuple[int, int, int]]:
        known = dict(self._skeleton.network.named_modules())
        for layer in layers:
            if not layer or self._path(layer) not in known:
                raise self._unknown(layer, "is not a layer of")
        shapes = self._skeleton.shapes({layer: self._path(layer) for layer in layers})
        for layer in layers:
            if shapes.get(layer) is None:
                raise self._unknown(layer, "gives no feature map in")
        return {layer: shapes[layer] for layer in layers}  # type: ignore[misc]

    def _unknown(self, layer: str, what: str) -> LayerError:
        shapes = self._skeleton.shapes(self._skeleton.paths)
        names = ", ".join(f"{name} {'x'.join(map(str, shape or ()))}" for name, shape in shapes.items())
        return LayerError(
            f"{layer!r} {what} {self._spec.model}. Its layers at {self.image_size} px are {names}; "
            f"a module path of the {self.layout.words} works too, e.g. {self.layout.example!r}."
        )

    def _path(self, layer: str) -> str:
        return "" if layer == OUTPUT else self._skeleton.paths.get(layer, layer)

    @property
    def _skeleton(self) -> MetaModel:
        if self._bones is None:
            self._bones = MetaModel(
                lambda: self._class().from_config(self._config),
                self.layout,
                lambda: self._inputs(torch.empty(1, *self.latent_shape), torch.zeros(1), self._blank()),
                self._fold,
            )
        return self._bones
