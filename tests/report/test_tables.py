"""Tables and findings: layout, formats, and honest words about chance and baselines."""

from __future__ import annotations

import csv
import dataclasses
import io

import pytest

from revelio_fast.report import Baseline, DiffCRun, LayerRun, RunSummary, Table, all_tables, findings
from tests.report.conftest import CLASSES, IMAGES


def table(summary: RunSummary, name: str) -> Table:
    return next(t for t in all_tables(summary) if t.name == name)


def test_csv_keeps_precision_and_markdown_rounds():
    t = Table(
        "t",
        "Caption.",
        ["name", "share"],
        [["a|b\nc", 1 / 3], ["x", None], ["y", float("nan")]],
        {"share": ".1%"},
    )
    rows = list(csv.DictReader(io.StringIO(t.csv())))
    assert float(rows[0]["share"]) == 1 / 3 and rows[1]["share"] == rows[2]["share"] == ""
    assert t.markdown().splitlines() == [
        "| name | share |",
        "|---|---:|",
        "| a\\|b c | 33.3% |",
        "| x |  |",
        "| y |  |",
    ]


def test_sigma_table_has_the_layout_of_table_2(summary):
    t = table(summary, "sigma_label")
    assert t.columns == ["layer", "t = 25", "t = 200"]
    assert [row[0] for row in t.rows] == ["bottleneck", "up_ft1"]
    purity = summary.layers[3].purity
    assert purity is not None
    assert t.rows[1][2] == f"{purity.sigma_label:.2f} ({purity.chance['sigma_label']:.2f})"
    assert t.rows[1][1].startswith("0.0")
    assert "chance" in t.caption


def test_sigma_table_leaves_missing_pairs_empty(summary):
    fewer = dataclasses.replace(summary, layers=summary.layers[:3])
    assert table(fewer, "sigma_label").rows[1][2] is None


def test_purity_table_puts_baselines_and_chance_beside_the_model(summary):
    t = table(summary, "purity")
    assert [row[t.columns.index("features")] for row in t.rows] == ["model"] * 4 + [
        "raw pixels",
        "random weights",
    ]
    first, purity = dict(zip(t.columns, t.rows[2], strict=True)), summary.layers[2].purity
    assert purity is not None
    assert first["majority share"] == purity.majority_share
    assert first["majority chance"] == purity.chance["majority_share"]
    assert (first["majority low"], first["majority high"]) == purity.interval["majority_share"]
    assert first["sigma p"] == purity.p_value["sigma_label"]
    assert first["entropy (bits)"] == purity.entropy and first["latents used"] == purity.n_latents_used
    assert "mean activation" in t.caption


def test_other_tables(summary):
    probe, diffc, ksae, seconds = (table(summary, n) for n in ("linear_probe", "diffc", "ksae", "seconds"))
    assert [row[0] for row in probe.rows] == ["model"] * 4 + ["raw pixels", "random weights"]
    assert [row[0] for row in diffc.rows] == ["model", "random weights"]
    row = dict(zip(diffc.columns, diffc.rows[0], strict=True))
    assert row["chance"] == 1 / CLASSES and row["low"] < 0.95 < row["high"]
    row = dict(zip(ksae.columns, ksae.rows[0], strict=True))
    assert (row["fvu"], row["images"], row["active latents"]) == (0.2, IMAGES, 40)
    assert ["whole run", "total", 12.5] in seconds.rows and ["up_ft1 t=25", "extract", 1.25] in seconds.rows


def test_an_empty_summary_has_no_tables_and_no_findings():
    empty = RunSummary("t", "m", "d", 0)
    assert all_tables(empty) == [] and findings(empty) == []


def test_findings_say_which_runs_are_not_above_chance(summary):
    text = " ".join(findings(summary))
    assert "By sigma_label, latents are purer than chance (p <= 0.05) in 2 of 4 runs; not in bottleneck t=25" in text
    assert "Purest by majority share: up_ft1 at t=25" in text
    runs = "bottleneck t=25, bottleneck t=200, up_ft1 t=25, up_ft1 t=200"
    assert f"{runs}: Only 40 of the 1000 latents" in text and text.count("Only 40") == 1


def test_findings_say_when_a_baseline_wins(summary):
    lines = findings(summary)
    pixels = next(line for line in lines if line.startswith("Linear probe, raw pixels"))
    assert pixels.endswith("the best of 4 runs: **the baseline wins**.")
    random = next(line for line in lines if line.startswith("Linear probe, random weights (up_ft1, t=25)"))
    assert "no clear winner" in random
    purity = next(line for line in lines if line.startswith("Majority share, random weights (up_ft1, t=25)"))
    assert purity.endswith("for up_ft1 at t=25: the model wins.")
    diffc = next(line for line in lines if line.startswith("Diff-C, random weights"))
    assert "50.0% against 95.0%" in diffc and diffc.endswith("the model wins.")


def test_findings_on_poor_runs(summary):
    poor = dataclasses.replace(summary.layers[0], metrics={"fvu": 0.7})
    diffc = DiffCRun("up_ft1", 25, 0.22, 50, 50, CLASSES)
    lines = findings(dataclasses.replace(summary, layers=[poor], diffc=[diffc]))
    assert any("explains less than half of the variance (FVU 0.70)" in line for line in lines)
    assert any("Diff-C on up_ft1 at t=25 (22.0%) is not above chance (20.0%)" in line for line in lines)


def test_a_baseline_of_one_layer_is_compared_with_that_layer_only(summary):
    elsewhere = Baseline("random weights", "down_ft0", 25, purity=summary.layers[0].purity)
    lines = findings(dataclasses.replace(summary, baselines=[elsewhere]))
    assert not any("down_ft0" in line for line in lines)


@pytest.mark.parametrize("field", ["purity", "probe", "tops"])
def test_tables_do_without_what_was_not_measured(summary, field):
    layers = [dataclasses.replace(run, **{field: None}) for run in summary.layers]
    for t in all_tables(dataclasses.replace(summary, layers=layers, baselines=[])):
        assert all(len(row) == len(t.columns) for row in t.rows)
    assert all_tables(dataclasses.replace(summary, layers=[LayerRun("up_ft1", 25, 4, 8, 2, 10)]))
