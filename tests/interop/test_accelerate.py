"""`accelerate`: real libraries' models and trainers give the same numbers on the ops, and `restore` the same bits."""

from __future__ import annotations

import contextlib
import copy
import io
import pickle

import pytest
import torch
from safetensors.torch import save

import revelio_fast as rf
from revelio_fast.interop.accelerate.base import Accelerated
from revelio_fast.interop.accelerate.lazy import LazyTensor
from tests.interop.accelerated_checks import FORWARD, TRAINED, VARIANTS, check_equal_step, error
from tests.interop.accelerated_libraries import LIBRARIES, N, rows


@pytest.fixture(params=VARIANTS)
def variant(request):
    """A library and two equal models of it."""
    name, settings = VARIANTS[request.param]
    return LIBRARIES[name], LIBRARIES[name].build(**settings), LIBRARIES[name].build(**settings)


@pytest.fixture(params=LIBRARIES)
def library(request):
    """A library and two equal models of it, as it makes them by default."""
    one = LIBRARIES[request.param]
    return one, one.build(), one.build()


def test_results_and_gradients_are_the_librarys(variant):
    library, plain, fast = variant
    report = rf.accelerate(fast)
    assert isinstance(fast, type(plain)) and isinstance(fast, Accelerated)
    assert report.replaced and not report.fixed and not report.optimizer
    check_equal_step(library, plain, fast, rows())
    have, want = library.inference(fast, rows(5)), library.inference(plain, rows(5))
    assert error(have, want) <= FORWARD


@pytest.mark.parametrize("fuse", [False, True], ids=["own-adam", "fused-adam"])
def test_its_own_trainer_reaches_the_same_numbers(library, fuse):
    library, plain, fast = library
    want = library.train(plain, lambda model, optimizer: None)
    ran = []

    def start(model, optimizer):
        ran.append(rf.accelerate(model, optimizer=optimizer if fuse else None))

    found = library.train(fast, start)
    assert ran[0].optimizer == fuse
    torch.testing.assert_close(torch.tensor(found), torch.tensor(want), rtol=TRAINED, atol=0)
    for (name, theirs), ours in zip(plain.named_parameters(), fast.parameters(), strict=True):
        assert error(ours, theirs) <= TRAINED, name
    rf.restore(fast)
    assert type(fast) is type(plain)


def test_restored_models_are_what_they_were_to_the_bit(variant):
    library, plain, fast = variant
    rf.accelerate(fast)
    rf.restore(fast)
    assert type(fast) is type(plain) and fast.__dict__.keys() == plain.__dict__.keys()
    for theirs, ours in zip(plain.parameters(), fast.parameters(), strict=True):
        assert torch.equal(theirs, ours) and theirs.stride() == ours.stride()
    want_loss, want = library.loss(plain, rows())
    loss, found = library.loss(fast, rows())
    assert torch.equal(loss, want_loss) and all(torch.equal(found[name], want[name]) for name in want)


def test_the_same_parameters_stay_in_the_optimiser_and_in_the_state(variant):
    _, plain, fast = variant
    before = {name: id(parameter) for name, parameter in fast.named_parameters()}
    rf.accelerate(fast)
    assert before == {name: id(parameter) for name, parameter in fast.named_parameters()}
    state, want = fast.state_dict(), plain.state_dict()
    assert list(state) == list(want) and all(torch.equal(state[name], want[name]) for name in want)
    places = {tensor.data_ptr() for tensor in want.values()}
    if all(tensor.is_contiguous() for tensor in want.values()) and len(places) == len(want):
        assert save(state) == save(want)
    nested = torch.nn.ModuleDict({"sae": fast}).state_dict()
    assert all(torch.equal(nested[f"sae.{name}"], want[name]) for name in want)


def test_copies_and_pickles_are_accelerated_models_of_their_own(library):
    library, plain, fast = library
    rf.accelerate(fast)
    x = rows()
    want = library.loss(plain, x)[0]
    twins = [copy.deepcopy(fast)]
    if library.name != "saelens":  # which holds lambdas
        twins += [pickle.loads(pickle.dumps(fast)), through_a_file(fast)]
    for twin in twins:
        assert type(twin) is type(fast)
        assert error(library.loss(twin, x)[0], want) <= FORWARD
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.zero_()
        rf.restore(twin)
        assert type(twin) is type(plain)
    assert error(library.loss(fast, x)[0], want) <= FORWARD


