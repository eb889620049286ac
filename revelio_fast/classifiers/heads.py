"""The networks that classify feature maps: Diff-C, and the residual network of the "SD features" baseline."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from revelio_fast.classifiers.map_classifier import MapClassifier

STRIDES = (1, 2, 2, 2)
RESIDUAL_BLOCKS = (2, 4)


class DiffC(MapClassifier):
    """Classifies diffusion feature maps ``[B, C, H, W]`` of any height and width; see `MapClassifier`.

    ``BatchNorm2d(C, affine=False)``, four 3x3 convolutions of `width` channels (strides 1, 2, 2, 2; each followed by
    batch norm, ReLU and channel dropout), global average pooling, dropout, linear. A width of 1024 gives the paper's
    40.16 M parameters at C = 1280 and 37 classes.

    Notes
    -----
    Revelio, section 4 and Table 10.
    """

    model_type = "diffc"
    title = "Diff-C"

    def trunk(self) -> tuple[nn.Sequential, int]:
        blocks: list[nn.Module] = []
        channels = self.in_channels
        for stride in STRIDES:
            blocks += [
                nn.Conv2d(channels, self.width, 3, stride=stride, padding=1),
                nn.BatchNorm2d(self.width),
                nn.ReLU(inplace=True),
                nn.Dropout2d(self.dropout),
            ]
            channels = self.width
        return nn.Sequential(*blocks), channels


class ResNetHead(MapClassifier):
    """A residual network on feature maps: the "SD features" that the paper compares Diff-C with; see `MapClassifier`.

    ``BatchNorm2d(C, affine=False)``, a 3x3 convolution to `width` channels, two residual blocks, four residual blocks
    of twice the channels at half the resolution, global average pooling, dropout, linear.

    Notes
    -----
    Revelio, Table 5, takes this baseline's figures from Li et al. (ICCV 2023), who feed the bottleneck to a
    "ResNet-like architecture" that was never released. All that is known is its size, 520 M parameters; this one has
    519.5 M at C = width = 1280 and 37 classes.
    """

    model_type = "resnet"
    title = "SD features"

    def trunk(self) -> tuple[nn.Sequential, int]:
        layers: list[nn.Module] = [
            nn.Conv2d(self.in_channels, self.width, 3, padding=1, bias=False),
            nn.BatchNorm2d(self.width),
            nn.ReLU(inplace=True),
        ]
        channels = self.width
        for stage, count in enumerate(RESIDUAL_BLOCKS):
            for index in range(count):
                wider = self.width << stage
                layers += [ResidualBlock(channels, wider, 2 if stage and not index else 1), nn.Dropout2d(self.dropout)]
                channels = wider
        return nn.Sequential(*layers), channels


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, added to their input (through a 1x1 convolution where shapes differ)."""

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, out_channels, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, maps: Tensor) -> Tensor:
        """``[B, C, H, W]`` to ``[B, out_channels, H', W']``."""
        return torch.relu(self.body(maps) + self.shortcut(maps))
