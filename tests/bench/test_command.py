"""`python -m bench NAME`: which implementations run, what a row says, and what the tables show of it."""

import json
import sys

import pytest
import torch

import bench.__main__
import bench.measure
from bench.limits import STREAMS, share_of_limit
from bench.measure import Lazy, Missing, compare, compiled
from bench.problems import Shape
from bench.table import limits_lines, table
from revelio_fast import _C, _limits

SHAPE = Shape(64, 64, 1024, 8)
SIZES = [part for name, size in SHAPE._asdict().items() for part in (f"--{name}", str(size))] + ["--repeats", "1"]
COMPILED = ["--without", "*compile*"]  # the compiler takes most of a minute


@pytest.fixture(autouse=True)
def no_idle_check(monkeypatch):
    monkeypatch.setattr(bench.measure, "busy_share", lambda: 0.0)


def run(monkeypatch, tmp_path, *arguments):
    path = tmp_path / "rows.json"
    monkeypatch.setattr(sys, "argv", ["bench", *arguments, *SIZES, "--json", str(path)])
    bench.__main__.main()
    return json.loads(path.read_text())


def check_rows(found, what):
    limits = found["stamp"]["limits"][what]
    assert set(limits) == set(_limits.limit_names()) and all(rate > 0 for rate in limits.values())
    module = bench.__main__.BENCHES[what]
    for row in found["rows"]:
        if "missing" not in row and row["what"] == what:
            work = module.works(SHAPE)[row["impl"]] if hasattr(module, "works") else module.least_bytes(SHAPE)
            # Not "at most 1": neighbours may have slowed the limits and not the work.
            assert row["share_of_limit"] == share_of_limit(work, limits, row["median_s"]), row
            assert row["median_s"] > 0 and row["ratio"] > 0


def test_encode_has_every_precision_and_the_share_of_each(monkeypatch, tmp_path, capsys):
    found = run(monkeypatch, tmp_path, "encode", *COMPILED)
    check_rows(found, "encode")
    rows = {row["impl"]: row for row in found["rows"] if "missing" not in row}
    ours = {f"revelio_fast cpu {precision}" for precision in ("fast", "fp32", "bf16")}
    assert {"torch matmul + topk", "torch bf16", "revelio_fast torch", *ours} <= set(rows)
    assert "torch compile" not in rows
    assert all(row["share_of_limit"] > 0 for row in rows.values())
    # One bf16 rounding of each factor is 2^-9 of it; float32 sums of 64 products, 64 x 2^-24.
    assert 2**-12 < rows["torch bf16"]["max_rel_err"] < 2**-7
    assert rows["revelio_fast cpu fast"]["max_rel_err"] < 64 * 2**-24
    assert found["stamp"]["isa"] == _C.isa()
    printed = capsys.readouterr().out
    assert table(found["rows"]) in printed and limits_lines(found["stamp"]) in printed


def test_a_step_lowers_the_same_loss_in_every_way(monkeypatch, tmp_path):
    found = run(monkeypatch, tmp_path, "step", *COMPILED)
    check_rows(found, "step")
    names = [row["impl"] for row in found["rows"]]
    assert names == ["torch dense step", "torch bf16 autocast", "revelio_fast cpu", "revelio_fast torch"]
    assert all(row["share_of_limit"] > 0 for row in found["rows"])


def test_a_sweep_gives_the_rows_of_dense_gradients_and_the_same_bits_with_marks(monkeypatch, tmp_path):
    found = run(monkeypatch, tmp_path, "sweep")
    check_rows(found, "sweep")
    assert [row["what"] for row in found["rows"]] == ["sweep"] * 3 + ["sweep, 50% asleep"] * 2 + [
        "sweep, 90% asleep"
    ] * 2
    # Adam turns a gradient that rounds to another sign by 2 lr; the largest entries of 64-wide unit rows are about 0.5.
    assert all(row["max_rel_err"] <= 4 * bench.ops.bench_sweep.LR / 0.5 for row in found["rows"][:3])
    assert all(row["max_rel_err"] == 0 for row in found["rows"][3:])


def test_top_says_which_share_of_an_encode_it_takes(monkeypatch, tmp_path, capsys):
    found = run(monkeypatch, tmp_path, "top")
    check_rows(found, "top")
    encode, update = (row for row in found["rows"] if row["what"] == "top while encoding")
    assert update["share_of_encode"] == update["median_s"] / encode["median_s"]
    assert f"{update['share_of_encode']:.1%} of the encode's time" in capsys.readouterr().out


