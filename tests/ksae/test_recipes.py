"""Recipes and the settings they fill in; each setting in both engines, against plain PyTorch."""

import json
from dataclasses import replace

import pytest
import torch

from revelio_fast import KSAEConfig, KSparseAutoencoder, train_ksae
from revelio_fast.ksae.batches import TrainingRows
from revelio_fast.ksae.initialisation import new_sae
from tests.ksae.data import planted

D, N = 16, 96
X = planted(600, D)[0]


def settings(**changes):
    common = dict(k=4, n_latents=N, steps=30, batch_size=100, log_every=5)
    return KSAEConfig(**(common | changes))


def test_the_default_is_the_papers():
    config = KSAEConfig()
    assert (config.recipe, config.lr, config.warmup_steps) == ("paper", 4e-4, 500)
    assert (config.init, config.loss, config.beta2, config.lr_decay, config.aux_k) == ("tied", "fvu", 0.999, 0, 0)
    assert config.val_fraction == 0.05


def test_given_fields_win_over_the_recipe():
    config = KSAEConfig(recipe="best", warmup_steps=7, beta2=0.999, aux_k=3, lr=0.25)
    assert (config.warmup_steps, config.beta2, config.aux_k, config.lr) == (7, 0.999, 3, 0.25)
    assert KSAEConfig(recipe="best").warmup_steps != 7
    assert KSAEConfig(compat="authors", init="tied").init == "tied"
    assert config.for_width(400) is config


def test_the_best_learning_rate_is_by_width_and_what_was_used_is_written(tmp_path):
    assert KSAEConfig(recipe="best").lr is None
    assert KSAEConfig(recipe="best").for_width(100).lr == pytest.approx(0.003)
    train_ksae(X, settings(recipe="best"), out_dir=tmp_path, progress=False)
    written = json.loads((tmp_path / "metrics.json").read_text())["config"]
    assert written["lr"] == 0.03 / D**0.5
    assert written["recipe"] == "best" and None not in [written[name] for name in ("init", "loss", "warmup_steps")]


def test_a_run_goes_on_where_the_same_values_are_given_in_words(tmp_path):
    best = settings(recipe="best").for_width(D)
    train_ksae(X, settings(recipe="best"), out_dir=tmp_path, progress=False)
    in_words = replace(best, recipe="paper", steps=40)
    train_ksae(X, in_words, out_dir=tmp_path, progress=False)
    with pytest.raises(ValueError, match=r"was written with lr=0.0075, this run asks for 0.0004"):
        train_ksae(X, settings(steps=50), out_dir=tmp_path, progress=False)


def test_a_checkpoint_of_an_earlier_version_goes_on_with_the_papers_values(tmp_path, monkeypatch):
    new = ("recipe", "init", "loss", "beta2", "lr_decay")
    numbers = KSAEConfig.numbers
    with monkeypatch.context() as patched:
        patched.setattr(KSAEConfig, "numbers", lambda self: {k: v for k, v in numbers(self).items() if k not in new})
        train_ksae(X, settings(), out_dir=tmp_path, progress=False)
    with pytest.raises(ValueError, match=r"was written with init='tied', this run asks for 'data'"):
        train_ksae(X, settings(steps=40, init="data"), out_dir=tmp_path, progress=False)
    train_ksae(X, settings(steps=40), out_dir=tmp_path, progress=False)


def test_more_steps_do_not_continue_a_run_whose_learning_rate_has_fallen(tmp_path):
    config = settings(lr_decay=0.5)
    assert config.lr_at(30) < config.lr_at(29) < config.lr_at(15)
    train_ksae(X, config, out_dir=tmp_path, progress=False)
    with pytest.raises(ValueError, match=r"was written with steps=30, this run asks for 40"):
        train_ksae(X, replace(config, steps=40), out_dir=tmp_path, progress=False)


def test_the_learning_rate_falls_to_zero_at_the_end():
    config = settings(lr=1.0, warmup_steps=5, steps=20, lr_decay=0.25)
    rates = [config.lr_at(step) for step in range(1, 21)]
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8] + [1.0] * 12 + [1.0, 0.8, 0.6, 0.4, 0.2][1:])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": "worst"}, r"recipe must be one of 'paper', 'best', got 'worst'"),
        ({"init": "zeros"}, r"init must be one of .*, got 'zeros'"),
        ({"loss": "l1"}, r"loss must be one of 'fvu', 'root_fvu', got 'l1'"),
        ({"beta2": 1.0}, r"beta2 must be a number of at least 0 and below 1, got 1.0"),
        ({"lr_decay": -0.1}, r"lr_decay must be a number of at least 0 and below 1, got -0.1"),
        ({"recipe": "best", "compat": "authors"}, r"recipe='best' and compat='authors' contradict each other"),
    ],
)
def test_bad_settings_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        KSAEConfig(**changes)


