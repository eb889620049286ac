"""Device functions on the bits of float32: an integer order with NaN on top, and rounding to bfloat16."""

import triton
import triton.language as tl

# Below the key of every float, -infinity included.
NOTHING = tl.constexpr(-(2**31))
# The key of infinity.
INFINITY = tl.constexpr(0x7F800000)


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
