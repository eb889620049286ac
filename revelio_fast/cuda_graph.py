"""CUDA graphs: work warmed up beside the current stream, then captured. May be used anywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")


def beside(run: Callable[[], Result], device: torch.device, cuda: Any = torch.cuda) -> Result:
    """Run in a side stream, as work before its capture must: kernels are compiled and workspaces allocated in it.

    `cuda` is ``torch.cuda``, or what stands for it in tests; here and in `captured`.
    """
    side = cuda.Stream(device)
    side.wait_stream(cuda.current_stream(device))
    with cuda.stream(side):
        result = run()
    cuda.current_stream(device).wait_stream(side)
    return result


def captured(run: Callable[[], Result], cuda: Any = torch.cuda) -> tuple[Any, Result]:
    """The graph of `run`, and what it returned: memory that each replay fills anew."""
    graph = cuda.CUDAGraph()
    with cuda.graph(graph):
        result = run()
    return graph, result
