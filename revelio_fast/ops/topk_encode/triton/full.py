"""Rows that cannot be screened: every latent scored in float32, a chunk of latents at a time, and its k best kept."""

import triton
import triton.language as tl

from revelio_fast.ops.topk_encode.triton.float_bits import NOTHING, ordered


@triton.jit
def _score_chunk(
    x, shift, w, bias, row, latent_start, keys, n, d, width, wide,
    CENTRE: tl.constexpr, ROWS: tl.constexpr, LATENTS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Keys of the scores of ``[ROWS, wide]`` pairs; `NOTHING` where there is no such latent."""
    lane = tl.arange(0, ROWS)
    for start in range(0, wide, LATENTS):
        latent = latent_start + start + tl.arange(0, LATENTS)
        score = tl.zeros([ROWS, LATENTS], tl.float32)
        for left in range(0, d, DEPTH):
            column = left + tl.arange(0, DEPTH)
            inside = column < d
            value = tl.load(x + row[:, None] * width + column[None, :], mask=inside[None, :], other=0.0).to(tl.float32)
            if CENTRE:
                value -= tl.load(shift + column, mask=inside, other=0.0)[None, :]
            at = latent.to(tl.int64)[None, :] * width + column[:, None]
            weight = tl.load(w + at, mask=(latent < n)[None, :] & inside[:, None], other=0.0).to(tl.float32)
            score = tl.dot(value, weight, score, input_precision="ieee")
        score += tl.load(bias + latent, mask=latent < n, other=0.0)[None, :]
        key = tl.where((latent < n)[None, :], ordered(score), NOTHING)
        tl.store(keys + lane[:, None] * wide + start + tl.arange(0, LATENTS)[None, :], key)


@triton.jit
def _at_least(keys, trial, wide, ROWS: tl.constexpr, LATENTS: tl.constexpr):
    """How many of each row's keys are `trial` or larger."""
    lane = tl.arange(0, ROWS)
    total = tl.zeros([ROWS], tl.int32)
    for start in range(0, wide, LATENTS):
        key = tl.load(keys + lane[:, None] * wide + start + tl.arange(0, LATENTS)[None, :])
        total += tl.sum((key >= trial[:, None]).to(tl.int32), axis=1)
    return total


@triton.jit
def _score_rows(
    x, shift, w, bias, overflown, n_overflown, scratch, latents, keys, n, d, width, k, slots, chunks, wide,
    CENTRE: tl.constexpr, ROWS: tl.constexpr, LATENTS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Fill ``latents[row, :chunks k]`` and `keys` for the listed rows: the k best of every chunk of `wide` latents.

    A fixed number of programs walks a list whose length only the device knows.
    """
    lane = tl.arange(0, ROWS)
    mine = scratch + tl.program_id(0).to(tl.int64) * ROWS * wide
    rows = tl.load(n_overflown)
    for task in range(tl.program_id(0), tl.cdiv(rows, ROWS) * chunks, tl.num_programs(0)):
        chunk = task % chunks
        entry = (task // chunks) * ROWS + lane
        row = tl.load(overflown + entry, mask=entry < rows, other=0).to(tl.int64)
        _score_chunk(x, shift, w, bias, row, chunk * wide, mine, n, d, width, wide, CENTRE, ROWS, LATENTS, DEPTH)
        tl.debug_barrier()  # other threads read what this one stored

        zero = tl.zeros([ROWS], tl.int32)
        found = tl.where(_at_least(mine, zero, wide, ROWS, LATENTS) >= k, zero, zero + NOTHING)
        for i in range(31):
            trial = found + (1 << (30 - i))
            found = tl.where(_at_least(mine, trial, wide, ROWS, LATENTS) >= k, trial, found)

        # All above the k-th, and of its equals as many as there is room for, the lower latent first.
        above = tl.where(found == 0x7FFFFFFF, 0, _at_least(mine, found + 1, wide, ROWS, LATENTS))
        taken = zero
        equals = zero
        for start in range(0, wide, LATENTS):
            column = start + tl.arange(0, LATENTS)
            key = tl.load(mine + lane[:, None] * wide + column[None, :])
            equal = (key == found[:, None]).to(tl.int32)
            early = equals[:, None] + tl.cumsum(equal, axis=1) <= (k - above)[:, None]
            keep = (key > found[:, None]) | ((equal > 0) & early)
            kept = keep.to(tl.int32)
            slot = row[:, None] * slots + chunk * k + taken[:, None] + tl.cumsum(kept, axis=1) - 1
            keep = keep & (entry < rows)[:, None]
            tl.store(keys + slot, key, mask=keep)
            tl.store(latents + slot, (chunk * wide + column)[None, :] + tl.zeros_like(key), mask=keep)
            taken += tl.sum(kept, axis=1)
            equals += tl.sum(equal, axis=1)
        tl.debug_barrier()  # before the next task overwrites the scratch
