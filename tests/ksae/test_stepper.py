"""A captured step: the same weights as eager steps, numbers that change from step to step, nothing read back."""

import pytest
import torch

from revelio_fast import KSAEConfig, KSparseAutoencoder
from revelio_fast.ksae.batches import TrainingRows
from revelio_fast.ksae.state import TrainingState
from revelio_fast.ksae.stepper import WARM_UP, Stepper
from tests.fake_cuda import FakeCuda, Syncs
from tests.ksae.data import planted

D, N = 16, 96


def start(**changes) -> tuple[TrainingState, KSAEConfig]:
    config = KSAEConfig(**(dict(k=4, n_latents=N, steps=40, batch_size=100, lr=1e-3, warmup_steps=20) | changes))
    torch.manual_seed(7)
    return TrainingState(KSparseAutoencoder(D, k=4, n_latents=N)), config


@pytest.mark.parametrize("compat", ["paper", "authors"])
def test_a_captured_run_gives_the_bits_of_an_eager_one(compat):
    x, cuda, ends, reports = planted(430, D)[0], FakeCuda(), [], []
    for capture in (False, True):
        state, config = start(compat=compat)
        rows = TrainingRows(x, 100, 0, 0.0, keep_short=True)  # the last batch of an epoch is short: another shape
        step = Stepper(state, config, 1000, cuda=cuda, capture=capture)
        reports.append([[value.item() for value in step(rows.batch(number))] for number in range(40)])
        ends.append(state)
    eager, captured = ends
    assert captured.step == eager.step == 40
    for name, tensor in eager.tensors().items():
        assert torch.equal(captured.tensors()[name], tensor), name
    assert reports[1] == reports[0]
    # 40 steps are 8 epochs of 4 whole batches and a short one; the first steps of each shape run as they come.
    assert [graph.replays for graph in cuda.graphs] == [32 - WARM_UP, 8 - WARM_UP]


def test_a_run_goes_on_in_the_middle_of_the_schedule():
    x, ends = planted(300, D)[0], []
    for cut in (None, 11):
        state, config = start()
        rows, cuda = TrainingRows(x, 100, 0, 0.0), FakeCuda()
        step = Stepper(state, config, 1000, cuda=cuda, capture=True)
        for number in range(20):
            if number == cut:
                step = Stepper(state, config, 1000, cuda=cuda, capture=True)
            step(rows.batch(number))
        ends.append(state)
    for name, tensor in ends[0].tensors().items():
        assert torch.equal(ends[1].tensors()[name], tensor), name


def on_meta(**changes) -> tuple[TrainingState, KSAEConfig, torch.Tensor]:
    """A run on tensors without values."""
    config = KSAEConfig(k=4, n_latents=N, steps=10, **changes)
    with torch.device("meta"):
        state = TrainingState(KSparseAutoencoder(D, k=4, n_latents=N))
        state.use_shadow()
        return state, config, torch.empty(100, D)


@pytest.mark.parametrize("compat", ["paper", "authors"])
def test_a_captured_step_never_waits_for_the_gpu(compat):
    state, config, x = on_meta(compat=compat)
    step = Stepper(state, config, 1000, cuda=FakeCuda(), capture=True)
    with Syncs() as syncs:
        step._without_readback(x)
    assert not syncs.found


def test_the_search_for_syncs_finds_them():
    state, config, x = on_meta(aux_k=4)
    with pytest.raises(NotImplementedError, match="nonzero"):  # the list of dead latents is read back
        Stepper(state, config, 1000)(x)
    with pytest.raises(RuntimeError, match="item"):
        x.sum().item()
    with Syncs() as syncs:
        x.copy_(torch.zeros(100, D))
    assert syncs.found == ["aten.copy_.default"]
