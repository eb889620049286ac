"""topk_encode by csrc/cpu/topk_encode.cpp; "fast" and "fp32" by a screen of topk_screen.h where it exists and pays."""

import torch
from torch import Tensor

from revelio_fast.ops.cpu.native import dense, load, threads, unavailable

__all__ = ["topk_encode", "unavailable"]


def topk_encode(
    x: Tensor, W_enc: Tensor, b_enc: Tensor, b_pre: Tensor, k: int, relu: bool, precision: str, *shadow: Tensor | None
) -> tuple[Tensor, Tensor]:
    x, W_enc, b_enc, b_pre = dense(x, W_enc, b_enc, b_pre)
    (B, d), n = x.shape, W_enc.shape[0]
    values, indices = x.new_empty(B, k), x.new_empty(B, k, dtype=torch.int64)
    pointers = [t.data_ptr() for t in (x, W_enc, b_enc, b_pre, values, indices)]
    screen = screen_for(precision, B, d, n, k)
    load().topk_encode(*pointers, B, d, n, k, relu, precision == "bf16", screen, threads())
    return values, indices


def screen_for(precision: str, B: int, d: int, n: int, k: int) -> str:
    """Which screen goes before the float32 scores: "int8", "bf16" or none, "".

    One must save more than narrowing W_enc and rescoring a few k latents a row cost. CPU milliseconds on one Zen 4
    core, k=32, d=1280: at n=20,480 float32, int8 and bf16 take 21, 24 and 26 for 16 rows, 31, 28 and 33 for 32, 46, 33
    and 42 for 64; at 256 rows 9.7, 10.0 and 10.7 for n=1,024 and 17.6, 13.5 and 15.5 for n=2,048.
    The sums of either screen are bounded for up to 65,536 products (docs/screens.md).
    """
    name, rows = {"fast": ("int8", 32), "fp32": ("bf16", 64)}.get(precision, ("", 0))
    pays = rows <= B and 64 <= d <= 65_536 and n >= 64 * k
    return name if pays and name in load().screens() else ""
