"""What the tests of `accelerate` compare, how closely, and the settings of each model that they go through."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tests.interop.accelerated_libraries import Library

# Sums of at most 256 float32 products in another order (2^-24 each), relative to the largest element of a tensor.
FORWARD = 2e-6
# The same through 20 steps of Adam, which divides by roots of small numbers.
TRAINED = 1e-5

# Library and settings of its model.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "saelens": ("saelens", {}),
    "saelens-unscaled": ("saelens", {"rescale_acts_by_decoder_norm": False}),
    "saelens-raw-input": ("saelens", {"apply_b_dec_to_input": False}),
    "saelens-layer-norm": ("saelens", {"normalize_activations": "layer_norm", "rescale_acts_by_decoder_norm": False}),
    "sparsify": ("sparsify", {}),
    "sparsify-multi": ("sparsify", {"multi_topk": True}),
    "sparsify-skip": ("sparsify", {"skip_connection": True}),
    "sparsify-transcoder": ("sparsify", {"transcode": True}),
    "dictionary_learning": ("dictionary_learning", {}),
    "overcomplete": ("overcomplete", {}),
    "overcomplete-tied": ("overcomplete", {"encoder": "tied"}),
    "overcomplete-untied": ("overcomplete", {"encoder": "untied"}),
    "overcomplete-multiplier": ("overcomplete", {"dictionary_params": {"use_multiplier": True}}),
    "authors": ("authors", {}),
}


def error(have: Tensor, want: Tensor) -> float:
    """Largest difference over the largest element."""
    have, want = have.detach().double(), want.detach().double()
    return float((have - want).abs().max() / want.abs().max().clamp_min(1e-30))


def check_equal_step(library: Library, plain: Any, fast: Any, x: Tensor, **dead: Any) -> None:
    """Losses, results and every gradient of one forward and backward pass."""
    want_loss, want = library.loss(plain, x, **dead)
    loss, found = library.loss(fast, x, **dead)
    assert error(loss, want_loss) <= FORWARD
    for name, tensor in want.items():
        assert tensor.shape == found[name].shape and tensor.dtype == found[name].dtype
        assert error(found[name], tensor) <= FORWARD, name
    want_loss.backward()
    loss.backward()
    for (name, theirs), ours in zip(plain.named_parameters(), fast.parameters(), strict=True):
        assert (theirs.grad is None) == (ours.grad is None), name
        if theirs.grad is not None:
            assert error(ours.grad, theirs.grad) <= FORWARD, f"gradient of {name}"
