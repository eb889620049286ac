"""sparsify (eai-sparsify): `SparseCoder`, trained by its `Trainer`."""

from __future__ import annotations

import sys
from typing import Any, ClassVar

import torch
from torch import Tensor

from revelio_fast import ops
from revelio_fast.interop.accelerate.base import Accelerated, KnownBug, zeros
from revelio_fast.interop.accelerate.lazy import computed_when_read
from revelio_fast.interop.accelerate.optimizer import is_fused
from revelio_fast.interop.accelerate.pending import pending_step, rebuild
from revelio_fast.interop.accelerate.sparse import Encoder, project_rows_, unit_rows_


class Sparsify(Accelerated):
    """`SparseCoder` with activation "topk", as autoencoder or transcoder.

    Its encoder's backward pass neither masks the ReLU nor sees the gradient at the pre-activations. The second is kept
    by detaching; the first shows in rows that have fewer than k positive scores, and batches with such rows go through
    the library's own code, unless bugs are to be fixed.
    """

    library, package, distribution, versions = "sparsify", "sparsify", "eai-sparsify", ("1.3.",)
    latents_dims: ClassVar[dict[str, int]] = {"encoder.weight": 0, "W_dec": 0}
    replaced = (
        "encode",
        "decode",
        "forward",
        "set_decoder_norm_to_unit_norm",
        "remove_gradient_parallel_to_decoder_directions",
    )
    known_bugs = (
        KnownBug(
            "AuxK and Multi-TopK without encoder gradient",
            "The encoder's backward pass drops the gradient at its pre-activations: both losses train W_dec only.",
            "Both losses train the encoder, too.",
        ),
        KnownBug(
            "gradient through clamped scores",
            "In a row with fewer than k positive scores, entries that the ReLU set to zero pass a gradient on.",
            "Entries that are not positive pass none.",
        ),
    )
    cfg: Any
    encoder: Any
    W_dec: Any
    W_skip: Any
    b_dec: Tensor

    @classmethod
    def recognises(cls, model: Any) -> bool:
        return any(base.__module__ == "sparsify.sparse_coder" for base in type(model).__mro__)

    @classmethod
    def refusal(cls, model: Any) -> str:
        if model.cfg.activation != "topk":
            return f"its activation is {model.cfg.activation!r}, and only 'topk' runs on the ops"
        if model.W_dec is None:
            return "it was loaded with decoder=False and has no W_dec: load it with its decoder"
        return ""

    def _encoder(self, x: Tensor) -> Encoder:
        b_pre = zeros(self.b_dec, x.shape[-1]) if self.cfg.transcode else self.b_dec
        return Encoder(self._rows("encoder.weight"), self.encoder.bias, b_pre, True, self._accelerated.precision)

    def _code(self, x: Tensor, k: int) -> ops.Code | None:
        """The k largest, or None where the library's own gradients would differ."""
        if not self._runs(x) or x.dim() != 2 or self.cfg.activation != "topk":
            return None
        code = self._encoder(x).encode(x, k)
        clamped = torch.is_grad_enabled() and bool((code.values[:, self.cfg.k - 1] <= 0).any())
        return None if clamped and not self._accelerated.fix_known_bugs else code

    def encode(self, x: Tensor) -> Any:
        code = self._code(x, self.cfg.k)
        if code is None:
            return self._original_class.encode(self, x)
        encoder = self._encoder(x)

        def compute(x: Tensor, W_enc: Tensor, b_enc: Tensor, b_pre: Tensor) -> Tensor:
            return torch.nn.functional.linear(x - b_pre, W_enc, b_enc).relu()

        inputs = [x, encoder.W_enc, encoder.b_enc, encoder.b_pre]
        if not self._accelerated.fix_known_bugs:
            inputs = [tensor.detach() for tensor in inputs]
        shape = (len(x), len(encoder.W_enc))
        pre_acts = computed_when_read(compute, inputs, shape, "pre_acts")
        module: Any = sys.modules["sparsify.sparse_coder"]
        return module.EncoderOutput(*code, pre_acts)

    def decode(self, top_acts: Tensor, top_indices: Tensor) -> Tensor:
        if not self._runs(top_acts) or top_acts.dim() != 2:
            return self._original_class.decode(self, top_acts, top_indices)
        return ops.sparse_decode(ops.Code(top_acts, top_indices), self._rows("W_dec"), self.b_dec)

    def forward(
        self,
        x: Tensor,
        y: Tensor | None = None,
        *,
        dead_mask: Tensor | None = None,
        total_variance: Tensor | None = None,
    ) -> Any:
        cfg, fixed = self.cfg, self._accelerated.fix_known_bugs
        code = self._code(x, 4 * cfg.k if cfg.multi_topk else cfg.k)
        if code is None:
            return self._original_class.forward(self, x, y, dead_mask=dead_mask, total_variance=total_variance)
        y = x if y is None else y
        W_dec, encoder = self._rows("W_dec"), self._encoder(x)
        first = ops.Code(*(part[:, : cfg.k].contiguous() for part in code))
        if is_fused(self) and not cfg.transcode and self.W_skip is None and not x.requires_grad:
            sae_out = rebuild(x, first, encoder, W_dec)
        else:
            sae_out = ops.sparse_decode(first, W_dec, self.b_dec)
        if self.W_skip is not None:
            sae_out = sae_out + x @ self.W_skip.mT
        missing = y - sae_out
        variance = (y - y.mean(0)).square().sum() if total_variance is None else total_variance
        auxk_loss = multi_topk_fvu = sae_out.new_tensor(0.0)
        dead = None if dead_mask is None else dead_mask.nonzero().flatten()
        if dead is not None and len(dead):
            k = y.shape[-1] // 2
            aux = encoder.encode_among(x, min(k, len(dead)), dead)
            rebuilt = ops.sparse_decode(aux if fixed else _detached(aux), W_dec, zeros(self.b_dec, y.shape[-1]))
            auxk_loss = min(len(dead) / k, 1.0) * (rebuilt - missing.detach()).square().sum() / variance
        if cfg.multi_topk:
            more = ops.sparse_decode(code if fixed else _detached(code), W_dec, self.b_dec)
            multi_topk_fvu = (more - y).square().sum() / variance
            sae_out = more  # what the library returns then, with all 4 k entries
        module: Any = sys.modules["sparsify.sparse_coder"]
        return module.ForwardOutput(sae_out, *code, missing.square().sum() / variance, auxk_loss, multi_topk_fvu)

    @torch.no_grad()
    def set_decoder_norm_to_unit_norm(self) -> None:
        pending = pending_step(list(self.parameters()))
        if pending is not None:
            pending.dense()
        unit_rows_(self._rows("W_dec"), torch.finfo(self.W_dec.dtype).eps)

    @torch.no_grad()
    def remove_gradient_parallel_to_decoder_directions(self) -> None:
        assert self.W_dec.grad is not None, "the decoder has no gradient: call backward() first"
        pending = pending_step(list(self.parameters()))
        if pending is not None:
            pending.project = True
            return
        project_rows_(self.W_dec.grad, self._rows("W_dec"))


def _detached(code: ops.Code) -> ops.Code:
    return ops.Code(code.values.detach(), code.indices)
