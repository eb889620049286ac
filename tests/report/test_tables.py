"""Tables and findings: layout, formats, and honest words about chance and baselines."""

from __future__ import annotations

import csv
import dataclasses
import io

import numpy as np
import pytest

from revelio_fast.report import FeatureResult, RunSummary, Table, all_tables, comparisons, findings
from tests.report.conftest import CLASSES, IMAGES, classifier


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


def row(t: Table, number: int) -> dict:
    return dict(zip(t.columns, t.rows[number], strict=True))


def with_baselines(summary: RunSummary, *baselines: FeatureResult) -> RunSummary:
    return dataclasses.replace(summary, features=[*summary.layers, *baselines])


def probe_like(summary: RunSummary, hits: int, images: str | None = None):
    """A probe result that is right on the first test images."""
    probe = summary.layers[0].probe
    return dataclasses.replace(
        probe, accuracy=hits / 100, correct="1" * hits + "0" * (100 - hits), images=images or probe.images
    )


def test_text_that_a_spreadsheet_would_run_is_escaped():
    t = Table("t", "Caption.", ["name", "number"], [["=HYPERLINK(1)", -1], ["-b0", 0.5]])
    assert t.csv() == "name,number\n'=HYPERLINK(1),-1\n'-b0,0.5\n"


def test_sigma_table_has_the_layout_of_table_2(summary):
    t = table(summary, "sigma_label")
    assert t.columns == ["layer", "t = 25", "t = 200"]
    assert [r[0] for r in t.rows] == ["bottleneck", "up_ft1"]
    purity = summary.layers[3].purity
    assert purity is not None
    assert t.rows[1][2] == f"{purity.sigma_label:.2f} ({purity.chance['sigma_label']:.2f})"
    assert t.rows[1][1].startswith("0.0")
    assert "chance" in t.caption and "n - 1" in t.caption


def test_sigma_table_leaves_missing_pairs_empty(summary):
    fewer = dataclasses.replace(summary, features=summary.layers[:3])
    assert table(fewer, "sigma_label").rows[1][2] is None


def test_purity_table_puts_baselines_and_chance_beside_the_model(summary):
    t = table(summary, "purity")
    assert [r[t.columns.index("features")] for r in t.rows] == ["model"] * 4 + [
        "raw pixels (8 x 8 px)",
        "random weights",
    ]
    first, purity = row(t, 2), summary.layers[2].purity
    assert purity is not None
    assert first["majority share"] == purity.majority_share
    assert first["majority chance"] == purity.chance["majority_share"]
    assert (first["low"], first["high"]) == pytest.approx(purity.interval["majority_share"])
    assert first["sigma p"] == purity.p_value["sigma_label"]
    assert first["entropy (bits)"] == purity.entropy and first["latents"] == purity.n_latents_used
    assert "mean activation" in t.caption


def test_purity_is_compared_at_a_common_number_of_latents(summary):
    """A result with more latents looked worse than one with fewer, since purity falls with rank."""
    layers = summary.layers
    shorter = dataclasses.replace(layers[2].purity, n_latents_used=7, majority_share=0.99)
    common = [dataclasses.replace(each, purity_at_common=shorter) for each in layers]
    compared = dataclasses.replace(summary, features=common)
    assert compared.common_latents == 7 and summary.common_latents is None
    t = table(compared, "purity")
    assert row(t, 0)["majority share"] == 0.99 and row(t, 0)["latents"] == 7
    assert row(t, 0)["own majority share"] == layers[0].purity.majority_share and row(t, 0)["own latents"] == 40
    for caption in (t.caption, table(compared, "sigma_label").caption):
        assert "the 7 best-ranked of each" in caption
    assert "over the 7 best-ranked latents" in " ".join(findings(compared))


def test_probe_table_states_the_penalty_and_the_grid(summary):
    t = table(summary, "linear_probe")
    assert [r[0] for r in t.rows] == ["model"] * 4 + ["raw pixels (8 x 8 px)", "random weights"]
    assert row(t, 0)["C"] == summary.layers[0].probe.C
    assert "from 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1e0, 1e1, 1e2 by 5-fold cross-validation" in t.caption


