"""Both engines and both semantics against a plain dense transcription of the training loop."""

import pytest
import torch

from revelio_fast import KSAEConfig, KSparseAutoencoder, seeds, train_ksae
from revelio_fast.ksae.batches import TrainingRows
from revelio_fast.ksae.evaluation import official_statistics
from revelio_fast.ksae.state import TrainingState
from tests.ksae.data import planted

STEPS, D, N = 50, 16, 96
X, _ = planted(600, D)


def settings(**changes):
    common = dict(
        k=4, n_latents=N, steps=STEPS, batch_size=100, lr=1e-3, warmup_steps=10, val_fraction=0.1, log_every=5
    )
    return KSAEConfig(**(common | changes))


def dense_loop(config):
    """Dense scores, topk, scatter, dense decode, autograd, torch.optim.Adam; weights in the authors' layout."""
    official = config.compat == "authors"
    torch.manual_seed(seeds.derive(config.seed, "ksae.init"))
    start = KSparseAutoencoder(D, k=config.k, n_latents=N)
    if official:
        start.initialise_as_authors()
    rows = TrainingRows(X, config.batch_size, config.seed, config.val_fraction, keep_short=official)
    mean = rows.batch(0).mean(0) if official else rows.mean
    W_enc = start.W_enc.detach().T.clone().requires_grad_()
    W_dec, b_enc = start.W_dec.detach().clone().requires_grad_(), torch.zeros(N, requires_grad=True)
    b_dec = mean.clone().requires_grad_()
    optimiser = torch.optim.Adam([W_enc, W_dec, b_enc, b_dec], lr=config.lr)
    losses, since_active, dead_after = [], torch.zeros(N, dtype=torch.int64), config.dead_after or 10**9
    for step in range(STEPS):
        if official:
            W_dec.data /= W_dec.data.norm(dim=1, keepdim=True)
        ahead = 2 if official else 1
        optimiser.param_groups[0]["lr"] = config.lr * min(1.0, (step + ahead) / config.warmup_steps)
        x = rows.batch(step + official)
        h = (x - b_dec) @ W_enc + b_enc
        values, indices = h.topk(config.k, dim=1, sorted=False)
        z = torch.zeros_like(h).scatter(1, indices, values.relu() if config.relu else values)
        x_hat = z @ W_dec + b_dec
        loss = (x_hat - x).pow(2).mean() / (x - x.mean(0)).pow(2).mean()
        losses.append(loss.item())
        dead = since_active >= dead_after
        if config.aux_k and dead.any():
            strongest, which = h.masked_fill(~dead, -torch.inf).topk(min(config.aux_k, int(dead.sum())), dim=1)
            strongest = strongest.relu() if config.relu else strongest
            missing = (x - x_hat).detach()
            rebuilt = torch.zeros_like(h).scatter(1, which, strongest) @ W_dec
            loss = loss + config.aux_coefficient * (rebuilt - missing).pow(2).mean() / missing.pow(2).mean()
        since_active = torch.where((z != 0).any(0), 0, since_active + len(x))
        optimiser.zero_grad()
        loss.backward()
        W_dec.grad -= (W_dec.grad * W_dec.detach()).sum(1, keepdim=True) * W_dec.detach()
        optimiser.step()
        if not official:
            W_dec.data /= W_dec.data.norm(dim=1, keepdim=True)
    return losses, {
        "W_enc": W_enc.detach().T,
        "W_dec": W_dec.detach(),
        "b_enc": b_enc.detach(),
        "b_pre": b_dec.detach(),
    }


