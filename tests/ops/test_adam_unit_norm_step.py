"""adam_unit_norm_step_: every backend against torch.optim.Adam on float64 gradients of the same formula."""

import pytest
import torch

from revelio_fast.ops import (
    AdamRows,
    Code,
    EncoderShadow,
    adam_scalars,
    adam_unit_norm_step_,
    invert_code,
    sparse_backward,
    use_backend,
)
from tests.ops.cases import assert_close, problem, random_code

OP = "adam_unit_norm_step_"
LR = 1e-2


def rows_of(p):
    return AdamRows.start(p.W_enc.clone(), p.W_dec.clone(), p.b_enc.clone(), p.b_pre.clone())


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (7, 33, 130, 5), (64, 96, 100, 16), (5, 640, 30, 17)])
@pytest.mark.parametrize("project", [False, True])
@pytest.mark.parametrize("unit_norm", [False, True])
def test_follows_torch_adam(backend, shape, project, unit_norm):
    B, d, n, k = shape
    p = problem(*shape)
    rows = rows_of(p)
    wide = [t.double().requires_grad_() for t in (p.W_enc, p.W_dec, p.b_enc, p.b_pre)]
    optimiser = torch.optim.Adam(wide, lr=LR)
    for step in range(1, 6):
        code, grad, x = random_code(B, n, k), torch.randn(B, d), torch.randn(B, d)
        adam_unit_norm_step_(rows, x, code, grad, step=step, lr=LR, project=project, unit_norm=unit_norm)

        W_enc, W_dec, b_enc, b_pre = wide
        scores = ((x.double() - b_pre) @ W_enc.T + b_enc).gather(1, code.indices)
        values = code.values.double() + scores - scores.detach()
        z = torch.zeros(B, n, dtype=torch.float64).scatter_add(1, code.indices, values)
        optimiser.zero_grad()
        ((z @ W_dec + b_pre) * grad.double()).sum().backward()
        if project:
            W_dec.grad -= (W_dec.grad * W_dec).sum(1, keepdim=True) * W_dec.detach()
        optimiser.step()
        if unit_norm:
            with torch.no_grad():
                W_dec /= W_dec.norm(dim=1, keepdim=True).clamp_min(1e-12)
    for name, want in zip(("W_enc", "W_dec", "b_enc", "b_pre"), wide, strict=True):
        # Adam divides by the gradient's own size, so its update has absolute size lr and the relative rounding error of
        # the gradient; near-zero gradients can turn by all of it, hence the share of lr instead of eps.
        assert_close(name, getattr(rows, name), want.detach(), 5 * LR * 2e-2)
        typical = (getattr(rows, name).double() - want.detach()).abs().median().item()
        assert typical <= 5 * LR * 1e-5, f"{name}: median error {typical:.3g}"
    if unit_norm:
        assert_close("norms", rows.W_dec.norm(dim=1), torch.ones(n), 1e-6)


@pytest.mark.parametrize("relu", [False, True])
def test_moments_are_those_of_the_gradients(backend, relu):
    p, code, grad = problem(9, 21, 40, 6), random_code(9, 40, 6), torch.randn(9, 21)
    grad_aux = torch.randn(9, 21)
    want = sparse_backward(p.x, code, grad, p.W_enc, p.W_dec, p.b_pre, relu=relu, grad_aux=grad_aux, k_aux=2)
    rows = rows_of(p)
    adam_unit_norm_step_(
        rows, p.x, code, grad, step=1, lr=0.0, relu=relu, project=False, unit_norm=False, grad_aux=grad_aux, k_aux=2
    )
    for name, gradient in (("enc", want.dW_enc), ("dec", want.dW_dec), ("b_enc", want.db_enc), ("b_pre", want.db_pre)):
        tolerance = 1e-5 * gradient.abs().max().item()  # float32 sums of at most 54 products in another order
        assert_close(f"m_{name}", getattr(rows, f"m_{name}"), 0.1 * gradient, 0.1 * tolerance)
        square = 0.001 * gradient**2
        assert_close(f"v_{name}", getattr(rows, f"v_{name}"), square, 1e-4 * square.max().item() + 1e-12)
    assert torch.equal(rows.W_enc, p.W_enc)


