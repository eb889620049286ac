"""Limits measured in milliseconds and over arrays of 8 MB: enough to see that they are measured."""

from functools import partial

import pytest

import bench.limits
import bench.measure


@pytest.fixture(autouse=True)
def quick_limits(monkeypatch):
    monkeypatch.setattr(bench.measure, "measure_limits", partial(bench.limits.measure_limits, 0.005))
    monkeypatch.setattr(bench.limits, "last_level_cache", lambda: 2**20)
