"""The command `convert` on the fixtures: what it says, what it checks, and what it refuses."""

import json

import pytest
import torch
from typer.testing import CliRunner

import revelio_fast.interop.difference
from revelio_fast import KSparseAutoencoder
from revelio_fast.cli.app import app
from tests.interop.test_formats import FIXTURES


def run(*arguments):
    return CliRunner().invoke(app, ["convert", *(str(argument) for argument in arguments)])


def test_what_is_read_written_and_checked(tmp_path):
    result = run(FIXTURES / "saelens_topk_rescaled" / "saved", tmp_path / "out", "--to", "sparsify")
    assert result.exit_code == 0, result.output
    words = " ".join(result.output.split())
    assert "(saelens): 16 latents of width 8" in words
    assert "top 10 of each row; ReLU after; b_pre subtracted and added; rescaled by decoder norms wrote" in words
    assert "(sparsify): cfg.json 0.000 MB, sae.safetensors 0.001 MB" in words
    assert "256 random rows with 7.8 active latents each: the same latents; largest difference of codes" in words
    assert json.loads((tmp_path / "out" / "cfg.json").read_text())["k"] == 10


def test_a_relu_that_the_file_does_not_have(tmp_path):
    source = FIXTURES / "authors_gzip" / "saved"
    refused = run(source, tmp_path / "out", "--to", "saelens")
    assert refused.exit_code == 1 and "or convert with --relu" in refused.output and not (tmp_path / "out").exists()
    result = run(source, tmp_path / "out", "--to", "saelens", "--relu", "after")
    assert result.exit_code == 0, result.output
    assert "against IN as it is" in result.output and "other latents in" in result.output
    assert KSparseAutoencoder.from_pretrained(tmp_path / "out").relu


def test_a_file_of_one_format_to_a_file_of_another(tmp_path):
    result = run(
        FIXTURES / "overcomplete_topk" / "saved" / "sae.pt", tmp_path / "sae.pt", "--to", "overcomplete", "--k", 4
    )
    assert result.exit_code == 0 and (tmp_path / "sae.pt").is_file(), result.output


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    result = run(FIXTURES / "sparsify" / "saved", tmp_path, "--to", "saelens")
    assert result.exit_code == 1 and "exists: give a new folder or file" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_unknown_formats_are_refused_before_anything_is_read(tmp_path):
    assert "got 'gpt'" in run(tmp_path / "missing", tmp_path / "out", "--to", "gpt").output
    assert (
        "got 'gpt'" in run(FIXTURES / "sparsify" / "saved", tmp_path / "out", "--to", "saelens", "--from", "gpt").output
    )


def test_a_conversion_that_computes_something_else_fails(tmp_path, monkeypatch):
    broken = KSparseAutoencoder.from_pretrained

    def read(*arguments, **options):
        sae = broken(*arguments, **options)
        sae.b_enc.data += 1e-3
        return sae

    monkeypatch.setattr(KSparseAutoencoder, "from_pretrained", read)
    result = run(FIXTURES / "sparsify" / "saved", tmp_path / "out", "--to", "saelens")
    assert result.exit_code == 1 and "computes something else when it is read again" in result.output


def test_the_difference_is_that_of_all_rows():
    sae = KSparseAutoencoder.from_pretrained(FIXTURES / "sparsify" / "saved")
    other = KSparseAutoencoder.from_pretrained(FIXTURES / "sparsify" / "saved")
    same = revelio_fast.interop.difference.difference(sae, other, rows=70)
    assert same == (70, same.active, 0, 0.0, 0.0) and 5 < same.active <= 10
    with torch.no_grad():
        other.W_dec *= 1.5
    apart = revelio_fast.interop.difference.difference(sae, other)
    assert apart.codes == 0 and apart.reconstructions == pytest.approx(0.5, rel=0.3)
