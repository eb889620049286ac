"""The screens: the bits of the float32 path on data made to mislead them, float32 for rows they cannot narrow down."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from revelio_fast.ops import topk_encode, use_backend
from revelio_fast.ops.cpu_runtime import load
from revelio_fast.ops.topk_encode import cpu as backend

_C = pytest.importorskip("revelio_fast._C", reason="the extension is not built")

B, D, N, K = 100, 200, 6000, 16
MASK32 = 0xFFFFFFFF


@pytest.fixture(params=["few", "int8", "bf16"])
def screen(request):
    if request.param not in _C.screens():
        pytest.skip(f"no {request.param} dot products on this processor, or REVELIO_ISA leaves them out")
    return request.param


def encode(x, W_enc, b_enc, b_pre, k, *, screen="", threads=1):
    """Values as bits (NaN equals NaN), indices, and how many latents were rescored and rows given up."""
    values, indices = x.new_empty(len(x), k), torch.empty(len(x), k, dtype=torch.int64)
    counts = load().topk_encode(
        screen, x=x, W_enc=W_enc, b_enc=b_enc, b_pre=b_pre, values=values, indices=indices,
        B=x.shape[0], d=x.shape[1], n=len(W_enc), k=k, relu=False, bf16=False, threads=threads,
    )  # fmt: skip
    return values.view(torch.int32), indices, counts


def assert_same_bits(screen, x, W_enc, b_enc=None, b_pre=None, k=K):
    """The screen gives what float32 gives, on one and on two threads; return its counts."""
    b_enc = W_enc.new_zeros(len(W_enc)) if b_enc is None else b_enc
    b_pre = x.new_zeros(x.shape[1]) if b_pre is None else b_pre
    values, indices, nothing = encode(x, W_enc, b_enc, b_pre, k)
    assert nothing == (0, 0)
    counts = []
    for threads in (1, 2):
        got = encode(x, W_enc, b_enc, b_pre, k, screen=screen, threads=threads)
        assert torch.equal(got[1], indices)
        assert torch.equal(got[0], values)
        counts.append(got[2])
    # the threads of "few" keep latents on their own: among scores equal to the k-th bound, their number varies
    assert counts[0] == counts[1] or screen == "few"
    return counts[0]


def gaussian():
    return torch.randn(B, D), normalize(torch.randn(N, D))


@pytest.mark.parametrize("seed", range(5))
def test_gaussian_rows_leave_few_latents_to_rescore(screen, seed):
    torch.manual_seed(seed)
    rescored, given_up = assert_same_bits(screen, *gaussian(), 0.1 * torch.randn(N), torch.randn(D))
    assert given_up == 0
    assert B * K <= rescored < 8 * B * K


@pytest.mark.parametrize("gap", [0.0, 1e-7, 1e-5, 1e-3])
def test_near_ties_are_told_apart(screen, gap):
    x, W_enc = gaussian()
    W_enc[1::2] = W_enc[::2] + gap * torch.randn(N // 2, D)
    assert assert_same_bits(screen, x, W_enc)[1] == 0


@pytest.mark.parametrize("shift", [0.0, 1000.0])
def test_an_outlier_channel_is_balanced(screen, shift):
    x, W_enc = gaussian()
    x[:, 7] = 100 * x[:, 7] + shift
    rescored, given_up = assert_same_bits(screen, x, W_enc)
    assert given_up == 0
    assert rescored < 16 * B * K


def test_sparse_codes_of_known_directions(screen):
    _, W_enc = gaussian()
    latents = torch.randint(0, N, (B, K))
    assert assert_same_bits(screen, (torch.rand(B, K, 1) * W_enc[latents]).sum(1), W_enc)[1] == 0


@pytest.mark.parametrize("shift", [0.0, 2.0])  # with a shift, the sum of a row's int8 values is far from zero
def test_latents_of_very_different_norms(screen, shift):
    x, W_enc = gaussian()
    W_enc = (W_enc - W_enc.mean(1, keepdim=True)) * torch.exp(2 * torch.randn(N, 1))
    assert assert_same_bits(screen, x + shift, W_enc, torch.randn(N))[1] == 0


@pytest.fixture
def bf16():
    if "bf16" not in _C.screens():
        pytest.skip("no bfloat16 dot products on this processor, or REVELIO_ISA leaves them out")


@pytest.mark.parametrize("rounded", ["x", "W_enc"])
@pytest.mark.parametrize("winners_first", [False, True])
def test_bf16_rounding_errors_that_all_add_up(bf16, rounded, winners_first):
    """Winners lose in every channel, losers gain in every channel, by all that the bound allows."""
    sign = torch.ones(D)
    sign[torch.randperm(D)[: D // 2]] = -1
    down, up = 1 + 2**-8 - 2**-18, 1 + 2**-8 + 2**-20  # to 1 and to 1 + 2^-7: just over and under half a step
    losing, gaining = torch.where(sign > 0, down, up), torch.where(sign > 0, up, down)
    error = D * 2**-8
    assert (losing.bfloat16().float() * sign).sum() == -error and (gaining.bfloat16().float() * sign).sum() == error
    if rounded == "W_enc":
        x, winner, loser = sign, losing, gaining
    else:
        x, winner, loser = losing, sign, -sign
    winners, losers = winner.expand(K, D), loser.expand(3 * K, D)
    W_enc = torch.cat([winners, losers] if winners_first else [losers, winners])
    b_enc = torch.zeros(4 * K)
    b_enc[slice(K) if winners_first else slice(3 * K, 4 * K)] = 0.1 * error  # bfloat16 would have them 1.9 error behind
    W_enc, b_enc = torch.cat([W_enc, torch.zeros(1000, D)]), torch.cat([b_enc, torch.full((1000,), -100.0)])
    x = x.repeat(B, 1)
    assert assert_same_bits("bf16", x, W_enc, b_enc) == (4 * K * B, 0)
    _, indices, _ = encode(x, W_enc, b_enc, torch.zeros(D), K, screen="bf16")
    assert torch.equal(indices[0], torch.arange(K) + (0 if winners_first else 3 * K))


def test_large_terms_that_cancel(bf16):
    """Bfloat16 holds every element; what differs is where float32 and VDPBF16PS round their sums."""
    x = torch.ones(B, D)
    large = torch.randint(-255, 256, (300, D // 4)).float() * 2.0**20
    W_enc = torch.cat([large, torch.randint(-8, 9, (300, D // 2)).float(), -large], 1)
    W_enc = W_enc.gather(1, torch.rand(300, D).argsort(1))
    assert torch.equal(W_enc.bfloat16().float(), W_enc)
    assert assert_same_bits("bf16", x, W_enc)[1] == 0


def mixed(h):
    """The hash of csrc/cpu/topk_encode/int8.h, on int64 holding uint32."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        h = ((h ^ h >> shift) * factor) & MASK32
    return h ^ h >> 16


