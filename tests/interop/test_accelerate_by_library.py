"""`accelerate`: what single libraries have of their own: hook points, auxiliary losses, files, known bugs."""

from __future__ import annotations

import pytest
import torch

import revelio_fast as rf
from bench.peers.packages import SAELENS
from revelio_fast.interop.accelerate.lazy import LazyTensor, Source
from tests.interop.accelerated_checks import FORWARD, TRAINED, VARIANTS, check_equal_step, error
from tests.interop.accelerated_libraries import (
    LIBRARIES,
    N,
    authors,
    dictionary_learning,
    dictionary_learning_train,
    require,
    rows,
    saelens,
    saelens_loss,
    sparsify,
    sparsify_loss,
)


@pytest.mark.parametrize("name", ["saelens", "sparsify", "dictionary_learning", "overcomplete"])
def test_its_trainer_makes_no_dense_tensor(name, monkeypatch):
    """Neither codes nor pre-activations are filled; of dictionary_learning only while no latent is dead."""
    library = LIBRARIES[name]
    model = library.build()
    filled = []
    dense = Source.dense

    def noted(source):
        filled.append(source)
        return dense(source)

    monkeypatch.setattr(Source, "dense", noted)
    train = {"dictionary_learning": lambda *a: dictionary_learning_train(*a, dead_after=10**6)}.get(name, library.train)
    train(model, lambda model, optimizer: rf.accelerate(model))
    assert not filled


@pytest.mark.parametrize("fuse", [False, True], ids=["own-adam", "fused-adam"])
def test_dictionary_learning_trainer_with_dead_latents(fuse, monkeypatch):
    plain, fast = dictionary_learning(), dictionary_learning()
    want = dictionary_learning_train(plain, lambda *_: None, dead_after=100)
    trainers = []

    def start(trainer, optimizer):
        trainers.append(trainer)
        report = rf.accelerate(trainer, optimizer=optimizer if fuse else None)
        assert report.replaced == ("encode", "decode", "get_auxiliary_loss")

    monkeypatch.setattr(Source, "dense", lambda source: pytest.fail("a dense tensor was filled"))
    found = dictionary_learning_train(fast, start, dead_after=100, whole=True)
    monkeypatch.undo()
    torch.testing.assert_close(torch.tensor(found), torch.tensor(want), rtol=TRAINED, atol=0)
    for (name, theirs), ours in zip(plain.named_parameters(), fast.parameters(), strict=True):
        assert error(ours, theirs) <= TRAINED, name
    (trainer,) = trainers
    assert trainer.dead_features > 12 and float(trainer.pre_norm_auxk_loss) > 0
    with pytest.raises(ValueError, match="accelerated already"):
        rf.accelerate(trainer)
    rf.restore(trainer)
    assert type(trainer).__name__ == "TopKTrainer" and type(fast) is type(plain)


def test_the_authors_second_result_is_the_code_on_request():
    plain, fixed = authors(), authors()
    report = rf.accelerate(fixed, fix_known_bugs=True)
    assert [bug.name for bug in report.known_bugs] == ["statistics of pre-activations"] and report.fixed
    best = plain(rows())[1].topk(4)
    code = fixed(rows())[1]
    assert torch.equal(code.bool().float().sum(1), torch.full((64,), 4.0))
    assert error(code.gather(1, best.indices), best.values) <= FORWARD
    sae_out, _, loss = plain(rows())
    assert error(fixed(rows())[0], sae_out) <= FORWARD and error(fixed(rows())[2], loss) <= FORWARD


@pytest.mark.parametrize(
    "register", ["register_forward_pre_hook", "register_forward_hook", "register_full_backward_hook"]
)
def test_a_hook_of_any_kind_brings_the_librarys_code_back(register):
    sae = saelens()
    rf.accelerate(sae)
    handle = getattr(sae.hook_sae_acts_post, register)(lambda *_: None)
    assert not isinstance(saelens_loss(sae, rows())[1]["feature_acts"], LazyTensor)
    handle.remove()
    assert isinstance(saelens_loss(sae, rows())[1]["feature_acts"], LazyTensor)


@pytest.mark.parametrize("count", [3, 100])
@pytest.mark.parametrize("name", ["saelens", "saelens-unscaled", "sparsify", "sparsify-skip"])
def test_auxiliary_loss_of_dead_latents(name, count):
    one, settings = VARIANTS[name]
    library = LIBRARIES[one]
    plain, fast = library.build(**settings), library.build(**settings)
    rf.accelerate(fast)
    dead = torch.zeros(N, dtype=torch.bool)
    dead[torch.randperm(N)[:count]] = True
    check_equal_step(library, plain, fast, rows(), dead=dead)


