"""Contact sheets: the top images of a latent with their labels and activations, as PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from revelio_fast.atomic import atomic_path
from revelio_fast.concepts import TopActivations, rank_latents
from revelio_fast.data.preprocess import to_rgb
from revelio_fast.report.records import FeatureResult, LoadImage

if TYPE_CHECKING:
    from PIL.Image import Image

TILE = 112
CAPTION = 30
MARGIN = 6


class ContactSheets:
    """Draws the top images of latents; keeps thumbnails, so that an image is loaded once for all sheets.

    Parameters
    ----------
    load_image : callable
        Gives a PIL image for an image id. An OSError, KeyError or ValueError makes a grey tile and is listed in
        `missing`.
    labels : mapping of int to int
        Label of each image id; -1 or no entry: none.
    class_names : sequence of str
        Name of each label; the number is shown where there is none.
    file_names : mapping of int to str
        Name of each image id; the id is shown where there is none.
    """

    def __init__(
        self,
        load_image: LoadImage,
        labels: Mapping[int, int],
        class_names: Sequence[str] = (),
        file_names: Mapping[int, str] | None = None,
    ):
        self._load_image = load_image
        self._file_names = file_names or {}
        self._labels = labels
        self._class_names = class_names
        self._thumbnails: dict[int, Image] = {}
        self.missing: dict[int, str] = {}

    def latent(self, tops: TopActivations, latent: int, images: int = 10, columns: int = 5, title: str = "") -> Image:
        """The sheet of one latent: its strongest `images`, each with label name and activation."""
        from PIL import Image as PILImage
        from PIL import ImageDraw

        ids, values = _strongest(tops, latent, images)
        rows = max(1, -(-len(ids) // columns))
        width = columns * (TILE + MARGIN) + MARGIN
        sheet = PILImage.new("RGB", (width, 2 * 18 + rows * (TILE + CAPTION + MARGIN)), "white")
        draw = ImageDraw.Draw(sheet)
        draw.text(
            (MARGIN, 3),
            _fitted(draw, title or f"latent {latent}", width - 2 * MARGIN, 13),
            "black",
            _font(13),
        )
        active = int(tops.counts[latent])
        line = f"active in {active} of {tops.n_images} images, mean {float(tops.mean_activation[latent]):.3g}"
        draw.text((MARGIN, 19), _fitted(draw, line, width - 2 * MARGIN, 11), "dimgray", _font(11))
        for place, (image_id, value) in enumerate(zip(ids, values, strict=True)):
            x = MARGIN + place % columns * (TILE + MARGIN)
            y = 36 + place // columns * (TILE + CAPTION + MARGIN)
            sheet.paste(self._thumbnail(image_id), (x, y))
            draw.text((x, y + TILE + 1), _fitted(draw, self.name(image_id), TILE, 11), "black", _font(11))
            told = f"{value:.3g}  "
            left = TILE - int(draw.textlength(told, _font(10)))
            name = _fitted(draw, self.file_name(image_id), left, 10, keep_end=True)
            draw.text((x, y + TILE + 14), told + name, "dimgray", _font(10))
        return sheet

    def overview(self, tops: TopActivations, latents: Sequence[int], images: int = 9, title: str = "") -> Image:
        """One row of top images for each latent, with its number and its commonest label."""
        from PIL import Image as PILImage
        from PIL import ImageDraw

        left, tile, gap = 150, 64, 3
        width, height = left + images * (tile + gap), 22 + max(1, len(latents)) * (tile + gap)
        sheet = PILImage.new("RGB", (width, height), "white")
        draw = ImageDraw.Draw(sheet)
        draw.text((MARGIN, 3), _fitted(draw, title, width - 2 * MARGIN, 13), "black", _font(13))
        for row, latent in enumerate(latents):
            y = 22 + row * (tile + gap)
            ids, _ = _strongest(tops, latent, images)
            draw.text((MARGIN, y + 8), f"latent {latent}", "black", _font(12))
            draw.text((MARGIN, y + 26), _fitted(draw, self.majority(ids), left - 10, 11), "dimgray", _font(11))
            for place, image_id in enumerate(ids):
                sheet.paste(self._thumbnail(image_id).resize((tile, tile)), (left + place * (tile + gap), y))
        return sheet

    def name(self, image_id: int) -> str:
        """The label of an image in words."""
        label = self._labels.get(image_id, -1)
        if label < 0:
            return "no label"
        return str(self._class_names[label]) if label < len(self._class_names) else f"class {label}"

    def file_name(self, image_id: int) -> str:
        """The file of an image, or its id where no name is known."""
        return self._file_names.get(image_id, f"#{image_id}")

    def majority(self, image_ids: Sequence[int]) -> str:
        """The commonest label among some images and how many have it: ``"Pug 8/10"``."""
        names = [self.name(i) for i in image_ids]
        if not names:
            return "no images"
        best = max(dict.fromkeys(names), key=names.count)
        return f"{best} {names.count(best)}/{len(names)}"

    def _thumbnail(self, image_id: int) -> Image:
        from PIL import Image as PILImage
        from PIL import ImageOps

        if image_id not in self._thumbnails:
            try:
                image = to_rgb(self._load_image(image_id))
                method = PILImage.Resampling.NEAREST if max(image.size) < TILE // 2 else PILImage.Resampling.BICUBIC
                self._thumbnails[image_id] = ImageOps.fit(image, (TILE, TILE), method=method)
            except (OSError, KeyError, ValueError) as error:
                self.missing[image_id] = str(error)
                self._thumbnails[image_id] = PILImage.new("RGB", (TILE, TILE), "lightgray")
        return self._thumbnails[image_id]


def chosen_latents(run: FeatureResult, count: int) -> list[int]:
    """The latents worth a sheet: the best ranked of the purity result, else by the paper's ranking.

    Where no latent is active in more than 10 images, those active in fewer are taken.
    """
    if run.purity:
        return run.purity.latents[:count]
    if run.tops is None:
        return []
    for min_active in (10, 0):
        latents = rank_latents(run.tops, min_active=min_active)
        if len(latents):
            return latents[:count].tolist()
    return []


def write_sheets(run: FeatureResult, sheets: ContactSheets, folder: Path, latents: int, images: int) -> list[Path]:
    """Write ``overview.png`` and one ``latent-*.png`` for each of the run's top latents; returns them in that order.

    Sheets that an earlier call left in the folder are removed: they may show another k-SAE.
    """
    assert run.tops is not None
    chosen = chosen_latents(run, max(latents, 20))
    names = ["overview.png", *(f"latent-{latent:06d}.png" for latent in chosen[:latents])] if chosen else []
    for path in sheets_in(folder):
        if path.name not in names:
            path.unlink()
    if not chosen:
        return []
    where = run.title
    title = f"{where}: top {len(chosen)} latents, their top {min(9, run.tops.m)} images"
    paths = [folder / "overview.png"]
    _save(sheets.overview(run.tops, chosen, min(9, run.tops.m), title), paths[0])
    for latent in chosen[:latents]:
        ids, _ = _strongest(run.tops, latent, images)
        path = folder / f"latent-{latent:06d}.png"
        _save(
            sheets.latent(run.tops, latent, images, title=f"{where}, latent {latent}: {sheets.majority(ids)}"),
            path,
        )
        paths.append(path)
    return paths


def sheets_in(folder: Path) -> list[Path]:
    """The files in a folder that have the names of contact sheets."""
    return [*folder.glob("overview.png"), *folder.glob("latent-[0-9]*.png")]


def _strongest(tops: TopActivations, latent: int, images: int) -> tuple[list[int], list[float]]:
    ids = tops.image_ids[latent, :images]
    kept = ids >= 0
    return ids[kept].tolist(), tops.values[latent, :images][kept].tolist()


def _save(image: Image, path: Path) -> None:
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG", optimize=True)


@lru_cache
def _font(size: int) -> Any:
    """DejaVu Sans, which matplotlib brings along, since it knows more letters than Pillow's own font."""
    from matplotlib.font_manager import findfont
    from PIL import ImageFont

    return ImageFont.truetype(findfont("DejaVu Sans"), size)


def _fitted(draw: Any, text: str, width: int, size: int, *, keep_end: bool = False) -> str:
    """The text, cut with an ellipsis at its end or at its beginning where it is wider than `width` pixels."""
    text = text.replace("\n", " ")
    if draw.textlength(text, _font(size)) <= width:
        return text
    while text and draw.textlength(text + "…", _font(size)) > width:
        text = text[1:] if keep_end else text[:-1]
    return f"…{text}" if keep_end else f"{text}…"
