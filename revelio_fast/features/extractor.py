"""The feature extractor: images in, pooled features or feature maps of several layers and timesteps out."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from revelio_fast.data import BrokenImageError, ImageItem, ImageSource, open_source
from revelio_fast.data.identity import digest_rows, pixel_digests
from revelio_fast.data.prefetch import Group, decoded_groups
from revelio_fast.data.preprocess import as_pixels, model_input
from revelio_fast.features.batch_features import BatchFeatures, Key
from revelio_fast.features.config import ExtractConfig
from revelio_fast.models.embedded_prompts import EmbeddedPrompts
from revelio_fast.models.families import LayerCost, ModelFamily, open_family
from revelio_fast.models.prompts import Fixed, Prompts, as_prompts
from revelio_fast.models.spec import ModelError, checked_timesteps, dtype_name
from revelio_fast.progress import Notice, tqdm
from revelio_fast.settings import SettingsError

if TYPE_CHECKING:
    from PIL.Image import Image


class FeatureBatch(NamedTuple):
    """Features of some images of a source, and what identifies them (`revelio_fast.data.identity`)."""

    features: dict[Key, Tensor]
    """``{(layer, timestep): [B, C] or [B, C, H, W]}``."""
    image_ids: Tensor
    """int64 ``[B]``."""
    labels: Tensor
    """int64 ``[B]``, -1 for none."""
    names: list[str]
    """The images' keys in their source."""
    contents: Tensor
    """uint8 ``[B, 16]``: digests of the encoded bytes; another one means that the file has changed."""


