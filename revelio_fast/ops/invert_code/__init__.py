"""`invert_code`: from the latents of each row to the rows of each latent, by a stable counting sort."""

from revelio_fast.ops import checks, dispatch
from revelio_fast.ops.codes import Code, InverseCode
from revelio_fast.ops.invert_code import reference


def invert_code(code: Code, n: int) -> InverseCode:
    """List for each of `n` latents the entries of `code` that use it, in row order (then slot order).

    The result drives every per-latent job without atomics: weight gradients, optimiser sweep, top activations.

    Parameters
    ----------
    code : Code
        ``[B, k]`` values and indices; only the indices are read.
    n : int
        Number of latents, larger than every index.

    Returns
    -------
    InverseCode

    Raises
    ------
    ValueError
        For a wrong shape or dtype, or (on the CPU) an index outside ``[0, n)``.
    """
    _, indices = checks.code(*code)
    checks.in_range("n", n, 1, 2**31 - 1, "the largest supported number of latents")
    return InverseCode(*_invert_code(indices, n))


_invert_code = dispatch.custom_op(reference.invert_code, cuda="cuda")


@_invert_code.register_fake
def _(indices, n):
    entries = indices.shape[0] * indices.shape[1]
    return indices.new_empty(n + 1), indices.new_empty(entries), indices.new_empty(entries)
