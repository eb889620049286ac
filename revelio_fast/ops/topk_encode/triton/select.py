"""Selection kernels of `topk_encode`: which latents can be winners, their scores, and the k best in order."""

import triton
import triton.language as tl

from revelio_fast.ops.topk_encode.triton.float_bits import NOTHING, best_member, from_ordered, ordered, runner_up_bound
from revelio_fast.ops.topk_encode.triton.screen import RELATIVE, WILD, bias_error, floor, row_scales


@triton.jit
def _reached(key, trial, k):
    """Whether at least k of a row's keys are `trial` or larger."""
    return tl.sum((key >= trial[:, None]).to(tl.int32), axis=1) >= k


@triton.jit
def _kth_largest(key, k, ROWS: tl.constexpr):
    """The k-th largest key of each row: its bits, found one by one by counting."""
    zero = tl.zeros([ROWS], tl.int32)
    found = tl.where(_reached(key, zero, k), zero, zero + NOTHING)
    for i in range(31):
        trial = found + (1 << (30 - i))
        found = tl.where(_reached(key, trial, k), trial, found)
    return found


@triton.jit
def _survivors(
    top, second, row, start, least_key, B, groups,
    CHUNK: tl.constexpr, LATENTS: tl.constexpr, MEMBERS: tl.constexpr,
):  # fmt: skip
    """Of a chunk of groups: (keys, best latents, first latents, alive alone, alive and to be scored again)."""
    SPREAD: tl.constexpr = LATENTS // MEMBERS
    group = (start + tl.arange(0, CHUNK))[None, :]
    at = row.to(tl.int64)[:, None] * groups + group
    inside = (row < B)[:, None] & (group < groups)
    key = ordered(tl.load(top + at, mask=inside, other=float("-inf")))
    alive = (key >= least_key[:, None]) & inside
    packed = tl.load(second + at, mask=alive, other=0)
    hidden = ordered(runner_up_bound(from_ordered(key), packed)) >= least_key[:, None]
    revisit = alive & hidden
    first = (group // SPREAD) * LATENTS + group % SPREAD
    return key, first + best_member(packed) * SPREAD, first, alive & (revisit == 0), revisit


@triton.jit
def _select_groups(
    top, second, bias, x_norms, x_residuals, w_norms, w_residuals, largest_norm,
    latents, keys, known, count, overflown, n_overflown, B, n, d, groups, k, slots,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr, LATENTS: tl.constexpr, MEMBERS: tl.constexpr,
    CERTIFY: tl.constexpr,
):  # fmt: skip
    """List every latent of a row that can be among its k best; a row that has too many is put on another list.

    ``latents[row, :count]`` are the candidates. Of the first `known` of them the scores are in `keys` already. Only the
    search for the k-th best holds all groups (BLOCK or fewer) in registers.
    """
    SPREAD: tl.constexpr = LATENTS // MEMBERS
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    group = tl.arange(0, BLOCK)[None, :]
    inside = (row < B)[:, None] & (group < groups)
    best = tl.load(top + row.to(tl.int64)[:, None] * groups + group, mask=inside, other=float("-inf"))
    kth = _kth_largest(ordered(best), k, ROWS)
    x_norm = tl.load(x_norms + row, mask=row < B, other=float("nan"))
    x_residual = tl.load(x_residuals + row, mask=row < B, other=0.0)
    a, c = row_scales(x_norm, x_residual, d, CERTIFY)

    # What the k-th best score is at least.
    if CERTIFY:
        least = tl.zeros([ROWS], tl.float32) + float("inf")
        for start in range(0, groups, CHUNK):
            key, latent, first, single, revisit = _survivors(
                top, second, row, start, kth, B, groups, CHUNK, LATENTS, MEMBERS
            )
            chosen = (single | revisit) & (latent < n)
            norm = tl.load(w_norms + latent, mask=chosen, other=0.0)
            error = a[:, None] * (norm + floor(d))
            residual = tl.load(w_residuals + latent, mask=chosen, other=0.0)
            error += c[:, None] * (residual + floor(d))
            shift = tl.load(bias + latent, mask=chosen, other=0.0)
            error += bias_error(shift)
            certain = from_ordered(key)
            certain = tl.where(tl.abs(shift) < float("inf"), certain - 2.0 * error, certain)
            certain = tl.where(norm <= WILD, certain, float("-inf"))
            least = tl.minimum(least, tl.min(tl.where(chosen, certain, float("inf")), axis=1))
    else:
        kth_best = from_ordered(kth)
        least = kth_best - 2.0 * a * (tl.load(largest_norm) + floor(d)) - RELATIVE * tl.abs(kth_best)
    least_key = ordered(least)

    n_single = tl.zeros([ROWS], tl.int32)
    n_revisit = tl.zeros([ROWS], tl.int32)
    for start in range(0, groups, CHUNK):
        key, latent, first, single, revisit = _survivors(
            top, second, row, start, least_key, B, groups, CHUNK, LATENTS, MEMBERS
        )
        n_single += tl.sum(single.to(tl.int32), axis=1)
        n_revisit += tl.sum(revisit.to(tl.int32), axis=1)
    total = n_single + n_revisit * MEMBERS
    # NaN fails every comparison: a row that cannot be screened does not fit.
    fits = (a >= 0.0) & (least > float("-inf")) & (least < float("inf")) & (total <= slots)
    tl.store(count + row, tl.where(fits, total, -1), mask=row < B)
    tl.store(known + row, tl.where(fits, 0 if CERTIFY else n_single, 0), mask=row < B)
    lost = (row < B) & (fits == 0)
    entry = tl.atomic_add(n_overflown + tl.zeros([ROWS], tl.int32), 1, mask=lost)
    tl.store(overflown + entry, row, mask=lost)

    begin = row.to(tl.int64)[:, None] * slots
    singles = tl.zeros([ROWS], tl.int32)
    members = n_single
    for start in range(0, groups, CHUNK):
        key, latent, first, single, revisit = _survivors(
            top, second, row, start, least_key, B, groups, CHUNK, LATENTS, MEMBERS
        )
        single = single & fits[:, None]
        slot = begin + singles[:, None] + tl.cumsum(single.to(tl.int32), axis=1) - 1
        tl.store(latents + slot, latent, mask=single)
        if not CERTIFY:
            tl.store(keys + slot, key, mask=single)
        singles += tl.sum(single.to(tl.int32), axis=1)
        revisit = revisit & fits[:, None]
        order = tl.cumsum(revisit.to(tl.int32), axis=1)
        found = tl.sum(revisit.to(tl.int32), axis=1)
        member = tl.arange(0, MEMBERS)[None, :]
        for i in range(tl.max(found, axis=0)):
            its_first = tl.sum(tl.where(revisit & (order == i + 1), first, 0), axis=1)
            place = begin + (members + i * MEMBERS)[:, None] + member
            tl.store(latents + place, its_first[:, None] + member * SPREAD, mask=(i < found)[:, None])
        members += found * MEMBERS


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