def test_other_tables(summary):
    diffc, ksae, seconds, classes = (table(summary, n) for n in ("diffc", "ksae", "seconds", "per_class_accuracy"))
    assert [r[0] for r in diffc.rows] == ["model", "random weights"]
    assert row(diffc, 0)["chance"] == 1 / CLASSES and row(diffc, 0)["low"] < 0.95 < row(diffc, 0)["high"]
    found = row(ksae, 0)
    assert (found["FVU"], found["images"], found["dead in training"], found["never active"]) == (0.2, IMAGES, 1, 1)
    assert "dead_after" in ksae.caption and "never active" in ksae.caption
    assert ["all", "total", 12.5, 12.5] in seconds.rows and ["up_ft1 t=25", "extract", 1.25, None] in seconds.rows
    assert classes.columns == ["class", "test images", "up_ft1 t=25"] and classes.rows[0] == ["zero", 20, 0.95]


def test_seconds_of_a_rerun_are_told_apart(summary):
    again = dataclasses.replace(summary, seconds={"features": 8.5, "tops": 0.5}, seconds_now={"tops": 0.5})
    rows = table(again, "seconds").rows
    assert ["all", "features", 8.5, 0.0] in rows and ["all", "tops", 0.5, 0.5] in rows
    assert ["all", "together", 9.0, 0.5] in rows


def test_seeds_give_means_and_deviations(summary):
    layers = [
        dataclasses.replace(each, seed=seed, purity=dataclasses.replace(each.purity, majority_share=0.5 + 0.1 * seed))
        for each in summary.layers
        for seed in (0, 1, 2)
    ]
    trained = [classifier(hits, layer="up_ft1", timestep=25, seed=seed) for seed, hits in enumerate((80, 90, 85))]
    several = dataclasses.replace(summary, features=layers, classifiers=trained)
    t = table(several, "purity")
    assert len(t.rows) == 4 and row(t, 0)["majority share"] == pytest.approx(0.6)
    assert row(t, 0)["majority deviation over seeds"] == pytest.approx(np.std([0.5, 0.6, 0.7], ddof=1))
    width = np.ptp(summary.layers[0].purity.interval["majority_share"])
    assert row(t, 0)["high"] - row(t, 0)["low"] > max(width, 2 * 1.95 * 0.1 / 3**0.5)
    diffc = row(table(several, "diffc"), 0)
    assert (diffc["accuracy"], diffc["deviation over seeds"]) == (pytest.approx(0.85), pytest.approx(0.05))
    assert "seeds 0, 1, 2" in t.caption and "±" in table(several, "sigma_label").rows[0][1]


def test_an_empty_summary_has_no_tables_and_no_findings():
    empty = RunSummary("t", "m", "d", 0)
    assert all_tables(empty) == [] and findings(empty) == [] and comparisons(empty) == []


def test_findings_say_which_runs_are_not_above_chance(summary):
    text = " ".join(findings(summary))
    assert "By sigma_label, latents are purer than chance (p <= 0.05) in 2 of 4 results; not in bottleneck t=25" in text
    assert "Highest majority share, over the 40 best-ranked latents: up_ft1 t=25" in text
    assert "not told apart" not in text
    fewer = "bottleneck t=25 40, bottleneck t=200 40, up_ft1 t=25 40, up_ft1 t=200 40"
    assert f"Of the 1000 latents asked for, fewer are active often enough: {fewer}." in text and "Only 40" not in text


def test_the_highest_is_not_set_above_what_it_cannot_be_told_apart_from(summary):
    same = [dataclasses.replace(each, purity=summary.layers[2].purity) for each in summary.layers[2:]]
    text = " ".join(findings(dataclasses.replace(summary, features=same)))
    assert "not told apart from up_ft1 t=200." in text


