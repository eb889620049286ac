"""sparse_decode, and its residual form, in Triton: a program sums k decoder rows over one tile of columns."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from revelio_fast.ops import checks
from revelio_fast.ops.sparse_decode.triton_plan import SLOTS, tile, warps


def sparse_decode(values: Tensor, indices: Tensor, W_dec: Tensor, b_pre: Tensor) -> Tensor:
    return bag(values, indices, W_dec, b_pre, None)[0]


def bag(values: Tensor, indices: Tensor, W_dec: Tensor, b_pre: Tensor, x: Tensor | None) -> tuple[Tensor, Tensor]:
    """``x_hat``, or with `x` ``x_hat - x`` and the sums of its squares ``[tiles, B]`` by tile of columns."""
    checks.indices_in_range(indices, W_dec.shape[0])
    (B, k), d = values.shape, W_dec.shape[1]
    columns = tile(d)
    tiles = triton.cdiv(d, columns)
    out = W_dec.new_empty(B, d)
    squares = W_dec.new_empty(0 if x is None else tiles, B)
    if out.numel():
        with torch.cuda.device_of(W_dec):
            _bag[B, tiles](
                values, indices, W_dec, b_pre, x, out, squares, B, k, d,
                COLUMNS=columns, SLOTS=SLOTS, RESIDUAL=x is not None, num_warps=warps(columns),
            )  # fmt: skip
    return out, squares


# Programs of one tile of columns run together, over all rows: what they gather, n x COLUMNS floats, comes nearer to
# fitting the L2 cache than whole decoder rows.
@triton.jit
def _bag(
    values, indices, W_dec, b_pre, x, out, squares, B, k, d,
    COLUMNS: tl.constexpr, SLOTS: tl.constexpr, RESIDUAL: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < d
    total = tl.zeros([COLUMNS], tl.float32)
    for first in range(0, k, SLOTS):
        for slot in tl.static_range(SLOTS):
            used = first + slot < k
            at = row * k + first + slot
            latent = tl.load(indices + at, mask=used, other=0)
            value = tl.load(values + at, mask=used, other=0.0)
            total += value * tl.load(W_dec + latent * d + columns, mask=inside & used, other=0.0)
    total += tl.load(b_pre + columns, mask=inside, other=0.0)
    if RESIDUAL:
        total -= tl.load(x + row * d + columns, mask=inside, other=0.0)
        tl.store(squares + tl.program_id(1) * B + row, tl.sum(total * total))
    tl.store(out + row * d + columns, total, mask=inside)


def aot_cases(capability: int) -> list[dict[str, Any]]:
    """The kernel as `bag` launches it: with and without the residual, widths that are multiples of 16 or not."""
    pointers = dict.fromkeys(("values", "indices", "W_dec", "b_pre", "x", "out", "squares"), "*fp32")
    signature = pointers | {"indices": "*i64", "B": "i32", "k": "i32", "d": "i32"}
    return [
        {
            "name": f"{'sparse_residual' if residual else 'sparse_decode'} d={d}",
            "kernel": _bag,
            "signature": signature if residual else signature | {"x": "constexpr"},
            "constexprs": {"COLUMNS": tile(d), "SLOTS": SLOTS, "RESIDUAL": residual}
            | ({} if residual else {"x": None}),
            "divisible": ("B", "k", "d") if d % 16 == 0 else (),
            "num_warps": warps(tile(d)),
            "num_stages": 3,
        }
        for residual in (False, True)
        for d in (1280, 1152, 33)
    ]