def test_the_largest_element_rounded_up_does_not_wrap_around(screen):
    latents = torch.arange(N)[:, None]
    uniform = (mixed((torch.arange(D) * 0x9E3779B9 + mixed(latents ^ 0x51ED270B)) & MASK32) >> 8) / 2**24
    latent, channel = divmod(int(uniform.argmax()), D)
    assert 127 + uniform[latent, channel].float() + 128 == 256  # one more than a byte holds, by float32 rounding
    x, W_enc = torch.randn(B, D), 0.1 * normalize(torch.randn(N, D))
    W_enc[latent] = 0
    W_enc[latent, channel] = 1
    x[:, channel] = 5
    assert_same_bits(screen, x, W_enc)
    assert (encode(x, W_enc, torch.zeros(N), torch.zeros(D), K, screen=screen)[1][:, 0] == latent).all()


@pytest.mark.parametrize(
    ("of_x", "of_w"),
    [(1e6, 1e-6), (1e-6, 1e6), (1e12, 1.0), (1e-12, 1.0), (1e25, 1e25), (1e-20, 1e-20), (1e-40, 1.0), (1.0, 1e-39)],
)
def test_any_scale(screen, of_x, of_w):
    x, W_enc = gaussian()
    assert_same_bits(screen, x * of_x, W_enc * of_w)


def test_some_channels_are_denormal(screen):
    x, W_enc = gaussian()
    x[:, ::3] *= 1e-39
    W_enc[:, 1::3] *= 1e-39
    assert assert_same_bits(screen, x, W_enc)[1] < B


def test_sums_that_overflow_only_in_bf16(screen):
    """255 terms of 2^120 (1 + 2^-8) stay below 2^128; rounded up to 1 + 2^-7 they do not."""
    x, W_enc = torch.full((B, 255), 2.0**60), torch.full((N, 255), 2.0**60 * (1 + 2**-8 + 2**-20))
    W_enc[40:60] = 2.0**60 * (1 + 2**-8 - 2**-18)
    b_enc = torch.zeros(N)
    b_enc[40:60] = 3e33
    values, indices, _ = encode(x, W_enc, b_enc, torch.zeros(255), K)
    assert values.view(torch.float32).isfinite().all() and torch.equal(indices[0], torch.arange(40, 40 + K))
    assert_same_bits(screen, x, W_enc, b_enc)


def test_a_bias_with_which_only_bf16_overflows(screen):
    x, W_enc = torch.full((B, 255), 2.0**52), torch.full((N, 255), 2.0**54 * (1 + 2**-8 + 2**-20))
    W_enc[40:60] = 2.0**54 * (1 + 2**-8 - 2**-18)
    b_enc = torch.full((N,), torch.finfo(torch.float32).max - 2.0**114 * (1 + 2**-9))
    b_enc[40:60] += 2.0**104
    values, indices, _ = encode(x, W_enc, b_enc, torch.zeros(255), K)
    assert values.view(torch.float32).isfinite().all() and torch.equal(indices[0], torch.arange(40, 40 + K))
    assert_same_bits(screen, x, W_enc, b_enc)


