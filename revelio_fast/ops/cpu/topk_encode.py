"""topk_encode by csrc/cpu/topk_encode.cpp. Its scores are plain float32 sums, so "fast" is exact, as "fp32" is."""

import torch
from torch import Tensor

from revelio_fast.ops.cpu.native import dense, load, threads, unavailable

__all__ = ["topk_encode", "unavailable"]


def topk_encode(
    x: Tensor, W_enc: Tensor, b_enc: Tensor, b_pre: Tensor, k: int, relu: bool, precision: str
) -> tuple[Tensor, Tensor]:
    x, W_enc, b_enc, b_pre = dense(x, W_enc, b_enc, b_pre)
    (B, d), n = x.shape, W_enc.shape[0]
    values, indices = x.new_empty(B, k), x.new_empty(B, k, dtype=torch.int64)
    pointers = [t.data_ptr() for t in (x, W_enc, b_enc, b_pre, values, indices)]
    load().topk_encode(*pointers, B, d, n, k, relu, precision == "bf16", threads())
    return values, indices
