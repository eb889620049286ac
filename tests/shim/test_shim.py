"""The host shim itself: it finds the faults it claims to find, and runs what is right."""

import ctypes
import subprocess

import pytest

from tests import shim


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    path = tmp_path_factory.mktemp("shim") / "broken_kernels.so"
    try:
        compiler = shim.compiler()
    except shim.ShimError as error:
        pytest.skip(str(error))
    sources = [str(shim.HERE / name) for name in ("broken_kernels.cu", "shim.cpp")]
    include = [f"-I{shim.HERE}", f"-I{shim.CSRC}"]
    command = [compiler, *shim.OPTIONS, *include, "-x", "c++", *sources, "-shared", "-o", str(path)]
    subprocess.run(command, check=True)
    loaded = ctypes.CDLL(str(path))
    loaded.run_kernel.restype = ctypes.c_char_p
    return loaded


def run(library, name, threads=32, seed=0, weak=False):
    """What the kernel wrote, and what the shim said."""
    out = (ctypes.c_int * 2048)(*[-1] * 2048)
    library.shim_schedule(ctypes.c_uint64(seed), int(weak))
    problem = library.run_kernel(name.encode(), out, threads).decode()
    return list(out)[:threads], problem


@pytest.mark.parametrize("weak", [False, True])
@pytest.mark.parametrize("threads", [1, 33, 64])
def test_a_barrier_makes_the_order_of_threads_irrelevant(library, threads, weak):
    for seed in range(20):
        assert run(library, "reverse", threads, seed, weak) == (list(range(threads))[::-1], "")


def test_a_missing_barrier_shows(library):
    results = {tuple(run(library, "reverse without barrier", 64, seed)[0]) for seed in range(20)}
    assert len(results) > 1
    # what is read before it is written is garbage, not zero
    assert all(-1 in result for result in results)


def test_a_shuffle_does_not_order_shared_memory(library):
    for seed in range(5):
        assert run(library, "tell", seed=seed, weak=True)[0] == [7] * 32
        assert run(library, "tell without barrier", seed=seed)[0] == [7] * 32
    # until lane 0 has left the kernel, the others read garbage
    assert any(-1 in run(library, "tell without barrier", seed=seed, weak=True)[0] for seed in range(5))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("barrier for some", "of 32 threads, 3 wait at __syncthreads, 0 at a warp operation"),
        ("shuffle for some", "0 wait at __syncthreads, 5 at a warp operation that not all lanes of its mask reach, 27"),
        ("store past", "a store past the block's dynamic shared memory"),
    ],
)
def test_a_fault_is_reported_and_the_next_launch_runs(library, name, message):
    assert message in run(library, name)[1]
    assert run(library, "reverse")[0] == list(range(32))[::-1]


def test_warps_may_part(library):
    assert run(library, "two masks") == ([0xAAAA] * 16 + [0x11110000] * 16, "")


def test_a_warp_operation_of_a_short_block_is_refused(library):
    assert "names lanes that the block does not have" in run(library, "two masks", threads=20)[1]


def test_a_launch_that_cuda_refuses_names_the_kernel(library):
    assert run(library, "reverse", 1025)[1] == "CUDA: reverse on device 0 failed: invalid configuration argument"