def test_untouched_latents_move_by_their_momentum(backend):
    p = problem(4, 8, 20, 3)
    rows = rows_of(p)
    first = Code(torch.ones(4, 1), torch.full((4, 1), 7))
    adam_unit_norm_step_(rows, p.x, first, torch.randn(4, 8), step=1, lr=LR)
    before = rows.W_enc[7].clone()
    second = Code(torch.ones(4, 1), torch.full((4, 1), 3))
    adam_unit_norm_step_(rows, p.x, second, torch.randn(4, 8), step=2, lr=LR)
    assert (rows.W_enc[7] != before).all()
    assert torch.equal(rows.W_enc[11], p.W_enc[11])


def test_zero_decoder_row_stays_zero(backend):
    p = problem(4, 8, 20, 3)
    p.W_dec[5] = 0
    rows = rows_of(p)
    code = Code(torch.ones(4, 1), torch.full((4, 1), 3))
    adam_unit_norm_step_(rows, p.x, code, torch.randn(4, 8), step=1, lr=LR)
    assert not rows.W_dec[5].any()


def test_threads_agree_bit_for_bit(backend, on_threads):
    p, code, grad = problem(130, 65, 90, 8), random_code(130, 90, 8), torch.randn(130, 65)

    def run():
        rows = rows_of(p)
        adam_unit_norm_step_(rows, p.x, code, grad, step=1, lr=LR, inverse=invert_code(code, 90))
        return rows

    one, two = on_threads(run)
    for name, a, b in zip(one._fields, one, two, strict=True):
        if backend == "cpu" or not name.endswith("b_pre"):  # torch cuts db_enc @ W_enc by threads
            assert torch.equal(a, b), name


def test_a_wrong_latent_changes_nothing(backend):
    p, code = problem(4, 8, 20, 3), random_code(4, 20, 3)
    code.indices[0, 0] = 20
    rows = rows_of(p)
    with pytest.raises(ValueError, match=r"\[0, 20\), got 20"):
        adam_unit_norm_step_(rows, p.x, code, torch.randn(4, 8), step=1, lr=LR)
    assert torch.equal(rows.W_enc, p.W_enc) and not rows.m_enc.any()


def test_operator_contract(backend):
    p, code = problem(4, 8, 20, 3), random_code(4, 20, 3)
    arguments = (*rows_of(p), p.x, *code, torch.randn(4, 8), *invert_code(code, 20))
    constants = (1, LR, 0.9, 0.999, 1e-8, False, True, True, None, 0)
    shadow, marks = EncoderShadow.of(p.W_enc), torch.zeros(20, dtype=torch.uint8)
    for optional in ((None,) * 5, (*shadow, torch.tensor(adam_scalars(1, LR)), marks)):
        torch.library.opcheck(torch.ops.revelio_fast.adam_unit_norm_step_, (*arguments, *constants, *optional))


def test_compiles_without_graph_breaks(backend):
    p, code, grad = problem(4, 8, 20, 3), random_code(4, 20, 3), torch.randn(4, 8)
    eager, traced = rows_of(p), rows_of(p)
    step = torch.compile(
        lambda rows: adam_unit_norm_step_(rows, p.x, code, grad, step=1, lr=LR), fullgraph=True, backend="aot_eager"
    )
    step(traced)
    adam_unit_norm_step_(eager, p.x, code, grad, step=1, lr=LR)
    assert all(torch.equal(a, b) for a, b in zip(eager, traced, strict=True))


def test_wrong_arguments_are_named():
    p, code, grad = problem(4, 8, 20, 3), random_code(4, 20, 3), torch.randn(4, 8)
    rows = rows_of(p)
    with pytest.raises(ValueError, match=r"step must lie between 1 and .*, got 0"):
        adam_unit_norm_step_(rows, p.x, code, grad, step=0, lr=LR)
    with pytest.raises(ValueError, match=r"lr must be a finite number of at least 0, got nan"):
        adam_unit_norm_step_(rows, p.x, code, grad, step=1, lr=float("nan"))
    with pytest.raises(ValueError, match=r"rows.m_dec must have shape \[20, 8\], got \[20, 7\]"):
        adam_unit_norm_step_(rows._replace(m_dec=rows.m_dec[:, :7]), p.x, code, grad, step=1, lr=LR)
    with pytest.raises(ValueError, match=r"rows.v_enc must be contiguous"):
        adam_unit_norm_step_(rows._replace(v_enc=rows.v_enc.T.contiguous().T), p.x, code, grad, step=1, lr=LR)


