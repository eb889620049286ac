"""The kernels' public functions: the only code that knows which backend runs them."""

from revelio_fast.ops.adam_unit_norm_step import AdamRows, adam_unit_norm_step_
from revelio_fast.ops.adam_unit_norm_step.reference import adam_scalars
from revelio_fast.ops.codes import Code, InverseCode
from revelio_fast.ops.dispatch import BackendError, backends, use_backend
from revelio_fast.ops.invert_code import invert_code
from revelio_fast.ops.shadow import EncoderShadow
from revelio_fast.ops.sparse_backward import SparseGradients, sparse_backward
from revelio_fast.ops.sparse_decode import sparse_decode
from revelio_fast.ops.sparse_residual import Residual, sparse_residual
from revelio_fast.ops.top_activations_update import TopState, top_activations_update_
from revelio_fast.ops.topk_encode import topk_encode

__all__ = [
    "AdamRows",
    "BackendError",
    "Code",
    "EncoderShadow",
    "InverseCode",
    "Residual",
    "SparseGradients",
    "TopState",
    "adam_scalars",
    "adam_unit_norm_step_",
    "backends",
    "invert_code",
    "sparse_backward",
    "sparse_decode",
    "sparse_residual",
    "top_activations_update_",
    "topk_encode",
    "use_backend",
]
