"""Fixtures shared by all tests: where the real data lies, tiny models with random weights, and pictures."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.tiny import picture, save_tiny_clip
from tools.make_random_model import save_random_model

# Triton reads this once, when its kernels are imported: without a GPU they run in its interpreter, on CPU tensors.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images and weights; tests that need it skip where it is absent."""
    where = Path(os.environ.get("REVELIO_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not where.is_dir():
        pytest.skip(f"no test data at {where}: set REVELIO_TEST_DATA to the folder that holds flowers102_train")
    return where


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def interrupted_after_saves() -> Callable[[int], contextlib.AbstractContextManager[None]]:
    """A block in which training a classifier is interrupted right after so many checkpoints, and must be."""
    import revelio_fast.classifiers.training as module

    @contextlib.contextmanager
    def block(saves: int) -> Iterator[None]:
        save, calls = module.save_checkpoint, []

        def save_then_die(*arguments) -> None:
            save(*arguments)
            calls.append(1)
            if len(calls) == saves:
                raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "save_checkpoint", save_then_die)
            with pytest.raises(KeyboardInterrupt):
                yield

    return block


@pytest.fixture(scope="session")
def tiny_sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable Diffusion folder with random weights: three up blocks, VAE reduction 4, native size 32 px."""
    return save_random_model("sd15", tmp_path_factory.mktemp("tiny") / "sd", "tiny", torch.float32)


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_clip(tmp_path_factory.mktemp("tiny") / "clip")


@pytest.fixture
def class_folder(tmp_path: Path) -> Path:
    """Eleven pictures in two class folders."""
    root = tmp_path / "pictures"
    for number in range(11):
        folder = root / ("cat" if number < 5 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        picture(number).save(folder / f"{number:02d}.png")
    return root


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``dark`` and ``light`` class folders of twenty pictures each: any feature tells them apart."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name, level in (("dark", 40), ("light", 200)):
        (root / name).mkdir()
        for number in range(20):
            small = np.clip(rng.normal(level, 25, (5, 5, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(small).resize((36, 32), Image.Resampling.BICUBIC).save(root / name / f"{number:02}.png")
    return root