def test_a_step_is_counted_as_encode_residual_and_sweep():
    B, d, n, k = shape = Shape(4096, 1280, 81_920, 32)
    benches = bench.__main__.BENCHES
    work = benches["step"].works(shape)["torch dense step"]
    memory = {stream: amount for stream, amount in work.items() if stream in STREAMS}
    parts = [benches[what].least_bytes(shape) for what in ("residual", "sweep")]
    assert memory == {stream: parts[0][stream] + parts[1][stream] for stream in STREAMS}
    # Six [n, d] float32 arrays in and out, and the residual out; k decoder rows for each of B.
    assert memory["update"] == 48 * n * d + 4 * B * d
    assert memory["read"] > 4 * B * k * d
    (unit,) = set(work) - set(STREAMS)
    assert unit.startswith("float32-") and work[unit] == 2 * B * n * d


def test_bytes_that_caches_hold_get_no_share(monkeypatch, tmp_path):
    for what in ("decode", "residual"):
        assert all(row["share_of_limit"] is None for row in run(monkeypatch, tmp_path, what)["rows"])


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["--only", "torch dense"], ["torch dense"]),
        (["--only", "torch*"], ["torch dense", "torch embedding_bag"]),
        (["--without", "torch*", "*cpu"], ["revelio_fast torch"]),
        (["--only", "revelio*", "--without", "*torch"], ["revelio_fast cpu"]),
    ],
)
def test_only_and_without_choose(monkeypatch, tmp_path, options, names):
    assert [row["impl"] for row in run(monkeypatch, tmp_path, "decode", *options)["rows"]] == names


def test_one_left_out_is_not_even_built(monkeypatch, tmp_path):
    def never(*_, **__):
        raise AssertionError("built")

    monkeypatch.setitem(bench.__main__.BENCHES["step"].BUILDERS, "torch dense step", never)
    rows = run(monkeypatch, tmp_path, "step", "--only", "revelio_fast cpu")["rows"]
    assert [row["impl"] for row in rows] == ["revelio_fast cpu"]


@pytest.mark.parametrize("what", ["decode", "all"])
def test_nothing_left_is_an_error(monkeypatch, tmp_path, capsys, what):
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, tmp_path, what, "--only", "nobody")
    assert caught.value.code == 2
    assert "--only ['nobody'] --without None leave nothing of" in capsys.readouterr().err


def test_too_little_memory_is_warned_of(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bench.measure, "free_gb", lambda: 0.0)
    run(monkeypatch, tmp_path, "decode", "--only", "revelio*")
    assert "name fewer with --only" in capsys.readouterr().err


def test_what_is_missing_says_why_and_ratios_are_over_the_first_that_runs():
    def absent():
        raise Missing("not here: install it")

    rows = compare("w", "s", {"a": Lazy(absent), "b": lambda: torch.ones(1)}, 2, limits={})
    assert rows[0] == {"what": "w", "impl": "a", "shape": "s", "missing": "not here: install it"}
    assert rows[1]["ratio"] == 1
    shown = table(rows)
    assert "| w | a | - | - | - | - | - | - |" in shown and "\n- w, a: not here: install it" in shown


def test_a_lazy_way_is_built_once():
    built = []
    way = Lazy(lambda: built.append(1) or (lambda: torch.ones(1)))
    assert way() == way() == 1 and built == [1]


def test_compiling_without_a_compiler_is_missing(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(Missing, match=r"needs a C\+\+ compiler"):
        compiled(torch.relu)


def test_limits_enclose_the_repeats(monkeypatch):
    order = []
    rates = iter(({"read": 1.0}, {"read": 3.0}))
    monkeypatch.setattr(bench.measure, "measure_limits", lambda: order.append("limits") or next(rates))
    limits = {}
    compare("w", "s", {"a": lambda: order.append("a") or torch.ones(1)}, 3, limits=limits)
    # The first two runs warm up and measure memory.
    assert order == ["a", "a", "limits", "a", "a", "a", "limits"] and limits == {"read": 2.0}


def test_an_older_file_is_shown_without_what_it_lacks():
    row = {"what": "encode", "impl": "torch", "median_s": 0.5, "ratio": 1.0, "max_rel_err": 0.0, "shape": "s"}
    assert "| encode | torch | 0.5000 | 1.00x | - | - | - | 0.0e+00 |" in table([row])
    assert limits_lines({}) == ""


def test_limits_are_shown_with_their_units():
    found = {"read": 40e9, "update": 55.04e9, "int8-avx512": 0.9e12, "cycles": 3.58e9}
    assert limits_lines({"limits": {"encode": found}}) == (
        "Limits beside encode: int8-avx512 0.900 tera-operations a second at 3.58 GHz; read 40.0, update 55.0 GB/s."
    )
