"""The report folder: every link leads somewhere, figures show what they should, sheets show the right images."""

from __future__ import annotations

import dataclasses
import json
import re
from itertools import pairwise
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from PIL import Image

from revelio_fast.concepts import TopActivations
from revelio_fast.report import ContactSheets, FeatureResult, RunSummary, curves, figures, versions, write_report
from revelio_fast.report.contact import TILE, chosen_latents, write_sheets
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
        "| raw pixels (8 x 8 px) |",
        '"model": "mini-sd"',
        "- torch: test",
        "Images that the sheets could not show: 1 (first: #3, cannot identify image file 'three.jpg')",
    ):
        assert needle in text, needle


def test_summary_json_holds_the_figures_and_comes_back(folder, summary):
    values = json.loads((folder / "summary.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert values["features"][2]["purity"]["majority_share"] == summary.layers[2].purity.majority_share
    assert values["features"][0]["metrics"]["holdout_fvu"] is None
    assert values["features"][4]["name"] == "raw pixels" and values["classifiers"][1]["name"] == "random weights"
    assert values["derived"]["findings"] and values["derived"]["comparisons"][0]["difference"]["p_value"] <= 1
    assert "tops" not in values["features"][0]
    back = RunSummary.load(folder / "summary.json")
    assert back.as_dict() == summary.as_dict()
    assert back.features[2].purity == summary.layers[2].purity and back.features[0].probe == summary.layers[0].probe


def test_a_report_folder_holds_only_what_belongs_to_it(summary, tmp_path):
    write_report(summary, tmp_path, load_image=picture, latents=3)
    (tmp_path / "sheets" / "mine.txt").write_text("kept")
    (tmp_path / "sheets" / "bottleneck_t25" / "latent-999999.png").write_bytes(b"of an SAE that is gone")
    fewer = dataclasses.replace(summary, features=summary.layers[2:], classifiers=[])
    write_report(fewer, tmp_path, load_image=picture, latents=1)
    assert {path.name for path in (tmp_path / "sheets").iterdir()} == {"up_ft1_t25", "up_ft1_t200", "mine.txt"}
    for place in ("up_ft1_t25", "up_ft1_t200"):
        assert len(list((tmp_path / "sheets" / place).glob("latent-*.png"))) == 1
    assert not (tmp_path / "tables" / "diffc.csv").exists() and (tmp_path / "tables" / "purity.csv").exists()
    text = (tmp_path / "report.md").read_text()
    drawn = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png")}
    assert drawn == {unquote(link) for link in re.findall(r"\]\(([^)]+\.png)\)", text)}


def test_sheets_of_another_sae_do_not_stay_in_the_folder(summary, tmp_path):
    sheets = ContactSheets(picture, summary.labels, NAMES)
    write_sheets(summary.layers[0], sheets, tmp_path, 4, 9)
    first = {path.name for path in tmp_path.glob("latent-*.png")}
    written = write_sheets(summary.layers[2], sheets, tmp_path, 2, 9)
    assert len(first) == 4 and set(tmp_path.iterdir()) == set(written)


def test_writing_twice_gives_the_same_files(folder, summary, tmp_path):
    write_report(summary, tmp_path, load_image=picture, latents=2, images=9)
    for path in folder.rglob("*.*"):
        assert path.read_bytes() == (tmp_path / path.relative_to(folder)).read_bytes(), path


def test_a_report_without_baselines_or_images_says_so(summary, tmp_path):
    bare = dataclasses.replace(summary, features=summary.layers, classifiers=[])
    text = write_report(bare, tmp_path).read_text()
    assert "No baselines were run" in text and not (tmp_path / "sheets").exists()
    assert "Top images" not in text


def test_a_report_of_almost_nothing(tmp_path):
    run = FeatureResult(layer="mid.attn/0", timestep=5, d=8, n_latents=16, k=2, metrics={"fvu": 0.1})
    text = write_report(RunSummary("t", "m", "d", 4, prompt="a cat", features=[run]), tmp_path).read_text()
    assert "prompt `a cat`" in text and "mid.attn/0" in text


def panel_lines(panel) -> dict[str, np.ndarray]:
    handles, labels = panel.get_legend_handles_labels()
    return {
        label: (h.lines[0] if hasattr(h, "lines") else h).get_ydata() for h, label in zip(handles, labels, strict=True)
    }


BASELINES = {"raw pixels (8 x 8 px)", "random weights"}


def test_purity_figure_draws_the_measured_values_chance_and_baselines(summary):
    figure = figures.purity_by_layer(summary)
    assert figure is not None
    for panel, measure in zip(figure.axes, ("majority_share", "sigma_label", "entropy"), strict=True):
        lines = panel_lines(panel)
        assert set(lines) == {"t = 25", "t = 200", "chance"} | BASELINES
        expected = [getattr(run.purity, measure) for run in summary.layers if run.timestep == 200]
        assert lines["t = 200"].tolist() == expected
        chance = np.mean([run.purity.chance[measure] for run in summary.layers if run.layer == "up_ft1"])
        assert lines["chance"][1] == pytest.approx(chance)
        assert lines["raw pixels (8 x 8 px)"][0] == getattr(summary.baselines[0].purity, measure)
    by_time = figures.purity_by_timestep(summary)
    assert by_time is not None
    assert set(panel_lines(by_time.axes[0])) == {"bottleneck", "up_ft1", "chance"} | BASELINES


def test_accuracy_figure_keeps_baselines_in_view(summary):
    figure = figures.accuracies(summary)
    assert figure is not None
    probe, diffc = figure.axes
    lines = panel_lines(probe)
    assert lines["raw pixels (8 x 8 px)"][0] == summary.baselines[0].probe.accuracy < probe.get_ylim()[1]
    assert panel_lines(diffc)["random weights"][0] == 0.5
    assert panel_lines(diffc)["chance"][0] == 0.2


def crowded(summary: RunSummary) -> RunSummary:
    """Four layers of long names at four timesteps, with random weights at each."""
    layers, others = [], []
    for layer in ("bottleneck", "up_ft0", "down_blocks.1.resnets.0", "up_ft3"):
        for timestep in (0, 25, 200, 500):
            some = dataclasses.replace(summary.layers[len(layers) % 4], layer=layer, timestep=timestep)
            layers.append(some)
            others.append(dataclasses.replace(some, name="random weights"))
    trained = [dataclasses.replace(summary.classifiers[0], layer=each.layer, timestep=each.timestep) for each in layers]
    features = [*layers, *others, summary.baselines[0]]
    return dataclasses.replace(summary, features=features, classifiers=trained)


DRAWN = [
    figures.purity_by_layer,
    figures.purity_by_timestep,
    figures.accuracies,
    curves.training_curves,
    curves.density_histogram,
    curves.sigma_curves,
]


@pytest.mark.parametrize("draw", DRAWN, ids=lambda draw: draw.__name__)
@pytest.mark.parametrize("many", [False, True])
def test_nothing_in_a_figure_collides(summary, draw, many):
    """Tick labels beside each other, the legend and the panels, panels' titles: none overlaps another."""
    figure = draw(crowded(summary) if many else summary)
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    for panel in figure.axes:
        for axis in (panel.xaxis, panel.yaxis):
            boxes = [t.get_window_extent(renderer) for t in axis.get_ticklabels() if t.get_text() and t.get_visible()]
            boxes = [box for box in boxes if box.width and panel.bbox.padded(60).overlaps(box)]
            for first, second in pairwise(boxes):
                assert not first.overlaps(second)
    (legend,) = figure.legends
    box = legend.get_window_extent(renderer)
    assert not any(box.overlaps(panel.get_tightbbox(renderer)) for panel in figure.axes)
    assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 and box.y0 >= figure.bbox.y0
    titles = [panel.title.get_window_extent(renderer) for panel in figure.axes]
    assert not any(a.overlaps(b) for a, b in pairwise(titles))


def test_training_figure_leaves_out_an_l0_that_never_changes(summary):
    one = dataclasses.replace(summary, features=summary.layers[:1])
    figure = curves.training_curves(one)
    assert figure is not None
    drawn = {panel.get_title(): [line.get_xydata().tolist() for line in panel.lines] for panel in figure.axes}
    assert drawn == {
        "FVU of the batch": [[[0, 0.9], [20, 0.2]]],
        "held-out FVU": [[[20, 0.3]]],
        "dead in training": [[[0, 3], [20, 1]]],
    }
    clamped = dataclasses.replace(one.features[0], history={**one.features[0].history, "l0": [4, 3.5]})
    figure = curves.training_curves(dataclasses.replace(one, features=[clamped]))
    assert [panel.get_title() for panel in figure.axes][2] == "L0: active latents per image"


def test_density_of_a_falling_distribution_is_drawn_falling(summary):
    """Logarithmic bins that hold one whole number, then two, then one drew a zigzag."""
    counts = torch.tensor([count for count in range(1, 200) for _ in range(4000 // count**2)])
    run = summary.layers[0]
    tops = TopActivations(len(counts), 12)
    tops.state.counts.copy_(counts)
    tops.n_images = 200
    figure = curves.density_histogram(dataclasses.replace(summary, features=[dataclasses.replace(run, tops=tops)]))
    (line,) = figure.axes[0].lines
    x, y = line.get_data()
    assert len(x) > 10 and (np.diff(y) <= 0).all() and (np.diff(x) > 0).all()
    edges = curves.density_edges(200)
    assert edges[-1] >= 200.5 and ((edges - 0.5) % 1 == 0).all() and (np.diff(edges, 2) >= 0).all()
    # Counts per number of images times the numbers of images: all latents, whatever the bins.
    _, heights, bins = curves.density_curve(counts.numpy(), edges)
    assert heights.tolist() == y.tolist() and (heights * np.diff(bins)).sum() == pytest.approx(len(counts))
    assert (heights[:-1] * np.diff(bins)[:-1] >= 10).all()
    few = curves.density_curve(np.array([3, 3, 170]), edges)
    assert (few[1] * np.diff(few[2])).tolist() == pytest.approx([3])
    assert curves.density_curve(np.array([]), edges)[0].size == 0


def test_density_figure_names_latents_that_are_never_active(summary):
    figure = curves.density_histogram(summary)
    assert figure is not None
    assert "up_ft1 t=25 (1 never active)" in figure.axes[0].get_legend_handles_labels()[1]


def test_sigma_figure_has_baselines_and_its_last_point(summary):
    (panel,) = curves.sigma_curves(summary).axes
    lines = panel_lines(panel)
    assert set(lines) >= {"chance"} | BASELINES
    run = summary.layers[2]
    assert lines["up_ft1 t=25"][-1] == run.purity.sigma_curve[run.purity.n_latents_qualified]


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


def test_sheets_name_the_files(summary, monkeypatch):
    """A reader of wrong pictures could not notice: captions gave ids only."""
    from PIL import ImageDraw

    told = []
    write = ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        ImageDraw.ImageDraw, "text", lambda self, at, text, *more: (told.append(text), write(self, at, text, *more))
    )
    run = summary.layers[2]
    first = int(run.tops.image_ids[0, 0])
    names = {first: "roses/a very long folder name that no tile can hold/IMG_0001.jpg"}
    ContactSheets(picture, summary.labels, NAMES, names).latent(run.tops, 0, images=2)
    assert any(text.endswith("0001.jpg") and "…" in text for text in told)
    assert any(text.endswith(f"#{int(run.tops.image_ids[0, 1])}") for text in told)


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