def test_scalars_on_the_device_take_the_place_of_step_and_lr(backend):
    p, code, grad = problem(9, 33, 40, 6), random_code(9, 40, 6), torch.randn(9, 33)
    told = rows_of(p)
    for step in (1, 2, 700):
        reading = AdamRows(*(tensor.clone() for tensor in told))
        adam_unit_norm_step_(told, p.x, code, grad, step=step, lr=LR)
        scalars = torch.tensor(adam_scalars(step, LR))
        adam_unit_norm_step_(reading, p.x, code, grad, step=1, lr=0.0, scalars=scalars)
        for name, a, b in zip(AdamRows._fields, reading, told, strict=True):
            # an update of a few LR and the parameter are each rounded once more
            rounding = 0.0 if name[:2] in ("m_", "v_") else 3 * LR * 2**-22 + 2**-23 * b.abs().max().item()
            assert_close(name, a, b, rounding)


def test_the_shadow_is_brought_up_to_date(backend):
    p, code, grad = problem(9, 33, 40, 6), random_code(9, 40, 6), torch.randn(9, 33)
    rows = rows_of(p)
    shadow = EncoderShadow.of(rows.W_enc)
    adam_unit_norm_step_(rows, p.x, code, grad, step=1, lr=LR, shadow=shadow)
    assert torch.equal(shadow.weights, rows.W_enc.bfloat16())
    wide = rows.W_enc.double()
    for name, want in (("norms", wide), ("residuals", wide - shadow.weights.double())):
        norm = want.norm(dim=1)
        assert_close(name, getattr(shadow, name), norm, 33 * 2**-24 * norm.max().item())


def test_a_wrong_shadow_is_named():
    p, code, grad = problem(4, 8, 20, 3), random_code(4, 20, 3), torch.randn(4, 8)
    rows, other = rows_of(p), EncoderShadow.of(torch.randn(19, 8))
    with pytest.raises(ValueError, match=r"shadow.weights must have shape \[20, 8\], got \[19, 8\]"):
        adam_unit_norm_step_(rows, p.x, code, grad, step=1, lr=LR, shadow=other)
    with pytest.raises(ValueError, match=r"scalars must have shape \[2\], got \[3\]"):
        adam_unit_norm_step_(rows, p.x, code, grad, step=1, lr=LR, scalars=torch.zeros(3))


@pytest.mark.parametrize("unit_norm", [False, True])
@pytest.mark.parametrize("d", [1, 33, 64])
def test_settled_latents_change_no_bit(backend, unit_norm, d):
    n, known = 200, 60
    p = problem(9, d, n, 6)
    p.W_dec[7] = 0
    with_marks, without, skip_mask = rows_of(p), rows_of(p), torch.zeros(n, dtype=torch.uint8)
    used = torch.zeros(n, dtype=torch.bool)
    for step in range(1, 19):
        code = random_code(9, known + 3 * step if step > 8 else known, 6)  # latents asleep so far come to life
        used[code.indices] = True
        x, grad = torch.randn(9, d), torch.randn(9, d)
        for rows, marks in ((with_marks, skip_mask), (without, None)):
            adam_unit_norm_step_(rows, x, code, grad, step=step, lr=LR, unit_norm=unit_norm, skip_mask=marks)
        for name, a, b in zip(AdamRows._fields, with_marks, without, strict=True):
            assert torch.equal(a, b), (name, step)
        assert not skip_mask[used].any()
    if backend == "cpu":  # dividing by a norm next to 1 can go to and fro between two rows for ever, but seldom does
        assert skip_mask[~used].float().mean() > (0.8 if unit_norm else 0.99)


