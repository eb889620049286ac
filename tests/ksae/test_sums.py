"""Sums in a fixed order against float64, and the same bits at any number of threads."""

import pytest
import torch

from revelio_fast.ksae.sums import mean_rows, squared_distance, sum_all, sum_rows


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 7, 64, 1001])
def test_sums_are_those_of_float64(rows):
    x = torch.randn(rows, 5, generator=torch.Generator().manual_seed(rows))
    exact = x.double()
    # A tree of depth 10 adds at most 10 roundings of 2^-24 of the sum of absolute values.
    allowed = 10 * 2**-24 * exact.abs().sum()
    assert (sum_rows(x) - exact.sum(0)).abs().max() <= allowed
    assert abs(sum_all(x) - exact.sum()) <= 2 * allowed
    if rows:
        assert (mean_rows(x) - exact.mean(0)).abs().max() <= allowed
        distance = squared_distance(x, x[0])
        assert distance.item() == pytest.approx((exact - exact[0]).square().sum().item(), rel=20 * 2**-24)


def test_any_number_of_threads_gives_the_same_bits():
    x, before, sums = torch.randn(3001, 77), torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            sums.append(torch.cat([sum_rows(x), mean_rows(x), sum_all(x)[None], squared_distance(x, x[0])[None]]))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(sums[0], sums[1]) and torch.equal(sums[0], sums[2])


def test_a_sum_is_differentiable():
    x = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: sum_all(x.square()), [x])