@pytest.mark.parametrize("engine", ["fused", "autograd"])
@pytest.mark.parametrize("compat", ["paper", "authors"])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("aux_k", [0, 8])
def test_follows_the_dense_loop(engine, compat, relu, aux_k):
    # A coefficient above the default's 1/32, so that a wrong auxiliary gradient cannot hide in the tolerances.
    auxiliary = dict(aux_k=aux_k, dead_after=200, aux_coefficient=0.5) if aux_k else {}
    config = settings(engine=engine, compat=compat, relu=relu, **auxiliary)
    result = train_ksae(X, config, progress=False)
    losses, weights = dense_loop(config)
    assert (max(result.history["aux_loss"]) > 0) == (aux_k > 0)
    logged = [int(step) - 1 for step in result.history["step"]]
    # Rounding may swap near-ties of the k-th latent; over 50 steps the losses stay together to a part in a thousand.
    assert result.history["fvu"] == pytest.approx([losses[step] for step in logged], rel=1e-3)
    for name, want in weights.items():
        error = (getattr(result.sae, name).detach() - want).abs()
        # Adam moves an entry by at most about lr a step; a typical entry must agree to far less than one step.
        assert error.median() < 1e-5, name
        assert error.max() < 0.5 * STEPS * config.lr, name


@pytest.mark.parametrize("compat", ["paper", "authors"])
def test_engines_agree_with_auxiliary_latents(compat):
    changes = dict(compat=compat, aux_k=8, dead_after=200, relu=True)
    fused = train_ksae(X, settings(engine="fused", **changes), progress=False)
    autograd = train_ksae(X, settings(engine="autograd", **changes), progress=False)
    assert max(fused.history["aux_loss"]) > 0
    assert fused.history["fvu"] == pytest.approx(autograd.history["fvu"], rel=1e-3)
    assert fused.history["aux_loss"] == pytest.approx(autograd.history["aux_loss"], rel=1e-2, abs=1e-4)


def test_paper_rows_have_unit_norm_and_official_rows_drift():
    paper = train_ksae(X, settings(), progress=False).sae.W_dec.detach().norm(dim=1)
    official = train_ksae(X, settings(compat="authors"), progress=False).sae.W_dec.detach().norm(dim=1)
    assert (paper - 1).abs().max() < 1e-6
    assert (official - 1).abs().max() > 1e-6


def test_official_learning_rate_is_one_step_ahead():
    official, paper = settings(compat="authors", warmup_steps=500), settings(warmup_steps=500)
    assert official.lr_at(1) == pytest.approx(1e-3 * 2 / 500)
    assert paper.lr_at(1) == pytest.approx(1e-3 / 500)
    assert official.lr_at(499) == official.lr_at(5000) == 1e-3


def official_state(sae):
    state = TrainingState(sae)
    state.count_official_activity()
    return state


def test_official_statistics_are_those_of_dense_preactivations():
    history = train_ksae(X, settings(compat="authors"), progress=False).history
    assert history["l0"][0] == 4
    # half of the random pre-activations are positive, against k = 4 in the code
    assert 0.3 * N < history["official_l0"][0] < 0.7 * N
    sae = KSparseAutoencoder(D, k=4, n_latents=N)
    sae.b_enc.data[:7] = -100.0
    positive = (X - sae.b_pre) @ sae.W_enc.T + sae.b_enc > 0
    found = official_statistics(official_state(sae), X, len(X))
    # a pre-activation within rounding of zero may fall on either side: at most a few of the 57,600
    assert found["official_l0"] == pytest.approx(positive.sum(1).double().mean().item(), abs=5 / len(X))
    # Negative pre-activations count as active: 7 latents that are never positive are not dead.
    assert found["official_dead"] == 0 and (~positive.any(0)).sum() >= 7


def test_official_dead_latents_are_counted_over_the_logged_batches():
    """The share of latents whose pre-activation was exactly zero in all but a millionth of the rows so far."""
    sae = KSparseAutoencoder(D, k=4, n_latents=N)
    sae.W_enc.data[:24] = 0
    state = official_state(sae)
    assert official_statistics(state, X[:100], 100)["official_dead"] == 0.25
    state.history.append({})
    sae.b_enc.data[:12] = -1.0
    assert official_statistics(state, X[:100], 100)["official_dead"] == 0.125
    state.history.append({})
    sae.b_enc.data[:12] = 0.0  # they have been active before
    assert official_statistics(state, X[:100], 100)["official_dead"] == 0.125
