"""Each peer's training step and encoder on our inputs, from our start, through the peer's own public functions.

A step returns the fraction of variance unexplained (FVU) before its update, an encoder what its library returns: a pair
of values and indices, or dense codes. A peer that takes a loss is given ours. SAELens and dictionary-learning minimise
the squared error, which is the FVU times a constant (Adam does not see it, but for its epsilon and their clipping), and
what they return is divided by that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import revelio_fast
from bench.ops.bench_adam_unit_norm_step import LR
from bench.peers.packages import DICTIONARY_LEARNING, OVERCOMPLETE, SAELENS, SPARSIFY, load
from bench.problems import Inputs, Shape
from revelio_fast import KSAEConfig, KSparseAutoencoder, ops
from revelio_fast.ksae.state import TrainingState
from revelio_fast.ksae.stepper import Stepper

Run = Callable[[], Any]


def set_(pairs: dict[Tensor, Tensor]) -> None:
    """Give a peer's parameters (keys) our start (values), in place."""
    with torch.no_grad():
        for parameter, value in pairs.items():
            parameter.copy_(value)


def speed_up(model: Any, optimiser: torch.optim.Optimizer, how: str) -> None:
    """`accelerate` a peer's model, and with "model and optimiser" both; "" leaves them alone."""
    if how:
        revelio_fast.accelerate(model, optimizer=optimiser if how == "model and optimiser" else None)


def variance(x: Tensor) -> Tensor:
    """Squared distance of the rows from their mean, averaged over the rows."""
    return (x - x.mean(0)).square().sum(1).mean()


def our_step(p: Inputs, shape: Shape) -> Run:
    """What `train_ksae` runs for a step, with its counts of active latents."""
    sae = KSparseAutoencoder(shape.d, k=shape.k, n_latents=shape.n)
    set_({sae.W_enc: p.W_enc, sae.W_dec: p.W_dec, sae.b_enc: p.b_enc, sae.b_pre: p.b_pre})
    config = KSAEConfig(k=shape.k, n_latents=shape.n, batch_size=shape.B, lr=LR, warmup_steps=0)
    take_step = Stepper(TrainingState(sae), config, dead_after=10_000_000)

    def run() -> Tensor:
        with ops.use_backend("cpu"):
            return take_step(p.x).fvu

    return run


def our_encode(p: Inputs, shape: Shape, precision: str) -> Run:
    """`topk_encode` with weights as they are: what a path packs for itself, it packs in every call."""

    def run() -> ops.Code:
        with ops.use_backend("cpu"):
            return ops.topk_encode(p.x, p.W_enc, p.b_enc, p.b_pre, shape.k, precision=precision)

    return run


def _sparsify(p: Inputs, shape: Shape) -> Any:
    sparsify = load(SPARSIFY)
    coder = sparsify.SparseCoder(shape.d, sparsify.SparseCoderConfig(num_latents=shape.n, k=shape.k))
    set_({coder.encoder.weight: p.W_enc, coder.encoder.bias: p.b_enc, coder.W_dec: p.W_dec, coder.b_dec: p.b_pre})
    return coder


def sparsify_step(p: Inputs, shape: Shape, *, bf16: bool = False, accelerated: str = "") -> Run:
    """The order of its Trainer: unit norm, FVU, backward, projection, optimiser."""
    coder = _sparsify(p, shape)
    optimiser = torch.optim.Adam(coder.parameters(), lr=LR)
    speed_up(coder, optimiser, accelerated)

    def run() -> Tensor:
        coder.set_decoder_norm_to_unit_norm()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            fvu = coder(p.x).fvu
        fvu.backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        optimiser.step()
        optimiser.zero_grad()
        return fvu.detach()

    return run


def sparsify_encode(p: Inputs, shape: Shape, *, bf16: bool = False) -> Run:
    """`SparseCoder.encode`."""
    coder = _sparsify(p, shape)

    @torch.no_grad()
    def run() -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            code = coder.encode(p.x)
        return code.top_acts, code.top_indices

    return run


def _saelens(p: Inputs, shape: Shape, sparse: bool) -> Any:
    config = load(SAELENS).TopKTrainingSAEConfig(
        d_in=shape.d,
        d_sae=shape.n,
        k=shape.k,
        use_sparse_activations=sparse,
        rescale_acts_by_decoder_norm=False,
        aux_loss_coefficient=0.0,
        device="cpu",
    )
    sae = load(SAELENS).TopKTrainingSAE(config)
    set_({sae.W_enc: p.W_enc.T, sae.b_enc: p.b_enc, sae.W_dec: p.W_dec, sae.b_dec: p.b_pre})
    return sae


