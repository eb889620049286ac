"""The screen for few rows: the bits of the tile in each precision, on sums whose rounding decides, in any batch."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from revelio_fast.ops import topk_encode, use_backend
from revelio_fast.ops.cpu_runtime import load
from revelio_fast.ops.topk_encode import cpu as backend
from tests.ops.cases import assert_close, dot_error

_C = pytest.importorskip("revelio_fast._C", reason="the extension is not built")

N, K = 3000, 16


def encode(x, W_enc, b_enc, b_pre, k, bf16, screen, threads=1):
    """Values as bits (NaN equals NaN), indices, and how many latents were rescored and rows given up."""
    values, indices = x.new_empty(len(x), k), torch.empty(len(x), k, dtype=torch.int64)
    counts = load().topk_encode(
        screen, x=x, W_enc=W_enc, b_enc=b_enc, b_pre=b_pre, values=values, indices=indices,
        B=x.shape[0], d=x.shape[1], n=len(W_enc), k=k, relu=False, bf16=bf16, threads=threads,
    )  # fmt: skip
    return values.view(torch.int32), indices, counts


def assert_same_bits(x, W_enc, b_enc=None, b_pre=None, k=K, bf16=False):
    """What the tile gives, on one, two and three threads; return the counts of one."""
    b_enc = W_enc.new_zeros(len(W_enc)) if b_enc is None else b_enc
    b_pre = x.new_zeros(x.shape[1]) if b_pre is None else b_pre
    values, indices, _ = encode(x, W_enc, b_enc, b_pre, k, bf16, "")
    got = [encode(x, W_enc, b_enc, b_pre, k, bf16, "few", threads) for threads in (1, 2, 3)]
    for one in got:
        assert torch.equal(one[1], indices)
        assert torch.equal(one[0], values)
    return got[0][2]


@pytest.fixture(params=[False, True], ids=["fp32", "bf16"])
def bf16(request):
    return request.param


@pytest.mark.parametrize("d", [1, 3, 16, 31, 33, 320, 1153])
@pytest.mark.parametrize("B", [1, 2, 3, 4, 5, 9])
def test_widths_and_batches_that_fill_no_register(bf16, B, d):
    x, W_enc = torch.randn(B, d), normalize(torch.randn(N + 1, d))
    rescored, given_up = assert_same_bits(x, W_enc, 0.1 * torch.randn(N + 1), torch.randn(d), bf16=bf16)
    assert given_up == 0
    assert B * K <= rescored < 2 * B * K


def test_winners_that_only_the_order_of_the_sum_decides(bf16):
    """Large terms cancel, what is left is rounding; in exact arithmetic all scores are 1."""
    d = 512
    large = torch.randint(1, 2**8, (N, d // 2 - 1)).float() * 2.0**12
    W_enc = torch.cat([large, -large, torch.full((N, 1), 2.0**-3), torch.full((N, 1), 7 * 2.0**-3)], 1)
    W_enc = W_enc.gather(1, torch.rand(N, d).argsort(1))
    # bfloat16 holds every element; one latent in ten can win, more would be given up
    b_enc = torch.where(torch.arange(N) % 10 == 0, 0.0, -1e6)
    x = torch.ones(5, d)
    values, _, _ = encode(x, W_enc, b_enc, torch.zeros(d), K, bf16, "")
    assert values.view(torch.float32).unique().numel() > 1, "rounding should tell some scores apart"
    rescored, given_up = assert_same_bits(x, W_enc, b_enc, bf16=bf16)
    assert (rescored, given_up) == (5 * N // 10, 0)


def test_equal_latents_in_different_places_of_a_group(bf16):
    W_enc = normalize(torch.randn(40, 100)).repeat(10, 1)
    assert assert_same_bits(torch.randn(3, 100), W_enc, k=25, bf16=bf16)[1] == 0


@pytest.mark.parametrize("name", ["NaN", "inf", "-inf", "huge", "NaN of all ones"])
@pytest.mark.parametrize("where", ["x", "W_enc", "b_enc"])
def test_what_is_no_number(bf16, where, name):
    x, W_enc, b_enc = torch.randn(4, 70), normalize(torch.randn(N, 70)), torch.zeros(N)
    value = {"NaN": torch.nan, "inf": torch.inf, "-inf": -torch.inf, "huge": 3e38}.get(name)
    at = {"x": x[2], "W_enc": W_enc[77], "b_enc": b_enc[70:72]}[where]
    at[1] = torch.tensor(-1, dtype=torch.int32).view(torch.float32) if value is None else value
    assert assert_same_bits(x, W_enc, b_enc, bf16=bf16)[1] == (where == "x")


def test_a_row_that_the_last_thread_alone_gives_up(bf16):
    """Equal winners all lie in its share, and more of them than it can keep."""
    x, W_enc = torch.randn(2, 70), normalize(torch.randn(N, 70))
    W_enc[-900:] = 2 * normalize(x[1:])
    assert_same_bits(x, W_enc, bf16=bf16)
    assert encode(x, W_enc, torch.zeros(N), torch.zeros(70), K, bf16, "few", 2)[2][1] >= 1


def test_all_equal_rows_are_given_up_alone(bf16):
    x = torch.randn(4, 70)
    x[1] = 0
    rescored, given_up = assert_same_bits(x, normalize(torch.randn(N, 70)), bf16=bf16)
    assert given_up == 1
    assert rescored < 2 * 3 * K


@pytest.mark.parametrize(("of_x", "of_w"), [(1e-40, 1.0), (1.0, 1e-40), (1e-20, 1e-22), (1e17, 1e17), (1e25, 1.0)])
def test_ends_of_the_range(bf16, of_x, of_w):
    assert_same_bits(of_x * torch.randn(3, 100), of_w * normalize(torch.randn(N, 100)), bf16=bf16)


def test_one_huge_channel(bf16):
    x, W_enc = torch.randn(4, 100), normalize(torch.randn(N, 100))
    x[:, 7] = 1e4
    W_enc[:, 7] = 0.1
    assert assert_same_bits(x, W_enc, bf16=bf16)[1] == 0


@settings(max_examples=60, deadline=None)
@given(st.booleans(), st.integers(0, 14), st.integers(1, 70), st.integers(1, 300), st.booleans(), st.data())
def test_any_shape_with_few_rows(bf16, rows, d, n, integers, data):
    k = data.draw(st.one_of(st.integers(1, n), st.just(n)))
    torch.manual_seed(data.draw(st.integers(0, 10**6)))
    draw = (lambda *shape: torch.randint(-2, 3, shape).float()) if integers else torch.randn
    assert_same_bits(draw(rows, d), draw(n, d), draw(n), draw(d), k, bf16)


@pytest.mark.parametrize("precision", ["fp32", "fast", "bf16"])
def test_few_rows_have_the_bits_of_many(precision, on_threads):
    """Around the row counts at which the way to the scores changes."""
    d = 130
    few = backend.few_rows(precision)
    x, W_enc, b_enc, b_pre = torch.randn(100, d), normalize(torch.randn(N, d)), torch.randn(N), torch.randn(d)
    assert backend.screen_for(precision, few, d, N, K) == "few" != backend.screen_for(precision, few + 1, d, N, K)
    with use_backend("cpu"):
        whole = topk_encode(x, W_enc, b_enc, b_pre, K, precision=precision)
        for rows in (1, 4, few - 1, few, few + 1):
            some = partial(topk_encode, x[:rows], W_enc, b_enc, b_pre, K, precision=precision)
            for part in on_threads(some):
                assert torch.equal(part.indices, whole.indices[:rows])
                assert torch.equal(part.values.view(torch.int32), whole.values[:rows].view(torch.int32))
    if precision == "bf16":
        x, W_enc, b_pre = (x - b_pre).bfloat16().float(), W_enc.bfloat16().float(), torch.zeros(d)
    scores = (x - b_pre).double() @ W_enc.double().T + b_enc.double()
    error = dot_error(x - b_pre, W_enc, d) + 2**-20  # adding the bias rounds numbers below 16
    assert_close("values", whole.values, scores.gather(1, whole.indices), error)


@pytest.mark.parametrize("relu", [False, True])
def test_few_rows_are_clamped_by_relu(relu):
    x, W_enc = torch.randn(2, 64), normalize(torch.randn(N, 64))
    with use_backend("cpu"):
        code = topk_encode(x, W_enc, torch.full((N,), -3.0), torch.zeros(64), K, relu=relu)
    assert (code.values < 0).any() != relu
