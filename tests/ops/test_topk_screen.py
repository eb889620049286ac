"""The int8 screen: the bits of the float32 path on data made to mislead it, and float32 for the rows it cannot hold."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from revelio_fast.ops import topk_encode, use_backend
from revelio_fast.ops.cpu import topk_encode as backend
from revelio_fast.ops.cpu.native import load

_C = pytest.importorskip("revelio_fast._C", reason="the extension is not built")
pytestmark = pytest.mark.skipif(
    not _C.screens(), reason="no int8 dot products on this processor, or REVELIO_ISA is set"
)

B, D, N, K = 100, 200, 6000, 16


def encode(x, W_enc, b_enc, b_pre, k, *, screen, threads=1):
    """Values as bits (NaN equals NaN), indices, and how many latents were rescored and rows given up."""
    values, indices = x.new_empty(len(x), k), torch.empty(len(x), k, dtype=torch.int64)
    pointers = [t.data_ptr() for t in (x, W_enc, b_enc, b_pre, values, indices)]
    counts = load().topk_encode(*pointers, *x.shape, len(W_enc), k, False, False, screen, threads)
    return values.view(torch.int32), indices, counts


def assert_same_bits(x, W_enc, b_enc=None, b_pre=None, k=K):
    """The screen gives what float32 gives, on one and on two threads; return its counts."""
    b_enc = W_enc.new_zeros(len(W_enc)) if b_enc is None else b_enc
    b_pre = x.new_zeros(x.shape[1]) if b_pre is None else b_pre
    values, indices, nothing = encode(x, W_enc, b_enc, b_pre, k, screen=False)
    assert nothing == (0, 0)
    for threads in (1, 2):
        got = encode(x, W_enc, b_enc, b_pre, k, screen=True, threads=threads)
        assert torch.equal(got[1], indices)
        assert torch.equal(got[0], values)
    return got[2]


def gaussian():
    return torch.randn(B, D), normalize(torch.randn(N, D))


@pytest.mark.parametrize("seed", range(5))
def test_gaussian_rows_leave_few_latents_to_rescore(seed):
    torch.manual_seed(seed)
    rescored, given_up = assert_same_bits(*gaussian(), 0.1 * torch.randn(N), torch.randn(D))
    assert given_up == 0
    assert B * K <= rescored < 8 * B * K


@pytest.mark.parametrize("gap", [0.0, 1e-7, 1e-5, 1e-3])
def test_near_ties_are_told_apart(gap):
    x, W_enc = gaussian()
    W_enc[1::2] = W_enc[::2] + gap * torch.randn(N // 2, D)
    assert assert_same_bits(x, W_enc)[1] == 0


@pytest.mark.parametrize("shift", [0.0, 1000.0])
def test_an_outlier_channel_is_balanced(shift):
    x, W_enc = gaussian()
    x[:, 7] = 100 * x[:, 7] + shift
    rescored, given_up = assert_same_bits(x, W_enc)
    assert given_up == 0
    assert rescored < 16 * B * K


def test_sparse_codes_of_known_directions():
    _, W_enc = gaussian()
    latents = torch.randint(0, N, (B, K))
    assert assert_same_bits((torch.rand(B, K, 1) * W_enc[latents]).sum(1), W_enc)[1] == 0


@pytest.mark.parametrize("shift", [0.0, 2.0])  # with a shift, the sum of a row's int8 values is far from zero
def test_latents_of_very_different_norms(shift):
    x, W_enc = gaussian()
    W_enc = (W_enc - W_enc.mean(1, keepdim=True)) * torch.exp(2 * torch.randn(N, 1))
    assert assert_same_bits(x + shift, W_enc, torch.randn(N))[1] == 0


def mixed(h):
    """The hash of csrc/cpu/topk_quantise.h, on int64 holding uint32."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        h = ((h ^ h >> shift) * factor) & 0xFFFFFFFF
    return h ^ h >> 16


