"""invert_code: every backend against a plain loop."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from revelio_fast.ops import Code, invert_code
from tests.ops.cases import random_code

OP = "invert_code"


def by_loop(indices, n):
    """For each latent its (row, slot) pairs in the order of reading."""
    lists = [[] for _ in range(n)]
    for row, latents in enumerate(indices.tolist()):
        for slot, latent in enumerate(latents):
            lists[latent].append((row, slot))
    return lists


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 20), st.integers(1, 9), st.integers(1, 60), st.integers(0, 10**6))
def test_lists_the_entries_of_each_latent_in_order(backend, B, k, n, seed):
    indices = torch.randint(0, n, (B, k), generator=torch.Generator().manual_seed(seed))
    inverse = invert_code(Code(torch.zeros(B, k), indices), n)
    assert [t.dtype for t in inverse] == [torch.int64] * 3
    assert inverse.offsets.shape == (n + 1,)
    for latent, pairs in enumerate(by_loop(indices, n)):
        span = slice(int(inverse.offsets[latent]), int(inverse.offsets[latent + 1]))
        assert list(zip(inverse.rows[span].tolist(), inverse.slots[span].tolist(), strict=True)) == pairs


def test_threads_agree(backend, on_threads):
    code = random_code(500, 700, 16)
    one, two = on_threads(lambda: invert_code(code, 700))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("bad", [-1, 20])
def test_a_latent_out_of_range_is_named(backend, bad):
    code = random_code(4, 20, 3)
    code.indices[3, 2] = bad
    with pytest.raises(ValueError, match=rf"\[0, 20\), got {bad}"):
        invert_code(code, 20)


def test_operator_contract(backend):
    torch.library.opcheck(torch.ops.revelio_fast.invert_code, (random_code(4, 20, 3).indices, 20))


def test_compiles_without_graph_breaks(backend):
    code = random_code(4, 20, 3)
    compiled = torch.compile(lambda c: invert_code(c, 20).offsets + 1, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(code), invert_code(code, 20).offsets + 1)