def test_settled_latents_are_skipped_until_they_have_an_entry():
    p = problem(4, 8, 20, 3)
    rows, skip_mask = rows_of(p), torch.zeros(20, dtype=torch.uint8)
    skip_mask[5] = skip_mask[3] = 1
    rows.W_dec[5] *= 2
    code = Code(torch.ones(4, 1), torch.full((4, 1), 3))
    with use_backend("cpu"):
        adam_unit_norm_step_(rows, p.x, code, torch.randn(4, 8), step=1, lr=LR, skip_mask=skip_mask)
    assert torch.equal(rows.W_dec[5], 2 * p.W_dec[5]), "unit norm would have halved it"
    assert (rows.W_enc[3] != p.W_enc[3]).all() and skip_mask[5] and not skip_mask[3]


@pytest.mark.parametrize("name", ["m_enc", "v_enc", "m_dec", "v_dec", "m_b_enc", "v_b_enc"])
def test_a_latent_with_a_moment_is_not_settled(backend, name):
    p = problem(4, 8, 20, 3)
    rows, skip_mask = rows_of(p), torch.zeros(20, dtype=torch.uint8)
    getattr(rows, name)[5, ...].view(-1)[-1] = 1e-30
    code = Code(torch.ones(4, 1), torch.full((4, 1), 3))
    for step in range(1, 5):
        adam_unit_norm_step_(rows, p.x, code, torch.randn(4, 8), step=step, lr=LR, unit_norm=False, skip_mask=skip_mask)
    assert not skip_mask[5] and not skip_mask[3]
    assert skip_mask[6] == (backend == "cpu")


def test_without_eps_nothing_is_settled(backend):
    p = problem(4, 8, 20, 3)
    rows, skip_mask = rows_of(p), torch.zeros(20, dtype=torch.uint8)
    code = Code(torch.ones(4, 1), torch.full((4, 1), 3))
    adam_unit_norm_step_(rows, p.x, code, torch.randn(4, 8), step=1, lr=LR, eps=0.0, skip_mask=skip_mask)
    assert rows.W_enc[5].isnan().all(), "0 / 0, as torch.optim.Adam has it"
    assert not skip_mask.any()


def test_wrong_marks_are_named():
    p, code, grad = problem(4, 8, 20, 3), random_code(4, 20, 3), torch.randn(4, 8)
    with pytest.raises(ValueError, match=r"skip_mask must be torch.uint8, got torch.bool"):
        adam_unit_norm_step_(rows_of(p), p.x, code, grad, step=1, lr=LR, skip_mask=torch.zeros(20, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"skip_mask must be contiguous"):
        marks = torch.zeros(40, dtype=torch.uint8)[::2]
        adam_unit_norm_step_(rows_of(p), p.x, code, grad, step=1, lr=LR, skip_mask=marks)


@pytest.mark.parametrize("copies", [1, 8, 9, 25])
def test_latents_with_many_entries(backend, copies):
    """Entries are added up in groups: one, a whole one, one and the rest, several."""
    p = problem(copies, 37, 6, 1)
    code, grad = Code(torch.randn(copies, 1), torch.full((copies, 1), 2)), torch.randn(copies, 37)
    want = sparse_backward(p.x, code, grad, p.W_enc, p.W_dec, p.b_pre)
    dW_dec = code.values.double().T @ grad.double()
    dvalues = grad.double() @ p.W_dec[2].double()
    dW_enc = dvalues @ (p.x - p.b_pre).double()
    rows = rows_of(p)
    adam_unit_norm_step_(rows, p.x, code, grad, step=1, lr=0.0, project=False, unit_norm=False)
    scale = 1e-5 * max(dW_dec.abs().max().item(), dW_enc.abs().max().item(), 1.0)  # at most 25 + 37 terms of float32
    assert_close("dW_dec", want.dW_dec[2], dW_dec[0], scale)
    assert_close("dW_enc", want.dW_enc[2], dW_enc, scale)
    assert_close("m_dec", rows.m_dec[2], 0.1 * dW_dec[0], 0.1 * scale)
    assert_close("m_enc", rows.m_enc[2], 0.1 * dW_enc, 0.1 * scale)
