"""Fixtures shared by all tests: where the real data lies, and quiet threads."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

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
    import revelio_fast.diffc.train as module

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