def plain_loop(config, start):
    """Dense PyTorch: loss to the power of 1 or 1/2, Adam with beta2, decayed learning rate."""
    W_enc, W_dec, b_enc, b_pre = (
        getattr(start, name).detach().clone().requires_grad_() for name in ("W_enc", "W_dec", "b_enc", "b_pre")
    )
    optimiser = torch.optim.Adam([W_enc, W_dec, b_enc, b_pre], betas=(0.9, config.beta2))
    rows, losses = TrainingRows(X, config.batch_size, config.seed, config.val_fraction), []
    for step in range(config.steps):
        x = rows.batch(step)
        optimiser.param_groups[0]["lr"] = config.lr_at(step + 1)
        h = (x - b_pre) @ W_enc.T + b_enc
        values, indices = h.topk(config.k, dim=1)
        x_hat = torch.zeros_like(h).scatter(1, indices, values) @ W_dec + b_pre
        loss = (x_hat - x).pow(2).sum() / (x - x.mean(0)).pow(2).sum()
        losses.append(loss.item())
        optimiser.zero_grad()
        (loss.sqrt() if config.loss == "root_fvu" else loss).backward()
        W_dec.grad -= (W_dec.grad * W_dec.detach()).sum(1, keepdim=True) * W_dec.detach()
        optimiser.step()
        W_dec.data /= W_dec.data.norm(dim=1, keepdim=True)
    return losses


@pytest.mark.parametrize("engine", ["fused", "autograd"])
@pytest.mark.parametrize("changes", [{"loss": "root_fvu"}, {"beta2": 0.9}, {"lr_decay": 0.5}], ids=str)
def test_both_engines_follow_plain_pytorch(engine, changes):
    config = settings(engine=engine, lr=2e-3, warmup_steps=5, log_every=1, **changes)
    start = new_sae(TrainingRows(X, config.batch_size, config.seed, config.val_fraction), config)
    losses = plain_loop(config, start)
    # Rounding may swap near-ties of the k-th latent; over 30 steps the losses stay together to a part in a thousand.
    assert train_ksae(X, config, progress=False).history["fvu"] == pytest.approx(losses, rel=1e-3)
    without = replace(config, loss="fvu", beta2=0.999, lr_decay=0.0)
    assert plain_loop(without, start) != pytest.approx(losses, rel=1e-2), "the setting changes nothing here"


def test_the_scaled_encoder_has_the_least_error_on_the_rows_it_looked_at():
    rows = TrainingRows(X, 100, 0, 0.05)
    sae = new_sae(rows, settings(init="scaled"))
    x = torch.cat([rows.batch(number) for number in range(rows.batches_per_epoch)])
    error = []
    for factor in (1.0, 0.98, 1.02):
        changed = KSparseAutoencoder(D, n_latents=N, k=4)
        changed.load_state_dict(sae.state_dict())
        changed.W_enc.data.mul_(factor)
        error.append((changed(x).x_hat - x).square().sum().item())
    assert error[0] < min(error[1:])
    ratio = (sae.W_enc / sae.W_dec).flatten()
    assert ratio.std() < 1e-5 and ratio[0] != 1


def test_rows_of_the_data_are_first_directions():
    rows = TrainingRows(X, 100, 0, 0.05)
    sae = new_sae(rows, settings(init="data"))
    centred = torch.nn.functional.normalize(X - rows.mean)
    nearest = (sae.W_dec.detach() @ centred.T).amax(1)
    # Noise of .3 standard deviations in every entry leaves a cosine of about 1 / sqrt(1 + .09) = .96 to its row.
    assert nearest.median() > 0.9
    assert (sae.W_dec.norm(dim=1) - 1).abs().max() < 1e-5
    flat = new_sae(TrainingRows(torch.ones(50, D), 10, 0, 0.0), settings(init="data"))
    assert (flat.W_dec.norm(dim=1) - 1).abs().max() < 1e-5


def test_auxk_begins_in_short_runs_by_default():
    config = settings(aux_k=8)
    assert config.dead_rows(100, 100_000) == 5_000
    assert config.dead_rows(100, 300) == 1_000
    assert settings().dead_rows(100, 100_000) == 200_000
    assert settings(aux_k=8, dead_after=7).dead_rows(100, 100_000) == 7
