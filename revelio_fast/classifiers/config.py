"""The settings of a Diff-C training run; the defaults are the paper's."""

from __future__ import annotations

from dataclasses import dataclass

HEADS = ("diffc", "resnet")
AUGMENTATIONS = ("flip", "none")
PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class DiffCConfig:
    """Settings of :func:`revelio_fast.classifiers.train_diffc`.

    Parameters
    ----------
    head : {"diffc", "resnet"}
        Which network: `DiffC`, or `ResNetHead`, the "SD features" baseline.
    epochs : int
        Passes over the training maps.
    batch_size : int
        Maps per optimiser step. A last batch of a single map joins the one before it: batch normalisation over one
        value per channel is undefined.
    lr, lr_min : float
        AdamW's learning rate, annealed from `lr` to `lr_min` by a cosine over `epochs`, stepped once per epoch.
    weight_decay : float
        AdamW's decoupled weight decay; 0.01 is the value of PyTorch, which the paper leaves as it is.
    width : int
        Channels of the convolutions (1024 in the paper's Diff-C; 1280 gives the baseline its 520 M parameters).
    dropout : float
        Probability of the channel dropout after each convolution and of the dropout before the linear layer.
    augmentation : {"flip", "none"}
        "flip" mirrors left to right with probability one half: the image where it is extracted for the training
        (random crops, cached or in every epoch), else the one cached map of it. A mirrored map is not exactly the map
        of the mirrored image, since the noise is mirrored with it.
    precision : {"fp32", "bf16"}
        "bf16" runs the convolutions under autocast; weights, statistics and loss stay float32.
    test_batch_size : int
        Maps per forward pass of the evaluation.
    seed : int
        Seeds the weights, the order of the maps, the flips and the dropout.

    Notes
    -----
    Revelio, section 4.1: AdamW, learning rate 1e-4, batch 16, 30 epochs, cosine to 5e-5.
    """

    head: str = "diffc"
    epochs: int = 30
    batch_size: int = 16
    lr: float = 1e-4
    lr_min: float = 5e-5
    weight_decay: float = 0.01
    width: int = 1024
    dropout: float = 0.0
    augmentation: str = "flip"
    precision: str = "fp32"
    test_batch_size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 2), ("width", 1), ("test_batch_size", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"DiffCConfig.{name} is {getattr(self, name)}: it must be at least {least}")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"DiffCConfig.dropout is {self.dropout}: it must be at least 0 and less than 1")
        if self.lr <= 0 or not 0 <= self.lr_min <= self.lr:
            raise ValueError(
                f"DiffCConfig.lr is {self.lr} and lr_min {self.lr_min}: they must satisfy 0 <= lr_min <= lr, lr > 0"
            )
        if self.weight_decay < 0:
            raise ValueError(f"DiffCConfig.weight_decay is {self.weight_decay}: it must not be negative")
        for name, allowed in (("head", HEADS), ("augmentation", AUGMENTATIONS), ("precision", PRECISIONS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"DiffCConfig.{name} is {getattr(self, name)!r}: allowed are {', '.join(allowed)}")
