"""The authors' `KSparseAutoencoder` (SD-kSAE), known by its structure, for no package ships it."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from revelio_fast import ops
from revelio_fast.interop.accelerate.base import Accelerated, KnownBug
from revelio_fast.interop.accelerate.lazy import computed_when_read
from revelio_fast.interop.accelerate.sparse import Encoder
from revelio_fast.ksae.model import KSparseAutoencoder

_METHODS = ("select_topk", "decoder_impl", "set_decoder_norm_to_unit_norm", "initialize_b_dec")
_SHAPES = {"W_enc": ("d", "n"), "b_enc": ("n",), "W_dec": ("n", "d"), "b_dec": ("d",)}


class Official(Accelerated):
    """``forward(x) -> (sae_out, hidden_pre, loss)``, without a ReLU; the loss is the error over the variance."""

    library = "the authors' code"
    latents_dims: ClassVar[dict[str, int]] = {"W_enc": 1, "W_dec": 0}
    replaced = ("forward",)
    known_bugs = (
        KnownBug(
            "statistics of pre-activations",
            "forward() returns the dense pre-activations, of which the trainer counts active latents as if they were "
            "the code: about half of all latents.",
            "The second result is the k-sparse code.",
        ),
    )
    cfg: Any
    W_enc: Any
    W_dec: Any
    b_enc: Tensor
    b_dec: Tensor

    @classmethod
    def recognises(cls, model: Any) -> bool:
        return (
            type(model).__name__ == "KSparseAutoencoder"
            and not isinstance(model, KSparseAutoencoder)
            and all(callable(getattr(model, name, None)) for name in _METHODS)
        )

    @classmethod
    def refusal(cls, model: Any) -> str:
        shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
        if shapes.keys() != _SHAPES.keys():
            return f"it has the parameters {', '.join(shapes)}, and the authors' class has {', '.join(_SHAPES)}"
        d, n = shapes["W_enc"] if len(shapes["W_enc"]) == 2 else (0, 0)
        for name, wanted in _SHAPES.items():
            if shapes[name] != tuple({"d": d, "n": n}[axis] for axis in wanted):
                return f"its {name} has shape {list(shapes[name])}, and the authors' class has [{', '.join(wanted)}]"
        k = getattr(model.cfg, "k", None)
        if not isinstance(k, int) or not 1 <= k <= n:
            return f"its cfg.k is {k!r}, and must lie between 1 and its {n} latents"
        return _difference(model, k)

    def forward(self, x: Tensor) -> Any:
        if not self._runs(x) or x.dim() != 2:
            return self._original_class.forward(self, x)
        encoder = Encoder(self._rows("W_enc"), self.b_enc, self.b_dec, False, self._accelerated.precision)
        code = encoder.encode(x, self.cfg.k)
        sae_out = ops.sparse_decode(code, self._rows("W_dec"), self.b_dec)
        if self._accelerated.fix_known_bugs:
            second = self._dense(code, x)
        else:
            inputs, shape = (x, self.W_enc, self.b_enc, self.b_dec), (len(x), len(self.b_enc))
            second = computed_when_read(_pre_activations, inputs, shape, "hidden_pre")
        return sae_out, second, _loss(sae_out, x)


def _pre_activations(x: Tensor, W_enc: Tensor, b_enc: Tensor, b_dec: Tensor) -> Tensor:
    return torch.addmm(b_enc, x - b_dec, W_enc)


def _loss(sae_out: Tensor, x: Tensor) -> Tensor:
    return ((sae_out - x).square().mean() / (x - x.mean(0)).square().mean()).nan_to_num(0)


@torch.no_grad()
def _difference(model: Any, k: int) -> str:
    """What its forward pass computes differently from the authors' on four random rows, as a clause, or ""."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, len(model.b_dec), generator=generator).to(model.W_dec)
    pre = _pre_activations(x, model.W_enc, model.b_enc, model.b_dec)
    best = pre.topk(k)
    sae_out = torch.zeros_like(pre).scatter(1, best.indices, best.values) @ model.W_dec + model.b_dec
    wanted = {"reconstruction": sae_out, "hidden_pre": pre, "loss": _loss(sae_out, x)}
    found = model(x)
    if not isinstance(found, tuple) or len(found) != 3:
        return "its forward pass does not return three results, as the authors' does"
    for (name, want), have in zip(wanted.items(), found, strict=True):
        # Sums of at most a few thousand float32 products, in another order.
        if have.shape != want.shape or not torch.allclose(have, want, rtol=1e-4, atol=1e-4 * float(want.abs().max())):
            return f"its {name} differs from the authors' mathematics on random rows: it is another class of that name"
    return ""
