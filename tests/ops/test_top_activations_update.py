"""top_activations_update_: every backend against a plain Python ranking of everything seen."""

from collections import defaultdict

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from revelio_fast.ops import Code, TopState, invert_code, top_activations_update_
from tests.ops.cases import random_code

OP = "top_activations_update_"


def by_ranking(batches, n, m):
    """Best activation of each image per latent, ranked by (larger value, lower id); sums and counts of all."""
    best, sums, counts = defaultdict(dict), [0.0] * n, [0] * n
    for code, image_ids in batches:
        for row, image in enumerate(image_ids.tolist()):
            for value, latent in zip(code.values[row].tolist(), code.indices[row].tolist(), strict=True):
                if value > 0:
                    best[latent][image] = max(best[latent].get(image, 0.0), value)
                    sums[latent] += value
                    counts[latent] += 1
    state = TopState.empty(n, m)
    for latent, images in best.items():
        for place, (image, value) in enumerate(sorted(images.items(), key=lambda item: (-item[1], item[0]))[:m]):
            state.values[latent, place], state.image_ids[latent, place] = value, image
    state.sums.copy_(torch.tensor(sums, dtype=torch.float64))
    state.counts.copy_(torch.tensor(counts))
    return state


def same(got, want):
    for name, a, b in zip(TopState._fields, got, want, strict=True):
        assert torch.equal(a, b), f"{name}:\n{a}\n{b}"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 30), st.integers(1, 6), st.integers(1, 40), st.integers(1, 5), st.integers(0, 10**6))
def test_matches_a_full_ranking(backend, B, m, n, batches, seed):
    torch.manual_seed(seed)
    k = min(n, 4)
    stream = []
    for _ in range(batches):
        # few distinct values and ids: ties and repeated images abound
        values = torch.randint(-2, 4, (B, k)).float()
        stream.append((Code(values, random_code(B, n, k).indices), torch.randint(0, 12, (B,))))
    state = TopState.empty(n, m)
    for code, image_ids in stream:
        top_activations_update_(state, code, image_ids)
    same(state, by_ranking(stream, n, m))


def test_the_order_of_batches_does_not_matter(backend):
    stream = [(random_code(40, 60, 5), torch.arange(40) + 40 * i) for i in range(4)]
    forward, backward = TopState.empty(60, 7), TopState.empty(60, 7)
    for code, image_ids in stream:
        top_activations_update_(forward, code, image_ids)
    for code, image_ids in reversed(stream):
        top_activations_update_(backward, code, image_ids)
    assert torch.equal(forward.values, backward.values) and torch.equal(forward.image_ids, backward.image_ids)
    # float64 sums of float32 numbers in two orders
    assert torch.allclose(forward.sums, backward.sums, rtol=1e-14)


def test_nan_and_negative_do_not_count_and_infinity_does(backend):
    state = TopState.empty(2, 3)
    values = torch.tensor([[torch.nan, -1.0], [torch.inf, 0.0]])
    top_activations_update_(state, Code(values, torch.tensor([[0, 1], [0, 1]])), torch.tensor([5, 6]))
    assert state.image_ids.tolist() == [[6, -1, -1], [-1, -1, -1]]
    assert state.counts.tolist() == [1, 0]


def test_threads_agree_bit_for_bit(backend, on_threads):
    code, image_ids = random_code(300, 90, 8), torch.randperm(300)

    def run():
        state = TopState.empty(90, 20)
        top_activations_update_(state, code, image_ids, inverse=invert_code(code, 90))
        return state

    same(*on_threads(run))


def test_operator_contract(backend):
    code = random_code(4, 20, 3)
    arguments = (*TopState.empty(20, 2), *code, torch.arange(4), *invert_code(code, 20))
    torch.library.opcheck(torch.ops.revelio_fast.top_activations_update_, arguments)


def test_compiles_without_graph_breaks(backend):
    code, eager, traced = random_code(4, 20, 3), TopState.empty(20, 2), TopState.empty(20, 2)
    inverse = invert_code(code, 20)
    update = torch.compile(
        lambda *state: torch.ops.revelio_fast.top_activations_update_(*state, *code, torch.arange(4), *inverse),
        fullgraph=True,
        backend="aot_eager",
    )
    update(*traced)
    top_activations_update_(eager, code, torch.arange(4))
    same(traced, eager)


def test_wrong_arguments_are_named(backend):
    code, state = random_code(4, 20, 3), TopState.empty(20, 2)
    with pytest.raises(ValueError, match=r"image_ids must not be negative .*, got -3"):
        top_activations_update_(state, code, torch.tensor([0, 1, -3, 2]))
    with pytest.raises(ValueError, match=r"image_ids must have shape \[4\], got \[3\]"):
        top_activations_update_(state, code, torch.arange(3))
    with pytest.raises(ValueError, match=r"state.sums must be torch.float64, got torch.float32"):
        top_activations_update_(state._replace(sums=state.sums.float()), code, torch.arange(4))
    code.indices[1, 0] = 20
    with pytest.raises(ValueError, match=r"\[0, 20\), got 20"):
        top_activations_update_(state, code, torch.arange(4))
    assert not state.counts.any()
