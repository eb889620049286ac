"""Random crops of images for training a classifier, drawn from (seed, content, draw): any can be made again."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from revelio_fast import seeds
from revelio_fast.data.image_source import ImageSource
from revelio_fast.data.preprocess import to_rgb
from revelio_fast.renamed import renamed
from revelio_fast.settings import Settings, option

if TYPE_CHECKING:
    from PIL.Image import Image

RATIOS = (3 / 4, 4 / 3)
TRIES = 10


@renamed(variants="num_crops", least_area="min_scale")
@dataclass(frozen=True)
class CropConfig(Settings):
    """Random crops of the training images, as commands and configurations ask for them.

    Parameters
    ----------
    num_crops : int
        Random crops of each image that are cached as maps; training takes one per epoch.
    min_scale : float
        Smallest share of an image's area that a random crop keeps.
    """

    num_crops: int = option(0, at_least=0)
    min_scale: float = option(0.8, above=0, at_most=1)


@renamed(least_area="min_scale", mirror="hflip")
@dataclass(frozen=True)
class RandomCrops:
    """A crop of random area, shape and place, scaled to a square, and perhaps mirrored.

    Parameters
    ----------
    size : int
        Side of the result in pixels: the extractor's `image_size`.
    min_scale : float
        The crop has this share of the image's area, or more; its aspect ratio lies between 3/4 and 4/3.
    hflip : bool
        Mirror left to right with probability one half.
    seed : int

    Notes
    -----
    Revelio, section 4.1 ("randomly crop and resize", "random horizontal flip"); the area, 0.8 to 1, is that of the
    authors' code.
    """

    size: int
    min_scale: float = 0.8
    hflip: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.min_scale <= 1:
            raise ValueError(f"min_scale is {self.min_scale}: a crop keeps more than 0 and at most all (1) of an image")
        if self.size < 1:
            raise ValueError(f"size is {self.size}: a crop has at least one pixel")

    def about(self) -> dict[str, Any]:
        """The settings as JSON values, by the names that manifests have for them."""
        return {"size": self.size, "least_area": self.min_scale, "mirror": self.hflip, "seed": self.seed}

    def draw(self, content: bytes, draw: int, width: int, height: int) -> tuple[tuple[int, int, int, int], bool]:
        """The box (left, top, right, bottom) of an image's crop number `draw`, and whether it is mirrored.

        `content` is the image's `ImageItem.content`: its crops do not depend on its name or its place in a source.
        """
        numbers = random.Random(seeds.derive(self.seed, "crops", int.from_bytes(content, "big"), draw))
        mirrored = self.hflip and numbers.random() < 0.5
        for _ in range(TRIES):
            area = width * height * numbers.uniform(self.min_scale, 1.0)
            ratio = math.exp(numbers.uniform(*map(math.log, RATIOS)))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                left, top = numbers.randint(0, width - w), numbers.randint(0, height - h)
                return (left, top, left + w, top + h), mirrored
        # A very long image holds no crop of that area and shape: the largest of an allowed shape in its middle.
        w, h = min(width, max(1, round(height * RATIOS[1]))), min(height, max(1, round(width / RATIOS[0])))
        left, top = (width - w) // 2, (height - h) // 2
        return (left, top, left + w, top + h), mirrored

    def crop(self, image: Image, content: bytes, draw: int) -> Image:
        """The crop number `draw` of an image, RGB, ``size x size``, scaled bilinearly with antialias."""
        from PIL import ImageOps
        from PIL.Image import Resampling

        whole = to_rgb(image)
        box, mirrored = self.draw(content, draw, *whole.size)
        # Cropped first: resizing with a box would also read the pixels around it.
        square = whole.crop(box).resize((self.size, self.size), Resampling.BILINEAR)
        return ImageOps.mirror(square) if mirrored else square

    def source(self, source: ImageSource, draw: int) -> ImageSource:
        """`source` with every image replaced by its crop number `draw`; ids, labels and names stay."""
        return source.transformed(lambda content, image: self.crop(image, content, draw))
