"""A model of GPU time, not a measurement: bytes and flops of every kernel from its own sizes, over a card's peaks.

Two bounds for each kernel. "best": every distinct byte crosses the memory bus once. "worst": no gathered row is found
in a cache. Either way the larger of memory and arithmetic counts, nothing overlaps between kernels, and launches are
free, and peaks are reached, which no kernel does.
"""

from __future__ import annotations

from typing import NamedTuple

from revelio_fast.ops import AdamRows
from revelio_fast.ops.sparse_decode import triton_plan as decode_plan
from revelio_fast.ops.topk_encode import triton_plan as topk_plan

# float and integer instructions per score after the GEMM: bias, error bound, two maxima and their place
EPILOGUE_INSTRUCTIONS = 12
GROUP = 16  # latents that share a row of b_pre's gradient: csrc/cuda/latent_gradients.cuh
FLOAT, INT64 = 4, 8


class Card(NamedTuple):
    """Peaks of one GPU: dense bfloat16 TFLOP/s with float32 sums, float32 TFLOP/s, memory in GB/s."""

    name: str
    number: str  # stands in torch.cuda.get_device_name()
    capability: int
    bf16_tflops: float
    fp32_tflops: float
    gb_s: float


CARDS = (
    Card("A100 SXM 80 GB", "A100", 80, 312, 19.5, 2039),  # NVIDIA A100 data sheet, 2021
    Card("H100 SXM", "H100", 90, 989.4, 66.9, 3350),  # NVIDIA H100 data sheet; bf16 without sparsity
    Card("H200 SXM", "H200", 90, 989.4, 66.9, 4800),  # NVIDIA H200 data sheet
    Card(
        "B200", "B200", 100, 2250, 75, 8000
    ),  # NVIDIA HGX B200 data sheet, an eighth of the board; bf16 without sparsity
    Card("RTX 4090", "4090", 89, 165.2, 82.6, 1008),  # NVIDIA Ada architecture white paper, appendix A
)


class Work(NamedTuple):
    """What one kernel, or one line of PyTorch, moves and computes."""

    what: str
    by: str
    bytes_best: float
    bytes_worst: float
    tensor_flops: float = 0.0
    float_flops: float = 0.0

    def seconds(self, card: Card, worst: bool = False) -> float:
        """The larger of memory and arithmetic."""
        memory = (self.bytes_worst if worst else self.bytes_best) / (card.gb_s * 1e9)
        return max(memory, self.tensor_flops / (card.bf16_tflops * 1e12) + self.float_flops / (card.fp32_tflops * 1e12))


def distinct(entries: float, n: int) -> float:
    """Latents that `entries` random choices among n touch."""
    return n * (1 - (1 - 1 / n) ** entries)


def optimiser_bytes_per_parameter() -> float:
    """Bytes of the optimiser sweep per number in W_enc and W_dec.

    Each state is read and written, the bfloat16 shadow of W_enc written, and for every `GROUP` latents a row of b_pre's
    gradient written and read.
    """
    states = [name for name in AdamRows._fields if name.endswith(("_enc", "_dec")) and "b_" not in name]
    return (2 * FLOAT * len(states) + 2 + 2 * FLOAT / GROUP) / 2


def encoder_extra_share(
    B: int, d: int, n: int, k: int, precision: str, capability: int, *, worst: bool = False
) -> float:
    """What finding the k best moves beside operands, rescored rows and code, over writing float32 scores once.

    `worst`: no latent that two rows of x revisit is found in a cache.
    """
    parts = topk_plan.traffic(B, d, n, k, precision, capability)
    row = d * (2 if precision == "bf16" else FLOAT)
    revisits = parts["revisits"] if worst else row * distinct(parts["revisits"] / row, n)
    return (parts["certificate_written"] + parts["certificate_read"] + revisits) / parts["scores"]


def our_step(B: int, d: int, n: int, k: int, capability: int, precision: str = "fast") -> list[Work]:
    """One fused training step, kernel by kernel, with a bfloat16 shadow of the encoder that the sweep keeps fresh."""
    return [
        *encode_work(B, d, n, k, capability, precision),
        residual_work(B, d, n, k),
        Work("variance, scaled gradient", "torch", 8 * FLOAT * B * d, 8 * FLOAT * B * d),
        invert_work(B, k, n),
        sweep_work(B, d, n, k),
    ]


