"""Every CUDA kernel compiles for every architecture that is shipped, without a spilled register (slow: needs nvcc)."""

import pytest

from tests.shim import CSRC
from tests.shim.resources import ARCHITECTURES, nvcc, resources

SOURCES = sorted(path for path in (CSRC / "cuda").glob("*.cu") if "__global__" in path.read_text())


def test_the_architectures_are_those_of_the_build():
    listed = (CSRC.parent / "CMakeLists.txt").read_text()
    assert "CMAKE_CUDA_ARCHITECTURES 80-real 86-real 89-real 90-real 100-real 120)" in listed
    assert ARCHITECTURES == (80, 86, 89, 90, 100, 120)


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_nothing_is_spilled(source):
    if nvcc() is None:
        pytest.skip("nvcc is not installed")
    table = resources(source)
    assert {row.architecture for row in table} == set(ARCHITECTURES)
    assert [row for row in table if row.spilled_bytes or row.stack_bytes] == []
    # 48 KiB is what a block gets unasked; 40 of them may hold rows (latent_gradients.cuh)
    assert all(row.shared_bytes <= (8 if "sweep" in row.kernel else 48) * 1024 for row in table)
