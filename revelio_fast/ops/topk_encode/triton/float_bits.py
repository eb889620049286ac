"""Device functions on the bits of float32: an order with NaN on top, rounding to bfloat16, a runner-up in 16 bits."""

import triton
import triton.language as tl

# Below the key of every float, -infinity included.
NOTHING = tl.constexpr(-(2**31))


@triton.jit
def ordered(value):
    """An int32 that orders as `torch.topk` does: NaN above all, both zeros equal."""
    bits = tl.where(value == 0.0, 0.0, value).to(tl.int32, bitcast=True)
    key = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return tl.where(value == value, key, 0x7FFFFFFF)


@triton.jit
def from_ordered(key):
    """The float32 of a key; the one above infinity is a NaN."""
    return tl.where(key < 0, key ^ 0x7FFFFFFF, key).to(tl.float32, bitcast=True)


@triton.jit
def nearest_bfloat16(value):
    """`value` rounded to bfloat16, to nearest even, as a float32: the cast of Triton's interpreter truncates."""
    bits = value.to(tl.int32, bitcast=True)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & -65536
    return tl.where(value == value, rounded.to(tl.float32, bitcast=True), value)


# A group's runner-up takes 16 bits: 5 say which member is the best, 11 how far below it the runner-up is at least, with
# 5 bits of mantissa and an exponent from 2^-32 to 2^31 of the best's own.
@triton.jit
def _scale_of(best):
    return ((((best.to(tl.int32, bitcast=True) >> 23) & 0xFF) - 32) << 5).to(tl.int32)


@triton.jit
def pack_runner_up(best, runner_up, which):
    """`which` and the distance of `runner_up`, rounded down; no distance is kept of what is infinite or NaN."""
    gap = best - runner_up
    # less its last place, by which the subtraction may have rounded up
    steps = ((gap.to(tl.int32, bitcast=True) - 1) >> 18) - _scale_of(best)
    steps = tl.where(gap > 0.0, tl.minimum(tl.maximum(steps, 0), 2047), 0)
    return ((steps << 5) | which).to(tl.int16)


@triton.jit
def best_member(packed):
    return packed.to(tl.int32) & 31


@triton.jit
def runner_up_bound(best, packed):
    """The largest that the runner-up can have been: infinity where the best is."""
    steps = (packed.to(tl.int32) >> 5) & 2047
    gap = tl.maximum(steps + _scale_of(best), 0) << 18
    return best - tl.where(steps > 0, gap, 0).to(tl.float32, bitcast=True)
