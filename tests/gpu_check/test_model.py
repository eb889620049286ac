"""The model's counts are the kernels' own, and the bars hold: encoder traffic, optimiser bytes per parameter."""

import re
from pathlib import Path

import pytest
import torch

from revelio_fast.gpu_check import model
from revelio_fast.ops import Code, sparse_residual, use_backend
from revelio_fast.ops.sparse_decode import triton_plan as decode_plan
from tests.ops.cases import problem, random_code

ROOT = Path(__file__).resolve().parents[2]
PAPER = (4096, 1280, 81_920, 32)


@pytest.mark.parametrize("capability", sorted({card.capability for card in model.CARDS} | {120, 86}))
@pytest.mark.parametrize("d", [640, 1152, 1280])
def test_the_encoder_moves_little_beside_its_operands(capability, d):
    B, _, n, k = PAPER
    assert model.encoder_extra_share(B, d, n, k, "bf16", capability, worst=True) <= 0.15
    # certified float32 keeps more survivors, for which smaller groups pay: twice the certificate
    assert model.encoder_extra_share(B, d, n, k, "fp32", capability, worst=True) <= 0.35


def test_the_optimiser_sweep_moves_at_most_27_bytes_a_parameter():
    assert model.optimiser_bytes_per_parameter() <= 27


def test_the_optimiser_sweep_is_counted_from_what_it_is_given():
    """Six float32 arrays read and written, the bfloat16 shadow of one weight, a float32 row for 16 latents twice."""
    assert model.optimiser_bytes_per_parameter() == (6 * 8 + 2 + 8 / 16) / 2
    source = (ROOT / "csrc" / "cuda" / "latent_gradients.cuh").read_text()
    assert re.search(r"constexpr int GROUP = (\d+);", source)[1] == str(model.GROUP)
    kernel = (ROOT / "csrc" / "cuda" / "adam_unit_norm_step.cu").read_text()
    sweep = kernel[kernel.index("sweep(AdamStep p") : kernel.index("step_b_pre(AdamStep p")]
    for state in ("W_enc", "W_dec"):
        assert sweep.count(f"load<WIDTH>(p.{state} + ") == 1, state
        assert sweep.count(f"store(p.{state} + ") == 1, state
    for state in ("m_enc", "v_enc", "m_dec", "v_dec"):
        assert sweep.count(f"p.{state} + at") == 1, state


def test_a_step_is_bound_by_the_product_and_the_sweep():
    for card in model.CARDS:
        works = {work.what: work.seconds(card) for work in model.our_step(*PAPER, card.capability)}
        product = 2 * PAPER[0] * PAPER[1] * PAPER[2] / (card.bf16_tflops * 1e12)
        assert works["topk_encode: GEMM and certificate"] >= product
        dense = sum(work.seconds(card) for work in model.dense_step(*PAPER))
        assert sum(works.values()) < dense
    assert model.distinct(1, 10) == pytest.approx(1) and model.distinct(1e9, 10) == pytest.approx(10)


@pytest.fixture
def counted(monkeypatch):
    """Bytes that kernels in Triton's interpreter load and store, by tensor address."""
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    moved = {"load": [], "store": []}
    load, store = interpreter.InterpreterBuilder.create_masked_load, interpreter.InterpreterBuilder.create_masked_store

    def count(kind, pointers, mask):
        moved[kind].append(
            (pointers.data.ravel()[mask.data.ravel().astype(bool)], pointers.get_element_ty().primitive_bitwidth // 8)
        )

    def counting_load(self, ptrs, mask, *rest):
        count("load", ptrs, mask)
        return load(self, ptrs, mask, *rest)

    def counting_store(self, ptrs, value, mask, *rest):
        count("store", ptrs, mask)
        return store(self, ptrs, value, mask, *rest)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_masked_load", counting_load)
    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_masked_store", counting_store)

    def within(kind: str, *tensors: torch.Tensor) -> int:
        spans = [(t.data_ptr(), t.data_ptr() + t.numel() * t.element_size()) for t in tensors]
        return sum(
            size * int(sum(((addresses >= low) & (addresses < high)).sum() for low, high in spans))
            for addresses, size in moved[kind]
        )

    return within


@pytest.mark.parametrize("d", [33, 300])
def test_the_bytes_of_sparse_residual_are_those_that_it_moves(d, counted):
    B, n, k = 5, 40, 11
    p, code = problem(B, d, n, k), random_code(B, n, k)
    with use_backend("triton"):
        got = sparse_residual(Code(*code), p.W_dec, p.b_pre, p.x)
    parts = decode_plan.traffic(B, d, n, k)
    assert counted("load", *code) == parts["code"]
    assert counted("load", p.W_dec) == parts["gathered"]
    tiles = -(-d // decode_plan.tile(d))
    per_program = 4 * d * B  # b_pre is read by every row, from a cache after the first
    assert counted("load", p.b_pre) == per_program
    assert counted("load", p.x) + counted("store", got.residual) + 4 * d == parts["rows"]
    assert parts["squares"] == 8 * B * tiles
