"""Runs the six CPU kernels on the tensors of a file and writes what they give to another: for emulated processors.

    python -m tests.ops.six_kernels IN.safetensors OUT.safetensors

Prints the instruction set. Inputs are drawn elsewhere, because torch's random numbers depend on the processor too.
"""

import sys

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from revelio_fast.ops import (
    AdamRows,
    Code,
    TopState,
    adam_unit_norm_step_,
    cpu_runtime,
    invert_code,
    sparse_backward,
    sparse_decode,
    sparse_residual,
    top_activations_update_,
    topk_encode,
    use_backend,
)


def results(x: Tensor, W_enc: Tensor, W_dec: Tensor, b_enc: Tensor, b_pre: Tensor, k: int) -> dict[str, Tensor]:
    """Everything that the kernels give, by the name of the kernel and of the tensor."""
    n, found = W_enc.shape[0], {}

    def keep(kernel: str, **tensors: Tensor) -> None:
        found.update({f"{kernel} {name}": tensor for name, tensor in tensors.items()})

    for precision in ("fp32", "fast", "bf16"):
        code = topk_encode(x, W_enc, b_enc, b_pre, k, precision=precision)
        keep(f"topk_encode {precision}", **code._asdict())
    # What follows takes finite values only: the code of the rows that have them.
    rows = code.values.isfinite().all(1)
    code, x = Code(code.values[rows], code.indices[rows]), x[rows]
    keep("sparse_decode", x_hat=sparse_decode(code, W_dec, b_pre))
    residual = sparse_residual(code, W_dec, b_pre, x)
    keep("sparse_residual", **residual._asdict())
    inverse = invert_code(code, n)
    keep("invert_code", **inverse._asdict())
    gradients = sparse_backward(x, code, residual.residual, W_enc, W_dec, b_pre, inverse=inverse, need_dx=True)
    keep("sparse_backward", **gradients._asdict())
    state, image_ids = TopState.empty(n, 5), torch.arange(len(x))
    top_activations_update_(state, code, image_ids, inverse=inverse)
    keep("top_activations_update_", **state._asdict())
    trained = AdamRows.start(W_enc.clone(), W_dec.clone(), b_enc.clone(), b_pre.clone())
    for step in (1, 2):
        adam_unit_norm_step_(trained, x, code, residual.residual, step=step, lr=0.01, inverse=inverse)
    keep("adam_unit_norm_step_", **trained._asdict())
    return found


if __name__ == "__main__":
    with use_backend("cpu"):
        drawn = load_file(sys.argv[1])
        save_file(results(**drawn | {"k": int(drawn["k"])}), sys.argv[2])
    print(cpu_runtime.isa())
