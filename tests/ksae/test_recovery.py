"""Planted directions are found again by the decoder rows, with both engines."""

import pytest

from tools.planted_recovery import recovered_share


def test_the_untrained_decoder_knows_none_of_the_directions():
    share, _ = recovered_share("fused", steps=1)
    # two random unit vectors in 64 dimensions have cosine > 0.9 with probability below 1e-20
    assert share == 0


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["fused", "autograd"])
def test_planted_directions_are_recovered(engine):
    share, _ = recovered_share(engine)
    assert share >= 0.95
