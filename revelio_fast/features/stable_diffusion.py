"""Stable Diffusion 1.x and 2.x, and any latent diffusion pipeline with a UNet2DConditionModel and one text encoder."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from revelio_fast.features import unet_layers
from revelio_fast.features.families import OUTPUT, Conditioning, LayerCost, ModelFamily, read_config
from revelio_fast.features.ranges import nvtx_range
from revelio_fast.features.spec import LayerError, ModelError, ModelSpec


class StableDiffusion(ModelFamily):
    """See `ModelFamily`. Layers: ``down_ft0..``, ``bottleneck``, ``up_ft0..``, or a module path of the UNet.

    Conditioning: ``{"text": [P, tokens, width]}``, the text encoder's last hidden state.

    Latents are the mode of the VAE's posterior times its scaling factor, as in the paper.

    Raises
    ------
    ModelError
        If diffusers is missing, a part of the pipeline cannot be loaded, or the image size does not fit.
    LayerError
        If a layer does not exist.
    """

    def __init__(self, spec: ModelSpec):
        self._spec = spec
        unet = self._config("unet")
        vae = self._config("vae")
        factor = 2 ** (len(vae["block_out_channels"]) - 1)
        side = spec.image_size or int(unet["sample_size"]) * factor
        if side < factor or side % factor:
            raise ModelError(
                f"image_size must be a multiple of {factor}, the reduction of this model's VAE, got {side}."
            )
        self.image_size = side
        self.latent_shape = (int(unet["in_channels"]), side // factor, side // factor)
        if self.latent_shape[0] != int(vae["latent_channels"]):
            raise ModelError(
                f"The UNet of {spec.model} takes {self.latent_shape[0]} channels but its VAE gives "
                f"{vae['latent_channels']}: an inpainting or depth model, which needs more than an image."
            )
        self._unet_config = unet
        self._scheduler = _part("DDPMScheduler", spec, "scheduler")
        self.num_timesteps = int(self._scheduler.config.num_train_timesteps)
        self.prediction = str(self._scheduler.config.prediction_type)
        self.alphas_cumprod = self._scheduler.alphas_cumprod
        self._text: tuple[Any, Any] | None = None
        self._meta: tuple[Any, dict[str, str]] | None = None
        self.layer_shapes(spec.layers)

    def _config(self, part: str) -> dict:
        return read_config(self._spec.model, f"{part}/config.json", self._spec.revision)

    def load(self) -> None:
        spec = self._spec
        self._vae = _part("AutoencoderKL", spec, "vae", torch_dtype=spec.dtype)
        del self._vae.decoder
        self._vae.post_quant_conv = None
        self.network = self._random_unet() if spec.random_weights else self._trained_unet()
        paths = {name: self._path(name) for name in spec.layers}
        unet_layers.truncate(self.network, list(paths.values()))
        gc.collect()
        for network in (self._vae, self.network):
            network.to(spec.device).requires_grad_(False).eval()
            if spec.dtype != torch.float32:
                network.to(memory_format=torch.channels_last)
        self._taps = unet_layers.Taps(self.network, paths)

    def _trained_unet(self) -> Any:
        return _part("UNet2DConditionModel", self._spec, "unet", torch_dtype=self._spec.dtype)

    def _random_unet(self) -> Any:
        """The same network with fresh weights (PyTorch's initialisation), the baseline of what training learned."""
        from diffusers import UNet2DConditionModel

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._spec.seed)
            return UNet2DConditionModel.from_config(self._unet_config).to(self._spec.dtype)

    def embed(self, prompts: Sequence[str]) -> Conditioning:
        if self._text is None:
            self._text = self._text_model()
        tokenizer, encoder = self._text
        tokens = tokenizer(
            list(prompts),
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        mask = None
        if getattr(encoder.config, "use_attention_mask", False):
            mask = tokens.attention_mask.to(self._spec.device)
        with torch.no_grad():
            return {"text": encoder(tokens.input_ids.to(self._spec.device), attention_mask=mask)[0]}

    def _text_model(self) -> tuple[Any, Any]:
        spec = self._spec
        index = read_config(spec.model, "model_index.json", spec.revision)
        encoder = _part(index["text_encoder"][1], spec, "text_encoder", torch_dtype=spec.dtype)
        return _part(index["tokenizer"][1], spec, "tokenizer"), encoder.to(spec.device)

    def release_text(self) -> None:
        self._text = None
        gc.collect()

    def encode(self, pixels: Tensor) -> Tensor:
        with nvtx_range("vae"), torch.no_grad():
            posterior = self._vae.encode(self._input(pixels)).latent_dist
            shift = self._vae.config.get("shift_factor", None) or 0.0
            return (posterior.mode().float() - shift) * self._vae.config.scaling_factor

    def add_noise(self, latents: Tensor, noise: Tensor, timestep: int | Tensor) -> Tensor:
        return self._scheduler.add_noise(latents, noise.to(latents), _rows_of(timestep, latents))

    def target(self, latents: Tensor, noise: Tensor, timestep: int | Tensor) -> Tensor:
        if self.prediction == "v_prediction":
            return self._scheduler.get_velocity(latents, noise.to(latents), _rows_of(timestep, latents))
        return noise.to(latents) if self.prediction == "epsilon" else latents

    def forward(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> dict[str, Tensor]:
        with nvtx_range("unet"), torch.no_grad():
            self._taps.clear()
            self.network(self._input(noisy), timesteps, encoder_hidden_states=conditioning["text"], return_dict=False)
            found = self._taps.outputs
            self._taps.clear()
        return {name: found[name] for name in self._spec.layers}  # type: ignore[misc]

    def _input(self, images: Tensor) -> Tensor:
        layout = torch.contiguous_format if self._spec.dtype == torch.float32 else torch.channels_last
        return images.to(self._spec.device, self._spec.dtype).contiguous(memory_format=layout)

    def layer_table(self) -> list[LayerCost]:
        from torch.utils.flop_counter import FlopCounterMode

        unet, paths = self._skeleton()
        flops: dict[str, int] = {}
        with FlopCounterMode(display=False) as counter:

            def note(name: str) -> Any:
                return lambda *_: flops.__setitem__(name, counter.get_total_flops())

            handles = [unet.get_submodule(path).register_forward_hook(note(name)) for name, path in paths.items()]
            shapes = self._run_skeleton(paths)
            total = counter.get_total_flops()
        for handle in handles:
            handle.remove()
        parameters = sum(p.numel() for p in unet.parameters())
        return [
            LayerCost(
                name,
                shapes[name],  # type: ignore[arg-type]
                flops[name] / total,
                used := unet_layers.parameters_up_to(unet, path),
                used / parameters,
            )
            for name, path in paths.items()
        ]

    def layer_shapes(self, layers: Sequence[str]) -> dict[str, tuple[int, int, int]]:
        unet, _ = self._skeleton()
        known = dict(unet.named_modules())
        for layer in layers:
            if not layer or self._path(layer) not in known:
                raise self._unknown(layer, "is not a layer of")
        shapes = self._run_skeleton({layer: self._path(layer) for layer in layers})
        for layer in layers:
            if shapes.get(layer) is None:
                raise self._unknown(layer, "gives no feature map in")
        return {layer: shapes[layer] for layer in layers}  # type: ignore[misc]

    def _unknown(self, layer: str, what: str) -> LayerError:
        shapes = self._run_skeleton(self._skeleton()[1])
        names = ", ".join(f"{name} {'x'.join(map(str, shape or ()))}" for name, shape in shapes.items())
        return LayerError(
            f"{layer!r} {what} {self._spec.model}. Its layers at {self.image_size} px are {names}; "
            "a module path of the UNet works too, e.g. 'up_blocks.1.resnets.0'."
        )

    def _path(self, layer: str) -> str:
        return "" if layer == OUTPUT else self._skeleton()[1].get(layer, layer)

    def _skeleton(self) -> tuple[Any, dict[str, str]]:
        """The UNet without weights, on which shapes and costs are found without computing anything."""
        if self._meta is None:
            from diffusers import UNet2DConditionModel

            with torch.device("meta"):
                unet = UNet2DConditionModel.from_config(self._unet_config).eval()
            self._meta = unet, unet_layers.layer_paths(unet)
        return self._meta

    def _run_skeleton(self, paths: dict[str, str]) -> dict[str, tuple[int, ...] | None]:
        unet, _ = self._skeleton()
        taps = unet_layers.Taps(unet, paths)
        width = unet.config.encoder_hid_dim or unet.config.cross_attention_dim
        width = width if isinstance(width, int) else width[0]
        try:
            with torch.no_grad(), torch.device("meta"):
                noisy = torch.empty(1, *self.latent_shape)
                unet(noisy, torch.zeros(1), encoder_hidden_states=torch.empty(1, 77, width))
        finally:
            taps.remove()
        return {name: None if out is None else tuple(out.shape[1:]) for name, out in taps.outputs.items()}


def _rows_of(timestep: int | Tensor, latents: Tensor) -> Tensor:
    """One timestep a row, int64."""
    if isinstance(timestep, int):
        return torch.full((latents.shape[0],), timestep, device=latents.device)
    return timestep.to(latents.device)


def _part(class_name: str, spec: ModelSpec, subfolder: str, **options: Any) -> Any:
    """A part of the pipeline by its class in diffusers or transformers; weights as safetensors only."""
    try:
        import diffusers
        import transformers
    except ImportError as error:
        raise ModelError("Stable Diffusion needs more packages: pip install 'revelio-fast[models]'.") from error
    kind = getattr(diffusers, class_name, None) or getattr(transformers, class_name, None)
    if kind is None:
        raise ModelError(f"The {subfolder} of {spec.model} is a {class_name!r}, unknown to the installed libraries.")
    if "torch_dtype" in options:
        options["use_safetensors"] = True
        if issubclass(kind, transformers.PreTrainedModel):
            options["dtype"] = options.pop("torch_dtype")
    try:
        part = kind.from_pretrained(spec.model, subfolder=subfolder, revision=spec.revision, **options)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(
            f"The {subfolder} of {spec.model} cannot be loaded ({type(error).__name__}: {error}). Weights must be "
            "safetensors: no pickled checkpoint is opened."
        ) from error
    return part.eval() if isinstance(part, nn.Module) else part
