"""Screening kernels of `topk_encode`: rounded copies with their error norms, and the GEMM that keeps a certificate.

docs/gpu-topk.md has the algorithm and its proof.
"""

import triton
import triton.language as tl

from revelio_fast.ops.topk_encode.triton.float_bits import nearest_bfloat16, pack_runner_up

# A row or latent whose norm is larger, or NaN, is not screened: below, no product of two norms overflows.
WILD = tl.constexpr(1e18)
# Stands for every rounding relative to a bias or to a finished score: eight of them, of at most 2^-24 each, and more.
RELATIVE = tl.constexpr(2.0**-20)


@triton.jit
def _round_rows(
    source, shift, rounded, norms, residuals, rows, d, width,
    CENTRE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """``bf16(source - shift)`` with zeros up to `width`, each row's norm and the norm of what rounding took from it."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    long_row = row.to(tl.int64)[:, None]
    squares = tl.zeros([ROWS, COLUMNS], tl.float32)
    lost = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(0, width, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        inside = (row < rows)[:, None] & (column < d)[None, :]
        value = tl.load(source + long_row * d + column[None, :], mask=inside, other=0.0)
        if CENTRE:
            value -= tl.load(shift + column, mask=column < d, other=0.0)[None, :]
        near = nearest_bfloat16(value)
        inside = (row < rows)[:, None] & (column < width)[None, :]
        tl.store(rounded + long_row * width + column[None, :], near.to(tl.bfloat16), mask=inside)
        squares += value * value
        lost += (value - near) * (value - near)
    tl.store(norms + row, tl.sqrt(tl.sum(squares, axis=1)), mask=row < rows)
    tl.store(residuals + row, tl.sqrt(tl.sum(lost, axis=1)), mask=row < rows)


@triton.jit
def floor(d):
    """What the norm of d numbers can lose where their squares underflow, with room."""
    return d * 2.0**-60


@triton.jit
def row_scales(norm, residual, d, CERTIFY: tl.constexpr):
    """(a, c) of a row: its screened scores are off by at most ``a (||w|| + floor) + c (||dw|| + floor)``.

    `CERTIFY`: from the scores of the float32 inputs. Otherwise from those of the rounded inputs, summed otherwise.
    """
    gamma = (d + 16) * 2.0**-22
    total = (norm + residual + floor(d)) * (1.0 + gamma)
    a = (residual + floor(d)) * (1.0 + gamma) + gamma * total if CERTIFY else gamma * total
    return tl.where(norm <= WILD, a, float("nan")), total


@triton.jit
def bias_error(bias):
    """What a bias adds to the error of a score; an infinite one nothing."""
    return tl.where(tl.abs(bias) < float("inf"), RELATIVE * tl.abs(bias), 0.0)


@triton.jit
def _enc_top2(
    x, w, bias, x_norms, x_residuals, w_norms, w_residuals, top, second, B, n, d, width, groups,
    ROWS: tl.constexpr, LATENTS: tl.constexpr, DEPTH: tl.constexpr, MEMBERS: tl.constexpr, BAND: tl.constexpr,
    CERTIFY: tl.constexpr, TMA: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Largest score of each group of `MEMBERS` latents, which one it is, and a bound on the second largest.

    A group is every (LATENTS / MEMBERS)-th latent of a tile: neighbours, which are often alike, fall in different
    groups, and a thread holds whole groups in its registers. With `CERTIFY` a score is the largest that the float32
    score can be.
    """
    # Tiles go in bands of BAND row blocks: what a wave of programs reads of x and w stays in the L2 cache.
    row_blocks, latent_blocks = tl.cdiv(B, ROWS), tl.cdiv(n, LATENTS)
    band = tl.program_id(0) // (BAND * latent_blocks)
    height = tl.minimum(row_blocks - band * BAND, BAND)
    within = tl.program_id(0) % (BAND * latent_blocks)
    row_start = (band * BAND + within % height) * ROWS
    block = within // height
    latent_start = block * LATENTS
    row = row_start + tl.arange(0, ROWS)
    latent = latent_start + tl.arange(0, LATENTS)

    score = tl.zeros([ROWS, LATENTS], tl.float32)
    if not TMA:
        # Rows and latents beyond the end read the first ones again: what they score is not kept.
        column = tl.arange(0, DEPTH)
        x_at = x + (row % B).to(tl.int64)[:, None] * width + column[None, :]
        w_at = w + (latent % n).to(tl.int64)[:, None] * width + column[None, :]
    for start in range(0, width, DEPTH):
        if TMA:
            a, b = x.load([row_start, start]), w.load([latent_start, start])
        else:
            a, b = tl.load(x_at + start), tl.load(w_at + start)
        if UPCAST:  # the interpreter multiplies the bits of bfloat16 as integers
            a, b = a.to(tl.float32), b.to(tl.float32)
        score = tl.dot(a, tl.trans(b), score)

    # Infinity where nothing is known of a latent, so that it is never dropped; -infinity where there is none.
    shift = tl.load(bias + latent, mask=latent < n, other=float("-inf"))
    norm = tl.load(w_norms + latent, mask=latent < n, other=0.0)
    shift = tl.where((norm <= WILD) & (shift == shift), shift, float("inf"))
    if CERTIFY:
        x_norm = tl.load(x_norms + row, mask=row < B, other=0.0)
        x_residual = tl.load(x_residuals + row, mask=row < B, other=0.0)
        residual = tl.load(w_residuals + latent, mask=latent < n, other=0.0)
        a, c = row_scales(x_norm, x_residual, d, CERTIFY)
        shift += bias_error(shift)
        score += a[:, None] * (norm + floor(d))[None, :]
        score += c[:, None] * (residual + floor(d))[None, :]
    score += shift[None, :]
    score = tl.where(score == score, score, float("inf"))

    SPREAD: tl.constexpr = LATENTS // MEMBERS
    member = tl.arange(0, MEMBERS)[None, :, None]
    grouped = tl.reshape(score, [ROWS, MEMBERS, SPREAD])
    best = tl.max(grouped, axis=1)
    which = tl.min(tl.where(grouped == best[:, None, :], member, MEMBERS - 1), axis=1)
    runner_up = tl.max(tl.where(member == which[:, None, :], float("-inf"), grouped), axis=1)
    group = block * SPREAD + tl.arange(0, SPREAD)
    at = row.to(tl.int64)[:, None] * groups + group[None, :]
    tl.store(top + at, best, mask=(row < B)[:, None])
    tl.store(second + at, pack_runner_up(best, runner_up, which), mask=(row < B)[:, None])
