"""The C++ kernels refuse an inverse that is not this code's before anything is changed, and take degenerate sizes."""

import pytest
import torch

from revelio_fast.ops import (
    AdamRows,
    InverseCode,
    TopState,
    adam_unit_norm_step_,
    dispatch,
    invert_code,
    sparse_backward,
    top_activations_update_,
    use_backend,
)
from tests.ops.cases import problem, random_code

_C = pytest.importorskip("revelio_fast._C", reason="the extension is not built")

B, D, N, K = 6, 10, 40, 4
REFUSED = "inverse does not belong to this code: pass invert_code"


def damaged(kind: str, inverse: InverseCode) -> InverseCode:
    """The inverse with one thing wrong."""
    offsets, rows, slots = (t.clone() for t in inverse)
    if kind == "of another batch":
        return invert_code(random_code(B, N, K), N)
    if kind == "row outside":
        rows[3] = B
    elif kind == "negative row":
        rows[3] = -1
    elif kind == "slot outside":
        slots[3] = K
    elif kind == "falling offsets":
        offsets[N // 2] = 2**40
    elif kind == "too few entries":
        offsets[-1] -= 1
    elif kind == "an entry twice":
        latent = int((offsets[1:] - offsets[:-1]).argmax())
        rows[offsets[latent] + 1], slots[offsets[latent] + 1] = rows[offsets[latent]], slots[offsets[latent]]
    return InverseCode(offsets, rows, slots)


KINDS = ["of another batch", "row outside", "negative row", "slot outside", "falling offsets", "too few entries"]


@pytest.mark.parametrize("kind", [*KINDS, "an entry twice"])
def test_a_wrong_inverse_is_refused_and_changes_nothing(kind):
    p, code, grad = problem(B, D, N, K), random_code(B, N, K), torch.randn(B, D)
    wrong = damaged(kind, invert_code(code, N))
    rows = AdamRows.start(p.W_enc.clone(), p.W_dec.clone(), p.b_enc.clone(), p.b_pre.clone())
    state = TopState.empty(N, 3)
    with use_backend("cpu"):
        with pytest.raises(ValueError, match=REFUSED):
            sparse_backward(p.x, code, grad, p.W_enc, p.W_dec, p.b_pre, inverse=wrong)
        with pytest.raises(ValueError, match=REFUSED):
            adam_unit_norm_step_(rows, p.x, code, grad, step=1, lr=0.1, inverse=wrong)
        with pytest.raises(ValueError, match=REFUSED):
            top_activations_update_(state, code, torch.arange(B), inverse=wrong)
    assert torch.equal(rows.W_enc, p.W_enc) and torch.equal(rows.W_dec, p.W_dec) and not rows.m_b_pre.any()
    assert not state.counts.any() and (state.image_ids == -1).all()


def test_a_state_without_places_still_counts():
    code, state = random_code(B, N, K), TopState.empty(N, 0)
    with use_backend("cpu"):
        top_activations_update_(state, code, torch.arange(B))
    assert int(state.counts.sum()) == int((code.values > 0).sum())


@pytest.mark.parametrize(("rows", "k"), [(0, 4), (5, 1)])
def test_empty_and_single(rows, k):
    p, code, grad = problem(rows, D, N, k), random_code(rows, N, k), torch.randn(rows, D)
    with use_backend("cpu"):
        got = sparse_backward(p.x, code, grad, p.W_enc, p.W_dec, p.b_pre, need_dx=True)
    with use_backend("torch"):
        want = sparse_backward(p.x, code, grad, p.W_enc, p.W_dec, p.b_pre, need_dx=True)
    for name, a, b in zip(got._fields, got, want, strict=True):
        torch.testing.assert_close(a, b, msg=lambda text, name=name: f"{name}: {text}")


def test_a_field_that_is_missing_misspelt_or_no_tensor_is_named():
    """Before anything is read: a null pointer that a kernel relies on would end the process."""
    indices = random_code(B, N, K).indices
    offsets, rows, slots = (torch.zeros(size, dtype=torch.int64) for size in (N + 1, B * K, B * K))
    given = dict(indices=indices, offsets=offsets, rows=rows, slots=slots, B=B, k=K, n=N)
    with pytest.raises(TypeError, match="invert_code needs the argument slots"):
        _C.invert_code(**given | {"slots": None})
    with pytest.raises(TypeError, match="invert_code needs the argument n"):
        _C.invert_code(**{name: value for name, value in given.items() if name != "n"})
    with pytest.raises(TypeError, match="invert_code has no argument threads"):
        _C.invert_code(**given, threads=2)
    with pytest.raises(AttributeError, match="data_ptr"):
        _C.invert_code(**given | {"indices": indices.data_ptr()})
    with pytest.raises(TypeError):
        _C.invert_code(**given | {"B": "six"})
    assert not offsets.any()
    # names made while the program runs are other objects than the interned ones, and the same names
    _C.invert_code(**{"".join(name): value for name, value in given.items()})
    assert offsets[-1] == B * K


def test_a_name_that_two_structs_share_is_taken_once():
    """W_enc is a field of the gradients and of the state; a misspelt keyword beside it must still be seen."""
    rows = AdamRows.start(torch.zeros(N, D), torch.zeros(N, D), torch.zeros(N), torch.zeros(D))
    code, op = random_code(B, N, K), dispatch.OPS["adam_unit_norm_step_"]
    constants = (1, 0.1, 0.9, 0.999, 1e-8, False, True, True, None, 0, None, None, None, None, None)
    batch = (torch.zeros(B, D), *code, torch.zeros(B, D), *invert_code(code, N))
    given = dict(zip(op.arguments, (*rows, *batch, *constants), strict=True)) | dict(B=B, k=K, n=N, d=D, threads=1)
    with pytest.raises(TypeError, match="adam_unit_norm_step has no argument moments"):
        _C.adam_unit_norm_step(**given, moments=rows.m_enc)
    _C.adam_unit_norm_step(**given)
