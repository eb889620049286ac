"""Limits are of work that was done: checksums are recomputed, rates are within what a core can issue."""

import subprocess
import sys

import numpy as np
import pytest

from bench import limits as bench_limits
from bench.limits import STREAMS, fastest_unit, measure_limits, median_of_both, share_of_limit, unit_of_ours
from revelio_fast import _C, _limits
from tests.amx import EmulatorError, build_emulator, environment

STEPS = 128
# Rows and four-byte lanes of a tile, and products in four bytes, by the loops of csrc/bench/limits.cpp; and operations
# that no core's units do more of in a cycle: two instructions (four of SSE's; AMX, 16 x 16 x 64 bytes in 16 cycles).
TILES = {
    "float32-baseline": (4, 4, 1, 4 * 8),
    "float32-avx2": (6, 8, 1, 2 * 16),
    "float32-avx512": (12, 16, 1, 2 * 32),
    "int8-avx512": (12, 16, 4, 2 * 128),
    "bf16-avx512": (12, 16, 2, 2 * 64),
    "bf16-amx": (32, 16, 2, 1024),
    "int8-amx": (32, 16, 4, 2048),
}
UNITS = [name for name in _limits.limit_names() if name in TILES]
EPS = 2.0**-24
CACHE = bench_limits.last_level_cache  # as it is outside the fixture


def hashed(count, seed):
    """The random words of limits.cpp."""
    h = (np.arange(count, dtype=np.uint64) + seed * 0x9E3779B9).astype(np.uint32)
    h ^= h >> np.uint32(16)
    h *= np.uint32(0x85EBCA6B)
    h ^= h >> np.uint32(13)
    h *= np.uint32(0xC2B2AE35)
    return h ^ (h >> np.uint32(16))


def as_numbers(words, name, signed=True):
    """``[..., products]`` numbers that a unit sees in each word."""
    if name.startswith("int8"):
        return words[..., None].view(np.int8 if signed else np.uint8).astype(np.float64)
    if name.startswith("bf16"):
        halves = ((words & np.uint32(0x807F807F)) | np.uint32(0x3F003F00))[..., None].view(np.uint16)
        return (halves.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)
    return ((words & np.uint32(0x807FFFFF)) | np.uint32(0x3F000000))[..., None].view(np.float32).astype(np.float64)