def saelens_step(p: Inputs, shape: Shape, *, sparse: bool = False, accelerated: str = "") -> Run:
    """`SAETrainer.step`, which its `fit` calls for every batch."""
    sae = _saelens(p, shape, sparse)
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    config = SAETrainerConfig(
        total_training_samples=2**40, train_batch_size_samples=shape.B, lr=LR, lr_end=LR, device="cpu"
    )
    trainer: Any = SAETrainer(config, sae, iter(()))
    speed_up(sae, trainer.optimizer, accelerated)
    scale = variance(p.x)

    def run() -> Tensor:
        step = trainer.step(p.x)
        trainer.n_training_steps += 1
        return step.losses["mse_loss"].detach() / scale

    return run


def saelens_encode(p: Inputs, shape: Shape) -> Run:
    """`TopKTrainingSAE.encode`, dense codes."""
    sae = _saelens(p, shape, sparse=False)
    return torch.no_grad()(lambda: sae.encode(p.x))


def _dictionary_learning(p: Inputs, shape: Shape) -> Any:
    load(DICTIONARY_LEARNING)
    from dictionary_learning.trainers.top_k import TopKTrainer

    trainer = TopKTrainer(
        steps=2**40,
        activation_dim=shape.d,
        dict_size=shape.n,
        k=shape.k,
        layer=0,
        lm_name="none",
        lr=LR,
        auxk_alpha=0,
        warmup_steps=0,
        device="cpu",
    )
    ae = trainer.ae
    set_({ae.encoder.weight: p.W_enc, ae.encoder.bias: p.b_enc, ae.decoder.weight: p.W_dec.T, ae.b_dec: p.b_pre})
    return trainer


def dictionary_learning_step(p: Inputs, shape: Shape, *, accelerated: str = "") -> Run:
    """`TopKTrainer.update`; not as its step 0, which would replace b_dec by the data's median."""
    trainer, scale = _dictionary_learning(p, shape), variance(p.x)
    speed_up(trainer, trainer.optimizer, accelerated)
    return lambda: trainer.update(1, p.x) / scale


def dictionary_learning_encode(p: Inputs, shape: Shape) -> Run:
    """`AutoEncoderTopK.encode`, which makes dense codes and gives values and indices beside them on request."""
    ae = _dictionary_learning(p, shape).ae
    return torch.no_grad()(lambda: ae.encode(p.x, return_topk=True)[1:3])


def _overcomplete(p: Inputs, shape: Shape) -> Any:
    load(OVERCOMPLETE)
    from overcomplete.sae import TopKSAE

    sae = TopKSAE(shape.d, nb_concepts=shape.n, top_k=shape.k)
    set_({sae.dictionary._weights: p.W_dec})
    sae.untied(bias=True)  # a linear encoder without the default's normalisation of the batch
    set_({sae.encoder.weight: p.W_enc, sae.encoder.bias: p.b_enc})
    return sae


def overcomplete_step(p: Inputs, shape: Shape, *, accelerated: str = "") -> Run:
    """`train_sae` over one batch, centred beforehand, with our loss, without its clipping and monitoring."""
    sae, x = _overcomplete(p, shape), p.x - p.b_pre
    from overcomplete.sae import train_sae

    optimiser, scale = torch.optim.Adam(sae.parameters(), lr=LR), variance(p.x)
    speed_up(sae, optimiser, accelerated)
    losses: list[Tensor] = []

    def fvu(x: Tensor, x_hat: Tensor, *_: Tensor) -> Tensor:
        loss = (x_hat - x).square().sum(1).mean() / scale
        losses[:] = [loss.detach()]
        return loss

    def run() -> Tensor:
        train_sae(sae, [x], fvu, optimiser, nb_epochs=1, clip_grad=0, monitoring=0)
        return losses[0]

    return run


def overcomplete_encode(p: Inputs, shape: Shape) -> Run:
    """`TopKSAE.encode`, dense codes of features centred beforehand."""
    sae, x = _overcomplete(p, shape), p.x - p.b_pre
    return torch.no_grad()(lambda: sae.encode(x)[1])
