"""sparse_backward and its two halves by csrc/cuda/sparse_backward.cu."""

from typing import Any

from torch import Tensor

from revelio_fast.ops import checks, cuda_runtime
from revelio_fast.ops.invert_code.cuda import invert_code
from revelio_fast.ops.sparse_backward import fields


def sparse_backward(**arguments: Any) -> tuple[Tensor, ...]:
    """Arguments by name as in reference.py."""
    checks.indices_in_range(arguments["indices"], arguments["W_dec"].shape[0])
    return _run(fields.whole(**arguments), "dW_dec", "dW_enc", "db_enc", "db_pre", "dvalues", "dx")


def decode_backward(grad_x_hat: Tensor, values: Tensor, indices: Tensor, W_dec: Tensor) -> tuple[Tensor, ...]:
    inverse = invert_code(indices, W_dec.shape[0])
    return _run(fields.decoding(grad_x_hat, values, indices, W_dec, inverse), "dW_dec", "dvalues")


def encode_backward(
    x: Tensor, grad_values: Tensor, indices: Tensor, W_enc: Tensor, b_pre: Tensor, need_dx: bool
) -> tuple[Tensor, ...]:
    inverse = invert_code(indices, W_enc.shape[0])
    given = fields.encoding(x, grad_values, indices, W_enc, b_pre, need_dx, inverse)
    return _run(given, "dW_enc", "db_enc", "db_pre", "dx")


def _run(given: dict, *names: str) -> tuple[Tensor, ...]:
    module, indices = cuda_runtime.load(), given["indices"]
    size = module.sparse_backward_workspace(indices.numel(), given["n"], given["d"])
    space = cuda_runtime.workspace(indices, size)
    module.sparse_backward(**given, workspace=space, **cuda_runtime.place(indices))
    return fields.results(given, *names)
