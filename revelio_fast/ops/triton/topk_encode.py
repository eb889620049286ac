"""topk_encode in Triton: a bfloat16 GEMM that keeps a certificate instead of scores, then what the certificate leaves.

Nothing is read back and every workspace has a fixed size, so a call can be captured in a CUDA graph. docs/gpu-topk.md
has the algorithm and its proof.
"""

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from revelio_fast.ops.triton.native import INTERPRETED, capability, unavailable
from revelio_fast.ops.triton.topk_full import _score_rows
from revelio_fast.ops.triton.topk_plan import FULL_LATENTS, FULL_ROWS, TILES, Plan, plan, traffic
from revelio_fast.ops.triton.topk_screen import _enc_top2, _round_rows
from revelio_fast.ops.triton.topk_select import _rank, _rescore, _select_groups

__all__ = ["aot_cases", "encode", "topk_encode", "traffic", "unavailable"]

BAND = 8  # row blocks that share what they read of W_enc
ROUND = {"ROWS": 4, "COLUMNS": 256}
RESCORE = {"ROWS": 16, "COLUMNS": 128}
RANK = {"BLOCK": 64}
FULL = {"ROWS": FULL_ROWS, "LATENTS": FULL_LATENTS, "DEPTH": 32}


class Candidates(NamedTuple):
    """What selection left of each row, on the device.

    Attributes
    ----------
    latents : Tensor
        ``[B, slots]`` int32, of which the first `count` mean something.
    keys : Tensor
        ``[B, slots]`` int32 scores, ordered as integers.
    known : Tensor
        ``[B]`` int32: this many candidates kept the score of the GEMM, the others were scored again.
    count : Tensor
        ``[B]`` int32, -1 for a row that was scored in full.
    overflown : Tensor
        ``[B]`` int32, the rows that were scored in full, in no order.
    n_overflown : Tensor
        ``[1]`` int32.
    """

    latents: Tensor
    keys: Tensor
    known: Tensor
    count: Tensor
    overflown: Tensor
    n_overflown: Tensor


def topk_encode(
    x: Tensor, W_enc: Tensor, b_enc: Tensor, b_pre: Tensor, k: int, relu: bool, precision: str, *shadow: Tensor | None
) -> tuple[Tensor, Tensor]:
    return encode(x, W_enc, b_enc, b_pre, k, relu, precision, *shadow)[:2]


def encode(
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    b_pre: Tensor,
    k: int,
    relu: bool,
    precision: str,
    shadow_weights: Tensor | None = None,
    shadow_norms: Tensor | None = None,
    shadow_residuals: Tensor | None = None,
) -> tuple[Tensor, Tensor, Candidates]:
    """The code, and the candidates that it was chosen from."""
    x, W_enc, b_enc, b_pre = (t.detach().contiguous() for t in (x, W_enc, b_enc, b_pre))
    (B, d), n = x.shape, W_enc.shape[0]
    sizes = plan(B, d, n, k, precision, capability(x.device))
    ints = dict(device=x.device, dtype=torch.int32)
    found = Candidates(
        *(torch.empty(B, sizes.slots, **ints) for _ in range(2)), *(torch.empty(B, **ints) for _ in range(3)),
        torch.zeros(1, **ints),
    )  # fmt: skip
    values, indices = x.new_empty(B, k), x.new_empty(B, k, dtype=torch.int64)
    if not B:
        return values, indices, found
    exact = precision != "bf16"
    with torch.cuda.device_of(x):
        if sizes.screened or not exact:
            x16 = _rounded(x, b_pre)
            made = None not in (shadow_weights, shadow_norms, shadow_residuals)
            w16 = (shadow_weights, shadow_norms, shadow_residuals) if made else _rounded(W_enc, None)
        pair = (x, b_pre, W_enc, b_enc) if exact else (x16[0], b_pre, w16[0], b_enc)
        if sizes.screened:
            _screen(x16, w16, b_enc, found, sizes, k, exact)
            _rescore[(B,)](
                *pair, found.latents, found.keys, found.known, found.count, n, d, sizes.slots,
                CENTRE=exact, **RESCORE, num_warps=4,
            )  # fmt: skip
        else:
            found.count.fill_(-1)
            torch.arange(B, out=found.overflown)
            found.n_overflown.fill_(B)
        scratch = torch.empty(sizes.full_programs, FULL_ROWS, sizes.chunk, **ints)
        _score_rows[(sizes.full_programs,)](
            *pair, found.overflown, found.n_overflown, scratch, found.latents, found.keys,
            n, d, k, sizes.slots, sizes.chunks, sizes.chunk, CENTRE=exact, **FULL, num_warps=4,
        )  # fmt: skip
        _rank[(B,)](
            found.latents, found.keys, found.count, values, indices, k, sizes.slots, sizes.chunks * k,
            RELU=relu, **RANK, num_warps=4,
        )  # fmt: skip
    return values, indices, found


def _rounded(rows: Tensor, shift: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """The bfloat16 copy of ``rows - shift``, its rows' norms before rounding, and the norms of what rounding took."""
    count, d = rows.shape
    out = torch.empty_like(rows, dtype=torch.bfloat16), rows.new_empty(count), rows.new_empty(count)
    _round_rows[(triton.cdiv(count, ROUND["ROWS"]),)](
        rows, shift, *out, count, d, CENTRE=shift is not None, **ROUND, num_warps=4
    )
    return out


def _screen(x16, w16, b_enc: Tensor, found: Candidates, sizes: Plan, k: int, exact: bool) -> None:
    """Score everything in bfloat16, and list what may be among the k best of each row."""
    (B, d), n, tile = x16[0].shape, w16[0].shape[0], sizes.tile
    top, second = b_enc.new_empty(B, sizes.groups), b_enc.new_empty(B, sizes.groups, dtype=torch.int32)
    descriptors = _descriptors(x16[0], w16[0], sizes)
    _enc_top2[(triton.cdiv(B, tile.rows) * triton.cdiv(n, tile.latents),)](
        *(descriptors or (x16[0], w16[0])), b_enc, *x16[1:], *w16[1:], top, second, B, n, d, sizes.groups,
        ROWS=tile.rows, LATENTS=tile.latents, DEPTH=tile.depth, MEMBERS=sizes.members, BAND=BAND,
        CERTIFY=exact, TMA=descriptors is not None, UPCAST=INTERPRETED, num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    block = triton.next_power_of_2(sizes.groups)
    _select_groups[(B,)](
        top, second, b_enc, *x16[1:], *w16[1:], w16[1].amax(), *found, n, d, sizes.groups, k, sizes.slots,
        BLOCK=block, LATENTS=tile.latents, MEMBERS=sizes.members, CERTIFY=exact, num_warps=_select_warps(block),
    )  # fmt: skip


def _descriptors(x16: Tensor, w16: Tensor, sizes: Plan) -> tuple[Any, Any] | None:
    """Tensor descriptors of the operands where the device copies tiles by itself: its rows start at 16 bytes."""
    if capability(x16.device) < 90 or x16.shape[1] % 8 or w16.data_ptr() % 16:
        return None
    from triton.tools.tensor_descriptor import TensorDescriptor

    tile = sizes.tile
    return (
        TensorDescriptor.from_tensor(x16, [tile.rows, tile.depth]),
        TensorDescriptor.from_tensor(w16, [tile.latents, tile.depth]),
    )


def _select_warps(block: int) -> int:
    """Eight groups to a thread, at most 16 warps."""
    return max(1, min(16, block // 256))