def test_heavy_tails_send_int8_rows_elsewhere():
    if "int8" not in _C.screens():
        pytest.skip("no int8 dot products on this processor, or REVELIO_ISA leaves them out")
    _, W_enc = gaussian()
    x = torch.distributions.StudentT(1.5).sample((B, D))
    x[3, 5] = 1e5
    rescored, given_up = assert_same_bits("int8", x, W_enc)
    assert 0 < given_up < B
    assert rescored >= (B - given_up) * K


def test_heavy_tails_do_not_trouble_bf16(bf16):
    _, W_enc = gaussian()
    x = torch.distributions.StudentT(1.5).sample((B, D))
    rescored, given_up = assert_same_bits("bf16", x, W_enc)
    assert given_up == 0
    assert rescored < 4 * B * K


def test_all_equal_scores_send_every_row_to_float32(screen):
    assert assert_same_bits(screen, torch.zeros(B, D), normalize(torch.randn(N, D)))[1] == B
    assert assert_same_bits(screen, torch.ones(B, D), torch.full((N, D), 1 / 3))[1] == B


def test_a_row_that_is_given_up_does_not_touch_the_others(screen):
    x, W_enc = gaussian()
    x[::7] = 0
    assert assert_same_bits(screen, x, W_enc)[1] == math.ceil(B / 7)


def test_rows_and_latents_that_a_screen_cannot_hold(screen):
    x, W_enc = gaussian()
    b_enc = torch.zeros(N)
    x[4, 4], x[5, 5], x[6, 6] = torch.nan, torch.inf, -torch.inf
    W_enc[9, 3], W_enc[10, 2], W_enc[11] = torch.nan, -torch.inf, W_enc[11] * 1e-20
    b_enc[20], b_enc[21] = torch.nan, torch.inf
    assert assert_same_bits(screen, x, W_enc, b_enc)[1] == 3


def test_biases_at_the_end_of_float32(screen):
    """Where only the float32 sum stays below infinity."""
    x, W_enc = gaussian()
    b_enc = torch.zeros(N)
    b_enc[100:300] = torch.finfo(torch.float32).max
    assert_same_bits(screen, 2e16 * x, 5e17 * W_enc, b_enc)
    assert_same_bits(screen, 2e16 * x, 5e17 * W_enc, -b_enc)


def test_latents_that_are_nan_do_not_hide_the_others(screen):
    x, W_enc = gaussian()
    b_enc = torch.zeros(N)
    b_enc[: K // 2] = torch.nan
    assert assert_same_bits(screen, x, W_enc, b_enc)[1] == 0


def test_latents_switched_off_by_their_bias(screen):
    x, W_enc = gaussian()
    b_enc = torch.full((N,), -torch.inf)
    b_enc[2000:2100] = 0
    assert assert_same_bits(screen, x, W_enc, b_enc)[1] == 0
    b_enc[:] = -torch.inf
    assert assert_same_bits(screen, x, W_enc, b_enc) == (B * K, 0)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(_C.screens()), st.integers(0, 40), st.integers(1, 70), st.integers(1, 300), st.data())
def test_any_shape(name, rows, d, n, data):
    k = data.draw(st.one_of(st.integers(1, n), st.just(n)))
    torch.manual_seed(data.draw(st.integers(0, 10**6)))
    assert_same_bits(name, torch.randn(rows, d), torch.randn(n, d), torch.randn(n), torch.randn(d), k)


@settings(max_examples=40, deadline=None)
@given(st.integers(-30, 30), st.integers(-30, 30), st.integers(1, 40), st.integers(0, 10**6))
def test_any_mixture_of_magnitudes(of_x, of_w, spread, seed):
    """Channels and latents over many powers of two, with values that repeat."""
    torch.manual_seed(seed)
    rows, d, n = 9, 33, 400

    def draw(*shape):
        return torch.randint(-3, 4, shape) * 2.0 ** torch.randint(-spread, spread + 1, shape)

    for name in _C.screens():
        assert_same_bits(name, draw(rows, d) * 2.0**of_x, draw(n, d) * 2.0**of_w, draw(n), draw(d), 5)


@pytest.mark.parametrize(("precision", "name"), [("fast", "int8"), ("fp32", "bf16")])
def test_a_precision_uses_its_screen_where_it_pays_and_only_there(precision, name):
    if name not in _C.screens():
        pytest.skip(f"no {name} dot products on this processor, or REVELIO_ISA leaves them out")
    x, W_enc = gaussian()
    b_enc, b_pre = torch.zeros(N), torch.zeros(D)
    with use_backend("cpu"):
        code = topk_encode(x, W_enc, b_enc, b_pre, K, precision=precision)
    values, indices, _ = encode(x, W_enc, b_enc, b_pre, K)
    assert torch.equal(code.indices, indices) and torch.equal(code.values.view(torch.int32), values)
    assert backend.screen_for(precision, B, D, N, K) == name
    assert backend.screen_for(precision, 4096, 1280, 81_920, 32) == name
    assert backend.screen_for(precision, 1, 1280, 81_920, 32) == "few"
    for B_, d, n in ((4096, 1280, 512), (4096, 70_000, 81_920), (4096, 32, 81_920)):
        assert backend.screen_for(precision, B_, d, n, 32) == ""
    assert backend.screen_for("bf16", 4096, 1280, 81_920, 32) == ""
