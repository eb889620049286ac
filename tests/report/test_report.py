"""The report folder: every link leads somewhere, figures show what they should, sheets show the right images."""

from __future__ import annotations

import dataclasses
import json
import re
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from revelio_fast.report import ContactSheets, LayerRun, RunSummary, figures, versions, write_report
from revelio_fast.report.contact import TILE, chosen_latents
from tests.report.conftest import IMAGES, NAMES, picture


@pytest.fixture(scope="module")
def folder(summary, tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    assert write_report(summary, out, load_image=picture, latents=2, images=9) == out / "report.md"
    return out


def test_every_link_of_the_report_leads_to_a_file(folder):
    text = (folder / "report.md").read_text()
    links = [unquote(link) for link in re.findall(r"\]\(([^)]+)\)", text)]
    assert len(links) > 15
    assert [link for link in links if not (folder / link).is_file()] == []
    drawn = {p.relative_to(folder).as_posix() for p in folder.rglob("*.png")}
    assert drawn <= set(links)
    assert not list(folder.rglob("*.tmp"))


def test_the_report_states_chance_baselines_configuration_and_versions(folder):
    text = (folder / "report.md").read_text()
    for needle in (
        "# Test run",
        "planted, 200 images, 5 classes; prompt empty",
        "Two images were skipped.",
        "**the baseline wins**",
        "In brackets: chance",
        "| raw pixels |",
        '"model": "mini-sd"',
        "- torch: test",
        "Images that the sheets could not show: 1 (first: #3, cannot identify image file 'three.jpg')",
    ):
        assert needle in text, needle


def test_summary_json_holds_the_figures(folder, summary):
    values = json.loads((folder / "summary.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert values["layers"][2]["purity"]["majority_share"] == summary.layers[2].purity.majority_share
    assert values["layers"][0]["metrics"]["holdout_fvu"] is None
    assert values["baselines"][0]["name"] == "raw pixels" and values["diffc"][1]["baseline"] == "random weights"
    assert values["findings"] and "tops" not in values["layers"][0]


def test_writing_twice_gives_the_same_files(folder, summary, tmp_path):
    write_report(summary, tmp_path, load_image=picture, latents=2, images=9)
    for path in folder.rglob("*.*"):
        assert path.read_bytes() == (tmp_path / path.relative_to(folder)).read_bytes(), path


def test_a_report_without_baselines_or_images_says_so(summary, tmp_path):
    bare = dataclasses.replace(summary, baselines=[], diffc=[])
    text = write_report(bare, tmp_path).read_text()
    assert "No baselines were run" in text and not (tmp_path / "sheets").exists()
    assert "Top images" not in text


def test_a_report_of_almost_nothing(tmp_path):
    run = LayerRun("mid.attn/0", 5, 8, 16, 2, 4)
    text = write_report(RunSummary("t", "m", "d", 4, prompt="a cat", layers=[run]), tmp_path).read_text()
    assert "prompt `a cat`" in text and "mid.attn/0" in text


def panel_lines(panel) -> dict[str, np.ndarray]:
    handles, labels = panel.get_legend_handles_labels()
    return {
        label: (h.lines[0] if hasattr(h, "lines") else h).get_ydata() for h, label in zip(handles, labels, strict=True)
    }


def test_purity_figure_draws_the_measured_values_chance_and_baselines(summary):
    figure = figures.purity_by_layer(summary)
    assert figure is not None
    for panel, measure in zip(figure.axes, ("sigma_label", "majority_share", "entropy"), strict=True):
        lines = panel_lines(panel)
        assert set(lines) == {"t = 25", "t = 200", "chance", "raw pixels", "random weights"}
        expected = [getattr(run.purity, measure) for run in summary.layers if run.timestep == 200]
        assert lines["t = 200"].tolist() == expected
        chance = np.mean([run.purity.chance[measure] for run in summary.layers if run.layer == "up_ft1"])
        assert lines["chance"][1] == pytest.approx(chance)
        assert lines["raw pixels"][0] == getattr(summary.baselines[0].purity, measure)
    by_time = figures.purity_by_timestep(summary)
    assert by_time is not None and set(panel_lines(by_time.axes[0])) >= {"bottleneck", "up_ft1", "chance"}


def test_accuracy_figure_keeps_baselines_in_view(summary):
    figure = figures.accuracies(summary)
    assert figure is not None
    probe, diffc = figure.axes
    assert panel_lines(probe)["raw pixels"][0] == summary.baselines[0].probe.accuracy < probe.get_ylim()[1]
    assert panel_lines(diffc)["random weights: up_ft1 t=25"][0] == 0.5
    assert panel_lines(diffc)["chance"][0] == 0.2


def test_training_figure_takes_histories_by_row_and_by_column(summary):
    by_column = {
        "step": [0, 20],
        "fvu": [0.9, 0.2],
        "holdout_fvu": [float("nan"), 0.3],
        "l0": [4, 4],
        "dead": [3, 1],
    }
    for history in (summary.layers[0].history, by_column):
        one = dataclasses.replace(summary, layers=[dataclasses.replace(summary.layers[0], history=history)])
        figure = figures.training_curves(one)
        assert figure is not None
        fvu, l0, dead = ([line.get_xydata().tolist() for line in panel.lines] for panel in figure.axes)
        assert fvu == [[[0, 0.9], [20, 0.2]], [[20, 0.3]]]
        assert l0 == [[[0, 4], [20, 4]]] and dead == [[[0, 3], [20, 1]]]


def test_density_figure_counts_latents(summary):
    figure = figures.density_histogram(summary)
    assert figure is not None
    assert "up_ft1 t=25 (1 never active)" in figure.axes[0].get_legend_handles_labels()[1]


def test_sheet_of_a_latent_shows_its_top_images_in_order(summary):
    run = summary.layers[2]
    sheets = ContactSheets(picture, summary.labels, NAMES)
    latent = run.purity.latents[0]
    sheet = sheets.latent(run.tops, latent, images=9)
    assert sheet.width > 5 * TILE
    for place, image_id in enumerate(run.tops.image_ids[latent, :9].tolist()):
        x, y = 6 + place % 5 * (TILE + 6) + TILE // 2, 36 + place // 5 * (TILE + 36) + TILE // 2
        expected = (211, 211, 211) if image_id == 3 else picture(image_id).getpixel((0, 0))
        assert sheet.getpixel((x, y)) == expected, (place, image_id)


def test_names_and_majorities():
    sheets = ContactSheets(picture, {0: 0, 1: 1, 2: 1, 3: -1, 4: 99}, NAMES)
    assert [sheets.name(i) for i in range(6)] == ["zero", "one", "one", "no label", "class 99", "no label"]
    assert sheets.majority([0, 1, 2]) == "one 2/3" and sheets.majority([]) == "no images"


def test_small_images_are_not_blurred_and_images_are_loaded_once(summary):
    loaded = []

    def load(image_id: int) -> Image.Image:
        loaded.append(image_id)
        image = Image.new("L", (2, 2), 0)
        image.putpixel((0, 0), 255)
        return image

    sheets = ContactSheets(load, summary.labels, NAMES)
    run = summary.layers[2]
    sheet = sheets.latent(run.tops, 0, images=1)
    assert sheet.getpixel((6 + 10, 36 + 10)) == (255, 255, 255)
    assert sheet.getpixel((6 + TILE // 2 + 2, 36 + 10)) == (0, 0, 0)
    sheets.overview(run.tops, list(range(10)))
    sheets.overview(run.tops, list(range(10)))
    assert len(loaded) == len(set(loaded)) <= IMAGES


def test_latents_are_chosen_without_purity_too(summary):
    run = summary.layers[2]
    assert chosen_latents(run, 3) == run.purity.latents[:3]
    assert chosen_latents(dataclasses.replace(run, purity=None), 40) == run.purity.latents
    assert chosen_latents(dataclasses.replace(run, purity=None, tops=None), 3) == []


def test_versions_name_the_packages_and_the_machine():
    found = versions()
    assert {"revelio-fast", "python", "torch", "machine"} <= set(found)
    assert "torch threads" in found["machine"]
