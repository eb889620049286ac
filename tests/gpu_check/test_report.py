"""The report: sanitizer, timings beside the model, one sentence without a GPU."""

import stat

import pytest
import torch
from typer.testing import CliRunner

from bench import gpu
from revelio_fast.cli.app import app
from revelio_fast.gpu_check import check_gpu, model, parity, sanitizer, timing
from revelio_fast.gpu_check.check import run_checks
from revelio_fast.gpu_check.problems import SMALL, Shape
from revelio_fast.ops import BackendError
from tests.fake_cuda import FakeCuda

WITHOUT = "there is no CUDA device on this machine"

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


@no_gpu
def test_without_a_gpu_it_says_so_and_fails(capsys):
    with pytest.raises(BackendError, match=WITHOUT):
        check_gpu()
    assert gpu.main([]) == 1 and WITHOUT in capsys.readouterr().err
    result = CliRunner().invoke(app, ["doctor", "--gpu"])
    assert result.exit_code == 1 and "sparse_decode" in result.output
    assert WITHOUT in str(result.exception) or WITHOUT in result.output


def test_all_checks_are_said_as_they_come(monkeypatch):
    monkeypatch.setattr(parity, "CHECKS", {op: parity.CHECKS[op] for op in ("sparse_decode", "invert_code")})
    lines: list[str] = []
    findings = run_checks(lines.append, "cpu", SMALL[:2], FakeCuda())
    assert lines == [str(finding) for finding in findings] and len(lines) > 10
    assert {line[:4] for line in lines} <= {"ok  ", "skip", "FAIL"}
    assert [finding.what for finding in findings if finding.passed is False] == [
        f"top_activations_update_ captured, {SMALL[1]}"  # reads image ids back on the CPU, and only there
    ]


@pytest.mark.parametrize(
    ("script", "passed", "words"),
    [
        ("exit 0", True, "no errors"),
        (
            "echo '========= Invalid __global__ read of size 4 bytes'; echo '========= by thread 0'; exit 42",
            False,
            "Invalid __global__ read of size 4 bytes",
        ),
        ("echo 'no device'; exit 3", False, "exit code 3: no device"),
        ("sleep 5", False, "timed out after 1 seconds"),
    ],
)
def test_the_sanitizer_is_believed(tmp_path, monkeypatch, script, passed, words):
    program = tmp_path / "compute-sanitizer"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    findings = list(sanitizer.sanitize(seconds=1))
    assert [finding.what.split()[1] for finding in findings] == ["memcheck", "racecheck", "synccheck"]
    assert all(finding.passed is passed and finding.words.endswith(words) for finding in findings)


def test_no_sanitizer_no_findings(monkeypatch):
    monkeypatch.setattr(sanitizer, "find", lambda: None)
    assert not list(sanitizer.sanitize())


def test_timings_stand_beside_the_model(monkeypatch):
    shape = Shape(16, 24, 128, 4)
    rows = timing.timings("cpu", shape, repeats=2)
    assert {row.by for row in rows if row.what == "whole training step"} == {
        "revelio_fast",
        "PyTorch, dense, bf16 autocast",
    }
    assert all(row.median_ms > 0 and row.best_ms is None for row in rows)
    h100 = timing.card_of("NVIDIA H100 80GB HBM3")
    jobs = timing._jobs(timing.problem(shape, "cpu"))
    modelled = [timing._row(job, 1.0, h100) for job in jobs]
    assert all(0 < row.best_ms <= row.worst_ms for row in modelled)
    text = timing.table([*rows, *modelled])
    assert len(text.splitlines()) == 2 + len(rows) + len(modelled) and "| - | - |" in text and "x |" in text


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA GeForce RTX 4090", "4090"),
        ("Tesla T4", None),
    ],
)
def test_cards_are_known_by_their_number(name, number):
    card = timing.card_of(name)
    assert (card and card.number) == number


def test_the_model_of_a_kernel_is_the_larger_of_memory_and_arithmetic():
    h100 = model.CARDS[1]
    assert model.Work("", "", 3350e9, 6700e9).seconds(h100) == pytest.approx(1)
    assert model.Work("", "", 3350e9, 6700e9).seconds(h100, worst=True) == pytest.approx(2)
    assert model.Work("", "", 1.0, 1.0, 989.4e12, 66.9e12).seconds(h100) == pytest.approx(2)
