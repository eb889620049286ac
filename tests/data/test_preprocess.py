"""Preprocessing: size, range, antialiasing, and every image mode."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from revelio_fast.data import BrokenImageError, image_to_tensor, open_source
from revelio_fast.data.preprocess import to_rgb
from tests.tiny import picture


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "YCbCr", "HSV", "I;16", "F"])
@pytest.mark.parametrize("size", [(1, 1), (3, 50), (64, 64), (301, 200)])
def test_every_mode_and_size(mode: str, size: tuple[int, int]) -> None:
    image = picture(1, size)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    else:
        image = image.convert("RGBA").convert("LA") if mode == "LA" else image.convert(mode)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        out = image_to_tensor(image, 32)
    assert (out.shape, out.dtype) == ((3, 32, 32), torch.float32)
    assert out.min() >= -1 and out.max() <= 1


def test_an_image_of_the_right_size_is_only_scaled() -> None:
    image = picture(2, (32, 32))
    expected = torch.from_numpy(np.asarray(image).astype(np.float32)).permute(2, 0, 1) / 255 * 2 - 1
    # Two roundings of numbers up to 2: less than 2^-22.
    torch.testing.assert_close(image_to_tensor(image, 32), expected, rtol=0, atol=2**-22)


def test_grey_16_bit_keeps_its_brightness() -> None:
    grey = np.full((32, 32), 40_000, dtype=np.uint16)
    out = image_to_tensor(Image.fromarray(grey), 32)
    assert torch.allclose(out, torch.tensor((40_000 >> 8) / 127.5 - 1))


def grey(values: np.ndarray) -> list[int]:
    """The 8-bit values that an image of these grey values gets."""
    rgb = np.asarray(to_rgb(Image.fromarray(values)))
    assert rgb.shape == (*values.shape, 3) and (rgb == rgb[..., :1]).all()
    return rgb[..., 0].flatten().tolist()


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
@pytest.mark.parametrize(
    ("values", "expected", "words"),
    [
        ([0, 255, 256, 65535], [0, 0, 1, 255], None),
        ([0, 16, 2048, 4095], [0, 1, 128, 255], "12 bits only: 0 to 4095"),
        ([0, 7, 255, 128], [0, 7, 255, 128], "8 bits only: 0 to 255"),
    ],
)
def test_grey_integers_are_scaled_by_the_smallest_depth_that_holds_them(
    dtype: type, values: list[int], expected: list[int], words: str | None
) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert grey(np.array([values], dtype)) == expected
    assert [words in str(each.message) for each in caught] == ([True] if words else [])


@pytest.mark.parametrize(
    ("values", "expected", "words"),
    [
        (np.array([[0, 0.5, 1.0]], np.float32), [0, 128, 255], "between 0 and 1"),
        (np.array([[0, 2.4, 255]], np.float32), [0, 2, 255], "between 0 and 255"),
        (np.array([[-10, 0, 10]], np.float32), [0, 128, 255], "smallest to its largest"),
        (np.array([[1e5, 1e5, 1e5]], np.float32), [0, 0, 0], "smallest to its largest"),
        (np.array([[-100, 0, 100]], np.int32), [0, 128, 255], "smallest to its largest"),
        (np.array([[0, 1 << 20, 2 << 20]], np.int32), [0, 128, 255], "smallest to its largest"),
    ],
)
def test_other_grey_values_say_which_range_was_taken(values: np.ndarray, expected: list[int], words: str) -> None:
    with pytest.warns(UserWarning, match=words):
        found = grey(values)
    # 127.5 is rounded to even or up.
    assert np.abs(np.subtract(found, expected)).max() <= 1


def test_the_files_that_microscopes_write(tmp_path: Path) -> None:
    """12 bits in a 16-bit PNG and TIFF, float and 32-bit TIFF, a PGM of 4095 levels: bright where the data is."""
    ramp = np.linspace(0, 4095, 64 * 64).reshape(64, 64)
    Image.fromarray(ramp.astype(np.uint16)).save(tmp_path / "a.png")
    Image.fromarray(ramp.astype(np.uint16)).save(tmp_path / "b.tif")
    Image.fromarray((ramp / 4095).astype(np.float32)).save(tmp_path / "c.tif")
    Image.fromarray(ramp.astype(np.int32)).save(tmp_path / "d.tif")
    (tmp_path / "e.pgm").write_bytes(b"P5 64 64 4095\n" + ramp.astype(">u2").tobytes())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = [np.asarray(to_rgb(item.load()))[..., 0].astype(int) for item in open_source(tmp_path)]
    for each in found:
        # Rounded up or down at 12, 16 or all bits.
        assert np.abs(each - ramp * 255 / 4095).max() <= 1.01


def test_a_grey_image_with_nan_is_broken(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), np.nan, np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match="hold NaN or infinity"):
        to_rgb(open_source(tmp_path)[0].load())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once_wherever_an_image_comes_from(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture(3, (60, 40)).save(tmp_path / "a.png", exif=exif)
    stored = picture(3, (60, 40))
    methods = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270",
               7: "TRANSVERSE", 8: "ROTATE_90"}  # fmt: skip
    seen = stored.transpose(Image.Transpose[methods[orientation]]) if orientation > 1 else stored
    item = open_source(tmp_path)[0]
    with Image.open(tmp_path / "a.png") as opened:
        for image in (item.load(), opened, to_rgb(opened), to_rgb(item.load())):
            assert np.array_equal(np.asarray(to_rgb(image)), np.asarray(seen))


def test_a_huge_image_is_broken_before_it_fills_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("1", (13_000, 13_000)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("it was decoded"))
    words = r"a\.png cannot be decoded: it has 13000 x 13000 pixels, more than .*89,4"
    with pytest.raises(BrokenImageError, match=words), warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        open_source(tmp_path)[0].load()
    monkeypatch.undo()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert open_source(tmp_path)[0].load().size == (13_000, 13_000)


def test_transparent_pixels_are_white() -> None:
    image = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    assert torch.equal(image_to_tensor(image, 32), torch.ones(3, 32, 32))


def test_the_centre_is_kept() -> None:
    wide = Image.new("RGB", (96, 32))
    wide.paste((255, 255, 255), (32, 0, 64, 32))
    assert torch.equal(image_to_tensor(wide, 32), torch.ones(3, 32, 32))


def test_shrinking_averages() -> None:
    """A one-pixel chequerboard shrinks to grey; without antialiasing it would alias to stripes."""
    board = (np.indices((256, 256)).sum(0) % 2 * 255).astype(np.uint8)
    out = image_to_tensor(Image.fromarray(board), 32)
    assert out[:, 2:-2, 2:-2].abs().max() < 0.02