def test_findings_say_when_a_baseline_wins(summary):
    lines = findings(summary)
    pixels = next(line for line in lines if line.startswith("Linear probe, raw pixels (8 x 8 px)"))
    assert "the best of 4: **the baseline wins** (difference -" in pixels
    random = next(line for line in lines if line.startswith("Linear probe, random weights up_ft1 t=25"))
    assert "no difference shown (difference +0.0 points" in random
    purity = next(line for line in lines if line.startswith("Majority share, random weights up_ft1 t=25"))
    assert "for up_ft1 t=25: the model wins" in purity
    diffc = next(line for line in lines if line.startswith("Diff-C, random weights"))
    assert "50.0% against 95.0%" in diffc and "the model wins" in diffc


def test_nobody_is_ahead_without_a_test_that_shows_it(summary):
    """90 of 100 against 88, four of them read by one side only: no winner, and no word for one."""
    ours = dataclasses.replace(summary.layers[0], probe=probe_like(summary, 90))
    baseline = FeatureResult("raw pixels", probe=probe_like(summary, 88))
    (found,) = comparisons(dataclasses.replace(summary, features=[ours, baseline], classifiers=[]))
    assert found.winner == "" and found.p_value == pytest.approx(0.5) and "McNemar" in found.difference.test
    text = " ".join(findings(dataclasses.replace(summary, features=[ours, baseline], classifiers=[])))
    assert "no difference shown" in text
    assert "ahead" not in text and "equal" not in text and "wins (" not in text


def test_a_paired_test_sees_what_intervals_do_not(summary):
    """90 of 100 against 80, all of them contained: the intervals overlap, yet p = 0.002."""
    ours = dataclasses.replace(summary.layers[0], probe=probe_like(summary, 90))
    for images, shown in ((None, True), ("others", False)):
        baseline = FeatureResult("raw pixels", probe=probe_like(summary, 80, images))
        (found,) = comparisons(dataclasses.replace(summary, features=[ours, baseline], classifiers=[]))
        assert (found.winner == "ours") == shown and ("McNemar" in found.difference.test) == shown


def test_choosing_the_best_of_several_is_paid_for(summary):
    ours = [dataclasses.replace(each, probe=probe_like(summary, 90)) for each in summary.layers]
    baseline = FeatureResult("raw pixels", probe=probe_like(summary, 83))
    (found,) = comparisons(dataclasses.replace(summary, features=[*ours, baseline], classifiers=[]))[:1]
    assert found.difference.p_value < 0.05 < found.p_value == pytest.approx(4 * found.difference.p_value)
    assert found.winner == "" and found.chosen_from == 4


def test_another_head_is_compared_with_diffc_on_the_same_maps(summary):
    heads = [
        classifier(60, layer="up_ft1", timestep=25),
        classifier(90, layer="up_ft1", timestep=25, head="SD features"),
    ]
    line = findings(dataclasses.replace(summary, classifiers=heads))[-1]
    assert line.startswith(
        "Diff-C, SD features on up_ft1 t=25: 90.0% against 60.0% for up_ft1 t=25: **SD features wins**"
    )


def test_findings_on_poor_runs(summary):
    poor = dataclasses.replace(summary.layers[0], metrics={"fvu": 0.7})
    diffc = classifier(22, layer="up_ft1", timestep=25)
    lines = findings(dataclasses.replace(summary, features=[poor], classifiers=[diffc]))
    assert any("explains less than half of the variance (FVU 0.70)" in line for line in lines)
    assert any("Diff-C on up_ft1 t=25 (22.0%) is not above chance (20.0%)" in line for line in lines)


def test_a_baseline_of_one_layer_is_compared_with_that_layer_only(summary):
    elsewhere = FeatureResult("random weights", "down_ft0", 25, purity=summary.layers[0].purity)
    lines = findings(with_baselines(summary, elsewhere))
    assert not any("down_ft0" in line for line in lines)


@pytest.mark.parametrize("field", ["purity", "probe", "tops"])
def test_tables_do_without_what_was_not_measured(summary, field):
    layers = [dataclasses.replace(run, **{field: None}) for run in summary.layers]
    for t in all_tables(dataclasses.replace(summary, features=layers)):
        assert all(len(row) == len(t.columns) for row in t.rows)
    bare = FeatureResult(layer="up_ft1", timestep=25, d=4, n_latents=8, k=2, n_images=10, metrics={"fvu": 0.1})
    assert all_tables(dataclasses.replace(summary, features=[bare]))
