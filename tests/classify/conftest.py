"""A tiny Stable Diffusion with random weights, and dark and light pictures in two class folders."""

from __future__ import annotations

from tests.pipeline.conftest import pictures, tiny_sd

__all__ = ["pictures", "tiny_sd"]
