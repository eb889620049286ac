"""Small data sets for the k-SAE tests, with planted directions."""

import torch
from torch import Tensor
from torch.nn.functional import normalize


def planted(rows: int, d: int = 16, directions: int = 32, active: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows as sparse non-negative combinations of unit directions; returns rows [N, d] and directions [m, d]."""
    # Not a seed that tests draw weights from: the first numbers of both would be the same directions.
    generator = torch.Generator().manual_seed(10_007 + seed)
    D = normalize(torch.randn(directions, d, generator=generator))
    which = torch.rand(rows, directions, generator=generator).topk(active).indices
    weights = torch.rand(rows, active, generator=generator) + 0.5
    return torch.zeros(rows, directions).scatter_(1, which, weights) @ D, D
