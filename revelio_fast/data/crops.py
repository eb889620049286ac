"""Random crops of images for training a classifier, drawn from (seed, image id, draw): any can be made again."""

from __future__ import annotations

import math
import random
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from revelio_fast import seeds
from revelio_fast.data.image_source import ImageSource
from revelio_fast.data.preprocess import to_rgb

if TYPE_CHECKING:
    from PIL.Image import Image

RATIOS = (3 / 4, 4 / 3)
TRIES = 10


@dataclass(frozen=True)
class RandomCrops:
    """A crop of random area, shape and place, scaled to a square, and perhaps mirrored.

    Parameters
    ----------
    size : int
        Side of the result in pixels: the extractor's `image_size`.
    least_area : float
        The crop has this share of the image's area, or more; its aspect ratio lies between 3/4 and 4/3.
    mirror : bool
        Mirror left to right with probability one half.
    seed : int

    Notes
    -----
    Revelio, section 4.1 ("randomly crop and resize", "random horizontal flip"); the area, 0.8 to 1, is that of the
    authors' code.
    """

    size: int
    least_area: float = 0.8
    mirror: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.least_area <= 1:
            raise ValueError(
                f"least_area is {self.least_area}: a crop keeps more than 0 and at most all (1) of an image"
            )
        if self.size < 1:
            raise ValueError(f"size is {self.size}: a crop has at least one pixel")

    def about(self) -> dict[str, Any]:
        """The settings as JSON values."""
        return asdict(self)

    def draw(self, image_id: int, draw: int, width: int, height: int) -> tuple[tuple[int, int, int, int], bool]:
        """The box (left, top, right, bottom) of an image's crop number `draw`, and whether it is mirrored."""
        numbers = random.Random(seeds.derive(self.seed, "crops", image_id, draw))
        mirrored = self.mirror and numbers.random() < 0.5
        for _ in range(TRIES):
            area = width * height * numbers.uniform(self.least_area, 1.0)
            ratio = math.exp(numbers.uniform(*map(math.log, RATIOS)))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                left, top = numbers.randint(0, width - w), numbers.randint(0, height - h)
                return (left, top, left + w, top + h), mirrored
        # A very long image holds no crop of that area and shape: the largest of an allowed shape in its middle.
        w, h = min(width, max(1, round(height * RATIOS[1]))), min(height, max(1, round(width / RATIOS[0])))
        left, top = (width - w) // 2, (height - h) // 2
        return (left, top, left + w, top + h), mirrored

    def crop(self, image: Image, image_id: int, draw: int) -> Image:
        """The crop number `draw` of an image, RGB, ``size x size``, scaled bilinearly with antialias."""
        from PIL import ImageOps
        from PIL.Image import Resampling

        box, mirrored = self.draw(image_id, draw, *image.size)
        # Cropped first: resizing with a box would also read the pixels around it.
        square = to_rgb(image).crop(box).resize((self.size, self.size), Resampling.BILINEAR)
        return ImageOps.mirror(square) if mirrored else square

    def source(self, source: ImageSource, draw: int) -> ImageSource:
        """`source` with every image replaced by its crop number `draw`; ids, labels and names stay."""
        return source.transformed(lambda image_id, image: self.crop(image, image_id, draw))
