"""AMX's bits on odd shapes, on the real unit or under the emulator, which also counts the tile products."""

import ctypes
import os

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from tests.ops.test_topk_screen import encode

_C = pytest.importorskip("revelio_fast._C", reason="the extension is not built")
EMULATOR = os.environ.get("REVELIO_AMX_EMULATOR", "")
if _C.isa() != "amx":
    pytest.skip("no AMX here: test_emulated.py runs these tests under the emulator", allow_module_level=True)


def counts():
    """int8 products, bfloat16 products, tile configurations loaded, released; zeros on the real unit."""
    if not EMULATOR:
        return np.zeros(4, dtype=np.int64)
    numbers = (ctypes.c_uint64 * 4)()
    ctypes.CDLL(EMULATOR).revelio_amx_counts(numbers)
    return np.array(numbers, dtype=np.int64)


def products(B, d, n, channels_per_register):
    """32 latents by 32 rows are 4 products for every 64 bytes of a row, 16 rows or fewer in the last tile 2."""
    halves = 2 * (B // 32) + (0 if B % 32 == 0 else 1 if B % 32 <= 16 else 2)
    return 2 * halves * -(-n // 32) * -(-d // channels_per_register)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("B", "d", "n", "k"),
    [(1, 1, 1, 1), (7, 33, 100, 3), (16, 64, 64, 64), (17, 65, 513, 5), (32, 31, 32, 1), (33, 127, 1000, 8),
     (48, 128, 333, 20), (70, 129, 4200, 32)],
)  # fmt: skip
def test_screens_have_the_bits_of_float32(B, d, n, k, threads):
    torch.manual_seed(B)
    x, W_enc, b_enc, b_pre = torch.randn(B, d), torch.randn(n, d), torch.randn(n), torch.randn(d)
    W_enc[n // 2 :] = W_enc[: n - n // 2].clone()  # ties
    values, indices, _ = encode(x, W_enc, b_enc, b_pre, k)
    for screen, at, channels in (("int8", 0, 64), ("bf16", 1, 32)):
        before = counts()
        got = encode(x, W_enc, b_enc, b_pre, k, screen=screen, threads=threads)
        done = counts() - before
        assert torch.equal(got[1], indices) and torch.equal(got[0], values)
        if EMULATOR:
            assert done[at] == products(B, d, n, channels) and done[1 - at] == 0
            assert done[2] == done[3] == threads


def sdm_scores(x, W_enc, b_enc):
    """TDPBF16PS as the manual has it: even and odd channels of 32 apart, then together, then to the sum so far.

    A product of two bfloat16 has 16 bits, a float32 sum 24: their sum is exact in float64 for exponents this close, so
    rounding it to float32 is one fused multiply-add.
    """
    x, W_enc = x.bfloat16().double().numpy(), W_enc.bfloat16().double().numpy()
    total = np.zeros((len(x), len(W_enc)), np.float32)
    for start in range(0, x.shape[1], 32):
        halves = []
        for parity in (0, 1):
            half = np.zeros_like(total)
            for i in range(start + parity, min(start + 32, x.shape[1]), 2):
                half = (half.astype(np.float64) + np.outer(x[:, i], W_enc[:, i])).astype(np.float32)
            halves.append(half)
        total = total + (halves[0] + halves[1])
    return total + b_enc.numpy()


@pytest.mark.parametrize(("B", "d", "n"), [(3, 70, 40), (20, 33, 100), (130, 31, 65)])
def test_bf16_scores_are_summed_in_the_order_of_the_manual(B, d, n):
    torch.manual_seed(d)
    x, W_enc, b_enc, b_pre = torch.randn(B, d), torch.randn(n, d), torch.randn(n), torch.zeros(d)
    values, indices = x.new_empty(B, n), torch.empty(B, n, dtype=torch.int64)
    before = counts()
    _C.topk_encode(
        "", x=x, W_enc=W_enc, b_enc=b_enc, b_pre=b_pre, values=values, indices=indices,
        B=B, d=d, n=n, k=n, relu=False, bf16=True, threads=2,
    )  # fmt: skip
    done = counts() - before
    if EMULATOR:
        assert done[1] == products(B, d, n, 32) and done[2] == done[3] == 2
    scores = torch.from_numpy(sdm_scores(x, W_enc, b_enc))
    assert torch.equal(values, scores.gather(1, indices))
    assert torch.equal(values, scores.sort(1, descending=True).values)


def test_what_the_int8_screen_gives_up_goes_through_the_bf16_screen():
    B, d, n, k = 96, 200, 4000, 4
    torch.manual_seed(0)
    x, W_enc, b_enc, b_pre = torch.randn(B, d), normalize(torch.randn(n, d)), torch.zeros(n), torch.zeros(d)
    x[range(80), range(80)] = 300.0  # takes all of int8's range, and has no part in any score
    W_enc[:, :80] = 0
    values, indices, _ = encode(x, W_enc, b_enc, b_pre, k)
    before = counts()
    got = encode(x, W_enc, b_enc, b_pre, k, screen="int8")
    done = counts() - before
    assert torch.equal(got[1], indices) and torch.equal(got[0], values)
    rescored, given_up = got[2]
    assert given_up == 80
    assert B * k <= rescored < 20 * B * k  # float32 wholly would not count: bfloat16 narrowed them down
    if EMULATOR:
        assert done[1] == products(given_up, d, n, 32)