def test_fixed_sparsify_trains_its_encoder_by_the_auxiliary_loss():
    """The library's gradient is that of W_dec alone; the fixed one is plain autograd's through a dense encoder."""
    coder, fixed = sparsify(), sparsify()
    report = rf.accelerate(fixed, fix_known_bugs=True)
    assert report.fixed and len(report.known_bugs) == 2
    dead, x = torch.arange(N) % 3 == 0, rows()
    coder(x, dead_mask=dead).auxk_loss.backward()
    assert coder.encoder.weight.grad.abs().max() == 0
    fixed(x, dead_mask=dead).auxk_loss.backward()
    W_enc, b_enc, W_dec, b_dec = (
        t.detach().clone().requires_grad_()
        for t in (coder.encoder.weight, coder.encoder.bias, coder.W_dec, coder.b_dec)
    )
    scores = torch.relu((x - b_dec) @ W_enc.T + b_enc)
    best = scores.topk(4)
    missing = (x - torch.zeros_like(scores).scatter(1, best.indices, best.values) @ W_dec - b_dec).detach()
    aux = torch.where(dead, scores, -torch.inf).topk(12)
    rebuilt = torch.zeros_like(scores).scatter(1, aux.indices, aux.values) @ W_dec
    ((rebuilt - missing).square().sum() / (x - x.mean(0)).square().sum()).backward()
    assert W_enc.grad.abs().max() > 0
    for ours, true in (
        (fixed.encoder.weight, W_enc),
        (fixed.encoder.bias, b_enc),
        (fixed.W_dec, W_dec),
        (fixed.b_dec, b_dec),
    ):
        assert error(ours.grad, true.grad) <= FORWARD


def test_fixed_sparsify_masks_clamped_scores():
    fixed, leaking = sparsify(), sparsify()
    rf.accelerate(fixed, fix_known_bugs=True)
    for coder in (fixed, leaking):
        with torch.no_grad():
            coder.encoder.bias.fill_(-100.0)
        sparsify_loss(coder, rows())[0].backward()
    assert leaking.encoder.weight.grad.abs().max() > 0 and fixed.encoder.weight.grad.abs().max() == 0


def test_saelens_takes_rows_of_any_leading_shape():
    plain, fast = saelens(), saelens()
    rf.accelerate(fast)
    x = rows(count=30).view(5, 6, -1)
    for grad in (torch.enable_grad, torch.no_grad):
        with grad():
            want, have = plain.encode(x), fast.encode(x)
            assert have.shape == want.shape and error(have, want) <= FORWARD
            assert error(fast.decode(have), plain.decode(want)) <= FORWARD
            have[..., 3] = 1.0  # no longer what was encoded
            want[..., 3] = 1.0
            assert error(fast.decode(have), plain.decode(want)) <= FORWARD


def test_saelens_inference_class_and_its_cache_of_hooks():
    sae_lens = require(SAELENS)

    config = sae_lens.TopKSAEConfig(d_in=24, d_sae=N, k=4)
    plain = sae_lens.TopKSAE(config)
    fast = sae_lens.TopKSAE(config)
    fast.load_state_dict(plain.state_dict())
    assert rf.accelerate(fast).replaced == ("encode", "decode")
    assert error(fast(rows()), plain(rows())) <= FORWARD
    want, cache = plain.run_with_cache(rows())
    have, seen = fast.run_with_cache(rows())
    assert error(have, want) <= FORWARD and cache.keys() == seen.keys()
    for name in cache:
        assert type(seen[name]) is torch.Tensor and error(seen[name], cache[name]) <= FORWARD, name
    fast.use_error_term = plain.use_error_term = True
    assert torch.equal(plain(rows()), rows()) or error(plain(rows()), rows()) <= FORWARD
    assert error(fast(rows()), plain(rows())) <= FORWARD


def test_saelens_saves_what_it_would_have_saved(tmp_path):
    plain, fast = saelens(), saelens()
    rf.accelerate(fast)
    for name in ("save_model", "save_inference_model"):
        files = [getattr(model, name)(tmp_path / f"{name}{n}") for n, model in enumerate((plain, fast))]
        for theirs, ours in zip(*files, strict=True):
            assert theirs.read_bytes() == ours.read_bytes()
