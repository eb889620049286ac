"""How `sparse_decode` is cut into programs, and the bytes that it moves; needs no Triton."""

# Gathered rows whose loads do not wait for each other. The compiler overlaps at least 3, of 16 bytes a thread; with 21
# programs of 64 threads on an SM 64 KB are under way, where an H100's memory needs about 20 KB to be kept busy.
SLOTS = 8


def tile(d: int) -> int:
    """Columns of a program: the power of two from 32 to 256 that leaves the fewest lanes idle, the larger of equals."""
    widths = [w for w in (256, 128, 64, 32) if w >= 128 or w >= d]
    return min(widths, key=lambda w: -(-d // w) * w)


def warps(columns: int) -> int:
    """A thread owns 4 columns, one load of 16 bytes."""
    return max(1, columns // 128)


def traffic(B: int, d: int, n: int, k: int, residual: bool = True) -> dict[str, float]:
    """Bytes that one call moves, by what for.

    Returns
    -------
    dict
        "code": values and indices, read again for every tile of columns. "gathered": k decoder rows of each row.
        "distinct": those of them that differ, if latents are used equally often: what a large enough cache would leave.
        "rows": what is read and written of width d per row. "squares": partial sums, written and read.
    """
    tiles = -(-d // tile(d))
    touched = n * (1 - (1 - 1 / n) ** (B * k))
    return {
        "code": 12.0 * B * k * tiles,
        "gathered": 4.0 * B * k * d,
        "distinct": 4.0 * d * min(touched, B * k),
        "rows": 4.0 * B * d * (2 if residual else 1) + 4 * d,
        "squares": 8.0 * B * tiles if residual else 0.0,
    }
