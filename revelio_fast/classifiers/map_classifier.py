"""`MapClassifier`: what classifiers of feature maps share: checks, prediction, and their files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from revelio_fast.atomic import atomic_path, atomic_write_json


class Prediction(NamedTuple):
    """Classes and probabilities of a set of maps."""

    labels: Tensor
    """int64 [N]: the most probable class."""
    probabilities: Tensor
    """float32 [N, n_classes]."""


class MapClassifier(nn.Module):
    """Base of the classifiers of feature maps ``[B, C, H, W]``; a subclass builds `trunk` and names its `model_type`.

    Parameters
    ----------
    in_channels : int
        Channels C of the maps (1280 for the bottleneck, up_ft0 and up_ft1 of Stable Diffusion 1.5).
    n_classes : int
        Number of classes.
    dropout : float
        Dropout probability; the paper's runs use 0.
    width : int
        Channels of the convolutions.
    class_names : list of str, optional
        Kept with the model, one per class.

    Attributes
    ----------
    features : dict or None
        What the maps must be: model, layer, timestep, prompt, seed, image size ... as JSON values, so that the
        classifier can be run on new images. Kept with the model.
    """

    model_type: ClassVar[str]
    title: ClassVar[str]
    kinds: ClassVar[dict[str, type[MapClassifier]]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        MapClassifier.kinds[cls.model_type] = cls

    def __init__(
        self,
        in_channels: int,
        n_classes: int,
        dropout: float = 0.0,
        width: int = 1024,
        class_names: list[str] | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        for what, value in (("in_channels", in_channels), ("n_classes", n_classes), ("width", width)):
            if value < 1:
                raise ValueError(f"{name}: {what} is {value}, it must be at least 1")
        if class_names is not None and len(class_names) != n_classes:
            raise ValueError(f"{name}: {len(class_names)} class names came for {n_classes} classes")
        self.in_channels, self.n_classes, self.dropout, self.width = in_channels, n_classes, dropout, width
        self.class_names = class_names
        self.features: dict[str, Any] | None = None
        self.normalise = nn.BatchNorm2d(in_channels, affine=False)
        self.blocks, channels = self.trunk()
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(channels, n_classes)
        )

    def trunk(self) -> tuple[nn.Sequential, int]:
        """Return the layers from the normalised maps to the pooling, and the channels they end with."""
        raise NotImplementedError

    def forward(self, maps: Tensor) -> Tensor:
        """Return the logits ``[B, n_classes]`` of maps ``[B, in_channels, H, W]``.

        Raises
        ------
        ValueError
            If `maps` is not four-dimensional or has another number of channels.
        """
        if maps.ndim != 4 or maps.shape[1] != self.in_channels:
            raise ValueError(
                f"{type(self).__name__}: maps have shape {list(maps.shape)}, expected [B, {self.in_channels}, H, W]: "
                "the classifier was built for another layer or model"
            )
        return self.head(self.blocks(self.normalise(maps)))

    @torch.no_grad()
    def predict(self, maps: Tensor, *, batch_size: int = 32, progress: bool = False) -> Prediction:
        """Classify maps ``[N, C, H, W]`` in evaluation mode, `batch_size` at a time; the result lies on the CPU.

        Parameters
        ----------
        maps : Tensor
            Any float dtype, on any device, memory-mapped or not.
        batch_size : int
            Maps per forward pass.
        progress : bool
            Show a progress bar.
        """
        from revelio_fast.progress import tqdm

        device = next(self.parameters()).device
        was_training = self.training
        self.eval()
        pieces = []
        try:
            for start in tqdm(range(0, len(maps), batch_size), desc=self.title, disable=not progress, leave=False):
                batch = maps[start : start + batch_size].to(device=device, dtype=torch.float32)
                pieces.append(self(batch).softmax(dim=1).cpu())
        finally:
            self.train(was_training)
        probabilities = torch.cat(pieces) if pieces else torch.zeros(0, self.n_classes)
        return Prediction(probabilities.argmax(dim=1), probabilities)

    def save_pretrained(self, path: str | os.PathLike[str]) -> None:
        """Write ``model.safetensors`` and ``config.json`` into the folder `path`."""
        from safetensors.torch import save_file

        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(folder / "model.safetensors") as temporary:
            save_file({name: tensor.contiguous() for name, tensor in self.state_dict().items()}, temporary)
        atomic_write_json(
            folder / "config.json",
            {
                "model_type": self.model_type,
                "in_channels": self.in_channels,
                "n_classes": self.n_classes,
                "dropout": self.dropout,
                "width": self.width,
                "class_names": self.class_names,
                "features": self.features,
            },
        )

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str], *, device: torch.device | str = "cpu") -> Self:
        """Read a classifier that :meth:`save_pretrained` wrote; it comes back in evaluation mode.

        Raises
        ------
        ValueError
            If the folder does not hold a classifier of this kind, or its weights are damaged or of another shape.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        folder = Path(path)
        for name in ("config.json", "model.safetensors"):
            if not (folder / name).is_file():
                raise ValueError(
                    f"{folder} holds no {name}: expected a folder written by {cls.__name__}.save_pretrained"
                )
        try:
            about = json.loads((folder / "config.json").read_text())
        except ValueError as error:
            raise ValueError(f"{folder / 'config.json'} is not JSON ({error}): train or copy the model again") from None
        found = MapClassifier.kinds.get(str(about.get("model_type"))) if isinstance(about, dict) else None
        if found is None or not issubclass(found, cls):
            wanted = " or ".join(repr(name) for name, kind in MapClassifier.kinds.items() if issubclass(kind, cls))
            raise ValueError(
                f"{folder / 'config.json'} does not describe a classifier of feature maps "
                f"(model_type is not {wanted}): give the folder 'model' that train-diffc wrote"
            )
        try:
            sizes = (about["in_channels"], about["n_classes"], about["dropout"], about["width"])
        except KeyError as error:
            raise ValueError(f"{folder / 'config.json'} lacks {error}: copy the model again") from None
        model = found(*sizes, about.get("class_names"))
        model.features = about.get("features")
        try:
            model.load_state_dict(load_file(folder / "model.safetensors"))
        except (SafetensorError, RuntimeError) as error:
            raise ValueError(
                f"{folder / 'model.safetensors'} is damaged or does not fit config.json ({error}): copy it again"
            ) from None
        return model.to(device).eval()