def expected(name, seed):
    """The sum of all products of a tile, and how far float32 sums may be from it."""
    rows, lanes, products, _ = TILES[name]
    words = hashed(STEPS * (rows + 2 * lanes), seed)
    x = words[: STEPS * rows].reshape(STEPS, rows)
    if name.endswith("amx"):  # a register's row is 16 steps of one row of x
        x = x.reshape(STEPS // 16, rows, 16).swapaxes(1, 2).reshape(STEPS, rows)
    x = as_numbers(np.ascontiguousarray(x), name)
    w = as_numbers(words[STEPS * rows :].reshape(STEPS, 2 * lanes), name, signed=name.endswith("amx"))
    partial = np.einsum("irp,ilp->irl", x, w).cumsum(0)
    # Each product, below 1 here, may be rounded, and each sum, which is within `products` of one of these.
    roundings = products * (np.abs(partial) + products + 1).sum() * EPS
    return partial[-1].sum(), 0 if name.startswith("int8") else roundings


@pytest.mark.parametrize("name", UNITS)
@pytest.mark.parametrize("seed", [1, 7])
def test_a_unit_multiplies_all_that_is_counted(name, seed):
    rate, checksum = _limits.limit(name, 0.003, 1, seed, 0)
    total, roundings = expected(name, seed)
    assert roundings < 0.25, "a float32 product lost, at least that large, must be seen"
    assert abs(checksum - total) <= roundings
    assert 0 < rate < TILES[name][3] * 6.5e9
    assert _limits.limit(name, 0.003, 2, seed, 0)[1] == checksum


def test_amx_multiplies_all_that_is_counted_where_it_is_emulated(tmp_path):
    if "int8-amx" in UNITS:
        pytest.skip("this processor has AMX: the test above ran on it")
    try:
        emulator = build_emulator(tmp_path)
    except EmulatorError as error:
        pytest.skip(str(error))
    # pytest's fault handler would take the signal that unknown instructions raise.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:faulthandler", "-p", "no:cacheprovider", __file__]
    tests = subprocess.run(
        [*command, "-k", "a_unit_multiplies and amx and 7"], env=environment(emulator), capture_output=True, text=True
    )
    if "REVELIO_ISA=amx: this processor does not have it" in tests.stdout:
        pytest.skip("AMX comes with AVX-512 VNNI and bfloat16: without them it cannot be emulated")
    assert "2 passed" in tests.stdout, tests.stdout[-2000:]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_streams_pass_over_the_whole_array(threads):
    size = 3 * 2**16
    words = hashed(size // 4, 5)
    for name, seen in (("read", words), ("update", words | np.uint32(1))):
        rate, checksum = _limits.limit(name, 0.003, threads, 5, size)
        assert checksum == int(seen.sum(dtype=np.uint32))
        assert rate > 0


def test_narrower_numbers_are_faster_and_the_clock_is_one():
    def best(name):
        return max(_limits.limit(name, 0.02, 1, 0, 0)[0] for _ in range(5))

    if "int8-avx512" not in UNITS or "cycles" not in _limits.limit_names():
        pytest.skip("this processor has no AVX512-VNNI")
    assert best("int8-avx512") > best("float32-avx512")
    assert 0.5e9 < best("cycles") < 6.5e9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fp8", 0.01, 1, 0, 0), "no fp8"),
        (("read", 0.01, 0, 0, 1024), "at least one thread, got 0"),
        (("read", 0.01, 2, 0, 64), "at least 64 bytes a thread"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        _limits.limit(*arguments)


def test_all_limits_of_this_machine_are_measured():
    limits = measure_limits(0.01)
    assert list(limits) == _limits.limit_names() and {*STREAMS, "float32-baseline"} <= set(limits)
    assert all(rate > 0 for rate in limits.values())


def test_share_is_the_least_time_of_all_parts_over_the_time():
    limits = {"int8-avx512": 1e12, "read": 1e10, "update": 2e10}
    large = 8.0 * bench_limits.last_level_cache()
    assert share_of_limit({"int8-avx512": 1e12}, limits, 4.0) == 0.25
    assert share_of_limit({"read": large, "update": large}, limits, 1.0) == pytest.approx(large / 1e10 + large / 2e10)
    assert share_of_limit({"int8-avx512": 1e12, "read": 1e10}, limits, 4.0) == 0.5


def test_no_share_where_no_limit_bounds_the_work():
    limits = {"float32-avx2": 1e12, "read": 1e10, "update": 2e10}
    assert share_of_limit(None, limits, 1.0) is None
    assert share_of_limit({}, limits, 1.0) is None
    assert share_of_limit({"int8-avx512": 1.0}, limits, 1.0) is None
    assert share_of_limit({"read": 1e5, "update": 1e5}, limits, 1.0) is None, "bytes that caches hold"


def test_the_cache_is_read_from_the_system():
    assert 2**18 <= CACHE() <= 2**31


def test_limits_are_halfway_between_before_and_after():
    assert median_of_both({"read": 1.0, "update": 8.0}, {"read": 3.0, "update": 8.0}) == {"read": 2.0, "update": 8.0}


def test_the_widest_unit_there_is_stands_for_a_width(monkeypatch):
    names = ["read", "update", "float32-baseline", "float32-avx2", "int8-avx512", "int8-amx", "cycles"]
    monkeypatch.setattr(_limits, "limit_names", lambda: names)
    assert fastest_unit("int8") == "int8-amx"
    assert fastest_unit("float32") == fastest_unit("bf16") == "float32-avx2"


@pytest.mark.parametrize(
    ("isa", "screens", "expected"),
    [
        ("amx", ["int8", "bf16"], {"fast": "int8-amx", "fp32": "bf16-amx", "bf16": "bf16-amx"}),
        ("avx512bf16", ["int8", "bf16"], {"fast": "int8-avx512", "fp32": "bf16-avx512", "bf16": "bf16-avx512"}),
        ("avx512", ["int8"], {"fast": "int8-avx512", "fp32": "float32-avx512", "bf16": "float32-avx512"}),
        ("avx2", [], {"fast": "float32-avx2", "fp32": "float32-avx2", "bf16": "float32-avx2"}),
    ],
)
def test_our_unit_follows_the_instruction_set_in_use(monkeypatch, isa, screens, expected):
    monkeypatch.setattr(_C, "isa", lambda: isa)
    monkeypatch.setattr(_C, "screens", lambda: screens)
    assert {precision: unit_of_ours(precision, 4096, 1280, 81_920, 32) for precision in expected} == expected
    few_rows = unit_of_ours("fast", 1, 1280, 81_920, 32)
    assert few_rows == ("float32-avx512" if isa == "amx" else f"float32-{isa.removesuffix('bf16')}")
