"""What of a CUDA graph can be tried without a GPU: capture and replay on CPU tensors, and a search for host syncs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Recorder(TorchDispatchMode):
    """Notes each operation with its arguments: the tensors themselves, and Python numbers as they were."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing: a value was read back")
        result = function(*args, **(kwargs or {}))
        self.calls.append((function, args, kwargs or {}, result))
        return result


class FakeGraph:
    """Replays the recorded operations into the memory that the capture gave them, as a CUDA graph does."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1
        for function, args, kwargs, result in self.calls:
            again = function(*args, **kwargs)
            for held, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(held, torch.Tensor) and held.data_ptr() != new.data_ptr():
                    held.copy_(new)


class FakeStream:
    cuda_stream = 0

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device

    def wait_stream(self, other: FakeStream) -> None:
        pass


class FakeCuda:
    """Stands for ``torch.cuda`` where it captures graphs. What it captures is also run, unlike on a GPU, and undone.

    `current` is the current device: None, until a block makes one current.
    """

    Stream = FakeStream

    def __init__(self) -> None:
        self.graphs: list[FakeGraph] = []
        self.current: torch.device | None = None

    @contextlib.contextmanager
    def device(self, device: torch.device) -> Iterator[None]:
        before, self.current = self.current, device
        try:
            yield
        finally:
            self.current = before

    def CUDAGraph(self) -> FakeGraph:
        self.graphs.append(FakeGraph())
        return self.graphs[-1]

    def current_stream(self, device=None) -> FakeStream:
        return FakeStream(device)

    def stream(self, stream: FakeStream):
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def graph(self, graph: FakeGraph, stream: FakeStream) -> Iterator[None]:
        assert stream.device == self.current, f"captured in a stream of {stream.device} while {self.current} is current"
        before: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

        class Keeper(Recorder):
            """Remembers what every tensor held when the capture first met it."""

            def __torch_dispatch__(self, function, types, args=(), kwargs=None):
                for tensor in tree_leaves((args, kwargs)):
                    if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in before:
                        before[tensor.untyped_storage().data_ptr()] = (tensor, tensor.clone())
                return super().__torch_dispatch__(function, types, args, kwargs)

        with Keeper() as recorder:
            yield
        for tensor, held in before.values():
            tensor.copy_(held)
        graph.calls = recorder.calls


class Syncs(TorchDispatchMode):
    """Counts copies between the host and a GPU played by the "meta" device, where reading a value raises by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, kwargs, result)) if isinstance(t, torch.Tensor)]
        if {"cpu", "meta"} <= {t.device.type for t in tensors}:
            self.found.append(str(function))
        return result
