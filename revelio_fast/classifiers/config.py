"""The settings of a Diff-C training run; the defaults are the paper's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from revelio_fast.settings import SEEDS, Settings, SettingsError, option


@dataclass(frozen=True)
class Training(Settings):
    """How a head is trained; see `DiffCConfig`.

    Parameters
    ----------
    epochs : int
        Passes over the training maps.
    batch_size : int
        Maps per optimiser step. A last batch of a single map joins the one before it: batch normalisation over one
        value per channel is undefined.
    lr : float
        AdamW's learning rate in the first epoch. A cosine, stepped once per epoch, anneals it to `lr_min`.
    lr_min : float, optional
        AdamW's learning rate at the end; half of `lr` by default.
    weight_decay : float
        AdamW's decoupled weight decay; 0.01 is the value of PyTorch, which the paper leaves as it is.
    width : int
        Channels of the convolutions (1024 in the paper's Diff-C; 1280 gives the baseline its 520 M parameters).
    dropout : float
        Probability of the channel dropout after each convolution and of the dropout before the linear layer.
    augmentation : {"flip", "none"}
        Whether images, or cached maps, are mirrored at random. "flip" mirrors left to right with probability one half:
        the image where it is extracted for the training (random crops, cached or in every epoch), else the one cached
        map of it. A mirrored map is not exactly the map of the mirrored image, since the noise is mirrored with it.
    precision : {"fp32", "bf16"}
        Precision of the convolutions. "bf16" runs them under autocast; weights, statistics and loss stay float32.
    test_batch_size : int
        Maps per forward pass of the evaluation.
    seed : int
        Seed of the weights, the order of the maps, the crops, the flips and the dropout.
    """

    epochs: int = option(30, at_least=1)
    batch_size: int = option(16, at_least=2)
    lr: float = option(1e-4, above=0)
    lr_min: float | None = option(None, at_least=0)
    weight_decay: float = option(0.01, at_least=0)
    width: int = option(1024, at_least=1)
    dropout: float = option(0.0, at_least=0, below=1)
    augmentation: Literal["flip", "none"] = "flip"
    precision: Literal["fp32", "bf16"] = "fp32"
    test_batch_size: int = option(32, at_least=1)
    seed: int = option(0, at_least=0, below=SEEDS)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lr_min is not None and self.lr_min > self.lr:
            raise SettingsError({"lr_min": f"lr_min must not exceed lr = {self.lr}, got {self.lr_min}"})

    @property
    def last_lr(self) -> float:
        """The learning rate at the end of the cosine."""
        return self.lr / 2 if self.lr_min is None else self.lr_min


@dataclass(frozen=True)
class DiffCConfig(Training):
    """Settings of :func:`revelio_fast.classifiers.train_diffc`.

    Parameters
    ----------
    head : {"diffc", "resnet"}
        Which network: "diffc" (`DiffC`), or "resnet" (`ResNetHead`), the paper's baseline "SD features".

    Notes
    -----
    The other settings are those of `Training`. Revelio, section 4.1: AdamW, learning rate 1e-4, batch 16, 30 epochs,
    cosine to 5e-5.
    """

    head: Literal["diffc", "resnet"] = "diffc"
