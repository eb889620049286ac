"""Every op test runs once per backend that can run here; the others are skipped with their reason."""

from collections.abc import Iterator

import pytest
import torch

from revelio_fast.ops import backends, use_backend


@pytest.fixture(params=["torch", "cpu"])
def backend(request) -> Iterator[str]:
    name = request.param
    op = request.module.OP
    reasons = [
        status.reason for status in backends() if (status.op, status.device, status.backend) == (op, "cpu", name)
    ]
    if not reasons or reasons[0]:
        pytest.skip(f"backend {name!r} cannot run {op} here: {reasons[0] if reasons else 'not in the table'}")
    with use_backend(name):
        yield name


@pytest.fixture
def on_threads() -> Iterator:
    """Call a function with 1 and with 2 threads and return both results."""
    before = torch.get_num_threads()

    def both(function):
        results = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(function())
        return results

    yield both
    torch.set_num_threads(before)
