"""All implementations that `python -m bench peers` runs, with what each does differently from the k-SAE's step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from bench.limits import Work, fastest_unit, unit_of_ours
from bench.ops.bench_adam_unit_norm_step import dense_step, step_work
from bench.ops.bench_topk_encode import encode_work, faiss_encode, torch_encode
from bench.peers import adapters
from bench.peers.adapters import Run
from bench.peers.packages import DICTIONARY_LEARNING, FAISS, OVERCOMPLETE, SAELENS, SPARSIFY, Package
from bench.problems import Inputs, Shape

Builder = Callable[[Inputs, Shape], Run]
OURS = "revelio_fast"
ACCELERATED = "-accelerated"


class Implementation(NamedTuple):
    """One way to do the work.

    Attributes
    ----------
    name : str
        As in the tables and for ``--only``.
    differs : str
        What its step or its codes have or lack against ours, in one line.
    step, encode : callable or None
        Make a closure from inputs and shape; None where the library has no such thing.
    package : Package or None
        What must be installed.
    """

    name: str
    differs: str
    step: Builder | None = None
    encode: Builder | None = None
    package: Package | None = None

    def work(self, what: str, shape: Shape) -> Work:
        """Least work, at the unit that most of the encode runs on."""
        if ACCELERATED in self.name:
            unit = unit_of_ours("fp32", *shape)
        elif self.name.startswith(OURS):
            unit = unit_of_ours(self.name.removeprefix(OURS).lstrip("-") or "fast", *shape)
        else:
            unit = fastest_unit("bf16" if "bf16" in self.name else "float32")
        return encode_work(unit, shape) if what == "encode" else step_work(unit, shape)


_SPARSIFY = (
    "same order as its Trainer with Adam in the place of Signum, no AuxK; ReLU before the top k; unit norm before the "
    "step; no counts of fired latents"
)
_SAELENS = (
    "SAETrainer.step with its gradient clipping (1.0) and counts of fired latents; squared error instead of FVU; ReLU "
    "after the top k; no unit norm or projection of decoder rows, and rescaling by their norms switched off; no AuxK"
)


def _accelerated(name: str, package: Package, step: Callable[..., Run]) -> tuple[Implementation, ...]:
    """A peer's trainer after `accelerate(model)`, and after ``accelerate(model, optimizer=...)``."""
    return (
        Implementation(
            f"{name}{ACCELERATED}",
            f"as {name}, its own trainer unmodified, after revelio_fast.accelerate(model)",
            partial(step, accelerated="model"),
            package=package,
        ),
        Implementation(
            f"{name}{ACCELERATED}-adam",
            f"as {name}, its own trainer unmodified, after revelio_fast.accelerate(model, optimizer=its Adam)",
            partial(step, accelerated="model and optimiser"),
            package=package,
        ),
    )


IMPLEMENTATIONS = (
    Implementation(
        "torch",
        "dense float32 as the authors' code trains; unit norm before the step, no counts of active latents",
        dense_step,
        torch_encode,
    ),
    Implementation(
        "torch-bf16",
        "as torch, forward and backward under bf16 autocast; encoding with weights rounded beforehand",
        partial(dense_step, bf16=True),
        partial(torch_encode, bf16=True),
    ),
    Implementation(
        "torch-compile",
        "as torch, forward and backward through torch.compile; projection and Adam eager",
        partial(dense_step, compile=True),
        partial(torch_encode, compile=True),
    ),
    Implementation(
        "faiss",
        "IndexFlatIP.search; encodes only; has an OpenMP runtime of its own beside torch's",
        encode=faiss_encode,
        package=FAISS,
    ),
    Implementation("sparsify", _SPARSIFY, adapters.sparsify_step, adapters.sparsify_encode, SPARSIFY),
    *_accelerated("sparsify", SPARSIFY, adapters.sparsify_step),
    Implementation(
        "sparsify-bf16",
        "as sparsify, forward under bf16 autocast of the CPU (its own autocast is for CUDA)",
        partial(adapters.sparsify_step, bf16=True),
        partial(adapters.sparsify_encode, bf16=True),
        SPARSIFY,
    ),
    Implementation("saelens", _SAELENS, adapters.saelens_step, adapters.saelens_encode, SAELENS),
    *_accelerated("saelens", SAELENS, adapters.saelens_step),
    Implementation(
        "saelens-sparse",
        "as saelens with use_sparse_activations=True",
        partial(adapters.saelens_step, sparse=True),
        package=SAELENS,
    ),
    Implementation(
        "dictionary-learning",
        "TopKTrainer.update with its gradient clipping (1.0) and counts of fired latents; squared error instead of "
        "FVU; ReLU before the top k; no AuxK; b_dec from our start, not its geometric median",
        adapters.dictionary_learning_step,
        adapters.dictionary_learning_encode,
        DICTIONARY_LEARNING,
    ),
    *_accelerated("dictionary-learning", DICTIONARY_LEARNING, adapters.dictionary_learning_step),
    Implementation(
        "overcomplete",
        "train_sae with our FVU, without clipping and monitoring; b_pre subtracted beforehand, not learnt; ReLU before "
        "the top k; unit norm in every forward pass, no projection; counts of fired latents from dense codes",
        adapters.overcomplete_step,
        adapters.overcomplete_encode,
        OVERCOMPLETE,
    ),
    *_accelerated("overcomplete", OVERCOMPLETE, adapters.overcomplete_step),
    Implementation(
        OURS,
        'the step of train_ksae with precision="fast"; as an encoder topk_encode(precision="fast")',
        adapters.our_step,
        partial(adapters.our_encode, precision="fast"),
    ),
    Implementation(
        f"{OURS}-fp32", "topk_encode, certified float32", encode=partial(adapters.our_encode, precision="fp32")
    ),
    Implementation(f"{OURS}-bf16", "topk_encode of bf16 inputs", encode=partial(adapters.our_encode, precision="bf16")),
)
