"""Stands in for the authors' k-SAE, whose code no package ships: its names and shapes, written from its mathematics."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class KSparseAutoencoder(nn.Module):
    """``forward(x) -> (sae_out, hidden_pre, loss)``."""

    def __init__(self, cfg: Any) -> None:
        super().__init__()
        self.cfg = cfg
        self.W_enc = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(cfg.d_in, cfg.d_sae)))
        self.b_enc = nn.Parameter(torch.zeros(cfg.d_sae))
        self.W_dec = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(cfg.d_sae, cfg.d_in)))
        self.b_dec = nn.Parameter(torch.zeros(cfg.d_in))
        self.hook_hidden_post = nn.Identity()
        self.set_decoder_norm_to_unit_norm()

    def select_topk(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        return torch.topk(scores, self.cfg.k, sorted=False)

    def decoder_impl(self, indices: Tensor, values: Tensor) -> Tensor:
        z = values.new_zeros(len(values), self.cfg.d_sae).scatter_(-1, indices, values)
        return z @ self.W_dec

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden_pre = self.hook_hidden_post((x - self.b_dec) @ self.W_enc + self.b_enc)
        values, indices = self.select_topk(hidden_pre)
        sae_out = self.decoder_impl(indices, values) + self.b_dec
        variance = (x - x.mean(0, keepdim=True)).pow(2).mean()
        return sae_out, hidden_pre, ((sae_out - x).pow(2).mean() / variance).nan_to_num(0)

    def initialize_b_dec(self, x: Tensor) -> None:
        self.b_dec.data = x.mean(0)

    @torch.no_grad()
    def set_decoder_norm_to_unit_norm(self) -> None:
        self.W_dec.data /= self.W_dec.data.norm(dim=1, keepdim=True)

    @torch.no_grad()
    def remove_gradient_parallel_to_decoder_directions(self) -> None:
        assert self.W_dec.grad is not None
        self.W_dec.grad -= (self.W_dec.grad * self.W_dec).sum(1, keepdim=True) * self.W_dec