def encode_work(B: int, d: int, n: int, k: int, capability: int, precision: str) -> list[Work]:
    """`topk_encode`: the rounding of x, the screening GEMM, and what turns its certificate into a code."""
    parts = topk_plan.traffic(B, d, n, k, precision, capability)
    rounding = 6.0 * B * d + 8 * B
    gemm = parts["operands"] + parts["certificate_written"]
    rest = parts["certificate_read"] + parts["revisits"] + parts["code"]
    survivors = topk_plan.SURVIVORS[precision] * k
    rescored = parts["rescoring"] and 2.0 * B * survivors * d
    rows_once = min(parts["rescoring"], FLOAT * d * distinct(B * survivors, n))
    return [
        Work("topk_encode: rounding of x", "triton", rounding, rounding),
        Work(
            "topk_encode: GEMM and certificate", "triton", gemm, gemm,
            2.0 * B * n * d, 2.0 * EPILOGUE_INSTRUCTIONS * B * n,
        ),
        Work(
            "topk_encode: selection, rescoring, ranking", "triton", rest + rows_once, rest + parts["rescoring"],
            0.0, rescored,
        ),
    ]  # fmt: skip


def residual_work(B: int, d: int, n: int, k: int) -> Work:
    """`sparse_residual`: k gathered rows, x read, the residual written; each tile of columns reads the code again."""
    parts = decode_plan.traffic(B, d, n, k)
    rest = parts["code"] + parts["rows"] + parts["squares"]
    best, worst = rest + parts["distinct"], rest + parts["gathered"]
    return Work("sparse_residual", "triton", best, worst, 0.0, 2.0 * B * k * d)


def invert_work(B: int, k: int, n: int) -> Work:
    """`invert_code`: two passes of a radix sort over the entries (9 bits each), keys of 4 bytes, entries of 8."""
    first, second = INT64 + INT64 + 4 + INT64, 4 + (4 + INT64) + 4 + 2 * INT64
    total = B * k * (first + second) + INT64 * n + 4.0 * B * k
    return Work("invert_code", "cuda", total, total)


def sweep_work(B: int, d: int, n: int, k: int) -> Work:
    """`adam_unit_norm_step_`: every row and its moments once, a row of x and of the gradient per entry of the code.

    A block reads the gradient's row twice in a row, the second time from its cache.
    """
    rows = 2.0 * n * d * optimiser_bytes_per_parameter()
    best, worst = 2 * FLOAT * B * d, 2.0 * FLOAT * B * k * d
    return Work("adam_unit_norm_step_", "cuda", rows + best, rows + worst, 0.0, 6.0 * B * k * d + 2 * 12.0 * n * d)


def top_work(B: int, n: int, k: int, m: int) -> Work:
    """`top_activations_update_`: the entries once, and of each latent its weakest place, sum and count."""
    total = B * k * (3 * INT64 + FLOAT) + distinct(B * k, n) * 4 * INT64 + INT64 * n
    return Work(f"top_activations_update_, m={m}", "cuda", total, total)


def dense_step(B: int, d: int, n: int, k: int) -> list[Work]:
    """The same step in PyTorch as the authors write it, helped by bfloat16 autocast and fused Adam."""

    def line(what: str, moved: float, flops: float = 0.0) -> Work:
        return Work(what, "torch", moved, moved, flops)

    scores, weights, product = 2.0 * B * n, 1.0 * n * d, 2.0 * B * n * d
    return [
        line("encode: cast of W_enc, cuBLAS", 6 * weights + 2 * weights + scores, product),
        line("torch.topk of bfloat16 scores (three radix passes)", 3 * scores),
        line("dense z: fill and scatter", scores),
        line("dense decode: cast of W_dec, cuBLAS", 6 * weights + 2 * weights + scores, product),
        line("backward of the decoder: two products", 2 * scores + 4 * weights, 2 * product),
        line("backward of top-k: fill and scatter", scores),
        line("backward of the encoder: product, column sums", 2 * scores + 2 * weights, product),
        line("gradients to float32", 2 * 6 * weights),
        line("projection of the decoder gradient", 36 * weights),
        line("torch.optim.Adam(fused=True)", 2 * 28 * weights),
        line("unit norm of the decoder rows", 12 * weights),
    ]
