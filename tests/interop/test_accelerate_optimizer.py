"""``accelerate(model, optimizer=...)``: Adam's numbers and state in one pass, and gradients that may wait for it."""

from __future__ import annotations

import pytest
import torch

import revelio_fast as rf
from revelio_fast import ops
from revelio_fast.interop.accelerate.lazy import LazyTensor
from tests.interop.accelerated_libraries import LIBRARIES, LR, authors, batches, sparsify

# Adam divides by the root of a small number: 20 steps of sums in another order.
TRAINED = 1e-5


@pytest.fixture
def sweeps(monkeypatch):
    """Counts the steps that `ops.adam_unit_norm_step_` takes."""
    taken = []
    step = ops.adam_unit_norm_step_
    monkeypatch.setattr(ops, "adam_unit_norm_step_", lambda *a, **k: taken.append(1) or step(*a, **k))
    return taken


def trained(coder, optimizer, between=lambda coder: None, steps=20):
    """The order of sparsify's trainer."""
    for x in batches()[:steps]:
        coder.set_decoder_norm_to_unit_norm()
        coder(x).fvu.backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        between(coder)
        optimizer.step()
        optimizer.zero_grad()
    return coder


def pair(between=lambda coder: None, steps=20, **options):
    """sparsify's model trained by itself and accelerated, with the state of both optimisers."""
    plain, fast = sparsify(), sparsify()
    optimizers = [torch.optim.Adam(coder.parameters(), lr=LR, **options) for coder in (plain, fast)]
    rf.accelerate(fast, optimizer=optimizers[1])
    for coder, optimizer in zip((plain, fast), optimizers, strict=True):
        trained(coder, optimizer, between, steps)
    return (plain, optimizers[0]), (fast, optimizers[1])


def check(plain, fast):
    for (name, theirs), ours in zip(plain[0].named_parameters(), fast[0].parameters(), strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=TRAINED * float(theirs.abs().max())), name
        want, have = plain[1].state[theirs], fast[1].state[ours]
        assert have.keys() == want.keys() and float(have["step"]) == float(want["step"])
        for moment in ("exp_avg", "exp_avg_sq"):
            scale = float(want[moment].abs().max())
            assert torch.allclose(have[moment], want[moment], rtol=0, atol=TRAINED * scale), (name, moment)


@pytest.mark.parametrize("options", [{}, {"betas": (0.5, 0.7), "eps": 1e-6}, {"lr": torch.tensor(1e-3)}])
def test_unread_gradients_go_into_one_sweep(sweeps, options):
    options = {"lr": LR} | options
    plain, fast = sparsify(), sparsify()
    optimizers = [torch.optim.Adam(coder.parameters(), **options) for coder in (plain, fast)]
    rf.accelerate(fast, optimizer=optimizers[1])
    trained(plain, optimizers[0])
    trained(fast, optimizers[1])
    check((plain, optimizers[0]), (fast, optimizers[1]))
    assert len(sweeps) == 20


def test_gradients_that_somebody_reads_or_changes_are_the_librarys(sweeps):
    norms = []

    def clip(coder):
        norms.append(float(torch.nn.utils.clip_grad_norm_(coder.parameters(), 0.05)))

    check(*pair(clip))
    assert norms[:20] == pytest.approx(norms[20:], rel=TRAINED) and not sweeps


def test_gradients_accumulate(sweeps):
    check(*pair(lambda coder: coder(batches()[3]).fvu.backward(), steps=5))
    assert not sweeps


def test_gradients_are_pending_until_they_are_read():
    coder = sparsify()
    optimizer = torch.optim.Adam(coder.parameters(), lr=LR)
    rf.accelerate(coder, optimizer=optimizer)
    coder(batches()[0]).fvu.backward()
    grad = coder.W_dec.grad
    assert isinstance(grad, LazyTensor) and grad.shape == coder.W_dec.shape
    optimizer.step()
    with pytest.raises(RuntimeError, match="the parameters have changed since: read gradients before the step"):
        grad.sum()


def test_another_optimiser_or_a_closure_takes_its_own_step(sweeps):
    plain, fast = sparsify(), sparsify()
    rf.accelerate(fast, optimizer=torch.optim.Adam(fast.parameters(), lr=LR))
    for coder in (plain, fast):
        trained(coder, torch.optim.SGD(coder.parameters(), lr=0.1), steps=3)
    torch.testing.assert_close(fast.W_dec, plain.W_dec, rtol=TRAINED, atol=1e-7)

    plain, fast = sparsify(), sparsify()
    optimizers = [torch.optim.Adam(coder.parameters(), lr=LR) for coder in (plain, fast)]
    rf.accelerate(fast, optimizer=optimizers[1])
    for coder, optimizer in zip((plain, fast), optimizers, strict=True):

        def closure(coder=coder, optimizer=optimizer):
            optimizer.zero_grad()
            loss = coder(batches()[0]).fvu
            loss.backward()
            return loss

        optimizer.step(closure)
    torch.testing.assert_close(fast.W_dec, plain.W_dec, rtol=TRAINED, atol=1e-7)
    assert not sweeps


@pytest.mark.parametrize("name", ["saelens", "authors"])
def test_training_goes_on_from_torchs_state_and_back_to_it(name):
    """Moments made before accelerate lie as the parameters did; a fused step that read them so would be wrong."""
    one = LIBRARIES[name]
    plain, changing = one.build(), one.build()
    optimizers = [torch.optim.Adam(model.parameters(), lr=LR) for model in (plain, changing)]
    for number, x in enumerate(batches()):
        if number == 5:
            rf.accelerate(changing, optimizer=optimizers[1])
        if number == 12:
            rf.restore(changing)
        for model, optimizer in zip((plain, changing), optimizers, strict=True):
            loss, _ = one.loss(model, x)
            loss.backward()
            optimizer.step()
            assert all(p.grad is not None for p in model.parameters())  # the step hides them only meanwhile
            optimizer.zero_grad()
    for theirs, ours in zip(plain.parameters(), changing.parameters(), strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=TRAINED * float(theirs.abs().max()))
        assert all(m.stride() == ours.stride() for m in list(optimizers[1].state[ours].values())[1:])
    optimizers[0].load_state_dict(optimizers[1].state_dict())


def test_optimisers_that_are_not_plain_adam_over_the_model():
    sae = authors()
    parameters = list(sae.parameters())
    for optimizer, words in (
        (torch.optim.SGD(parameters, lr=0.1), "must be a torch.optim.Adam, whose steps are known, got SGD"),
        (torch.optim.AdamW(parameters), "got AdamW"),
        (torch.optim.Adam(parameters[1:]), "it lacks 1 of them and has 0 others"),
        (torch.optim.Adam([*parameters, torch.nn.Parameter(torch.zeros(2))]), "lacks 0 of them and has 1 others"),
        (torch.optim.Adam(parameters, weight_decay=0.1), "its weight_decay is 0.1"),
        (torch.optim.Adam(parameters, amsgrad=True), "its amsgrad is True"),
    ):
        with pytest.raises(ValueError, match=words):
            rf.accelerate(sae, optimizer=optimizer)
    assert not hasattr(sae, "_accelerated")
