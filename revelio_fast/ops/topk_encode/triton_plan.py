"""How `topk_encode` is cut into programs on a device, and the bytes that it moves; needs no Triton."""

from typing import NamedTuple

# Latents that are within rounding of the k-th or above, as a share of k, on Gaussian rows (a slow test counts them).
SURVIVORS = {"bf16": 1.1, "fp32": 2.5, "fast": 2.5}
# Programs of the kernel that scores whole rows; each has scratch for one chunk of latents of FULL_ROWS rows.
FULL_PROGRAMS, FULL_ROWS, FULL_LATENTS, MAX_CHUNKS = 128, 16, 64, 16
# Above this width the bound on rounding errors is no longer far below 1.
MAX_WIDTH = 2**20
SECTOR = 32  # bytes that a GPU reads at least


class Tile(NamedTuple):
    """A GEMM tile: ``rows x latents``, `depth` columns at a time, and how it is run."""

    rows: int
    latents: int
    depth: int
    warps: int
    stages: int


# Oldest architecture that a line is for, newest first: (few rows, many rows). Shared memory sets the stages: 227 KB on
# 9.0 and 10.0, 163 KB on 8.0, 99 KB on 8.6, 8.9 and 12.0. Registers set the area: docs/gpu-topk.md.
TILES = (
    (120, Tile(64, 128, 64, 4, 3), Tile(128, 128, 32, 8, 4)),
    (100, Tile(128, 128, 64, 8, 4), Tile(128, 128, 64, 8, 4)),
    (90, Tile(64, 256, 64, 4, 4), Tile(128, 256, 64, 8, 3)),
    (86, Tile(64, 128, 64, 4, 3), Tile(128, 128, 32, 8, 4)),
    (80, Tile(64, 128, 64, 4, 4), Tile(128, 256, 64, 8, 3)),
)
FEW_ROWS = 64


class Plan(NamedTuple):
    """Sizes of one call; `screened` is False where every row is scored in full."""

    screened: bool
    tile: Tile
    members: int
    groups: int
    chunks: int
    chunk: int
    slots: int
    full_programs: int


def plan(B: int, d: int, n: int, k: int, precision: str, capability: int) -> Plan:
    """Cut the job into programs.

    Parameters
    ----------
    B, d, n, k : int
        Rows, width, latents, latents kept per row.
    precision : {"fp32", "fast", "bf16"}
    capability : int
        Compute capability, such as 80 or 120.
    """
    few, many = next(tiles for oldest, *tiles in TILES if capability >= oldest)
    tile = few if B <= FEW_ROWS else many
    # With fewer than 2 k groups most rows would hold a second winner in some group.
    sizes = [size for size in (32, 16, 8) if n >= 2 * k * size]
    members = min(sizes, key=lambda size: sum(certificate_bytes(d, n, k, size, precision)), default=32)
    chunks = max(1, min(MAX_CHUNKS, n // max(4 * k, 1024)))
    chunk = _up(-(-n // chunks), FULL_LATENTS)
    return Plan(
        screened=bool(sizes) and d <= MAX_WIDTH,
        tile=tile,
        members=members,
        groups=_up(n, tile.latents) // members,
        chunks=chunks,
        chunk=chunk,
        slots=max(chunks * k, 8 * k, 128),
        full_programs=min(FULL_PROGRAMS, -(-B // FULL_ROWS) * chunks),
    )


def certificate_bytes(d: int, n: int, k: int, members: int, precision: str) -> tuple[float, float, float]:
    """Bytes per row that the certificate writes, that selection reads, and that revisited groups read of W_enc."""
    groups, survivors = n / members, SURVIVORS[precision] * k
    revisits = survivors * (survivors - 1) / 2 / groups  # pairs that share a group, as chance has it
    gathers = 1 if precision == "bf16" else 2
    return 6 * groups, 4 * groups + gathers * SECTOR * survivors, revisits * members * d * _bytes_per_weight(precision)


def traffic(B: int, d: int, n: int, k: int, precision: str = "bf16", capability: int = 90) -> dict[str, float]:
    """Bytes that one call moves, by what for, counted from the kernels' own sizes; no row overflows.

    Returns
    -------
    dict
        "operands": the GEMM's inputs once each. "rounding": making the bfloat16 copies, `W_enc`'s included (none with a
        shadow). "certificate_written", "certificate_read", "revisits", "rescoring", "code": see docs/gpu-topk.md.
        "scores": what writing the [B, n] scores once in float32 would take, for comparison.
    """
    sizes = plan(B, d, n, k, precision, capability)
    written, read, revisits = certificate_bytes(d, n, k, sizes.members, precision)
    survivors = SURVIVORS[precision] * k
    return {
        "operands": 2.0 * d * (B + n),
        "rounding": 6.0 * d * (B + n) + 8 * (B + n),
        "certificate_written": B * written,
        "certificate_read": B * read,
        "revisits": B * revisits,
        "rescoring": 0.0 if precision == "bf16" else B * survivors * d * 4.0,
        "code": B * (3 * 8 * survivors + 12 * k),
        "scores": 4.0 * B * n,
    }


def _bytes_per_weight(precision: str) -> int:
    return 2 if precision == "bf16" else 4


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
