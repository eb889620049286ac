"""CUDA graphs: work warmed up on a side stream, then captured. May be used anywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")


def warm_up_on_side_stream(run: Callable[[], Result], device: torch.device, cuda: Any = torch.cuda) -> Result:
    """Run in a side stream, as work before its capture must: kernels are compiled and workspaces allocated in it.

    `device`, where `run` finds its tensors, is the current one meanwhile: kernels are launched on the current device.
    `cuda` is ``torch.cuda``, or what stands for it in tests. Both here and in `capture_graph`.
    """
    side = cuda.Stream(device)
    side.wait_stream(cuda.current_stream(device))
    with cuda.device(device), cuda.stream(side):
        result = run()
    cuda.current_stream(device).wait_stream(side)
    return result


def capture_graph(run: Callable[[], Result], device: torch.device, cuda: Any = torch.cuda) -> tuple[Any, Result]:
    """The graph of `run`, and what it returned: memory that each replay fills anew."""
    graph = cuda.CUDAGraph()
    # torch's own stream for captures lies on the device that was current when it was first used, for ever
    with cuda.device(device), cuda.graph(graph, stream=cuda.Stream(device)):
        result = run()
    return graph, result