def test_the_largest_element_rounded_up_does_not_wrap_around():
    latents = torch.arange(N)[:, None]
    uniform = (mixed((torch.arange(D) * 0x9E3779B9 + mixed(latents ^ 0x51ED270B)) & 0xFFFFFFFF) >> 8) / 2**24
    latent, channel = divmod(int(uniform.argmax()), D)
    assert 127 + uniform[latent, channel].float() + 128 == 256  # one more than a byte holds, by float32 rounding
    x, W_enc = torch.randn(B, D), 0.1 * normalize(torch.randn(N, D))
    W_enc[latent] = 0
    W_enc[latent, channel] = 1
    x[:, channel] = 5
    assert_same_bits(x, W_enc)
    assert (encode(x, W_enc, torch.zeros(N), torch.zeros(D), K, screen=True)[1][:, 0] == latent).all()


@pytest.mark.parametrize(("of_x", "of_w"), [(1e6, 1e-6), (1e-6, 1e6), (1e12, 1.0), (1e-12, 1.0), (1e25, 1e25)])
def test_any_scale(of_x, of_w):
    x, W_enc = gaussian()
    assert_same_bits(x * of_x, W_enc * of_w)


def test_heavy_tails_send_some_rows_to_float32():
    _, W_enc = gaussian()
    x = torch.distributions.StudentT(1.5).sample((B, D))
    x[3, 5] = 1e5
    rescored, given_up = assert_same_bits(x, W_enc)
    assert 0 < given_up < B
    assert rescored >= (B - given_up) * K


def test_all_equal_scores_send_every_row_to_float32():
    assert assert_same_bits(torch.zeros(B, D), normalize(torch.randn(N, D)))[1] == B


def test_rows_and_latents_that_int8_cannot_hold():
    x, W_enc = gaussian()
    b_enc = torch.zeros(N)
    x[4, 4], x[5, 5], x[6, 6] = torch.nan, torch.inf, -torch.inf
    W_enc[9, 3], W_enc[10, 2], W_enc[11] = torch.nan, -torch.inf, W_enc[11] * 1e-20
    b_enc[20], b_enc[21] = torch.nan, torch.inf
    assert assert_same_bits(x, W_enc, b_enc)[1] == 3


def test_latents_that_are_nan_do_not_hide_the_others():
    x, W_enc = gaussian()
    b_enc = torch.zeros(N)
    b_enc[: K // 2] = torch.nan
    assert assert_same_bits(x, W_enc, b_enc)[1] == 0


def test_latents_switched_off_by_their_bias():
    x, W_enc = gaussian()
    b_enc = torch.full((N,), -torch.inf)
    b_enc[2000:2100] = 0
    assert assert_same_bits(x, W_enc, b_enc)[1] == 0
    b_enc[:] = -torch.inf
    assert assert_same_bits(x, W_enc, b_enc) == (B * K, 0)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 40), st.integers(1, 70), st.integers(1, 300), st.data())
def test_any_shape(rows, d, n, data):
    k = data.draw(st.integers(1, n))
    torch.manual_seed(data.draw(st.integers(0, 10**6)))
    assert_same_bits(torch.randn(rows, d), torch.randn(n, d), torch.randn(n), torch.randn(d), k)


def test_fast_uses_the_screen_where_it_pays_and_only_there():
    x, W_enc = gaussian()
    arguments = (x, W_enc, torch.zeros(N), torch.zeros(D), K)
    with use_backend("cpu"):
        fast, fp32 = (topk_encode(*arguments, precision=precision) for precision in ("fast", "fp32"))
    assert backend.screen_pays(B, D, N, K)
    assert torch.equal(fast.indices, fp32.indices) and torch.equal(fast.values, fp32.values)
    assert not backend.screen_pays(1, 1280, 81_920, 32)
    assert not backend.screen_pays(4096, 1280, 512, 32)
    assert not backend.screen_pays(4096, 70_000, 81_920, 32)
