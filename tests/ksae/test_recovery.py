"""Planted directions are found again by the decoder rows, with both engines."""

import pytest

from examples.planted_recovery import recovered_share


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["fused", "autograd"])
def test_planted_directions_are_recovered(engine):
    share, _ = recovered_share(engine)
    assert share >= 0.95
