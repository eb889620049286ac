"""topk_encode in Triton: a bfloat16 GEMM that keeps a certificate instead of scores, then what the certificate leaves.

Nothing is read back and every workspace has a fixed size, so a call can be captured in a CUDA graph. docs/gpu-topk.md
has the algorithm and its proof.
"""

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from revelio_fast.ops.topk_encode.triton.full import _score_rows
from revelio_fast.ops.topk_encode.triton.screen import _enc_top2, _round_rows
from revelio_fast.ops.topk_encode.triton.select import _rank, _rescore, _select_groups
from revelio_fast.ops.topk_encode.triton_plan import FEW_ROWS, FULL_LATENTS, FULL_ROWS, Plan, plan
from revelio_fast.ops.triton_runtime import INTERPRETED, capability

PADDING = 64  # columns: no tile of the GEMM is cut off along d, and every row starts at 16 bytes
BAND = 8  # row blocks that share what they read of W_enc
ROUND: dict[str, Any] = {"ROWS": 16, "COLUMNS": 128}
RESCORE: dict[str, Any] = {"ROWS": 32, "COLUMNS": 128}
RANK: dict[str, Any] = {"BLOCK": 64}
FULL: dict[str, Any] = {"ROWS": FULL_ROWS, "LATENTS": FULL_LATENTS, "DEPTH": 32}
FULL_RUN: dict[str, Any] = {"num_warps": 4, "num_stages": 1}  # with more stages some architectures spill 8 bytes

# What the kernels' arguments are, by name.
TYPES = {
    "*fp32": "source shift norms residuals x w bias x_norms x_residuals w_norms w_residuals largest_norm top values",
    "*i32": "latents keys known count overflown n_overflown scratch",
    "*i64": "indices",
    "*i16": "second",
    "*bf16": "rounded",
    "i32": "rows B n d width groups k slots chunks wide when_full",
}


class Candidates(NamedTuple):
    """What selection left of each row, on the device.

    Attributes
    ----------
    latents : Tensor
        ``[B, slots]`` int32, of which the first `total` mean something.
    keys : Tensor
        ``[B, slots]`` int32 scores, ordered as integers.
    known : Tensor
        ``[B]`` int32: this many candidates kept the score of the GEMM, the others were scored again.
    total : Tensor
        ``[B]`` int32, -1 for a row that was scored in full.
    overflown : Tensor
        ``[B]`` int32, the rows that were scored in full, in no order.
    n_overflown : Tensor
        ``[1]`` int32.
    """

    latents: Tensor
    keys: Tensor
    known: Tensor
    total: Tensor
    overflown: Tensor
    n_overflown: Tensor


def topk_encode(
    x: Tensor, W_enc: Tensor, b_enc: Tensor, b_pre: Tensor, k: int, relu: bool, precision: str, **shadow: Tensor | None
) -> tuple[Tensor, Tensor]:
    return encode(x, W_enc, b_enc, b_pre, k, relu, precision, **shadow)[:2]


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
    (B, d), n = x.shape, W_enc.shape[0]
    sizes = plan(B, d, n, k, precision, capability(x.device))
    shapes = {"latents": (B, sizes.slots), "keys": (B, sizes.slots), "known": (B,), "total": (B,), "overflown": (B,)}
    ints = {name: x.new_empty(shape, dtype=torch.int32) for name, shape in shapes.items()}
    found = Candidates(**ints, n_overflown=x.new_zeros(1, dtype=torch.int32))
    values, indices = x.new_empty(B, k), x.new_empty(B, k, dtype=torch.int64)
    if not B:
        return values, indices, found
    exact = precision != "bf16"
    with torch.cuda.device_of(x):
        if sizes.screened or not exact:
            x16 = _rounded(x, b_pre)
            usable = shadow_weights is not None and d % PADDING == 0 and shadow_weights.data_ptr() % 16 == 0
            w16 = (shadow_weights, shadow_norms, shadow_residuals) if usable else _rounded(W_enc, None)
        pair = (x, b_pre, W_enc, b_enc) if exact else (x16[0], b_pre, w16[0], b_enc)
        if sizes.screened:
            certificate = _certificate(x16, w16, b_enc, sizes, d, exact)
            _select(*certificate, x16, w16, b_enc, found, sizes, d, k, exact)
            _rescore[(B,)](
                *pair, found.latents, found.keys, found.known, found.total, n, d, pair[0].shape[1], sizes.slots,
                CENTRE=exact, **RESCORE, num_warps=4,
            )  # fmt: skip
        else:
            found.total.fill_(-1)
            torch.arange(B, out=found.overflown)
            found.n_overflown.fill_(B)
        scratch = x.new_empty(sizes.full_programs, FULL_ROWS, sizes.chunk, dtype=torch.int32)
        _score_rows[(sizes.full_programs,)](
            *pair, found.overflown, found.n_overflown, scratch, found.latents, found.keys,
            n, d, pair[0].shape[1], k, sizes.slots, sizes.chunks, sizes.chunk, CENTRE=exact, **FULL, **FULL_RUN,
        )  # fmt: skip
        _rank[(B,)](
            found.latents, found.keys, found.total, values, indices, k, sizes.slots, sizes.chunks * k,
            RELU=relu, **RANK, num_warps=4,
        )  # fmt: skip
    return values, indices, found


