"""Selection kernels of `topk_encode`: which latents can be winners, their scores, and the k best in order."""

import triton
import triton.language as tl

from revelio_fast.ops.triton.float_bits import NOTHING, from_ordered, ordered
from revelio_fast.ops.triton.topk_screen import RELATIVE, WILD, bias_error, floor, row_scales


@triton.jit
def _kth_largest(key, k):
    """The k-th largest of an int32 vector: its bits, found one by one by counting."""
    reached = tl.sum((key >= 0).to(tl.int32), axis=0) >= k
    found = tl.where(reached, 0, NOTHING)
    for i in range(31):
        trial = found + (1 << (30 - i))
        found = tl.where(tl.sum((key >= trial).to(tl.int32), axis=0) >= k, trial, found)
    return found


@triton.jit
def _select_groups(
    top, second, bias, x_norms, x_residuals, w_norms, w_residuals, largest_norm,
    latents, keys, known, count, overflown, n_overflown, n, d, groups, k, slots,
    BLOCK: tl.constexpr, LATENTS: tl.constexpr, MEMBERS: tl.constexpr, CERTIFY: tl.constexpr,
):  # fmt: skip
    """List every latent of a row that can be among its k best; a row that has too many is put on another list.

    ``latents[row, :count]`` are the candidates. Of the first `known` of them the scores are in `keys` already.
    """
    SPREAD: tl.constexpr = LATENTS // MEMBERS
    row = tl.program_id(0).to(tl.int64)
    group = tl.arange(0, BLOCK)
    best = tl.load(top + row * groups + group, mask=group < groups, other=float("-inf"))
    second += row * groups + group
    first_latent = (group // SPREAD) * LATENTS + group % SPREAD
    a, c = row_scales(tl.load(x_norms + row), tl.load(x_residuals + row), d, CERTIFY)

    # What the k-th best score is at least.
    kth = _kth_largest(ordered(best), k)
    if CERTIFY:
        chosen = (ordered(best) >= kth) & (group < groups)
        which = tl.load(second, mask=chosen, other=0) & (MEMBERS - 1)
        latent = first_latent + which * SPREAD
        chosen = chosen & (latent < n)
        shift = tl.load(bias + latent, mask=chosen, other=0.0)
        norm = tl.load(w_norms + latent, mask=chosen, other=0.0)
        residual = tl.load(w_residuals + latent, mask=chosen, other=0.0)
        error = a * (norm + floor(d)) + c * (residual + floor(d)) + bias_error(shift)
        certain = best - 2.0 * error
        certain = tl.where(tl.abs(shift) < float("inf"), certain, best)
        certain = tl.where(norm <= WILD, certain, float("-inf"))
        least = tl.min(tl.where(chosen, certain, float("inf")), axis=0)
    else:
        kth_best = from_ordered(kth)
        least = kth_best - 2.0 * a * (tl.load(largest_norm) + floor(d)) - RELATIVE * tl.abs(kth_best)
    least_key = ordered(least)

    alive = (best >= least) & (group < groups)
    word = tl.load(second, mask=alive, other=0)
    revisit = alive & (((word | (MEMBERS - 1)) >= least_key) | (best == float("inf")))
    single = alive & ~revisit
    n_single = tl.sum(single.to(tl.int32), axis=0)
    n_revisit = tl.sum(revisit.to(tl.int32), axis=0)
    total = n_single + n_revisit * MEMBERS
    # NaN fails every comparison: a row that cannot be screened lands here too.
    fits = (a >= 0.0) & (least > float("-inf")) & (least < float("inf")) & (total <= slots)
    at = row * slots
    if fits:
        slot = at + tl.cumsum(single.to(tl.int32), axis=0) - 1
        tl.store(latents + slot, first_latent + (word & (MEMBERS - 1)) * SPREAD, mask=single)
        if not CERTIFY:
            tl.store(keys + slot, ordered(best), mask=single)
        order = tl.cumsum(revisit.to(tl.int32), axis=0)
        member = tl.arange(0, MEMBERS)
        for i in range(n_revisit):
            start = tl.sum(tl.where(revisit & (order == i + 1), first_latent, 0), axis=0)
            tl.store(latents + at + n_single + i * MEMBERS + member, start + member * SPREAD)
        tl.store(count + row, total)
        tl.store(known + row, 0 if CERTIFY else n_single)
    else:
        tl.store(count + row, -1)
        tl.store(known + row, 0)
        tl.store(overflown + tl.atomic_add(n_overflown, 1), row.to(tl.int32))


@triton.jit
def _rescore(
    x, shift, w, bias, latents, keys, known, count, n, d, width, slots,
    CENTRE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Scores of the candidates that have none yet, float32 products and sums of the inputs as given."""
    row = tl.program_id(0).to(tl.int64)
    last = tl.load(count + row)
    for start in range(tl.load(known + row), last, ROWS):
        slot = start + tl.arange(0, ROWS)
        latent = tl.load(latents + row * slots + slot, mask=slot < last, other=n)
        exists = latent < n
        products = tl.zeros([ROWS, COLUMNS], tl.float32)
        for left in range(0, d, COLUMNS):
            column = left + tl.arange(0, COLUMNS)
            value = tl.load(x + row * width + column, mask=column < d, other=0.0).to(tl.float32)
            if CENTRE:
                value -= tl.load(shift + column, mask=column < d, other=0.0)
            at = latent.to(tl.int64)[:, None] * width + column[None, :]
            weight = tl.load(w + at, mask=exists[:, None] & (column < d)[None, :], other=0.0)
            products += value[None, :] * weight.to(tl.float32)
        score = tl.sum(products, axis=1) + tl.load(bias + latent, mask=exists, other=0.0)
        tl.store(keys + row * slots + slot, tl.where(exists, ordered(score), NOTHING), mask=slot < last)


@triton.jit
def _rank(
    latents, keys, count, values, indices, k, slots, when_full,
    RELU: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The k best candidates at their ranks: a rank is the number of candidates that are better."""
    row = tl.program_id(0).to(tl.int64)
    last = tl.load(count + row)
    last = tl.where(last < 0, when_full, last)
    latents += row * slots
    keys += row * slots
    for start in range(0, last, BLOCK):
        slot = start + tl.arange(0, BLOCK)
        key = tl.load(keys + slot, mask=slot < last, other=NOTHING)
        latent = tl.load(latents + slot, mask=slot < last, other=0)
        rank = tl.zeros([BLOCK], tl.int32)
        for begin in range(0, last, BLOCK):
            other = begin + tl.arange(0, BLOCK)
            its_key = tl.load(keys + other, mask=other < last, other=NOTHING)[None, :]
            its_latent = tl.load(latents + other, mask=other < last, other=0)[None, :]
            better = (its_key > key[:, None]) | ((its_key == key[:, None]) & (its_latent < latent[:, None]))
            rank += tl.sum((better & (other < last)[None, :]).to(tl.int32), axis=1)
        value = from_ordered(key)
        if RELU:
            value = tl.where(value < 0.0, 0.0, value)
        wanted = (slot < last) & (key > NOTHING) & (rank < k)
        tl.store(values + row * k + rank, value, mask=wanted)
        tl.store(indices + row * k + rank, latent.to(tl.int64), mask=wanted)
