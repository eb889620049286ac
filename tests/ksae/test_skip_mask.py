"""Training that skips latents against training that does not: the same bits, and many latents are skipped."""

import pytest
import torch

from revelio_fast import KSAEConfig, KSparseAutoencoder
from revelio_fast.ksae.batches import TrainingRows
from revelio_fast.ksae.state import TrainingState
from revelio_fast.ksae.stepper import Stepper
from tests.ksae.data import planted

D, N, STEPS, DEAD_AFTER = 16, 512, 300, 6000
X = planted(400, D, directions=8)[0]


def run(config: KSAEConfig, *, skip: bool, cut: int | None = None) -> tuple[TrainingState, list[float], list[int]]:
    """State, FVUs and the number of skipped latents after each step; from `cut` on as after a resume."""

    def begin(state: TrainingState) -> Stepper:
        step = Stepper(state, config, DEAD_AFTER)
        if not skip:
            state.skip_mask = None
        return step

    def new() -> TrainingState:
        torch.manual_seed(3)
        sae = KSparseAutoencoder(D, k=config.k, n_latents=N)
        return TrainingState(sae)

    state, rows, losses, skipped = new(), TrainingRows(X, 100, 0, 0.0), [], []
    step = begin(state)
    for number in range(STEPS):
        if number == cut:
            resumed = new()
            for name, tensor in state.tensors().items():
                resumed.tensors()[name].copy_(tensor)
            resumed.step, state = state.step, resumed
            step = begin(state)
        losses.append(step(rows.batch(number)).fvu.item())
        skipped.append(int(state.skip_mask.sum()) if state.skip_mask is not None else 0)
    return state, losses, skipped


@pytest.mark.parametrize("compat", ["paper", "authors"])
@pytest.mark.parametrize("aux_k", [0, 4])
@pytest.mark.parametrize("cut", [None, 130])
def test_skipping_changes_no_bit(compat, aux_k, cut):
    config = KSAEConfig(k=4, n_latents=N, steps=STEPS, batch_size=100, lr=1e-3, compat=compat, aux_k=aux_k)
    want, losses, none = run(config, skip=False)
    state, same, skipped = run(config, skip=True, cut=cut)
    assert same == losses and not any(none)
    for name, tensor in want.tensors().items():
        assert torch.equal(state.tensors()[name], tensor), name
    assert max(skipped) > N // 4, "few latents were skipped, so nothing was tested"
    if aux_k:
        assert skipped[-1] < max(skipped) - 20, "AuxK revived few skipped latents"


def test_only_the_fused_engine_on_the_cpu_keeps_marks():
    for engine in ("fused", "autograd"):
        torch.manual_seed(3)
        state = TrainingState(KSparseAutoencoder(D, k=4, n_latents=N))
        Stepper(state, KSAEConfig(k=4, n_latents=N, engine=engine), DEAD_AFTER)
        assert (state.skip_mask is not None) == (engine == "fused")
        assert "skip_mask" not in state.tensors()
