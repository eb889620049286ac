"""The Diff-C network: batch norm, four 3x3 convolutions, global average pooling, a linear layer."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from revelio_fast.atomic import atomic_path, atomic_write_json

STRIDES = (1, 2, 2, 2)


class Prediction(NamedTuple):
    """Classes and probabilities of a set of maps."""

    labels: Tensor
    """int64 [N]: the most probable class."""
    probabilities: Tensor
    """float32 [N, n_classes]."""


class DiffC(nn.Module):
    """Classifies diffusion feature maps ``[B, C, H, W]`` of any height and width.

    ``BatchNorm2d(C, affine=False)``, four 3x3 convolutions of `width` channels (strides 1, 2, 2, 2; each followed by
    batch norm, ReLU and channel dropout), global average pooling, dropout, linear.

    Parameters
    ----------
    in_channels : int
        Channels C of the maps (1280 for the bottleneck, up_ft0 and up_ft1 of Stable Diffusion 1.5).
    n_classes : int
        Number of classes.
    dropout : float
        Dropout probability; the paper's runs use 0.
    width : int
        Channels of the convolutions; 1024 gives the paper's 40.16 M parameters at C = 1280 and 37 classes.
    class_names : list of str, optional
        Kept with the model, one per class.

    Notes
    -----
    Revelio, section 4 and Table 10.
    """

    def __init__(
        self,
        in_channels: int,
        n_classes: int,
        dropout: float = 0.0,
        width: int = 1024,
        class_names: list[str] | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("in_channels", in_channels), ("n_classes", n_classes), ("width", width)):
            if value < 1:
                raise ValueError(f"DiffC: {name} is {value}, it must be at least 1")
        if class_names is not None and len(class_names) != n_classes:
            raise ValueError(f"DiffC: {len(class_names)} class names came for {n_classes} classes")
        self.in_channels, self.n_classes, self.dropout, self.width = in_channels, n_classes, dropout, width
        self.class_names = class_names
        self.normalise = nn.BatchNorm2d(in_channels, affine=False)
        blocks: list[nn.Module] = []
        channels = in_channels
        for stride in STRIDES:
            blocks += [
                nn.Conv2d(channels, width, 3, stride=stride, padding=1),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
                nn.Dropout2d(dropout),
            ]
            channels = width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(width, n_classes)
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Return the logits ``[B, n_classes]`` of maps ``[B, in_channels, H, W]``.

        Raises
        ------
        ValueError
            If `maps` is not four-dimensional or has another number of channels.
        """
        if maps.ndim != 4 or maps.shape[1] != self.in_channels:
            raise ValueError(
                f"DiffC: maps have shape {list(maps.shape)}, expected [B, {self.in_channels}, H, W]: "
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
        from tqdm import tqdm

        device = next(self.parameters()).device
        was_training = self.training
        self.eval()
        pieces = []
        try:
            for start in tqdm(range(0, len(maps), batch_size), desc="Diff-C", disable=not progress, leave=False):
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
                "model_type": "diffc",
                "in_channels": self.in_channels,
                "n_classes": self.n_classes,
                "dropout": self.dropout,
                "width": self.width,
                "class_names": self.class_names,
            },
        )

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str], *, device: torch.device | str = "cpu") -> DiffC:
        """Read a classifier that :meth:`save_pretrained` wrote; it comes back in evaluation mode.

        Raises
        ------
        ValueError
            If the folder does not hold a Diff-C model, or its weights are damaged or of another shape.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        folder = Path(path)
        for name in ("config.json", "model.safetensors"):
            if not (folder / name).is_file():
                raise ValueError(f"{folder} holds no {name}: expected a folder written by DiffC.save_pretrained")
        try:
            about = json.loads((folder / "config.json").read_text())
        except ValueError as error:
            raise ValueError(f"{folder / 'config.json'} is not JSON ({error}): train or copy the model again") from None
        if not isinstance(about, dict) or about.get("model_type") != "diffc":
            raise ValueError(f"{folder / 'config.json'} does not describe a Diff-C model (model_type is not 'diffc')")
        try:
            sizes = (about["in_channels"], about["n_classes"], about["dropout"], about["width"])
        except KeyError as error:
            raise ValueError(f"{folder / 'config.json'} lacks {error}: copy the model again") from None
        model = cls(*sizes, about.get("class_names"))
        try:
            model.load_state_dict(load_file(folder / "model.safetensors"))
        except (SafetensorError, RuntimeError) as error:
            raise ValueError(
                f"{folder / 'model.safetensors'} is damaged or does not fit config.json ({error}): copy it again"
            ) from None
        return model.to(device).eval()
