"""One forward at a fixed batch shape: run as it is on the CPU, captured once as a CUDA graph and replayed on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from revelio_fast.cuda_graph import capture_graph, warm_up_on_side_stream

Outputs = dict[str, Tensor]
WARM_UP = 3


class FixedShapeForward:
    """Calls ``function(noisy, timesteps, conditioning) -> {name: Tensor}``; on CUDA through one graph per shape.

    The outputs of a replay live in the graph's own memory and are overwritten by the next: they are copied out.

    Parameters
    ----------
    function : callable
        Reads nothing back to the host, and gives the same shapes for the same shapes.
    device : torch.device
    capture : bool, optional
        By default on CUDA.
    cuda : module
        ``torch.cuda``, or what stands for it in tests.
    """

    def __init__(
        self,
        function: Callable[[Tensor, Tensor, Outputs], Outputs],
        device: torch.device,
        capture: bool | None = None,
        cuda: Any = torch.cuda,
    ):
        self._function = function
        self._capture = device.type == "cuda" if capture is None else capture
        self._cuda = cuda
        self._graphs: dict[tuple[tuple[int, ...], ...], tuple[Any, list[Tensor], Outputs]] = {}

    def __call__(self, noisy: Tensor, timesteps: Tensor, conditioning: Mapping[str, Tensor]) -> Outputs:
        if not self._capture:
            return self._function(noisy, timesteps, dict(conditioning))
        given = [noisy, timesteps, *conditioning.values()]
        shapes = tuple(tuple(value.shape) for value in given)
        if shapes not in self._graphs:
            self._graphs[shapes] = self._captured(given, list(conditioning))
        graph, static, outputs = self._graphs[shapes]
        for mine, value in zip(static, given, strict=True):
            mine.copy_(value)
        graph.replay()
        return {name: value.clone() for name, value in outputs.items()}

    def _captured(self, given: list[Tensor], names: list[str]) -> tuple[Any, list[Tensor], Outputs]:
        static = [value.clone(memory_format=torch.contiguous_format) for value in given]
        arguments = static[0], static[1], dict(zip(names, static[2:], strict=True))

        def warm_up() -> None:
            for _ in range(WARM_UP):
                self._function(*arguments)

        warm_up_on_side_stream(warm_up, static[0].device, self._cuda)
        graph, outputs = capture_graph(lambda: self._function(*arguments), static[0].device, self._cuda)
        return graph, static, outputs
