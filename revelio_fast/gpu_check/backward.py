"""Checks of the ops that go backward: gradients against float64, and the optimiser sweep step by step."""

from __future__ import annotations

import torch
from torch import Tensor

from revelio_fast import ops
from revelio_fast.gpu_check.forward import Check
from revelio_fast.gpu_check.problems import EPS, Problem, bound, differing, off
from revelio_fast.ops.sparse_backward import decode_backward, encode_backward, reference

LR, BETA1, BETA2, ADAM_EPS = 1e-2, 0.9, 0.999, 1e-8


def gradients(p: Problem, backend: str) -> Check:
    """`sparse_backward`, with and without ReLU and auxiliary slots; the bound is the same sum over absolute values."""
    inverse = ops.invert_code(p.code, p.shape.n)
    for relu, k_aux in ((False, 0), (True, p.shape.k // 3)):
        grad_aux = p.grad.flip(1) if k_aux else None

        def run(relu=relu, k_aux=k_aux, grad_aux=grad_aux):
            return ops.sparse_backward(
                p.x, p.code, p.grad, p.W_enc, p.W_dec, p.b_pre,
                inverse=inverse, relu=relu, need_dx=True, grad_aux=grad_aux, k_aux=k_aux,
            )  # fmt: skip

        with ops.use_backend(backend):
            got, again = run(), run()
        if backend != "torch":  # whose index_add_ is not deterministic on CUDA
            yield "a second run", differing(again, got), 0.0
        wide, allowed = _wide(p, p.W_enc, p.W_dec, p.b_pre, inverse, relu, grad_aux, k_aux)
        for name, value in got._asdict().items():
            yield f"{name}{', relu' if relu else ''}", off(value, wide[name]), allowed[name]


def _wide(p: Problem, W_enc, W_dec, b_pre, inverse, relu, grad_aux, k_aux) -> tuple[dict, dict[str, float]]:
    """Gradients in float64, and a bound on the float32 rounding of each."""

    def call(of, shift, masked):
        aux = None if grad_aux is None else of(grad_aux)
        return reference.sparse_backward(
            of(p.x), of(p.code.values), p.code.indices, of(p.grad), of(W_enc), of(W_dec), shift,
            inverse.offsets, inverse.rows, inverse.slots, masked, True, aux, k_aux,
        )  # fmt: skip

    names = ops.SparseGradients._fields
    wide = dict(zip(names, call(lambda t: t.double(), b_pre.double(), relu), strict=True))
    # |x| + |b_pre| bounds |x - b_pre|
    size = dict(zip(names, call(lambda t: t.double().abs(), -b_pre.double().abs(), False), strict=True))
    size["db_pre"] = p.grad.double().abs().sum(0) + size["db_enc"] @ W_enc.double().abs()
    most = int((inverse.offsets[1:] - inverse.offsets[:-1]).max())
    terms = p.shape.d + most + p.shape.k + 4
    return wide, {name: bound(terms + (p.shape.n + p.shape.B) * (name == "db_pre"), size[name]) for name in names}


def of_decoding(p: Problem, backend: str) -> Check:
    """What autograd calls for `sparse_decode`."""
    with ops.use_backend(backend):
        got = decode_backward(p.grad, *p.code, p.W_dec)
    grad, values, W_dec = (t.double() for t in (p.grad, p.code.values, p.W_dec))
    wide = reference.decode_backward(grad, values, p.code.indices, W_dec)
    size = reference.decode_backward(grad.abs(), values.abs(), p.code.indices, W_dec.abs())
    for name, terms, at in (("dW_dec", p.shape.B, 0), ("dvalues", p.shape.d, 1)):
        yield name, off(got[at], wide[at]), bound(terms, size[at])


def of_encoding(p: Problem, backend: str) -> Check:
    """What autograd calls for `topk_encode`, the code's values standing for the gradient at them."""
    values, indices = p.code
    with ops.use_backend(backend):
        got = encode_backward(p.x, values, indices, p.W_enc, p.b_pre, True)
    x, wide_values, W_enc, b_pre = (t.double() for t in (p.x, values, p.W_enc, p.b_pre))
    wide = reference.encode_backward(x, wide_values, indices, W_enc, b_pre, True)
    size = reference.encode_backward(x.abs(), wide_values.abs(), indices, W_enc.abs(), -b_pre.abs(), True)
    B, _, n, k = p.shape
    for at, (name, terms) in enumerate((("dW_enc", B), ("db_enc", B), ("db_pre", B + n), ("dx", k))):
        yield name, off(got[at], wide[at]), bound(terms + 1, size[at].abs())


def optimiser(p: Problem, backend: str) -> Check:
    """Three steps: moments from float64 gradients, each update from the moments that the step itself left.

    Adam divides by the gradient's own size, so where that is rounding noise two right answers can be an update apart;
    compared piece by piece, everything is well conditioned.
    """
    n, d = p.W_enc.shape
    rows, inverse = p.rows(), ops.invert_code(p.code, n)
    shadow = ops.EncoderShadow.of(rows.W_enc)
    for step in (1, 2, 3):
        before = ops.AdamRows(*(t.double() for t in rows))
        wide, allowed = _wide(p, rows.W_enc.clone(), rows.W_dec.clone(), rows.b_pre.clone(), inverse, False, None, 0)
        along = (wide["dW_dec"] * before.W_dec).sum(1, keepdim=True)
        wide["dW_dec"] = wide["dW_dec"] - along * before.W_dec
        allowed["dW_dec"] = 3 * allowed["dW_dec"] + bound(d, (along * before.W_dec).abs())
        step_size, correction = ops.adam_scalars(step, LR)
        on_device = torch.tensor([step_size, correction], device=p.x.device) if step == 3 else None
        told = dict(step=step, lr=LR) if on_device is None else dict(step=1, lr=0.0, scalars=on_device)
        with ops.use_backend(backend):
            ops.adam_unit_norm_step_(rows, p.x, p.code, p.grad, inverse=inverse, shadow=shadow, **told)
        for name, moments in (("W_enc", "enc"), ("W_dec", "dec"), ("b_enc", "b_enc"), ("b_pre", "b_pre")):
            g, error = wide[f"d{name}"], allowed[f"d{name}"]
            mean, square = getattr(rows, f"m_{moments}"), getattr(rows, f"v_{moments}")
            m, v = getattr(before, f"m_{moments}"), getattr(before, f"v_{moments}")
            yield f"m_{moments}", off(mean, m.lerp(g, 1 - BETA1)), (1 - BETA1) * error + 4 * EPS * _top(m, g)
            change = (1 - BETA2) * (2 * _top(g) + error) * error
            yield f"v_{moments}", off(square, v.lerp(g * g, 1 - BETA2)), change + 4 * EPS * _top(v, g * g)
            update = step_size * mean.double() / (square.double().sqrt() / correction + ADAM_EPS)
            want = getattr(before, name) - update
            rounding = 8 * EPS * _top(update) + 2 * EPS * _top(want)
            if name == "W_dec":
                norm = want.norm(dim=1, keepdim=True)
                want, rounding = want / norm, 2 * rounding / norm.min().item() + (d + 4) * EPS
            yield name, off(getattr(rows, name), want), rounding
    yield "shadow", differing((shadow.weights,), (rows.W_enc.bfloat16(),)), 0.0
    exact = rows.W_enc.double()
    for held, of in ((shadow.norms, exact), (shadow.residuals, exact - shadow.weights.double())):
        norms = of.norm(dim=1)
        yield "norms in the shadow", off(held, norms), (d + 4) * EPS * norms.max().item()


def _top(*tensors: Tensor) -> float:
    return max(t.abs().max().item() for t in tensors)
