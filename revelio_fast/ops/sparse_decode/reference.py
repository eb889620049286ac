"""Specification of `sparse_decode`: a weighted bag of decoder rows, plus the bias."""

import torch.nn.functional as F
from torch import Tensor

from revelio_fast.ops import checks


def sparse_decode(values: Tensor, indices: Tensor, W_dec: Tensor, b_pre: Tensor) -> Tensor:
    checks.indices_in_range(indices, W_dec.shape[0])
    return F.embedding_bag(indices, W_dec, mode="sum", per_sample_weights=values) + b_pre
