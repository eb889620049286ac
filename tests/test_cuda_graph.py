"""Graphs of a model that is not on the current GPU: its device is made current while work is queued."""

import pytest
import torch

from revelio_fast.cuda_graph import capture_graph, warm_up_on_side_stream
from tests.fake_cuda import FakeCuda

SECOND = torch.device("cuda", 1)


def test_work_is_queued_with_its_device_current():
    cuda, x = FakeCuda(), torch.ones(3)

    def work():
        return cuda.current, x + 1

    assert warm_up_on_side_stream(work, SECOND, cuda)[0] == SECOND and cuda.current is None
    graph, (current, outputs) = capture_graph(work, SECOND, cuda)
    assert current == SECOND and cuda.current is None
    x.fill_(5)
    graph.replay()
    assert outputs.tolist() == [6, 6, 6]


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_model_on_the_second_gpu_is_captured_there():
    x = torch.ones(3, device=SECOND)
    warm_up_on_side_stream(lambda: x + 1, SECOND)
    graph, outputs = capture_graph(lambda: x + 1, SECOND)
    x.fill_(5)
    graph.replay()
    assert outputs.tolist() == [6, 6, 6] and torch.cuda.current_device() == 0
