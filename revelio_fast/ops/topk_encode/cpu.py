"""topk_encode by csrc/cpu/topk_encode/, after a screen of few.h or screen.h where it exists and pays."""

import torch
from torch import Tensor

from revelio_fast.ops.cpu_runtime import load, threads


def topk_encode(
    x: Tensor, W_enc: Tensor, b_enc: Tensor, b_pre: Tensor, k: int, relu: bool, precision: str, **shadow: Tensor | None
) -> tuple[Tensor, Tensor]:
    (B, d), n = x.shape, W_enc.shape[0]
    values, indices = x.new_empty(B, k), x.new_empty(B, k, dtype=torch.int64)
    load().topk_encode(
        screen_for(precision, B, d, n, k),
        x=x, W_enc=W_enc, b_enc=b_enc, b_pre=b_pre, values=values, indices=indices,
        B=B, d=d, n=n, k=k, relu=relu, bf16=precision == "bf16", threads=threads(),
    )  # fmt: skip
    return values, indices


def screen_for(precision: str, B: int, d: int, n: int, k: int) -> str:
    """Which screen goes before the exact scores: "few", "int8", "bf16" or none, "".

    One must save more than it and rescoring a few k latents a row cost. "int8" and "bf16" narrow W_enc. CPU
    milliseconds on one Zen 4 core, k=32, d=1280: at n=20,480 float32, int8 and bf16 take 21, 24 and 26 for 16 rows, 31,
    28 and 33 for 32, 46, 33 and 42 for 64; at 256 rows 9.7, 10.0 and 10.7 for n=1,024 and 17.6, 13.5 and 15.5 for
    n=2,048. "few" reads W_enc as it lies. Milliseconds on two cores, n=20,480, without and with it: float32, AVX-512,
    d=320 (1280): 1.8 and 1.1 (6.7 and 4.4) for 1 row, 4.3 and 4.0 (14.5 and 12.3) for 32, 6.4 and 7.0 (23 and 22) for
    64; bf16: 1.2 and 1.0 (5.1 and 4.6) for 1, 1.5 and 1.4 (6.1 and 5.5) for 7, 1.8 and 2.0 (6.6 and 6.3) for 16; AVX2:
    2.9 and 2.3 (7.4 and 6.4) for 7, 3.4 and 3.2 (9.4 and 10.3) for 16.
    The sums of all are bounded for up to 65,536 products (docs/screens.md).
    """
    if not (64 <= d <= 65_536 and n >= 64 * k):
        return ""
    if few_rows(precision) >= B:
        return "few"
    name, rows = {"fast": ("int8", 32), "fp32": ("bf16", 64)}.get(precision, ("", 0))
    return name if rows <= B and name in load().screens() else ""


def few_rows(precision: str) -> int:
    """The most rows for which reading W_enc as it lies costs less than packing it."""
    if not load().isa().startswith(("avx512", "amx")):
        return 8
    return 12 if precision == "bf16" else 32