class FeatureExtractor:
    """Features of a diffusion model's layers for noised images; made by `from_pretrained`.

    An image's feature depends on the pixels the model sees, its prompt, the timestep and the seed. It does not depend
    on the image's name, folder or place in a source, nor on which other images are read, skipped or already done: on
    one machine, for the same `batch_size`, row of the batch and number of threads, it is the same to the last bit.
    Another batch size, or another row, changes only the rounding (kernels may sum in another order).

    Attributes
    ----------
    family : ModelFamily
    config : ExtractConfig
    layers : tuple of str
    timesteps : tuple of int
    prompts : Prompts
    image_size : int
        Side of the input in pixels.
    device : torch.device
    skipped : list of BrokenImageError
        Images that the latest `stream` with ``on_error="skip"`` left out.
    """

    def __init__(
        self,
        family: ModelFamily,
        config: ExtractConfig,
        timesteps: tuple[int, ...],
        prompts: Prompts,
        embedded: EmbeddedPrompts,
    ):
        self.family = family
        self.config = config
        self.layers = config.layers
        self.timesteps = timesteps
        self.prompts = prompts
        self.image_size = family.image_size
        self.device = family.device
        self.skipped: list[BrokenImageError] = []
        self._features = BatchFeatures(family, embedded, config, timesteps)

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str],
        layers: Sequence[str],
        timesteps: Sequence[int],
        prompt: str | Prompts = "",
        *,
        device: torch.device | str | None = None,
        **options: Any,
    ) -> FeatureExtractor:
        """Load what is needed of a model: the VAE's encoder, the prompt's embedding, the network up to the last layer.

        Parameters
        ----------
        model : str or path
            ``"mini-sd"`` (part of this package), a folder in diffusers format, or a Hub id, e.g.
            ``"stable-diffusion-v1-5/stable-diffusion-v1-5"``.
        layers : sequence of str
            ``"bottleneck"``, ``"down_ft0"`` .., ``"up_ft0"`` .. (the paper's names) of a UNet, ``"block0"`` .. of a
            transformer, ``"output"`` (what the whole network predicts), or module paths of the network.
        timesteps : sequence of int
            Noise levels, usually 0 .. 999.
        prompt : str or Prompts
            One text for all images (``""`` is the paper's empty prompt), or what `revelio_fast.prompts` offers: a
            ``Column`` of the source, a ``File``, the class that CLIP predicts (``FromClip``), or, as an oracle, the
            true class (``ClassTemplate``). For DiT the text is the name or number of a class.
        device : optional
            ``"cuda"`` if there is one, else ``"cpu"``.
        **options
            Any other field of `ExtractConfig`: `image_size`, `dtype` (a torch.dtype, too), `seed`, `noise_samples`,
            `revision`, `random_weights`, `compat`, `compile` ...

        Raises
        ------
        ModelError
            If the model cannot be loaded, or an argument does not fit it.
        LayerError
            If a layer does not exist; lists the layers there are with their shapes.
        """
        prompts = as_prompts(prompt)
        if "dtype" in options:
            options["dtype"] = dtype_name(options["dtype"])
        try:
            config = ExtractConfig(
                model=os.fspath(model), layers=_listed(layers), timesteps=_listed(timesteps), **options
            )
        except SettingsError as error:
            raise ModelError(str(error)) from None
        return cls.from_config(config, prompts, device=device)

    @classmethod
    def from_config(
        cls, config: ExtractConfig, prompts: Prompts | None = None, *, device: torch.device | str | None = None
    ) -> FeatureExtractor:
        """As `from_pretrained`, from settings.

        Parameters
        ----------
        config : ExtractConfig
        prompts : Prompts, optional
            Instead of the prompts that the settings name.
        device : optional
            ``"cuda"`` if there is one, else ``"cpu"``.
        """
        prompts = prompts or config.all_prompts()
        family = open_family(config, device)
        steps = checked_timesteps(config.timesteps, family.num_timesteps)
        embedded = EmbeddedPrompts(family)
        if isinstance(prompts, Fixed):
            # Before the network is loaded: the text encoder is gone by then.
            embedded.rows([prompts.text])
        family.load()
        return cls(family, config, steps, prompts, embedded)

    @property
    def keys(self) -> list[Key]:
        """All (layer, timestep) pairs, in the order of the features."""
        return [(layer, timestep) for timestep in self.timesteps for layer in self.layers]

    def layer_shapes(self) -> dict[str, tuple[int, int, int]]:
        """(C, H, W) of the wanted layers at this image size."""
        return self.family.layer_shapes(self.layers)

    def layer_table(self) -> list[LayerCost]:
        """All named layers of the model with shapes and costs."""
        return self.family.layer_table()

    def metadata(self) -> dict[str, Any]:
        """What the features depend on, as JSON values: the part of a manifest that all layers share."""
        return {**self.config.metadata(), "prompt": self.prompts.about(), "image_size": self.image_size}

    def about(self) -> dict[str, Any]:
        """The old name of `metadata`, for one release."""
        warnings.warn("FeatureExtractor.about is called metadata now", DeprecationWarning, stacklevel=2)
        return self.metadata()

    def latents(self, images: Sequence[Image] | Tensor) -> Tensor:
        """What the network would be given without noise: VAE latents (mode, scaled) ``[B, c, h, w]`` float32.

        Parameters
        ----------
        images : sequence of PIL images, or Tensor
            A tensor is ``[B, 3, image_size, image_size]`` in [-1, 1].
        """
        return self.family.encode(as_pixels(images, self.image_size))

    def extract(
        self,
        images: Sequence[Image] | Tensor,
        *,
        pool: bool = True,
        prompts: Sequence[str] | None = None,
    ) -> dict[Key, Tensor]:
        """Features of some images, in one batch; those that a store of the same images holds, to the rounding.

        Parameters
        ----------
        images : sequence of PIL images, or Tensor
            A tensor is ``[B, 3, image_size, image_size]`` in [-1, 1].
        pool : bool
            Mean over height and width.
        prompts : sequence of str, optional
            One an image; by default the extractor's prompt, which must be one text then.

        Returns
        -------
        dict
            ``{(layer, timestep): [B, C] float32}``, or ``[B, C, H, W]`` in the model's dtype if not `pool`.
        """
        pixels = as_pixels(images, self.image_size)
        if prompts is None:
            if not isinstance(self.prompts, Fixed):
                raise ValueError(f"This extractor's prompts are {self.prompts}: give one for each image with prompts.")
            prompts = [self.prompts.text] * len(pixels)
        if len(prompts) != len(pixels):
            raise ValueError(f"There are {len(pixels)} images but {len(prompts)} prompts.")
        rows = list(range(len(pixels)))
        return self._features(pixels, pixel_digests(pixels), rows, list(prompts), (), pool)

    def stream(
        self,
        source: ImageSource | str | os.PathLike[str],
        *,
        batch_size: int = 8,
        pool: bool = True,
        on_error: str = "stop",
        progress: bool = True,
        skip_ids: Container[int] = (),
        prompts: Mapping[int, str] | None = None,
        draw: int = 0,
        workers: int | None = None,
    ) -> Iterator[FeatureBatch]:
        """Features of a whole source, batch by batch, in its order.

        Parameters
        ----------
        source : ImageSource, str or path
            Anything `open_source` takes.
        batch_size : int
            Images of a forward. A batch holds fewer where images are skipped and at the end.
        pool : bool
            Mean over height and width.
        on_error : {"stop", "skip"}
            What a broken image does: raise BrokenImageError, or be left out and listed in `skipped`.
        progress : bool
            Show a progress bar.
        skip_ids : container of int
            Images to leave out without decoding, e.g. those already stored.
        prompts : mapping of int to str, optional
            ``{image_id: prompt}``; by default those that the extractor's `prompts` give for the source.
        draw : int
            Which of an image's independent noises to take: another one for each random crop or epoch.
        workers : int, optional
            Threads that decode images ahead of the model; one for each core, at most 8, by default. 0 decodes in the
            calling thread. The features do not depend on it.

        Yields
        ------
        FeatureBatch

        Raises
        ------
        BrokenImageError
            Naming the file or row, with ``on_error="stop"``.
        """
        if on_error not in ("stop", "skip"):
            raise ValueError(f"on_error must be 'stop' or 'skip', got {on_error!r}.")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
        source = open_source(source)
        if prompts is None:
            prompts = self.prompts.texts(source, on_error=on_error, progress=progress)
        preprocess = functools.partial(model_input, size=self.image_size)
        groups = decoded_groups(source, batch_size, self.image_size, preprocess, skip_ids, workers)
        return self._stream(source, groups, pool, on_error == "skip", progress, skip_ids, prompts, draw)

    def _stream(
        self,
        source: ImageSource,
        groups: Iterator[Group],
        pool: bool,
        skip: bool,
        progress: bool,
        skip_ids: Container[int],
        prompts: Mapping[int, str],
        draw: int,
    ) -> Iterator[FeatureBatch]:
        self.skipped = []
        order = source.image_ids
        seen = 0
        with tqdm(total=len(source), unit="image", desc="extract", disable=not progress) as bar:
            for group in groups:
                if group.broken and not skip:
                    raise group.broken[0]
                self.skipped.extend(group.broken)
                seen += group.size
                if group.rows:
                    later = (order[p] for p in range(seen, len(order)))
                    upcoming = (prompts[i] for i in later if i not in skip_ids and i in prompts)
                    texts = [_prompt_of(item, prompts) for item in group.items]
                    yield FeatureBatch(
                        self._features(group.pixels, group.digests, group.rows, texts, upcoming, pool, draw),
                        torch.tensor([item.image_id for item in group.items]),
                        torch.tensor([item.label for item in group.items]),
                        [item.name for item in group.items],
                        digest_rows(group.contents),
                    )
                bar.update(group.size)
        if self.skipped:
            named = ", ".join(error.path for error in self.skipped[:3])
            more = " ..." if len(self.skipped) > 3 else ""
            warnings.warn(f"{len(self.skipped)} broken images were skipped: {named}{more}", Notice, stacklevel=2)


def _listed(values: Any) -> Any:
    """A sequence as a tuple; a text or a single number as it is, for `ExtractConfig` to refuse."""
    return values if isinstance(values, str | int) else tuple(values)


def _prompt_of(item: ImageItem, prompts: Mapping[int, str]) -> str:
    if item.image_id not in prompts:
        raise ValueError(f"There is no prompt for the image {item.path}: prompts must have the id of every image.")
    return prompts[item.image_id]