def through_a_file(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("assign", [False, True])
def test_loaded_weights_are_used(library, assign):
    library, plain, fast = library
    rf.accelerate(fast)
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.mul_(1.5)
    fast.load_state_dict(copy.deepcopy(plain.state_dict()), assign=assign)
    check_equal_step(library, plain, fast, rows())


def test_hooks_see_the_very_tensors_of_the_library(library):
    """With a hook on a part, the library's own code runs: bit for bit on parameters of the same strides."""
    library, plain, fast = library
    rf.accelerate(fast)
    seen = [], []
    for model, outs in zip((plain, fast), seen, strict=True):
        for part in model.modules():
            if part is not model:
                part.register_forward_hook(lambda _, __, out, outs=outs: outs.append(out))
    want_loss, _ = library.loss(plain, rows())
    loss, results = library.loss(fast, rows())
    assert error(loss, want_loss) <= FORWARD and not any(isinstance(t, LazyTensor) for t in results.values())
    tensors = [[t for out in outs for t in (out if isinstance(out, tuple) else [out])] for outs in seen]
    assert len(tensors[0]) == len(tensors[1])
    assert tensors[0] or library.name == "sparsify"  # whose forward pass calls no part of the model
    for theirs, ours in zip(*tensors, strict=True):
        assert error(ours, theirs) <= FORWARD


def test_rows_with_fewer_than_k_positive_scores(library):
    library, plain, fast = library
    for model in (plain, fast):
        with torch.no_grad():
            bias = next(p for name, p in model.named_parameters() if p.shape == (N,))
            bias.sub_(2.5 * float(rows().std()) * 1.0)
    rf.accelerate(fast)
    want, found = library.loss(plain, rows())[1], library.loss(fast, rows())[1]
    for name in want:
        if name not in ("latent_indices", "indices"):  # which of the zeros is chosen is nobody's promise
            assert error(found[name], want[name]) <= FORWARD, name
    plain.zero_grad()
    fast.zero_grad()
    (want_loss, _), (loss, _) = library.loss(plain, rows()), library.loss(fast, rows())
    want_loss.backward()
    loss.backward()
    for (name, theirs), ours in zip(plain.named_parameters(), fast.parameters(), strict=True):
        assert error(ours.grad, theirs.grad) <= FORWARD, name


def test_under_autocast_the_librarys_code_runs(library):
    library, plain, fast = library
    rf.accelerate(fast)
    with torch.autocast("cpu", torch.bfloat16):
        want, found = library.loss(plain, rows())[1], library.loss(fast, rows())[1]
    for name, tensor in found.items():
        assert not isinstance(tensor, LazyTensor) and tensor.dtype == want[name].dtype


@pytest.mark.slow
def test_compiled_models_run_the_librarys_code(library):
    library, plain, fast = library
    rf.accelerate(fast)
    compiled = torch.compile(fast.eval() if library.name != "sparsify" else fast)
    with torch.no_grad():
        out, want = compiled(rows()), plain.eval()(rows())
    for have, expected in zip(*([t] if isinstance(t, torch.Tensor) else t for t in (out, want)), strict=True):
        if have.dtype.is_floating_point and have.shape[-1:] != (4,):
            assert error(have, expected) <= FORWARD


def test_distributed_data_parallel_averages_the_same_gradients(library, tmp_path):
    library, plain, fast = library
    rf.accelerate(fast)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            wrapped = torch.nn.parallel.DistributedDataParallel(fast)
        out, want = wrapped(rows()), plain(rows())
        losses = [
            (t[0] if isinstance(t, tuple) and library.name != "overcomplete" else t[-1] if isinstance(t, tuple) else t)
            .square()
            .mean()
            for t in (out, want)
        ]
        for loss in losses:
            loss.backward()
    finally:
        torch.distributed.destroy_process_group()
    for (name, theirs), ours in zip(plain.named_parameters(), fast.parameters(), strict=True):
        assert error(ours.grad, theirs.grad) <= FORWARD, name
    with pytest.raises(ValueError, match="before it is wrapped"):
        rf.accelerate(wrapped)
