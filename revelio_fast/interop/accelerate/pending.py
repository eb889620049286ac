"""Gradients that nobody has read: backward() leaves what they are computed from, and Adam steps by it in one pass.

`rebuild` is a forward pass whose parameters receive lazy gradients. Whatever reads one (clipping, logging, another
backward pass) gets the dense gradient; an optimiser that finds all of them unread takes `PendingStep` instead.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from revelio_fast import ops
from revelio_fast.interop.accelerate.lazy import LazyTensor, Source
from revelio_fast.interop.accelerate.sparse import Encoder, project_rows_


class PendingStep:
    """One backward pass: the rows, their code and the gradient at their reconstruction.

    Attributes
    ----------
    project : bool
        Remove the part of the decoder's gradient along each decoder row.
    """

    def __init__(self, x: Tensor, code: ops.Code, grad: Tensor, encoder: Encoder, W_dec: Tensor) -> None:
        self.x, self.code, self.grad, self.encoder, self.W_dec = x, code, grad, encoder, W_dec
        self.project = False
        self._versions = [t._version for t in self._parameters()]
        self._dense: tuple[Tensor, ...] | None = None

    def _parameters(self) -> tuple[Tensor, ...]:
        return self.encoder.W_enc, self.encoder.b_enc, self.W_dec, self.encoder.b_pre

    def lazy(self) -> list[Tensor]:
        """The gradients of W_enc, b_enc, W_dec and b_pre, each computed (with the others) when it is read."""
        return [
            LazyTensor(PendingGradient(self, i), t.shape, t.dtype, t.device) for i, t in enumerate(self._parameters())
        ]

    def dense(self) -> tuple[Tensor, ...]:
        if self._dense is None:
            if self._versions != [t._version for t in self._parameters()]:
                raise RuntimeError(
                    "a gradient was left to the accelerated optimiser, and the parameters have changed since: read "
                    "gradients before the step"
                )
            W_enc, _, W_dec, b_pre = (t.detach() for t in self._parameters())
            dW_dec, dW_enc, db_enc, db_pre, *_ = ops.sparse_backward(
                self.x, self.code, self.grad, W_enc, W_dec, b_pre, relu=self.encoder.relu
            )
            if self.project:
                project_rows_(dW_dec, W_dec)
            self._dense = dW_enc, db_enc, dW_dec, db_pre
        return self._dense


class PendingGradient(Source):
    """One gradient of a pending step."""

    def __init__(self, step: PendingStep, which: int) -> None:
        super().__init__(lambda: step.dense()[which])
        self.step = step


def pending_step(parameters: list[nn.Parameter]) -> PendingStep | None:
    """The step that all of these parameters wait for, if none of their gradients has been read or changed."""
    steps = set()
    for parameter in parameters:
        source = parameter.grad._source if isinstance(parameter.grad, LazyTensor) else None
        if not isinstance(source, PendingGradient) or source.step._dense is not None:
            return None
        steps.add(source.step)
    return steps.pop() if len(steps) == 1 else None


class _Rebuilt(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        W_enc: Tensor,
        b_enc: Tensor,
        W_dec: Tensor,
        b_pre: Tensor,
        code: ops.Code,
        encoder: Encoder,
    ) -> Tensor:
        ctx.save_for_backward(x, *code)
        ctx.encoder, ctx.W_dec = encoder, W_dec
        return ops.sparse_decode(code, W_dec, b_pre)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        x, values, indices = ctx.saved_tensors
        step = PendingStep(x, ops.Code(values, indices), grad.contiguous(), ctx.encoder, ctx.W_dec)
        dW_enc, db_enc, dW_dec, db_pre = step.lazy()
        return None, dW_enc, db_enc, dW_dec, db_pre, None, None


def rebuild(x: Tensor, code: ops.Code, encoder: Encoder, W_dec: Tensor) -> Tensor:
    """``sparse_decode`` of a code that `encoder` made of `x`, with pending gradients of all four parameters."""
    detached = ops.Code(code.values.detach(), code.indices)
    return _Rebuilt.apply(x, encoder.W_enc, encoder.b_enc, W_dec, encoder.b_pre, detached, encoder)