def _rounded(rows: Tensor, shift: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """The bfloat16 copy of ``rows - shift``, its rows' norms before rounding, and the norms of what rounding took."""
    count, d = rows.shape
    width = triton.cdiv(d, PADDING) * PADDING
    out = rows.new_empty(count, width, dtype=torch.bfloat16), rows.new_empty(count), rows.new_empty(count)
    _round_rows[(triton.cdiv(count, ROUND["ROWS"]),)](
        rows, shift, *out, count, d, width, CENTRE=shift is not None, **ROUND, num_warps=8
    )
    return out


def _certificate(x16, w16, b_enc: Tensor, sizes: Plan, d: int, exact: bool) -> tuple[Tensor, Tensor]:
    """``[B, groups]``: the best score of each group, and whose it is beside a bound on the second best."""
    (B, width), n, tile = x16[0].shape, w16[0].shape[0], sizes.tile
    top, second = b_enc.new_empty(B, sizes.groups), b_enc.new_empty(B, sizes.groups, dtype=torch.int16)
    descriptors = _descriptors(x16[0], w16[0], sizes)
    _enc_top2[(triton.cdiv(B, tile.rows) * triton.cdiv(n, tile.latents),)](
        *(descriptors or (x16[0], w16[0])), b_enc, *x16[1:], *w16[1:], top, second, B, n, d, width, sizes.groups,
        ROWS=tile.rows, LATENTS=tile.latents, DEPTH=tile.depth, MEMBERS=sizes.members, BAND=BAND,
        CERTIFY=exact, TMA=descriptors is not None, UPCAST=INTERPRETED, num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return top, second


def _select(top: Tensor, second: Tensor, x16, w16, b_enc: Tensor, found: Candidates, sizes: Plan, d, k, exact) -> None:
    """Fill `found` with what may be among the k best of each row."""
    B, n = top.shape[0], b_enc.shape[0]
    select, warps = _select_sizes(sizes.groups)
    _select_groups[(triton.cdiv(B, select["ROWS"]),)](
        top, second, b_enc, *x16[1:], *w16[1:], w16[1].amax(), *found, B, n, d, sizes.groups, k, sizes.slots,
        **select, LATENTS=sizes.tile.latents, MEMBERS=sizes.members, CERTIFY=exact, num_warps=warps,
    )  # fmt: skip


def _descriptors(x16: Tensor, w16: Tensor, sizes: Plan) -> tuple[Any, Any] | None:
    """Tensor descriptors of the operands, where the device can copy tiles by itself."""
    if capability(x16.device) < 90:
        return None
    from triton.tools.tensor_descriptor import TensorDescriptor

    tile = sizes.tile
    return (
        TensorDescriptor.from_tensor(x16, [tile.rows, tile.depth]),
        TensorDescriptor.from_tensor(w16, [tile.latents, tile.depth]),
    )


def _select_sizes(groups: int) -> tuple[dict[str, Any], int]:
    """Rows and groups of a program of `_select_groups`, and its warps: eight groups to a thread, at most 16 warps."""
    block = triton.next_power_of_2(groups)
    rows = max(1, min(16, 2048 // block))
    warps = max(1, min(16, rows * block // 256))
    return {"ROWS": rows, "BLOCK": block, "CHUNK": min(block, 2048 // rows)}, warps


def aot_cases(capability: int) -> list[dict[str, Any]]:
    """Every kernel as it is launched on `capability`: few and many rows, both precisions, aligned and odd widths."""
    types = {name: kind for kind, names in TYPES.items() for name in names.split()}
    cases: list[dict[str, Any]] = []

    def case(
        name: str, kernel: Any, warps: int, stages: int = 3, kinds: dict[str, str] = types, **constexprs: Any
    ) -> None:
        d = 1280 if "d=1280" in name else 1283
        integers = [a for a in kernel.arg_names if kinds.get(a) == "i32" and a not in constexprs]
        cases.append(
            {
                "name": f"topk_encode {name}",
                "kernel": kernel,
                "signature": {a: "constexpr" if a in constexprs else kinds[a] for a in kernel.arg_names},
                "constexprs": constexprs,
                "divisible": [a for a in integers if a != "d" or d == 1280],
                "num_warps": warps,
                "num_stages": stages,
            }
        )

    half = types | {"x": "*bf16", "w": "*bf16"}
    for d in (1280, 1283):
        case(f"round x d={d}", _round_rows, 8, CENTRE=True, **ROUND)
        case(f"round W_enc d={d}", _round_rows, 8, CENTRE=False, shift=None, **ROUND)
        case(f"rescore fp32 d={d}", _rescore, 4, CENTRE=True, **RESCORE)
        case(f"full fp32 d={d}", _score_rows, 4, 1, CENTRE=True, **FULL)
    case("rescore bf16 d=1280", _rescore, 4, kinds=half, CENTRE=False, **RESCORE)
    case("full bf16 d=1280", _score_rows, 4, 1, kinds=half, CENTRE=False, **FULL)
    for precision in ("fp32", "bf16"):
        for B in (FEW_ROWS, 4096):
            sizes = plan(B, 1280, 81_920, 32, precision, capability)
            tile, exact, tma = sizes.tile, precision == "fp32", capability >= 90
            described = {
                name: f"tensordesc<bf16[{rows}, {tile.depth}]>"
                for name, rows in (("x", tile.rows), ("w", tile.latents))
            }
            case(
                f"screen {precision} B={B} d=1280", _enc_top2, tile.warps, tile.stages,
                half | described if tma else half,
                ROWS=tile.rows, LATENTS=tile.latents, DEPTH=tile.depth, MEMBERS=sizes.members, BAND=BAND,
                CERTIFY=exact, TMA=tma, UPCAST=False,
            )  # fmt: skip
        select, warps = _select_sizes(sizes.groups)
        case(
            f"select {precision} d=1280", _select_groups, warps,
            **select, LATENTS=tile.latents, MEMBERS=sizes.members, CERTIFY=exact,
        )  # fmt: skip
    case("rank", _rank, 4, RELU=True, **RANK)
    return cases
