"""topk_encode: every backend against float64 scores, on ties, NaN, infinities and odd shapes."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from revelio_fast.ops import topk_encode
from tests.ops.cases import SHAPES, assert_close, dot_error, problem, scores64

OP = "topk_encode"
PRECISIONS = ["fp32", "fast", "bf16"]


def exact(scores, k):
    """Top k of exact scores: largest first, the lower latent first among equals, NaN above all."""
    values, indices = scores.sort(dim=1, descending=True, stable=True)
    return values[:, :k], indices[:, :k]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("precision", ["fp32", "fast"])
def test_keeps_the_largest_of_the_float64_scores(backend, shape, precision):
    p = problem(*shape)
    code = topk_encode(*p.encoder, precision=precision)
    scores = scores64(p)
    error = dot_error(p.x - p.b_pre, p.W_enc, p.x.shape[1])
    assert_close("values", code.values, scores.gather(1, code.indices), error)
    # A latent left out may beat the k-th only by rounding.
    rest = scores.scatter(1, code.indices, -torch.inf).amax(1)
    assert (rest <= scores.gather(1, code.indices).amin(1) + 2 * error).all()
    assert (code.values[:, :-1] >= code.values[:, 1:]).all()
    assert all(row.unique().numel() == p.k for row in code.indices)


def test_bf16_scores_bfloat16_inputs_in_float32(backend):
    p = problem(9, 96, 257, 8)
    code = topk_encode(*p.encoder, precision="bf16")
    scores = (p.x - p.b_pre).bfloat16().double() @ p.W_enc.bfloat16().double().T + p.b_enc.double()
    error = dot_error(p.x - p.b_pre, p.W_enc, 96)
    assert_close("values", code.values, scores.gather(1, code.indices), error)
    rest = scores.scatter(1, code.indices, -torch.inf).amax(1)
    assert (rest <= scores.gather(1, code.indices).amin(1) + 2 * error).all()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("relu", [False, True])
def test_ties_go_to_the_lower_latent(backend, precision, relu):
    p = problem(33, 6, 150, 20, integers=True)
    code = topk_encode(*p.encoder, relu=relu, precision=precision)
    values, indices = exact(scores64(p), p.k)
    assert torch.equal(code.indices, indices)
    assert torch.equal(code.values.double(), values.clamp(min=0) if relu else values)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 9), st.integers(1, 40), st.integers(1, 200), st.data())
def test_any_shape_is_exact_on_integers(backend, B, d, n, data):
    k = data.draw(st.integers(1, n))
    torch.manual_seed(data.draw(st.integers(0, 10**6)))
    p = problem(B, d, n, k, integers=True)
    code = topk_encode(*p.encoder, precision=data.draw(st.sampled_from(PRECISIONS)))
    values, indices = exact(scores64(p), k)
    assert torch.equal(code.indices, indices)
    assert torch.equal(code.values.double(), values)


def test_all_equal_scores_keep_the_first_latents(backend):
    code = topk_encode(torch.zeros(3, 4), torch.zeros(50, 4), torch.ones(50), torch.zeros(4), 6)
    assert torch.equal(code.indices, torch.arange(6).expand(3, 6))
    assert torch.equal(code.values, torch.ones(3, 6))


def test_infinities_and_nan(backend):
    p = problem(4, 8, 40, 5)
    b_enc = p.b_enc.clone()
    b_enc[3:30] = -torch.inf
    b_enc[33] = torch.inf
    b_enc[[35, 31]] = torch.nan
    code = topk_encode(p.x, p.W_enc, b_enc, p.b_pre, 5)
    assert torch.equal(code.indices[:, :3], torch.tensor([31, 35, 33]).expand(4, 3))
    assert code.values[:, :2].isnan().all() and (code.values[:, 2] == torch.inf).all()
    all_lost = topk_encode(p.x, p.W_enc, torch.full_like(b_enc, -torch.inf), p.b_pre, 5)
    assert torch.equal(all_lost.indices, torch.arange(5).expand(4, 5))
    x = p.x.clone()
    x[2] = torch.nan
    code = topk_encode(x, p.W_enc, p.b_enc, p.b_pre, 5)
    assert torch.equal(code.indices[2], torch.arange(5)) and code.values[2].isnan().all()
    clean = topk_encode(*p.encoder)
    assert torch.equal(code.indices[3], clean.indices[3])


def test_no_rows(backend):
    p = problem(0, 8, 40, 5)
    assert topk_encode(*p.encoder).values.shape == (0, 5)


def test_strided_inputs(backend):
    p = problem(6, 20, 90, 5)
    strided = topk_encode(p.x.repeat_interleave(2, 1)[:, ::2], p.W_enc.T.contiguous().T, p.b_enc, p.b_pre, p.k)
    plain = topk_encode(*p.encoder)
    assert torch.equal(strided.indices, plain.indices)


@pytest.mark.parametrize("relu", [False, True])
def test_gradients_against_float64(backend, relu):
    p = problem(11, 23, 70, 9)
    leaves = [t.clone().requires_grad_() for t in (p.x, p.W_enc, p.b_enc, p.b_pre)]
    code = topk_encode(*leaves, p.k, relu=relu)
    weights = torch.randn_like(code.values)
    (code.values * weights).sum().backward()
    wide = [t.double().requires_grad_() for t in (p.x, p.W_enc, p.b_enc, p.b_pre)]
    scores = ((wide[0] - wide[3]) @ wide[1].T + wide[2]).gather(1, code.indices)
    ((scores.relu() if relu else scores) * weights.double()).sum().backward()
    for name, got, want in zip(("x", "W_enc", "b_enc", "b_pre"), leaves, wide, strict=True):
        # sums of at most B k products of numbers below 10
        assert_close(f"d{name}", got.grad, want.grad, 11 * 9 * 100 * 2**-23)


def test_threads_and_runs_agree_bit_for_bit(backend, on_threads):
    p = problem(65, 96, 1000, 16)
    one, two = on_threads(lambda: topk_encode(*p.encoder))
    again = topk_encode(*p.encoder)
    for other in (two, again):
        assert torch.equal(one.indices, other.indices)
        if backend == "cpu":  # torch.addmm may cut its sums differently for another thread count
            assert torch.equal(one.values, other.values)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_row_does_not_depend_on_its_batch(backend, precision):
    if backend != "cpu":
        pytest.skip("only our own kernels promise the bits of a row; torch.addmm sums differently per shape")
    p = problem(150, 130, 2100, 16)
    whole = topk_encode(*p.encoder, precision=precision)
    for rows in (slice(0, 1), slice(3, 5), slice(20, 90), slice(100, 150)):
        part = topk_encode(p.x[rows], *p.encoder[1:], precision=precision)
        assert torch.equal(part.indices, whole.indices[rows])
        assert torch.equal(part.values, whole.values[rows])


def test_operator_contract(backend):
    p = problem(4, 8, 20, 3)
    arguments = [t.clone().requires_grad_() for t in (p.x, p.W_enc, p.b_enc, p.b_pre)]
    torch.library.opcheck(torch.ops.revelio_fast.topk_encode, (*arguments, 3, False, "fp32", None, None, None))


def test_compiles_without_graph_breaks(backend):
    p = problem(4, 8, 20, 3)
    compiled = torch.compile(lambda *a: topk_encode(*a, 3).values * 2, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*p.encoder[:4]), topk_encode(*p.encoder).values * 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 21}, r"k must lie between 1 and the number of latents = 20, got 21"),
        ({"k": 0}, r"k must lie between 1"),
        ({"k": 2.0}, r"k must be an int, got float"),
        ({"x": torch.zeros(4, 9)}, r"x must have shape \[B, 8\], got \[4, 9\]"),
        ({"x": torch.zeros(8)}, r"x must have shape \[B, 8\], got \[8\]"),
        ({"x": torch.zeros(4, 8, dtype=torch.float64)}, r"x must be torch.float32, got torch.float64"),
        ({"x": [[0.0]]}, r"x must be a torch.Tensor, got list"),
        ({"b_enc": torch.zeros(19)}, r"b_enc must have shape \[20\], got \[19\]"),
        ({"b_pre": torch.zeros(1)}, r"b_pre must have shape \[8\]"),
        ({"W_enc": torch.zeros(20, 8, device="meta")}, r"W_enc is on meta but x is on cpu"),
        ({"precision": "fp16"}, r"precision must be one of 'fp32', 'fast', 'bf16', got 'fp16'"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    p = problem(4, 8, 20, 3)
    arguments = {"x": p.x, "W_enc": p.W_enc, "b_enc": p.b_enc, "b_pre": p.b_pre, "k": 3} | change
    with pytest.raises(ValueError, match=message):
        topk_encode(**arguments)
