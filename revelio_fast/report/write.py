"""`write_report`: lays a run out as one folder with report.md, tables, figures and contact sheets."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from revelio_fast.atomic import atomic_write_bytes, atomic_write_json
from revelio_fast.progress import tqdm
from revelio_fast.report import figures
from revelio_fast.report.contact import ContactSheets, write_sheets
from revelio_fast.report.findings import findings
from revelio_fast.report.summary import LayerRun, LoadImage, RunSummary
from revelio_fast.report.tables import Table, all_tables

FIGURES = (
    ("purity_by_layer", figures.purity_by_layer, "Purity by layer. Bars: 95 % bootstrap intervals over latents; dashed "
     "and grey: chance and its central 95 %; dotted: baselines (shaded: their range)."),
    ("purity_by_timestep", figures.purity_by_timestep, "Purity by timestep, drawn as above."),
    ("sigma_curve", figures.sigma_curves, "sigma_label over the number of latents taken; dashed: chance."),
    ("accuracy", figures.accuracies, "Test accuracies with 95 % intervals; dotted: baselines (shaded: their range); "
     "dashed: chance."),
    ("training", figures.training_curves, "Training of the k-SAEs."),
    ("density", figures.density_histogram, "Density of latents."),
)  # fmt: skip


def write_report(
    summary: RunSummary,
    out_dir: str | os.PathLike[str],
    *,
    load_image: LoadImage | None = None,
    latents: int = 5,
    images: int = 10,
    progress: bool = False,
) -> Path:
    """Write the report of a run.

    The folder gets ``report.md``, ``summary.json``, ``tables/*.csv|md``, ``figures/*.png`` and, with `load_image`,
    ``sheets/<layer>_t<timestep>/*.png``. Writing again replaces files of the same name.

    Parameters
    ----------
    summary : RunSummary
    out_dir : path
    load_image : callable, optional
        Gives a PIL image for an image id; without it there are no contact sheets.
    latents, images : int
        Sheets for each layer and timestep, and images on each.
    progress : bool
        Show a bar.

    Returns
    -------
    Path
        Of ``report.md``.

    Raises
    ------
    ImportError
        If matplotlib or Pillow is missing: ``pip install 'revelio-fast[report]'``.
    """
    folder = Path(out_dir)
    tables = all_tables(summary)
    for table in tables:
        table.write(folder / "tables")
    drawn = []
    for name, draw, caption in FIGURES:
        figure = draw(summary)
        if figure is not None:
            figures.save_figure(figure, folder / "figures" / f"{name}.png")
            drawn.append((f"figures/{name}.png", caption))
    sheets, unreadable = _sheets(summary, folder, load_image, latents, images, progress)
    atomic_write_json(folder / "summary.json", summary_values(summary))
    lines = _markdown(summary, tables, drawn, sheets, unreadable)
    atomic_write_bytes(folder / "report.md", lines.encode())
    return folder / "report.md"


def summary_values(summary: RunSummary) -> dict[str, Any]:
    """The figures of a summary as JSON values (top images and training curves lie beside the models)."""

    def run(item: Any, leave: tuple[str, ...] = ("tops", "history")) -> dict[str, Any]:
        values = {key: value for key, value in vars(item).items() if key not in leave}
        for key in ("purity", "probe"):
            if values.get(key) is not None:
                values[key] = values[key].as_dict()
        return values

    return _json_values(
        {
            "title": summary.title,
            "model": summary.model,
            "dataset": summary.dataset,
            "prompt": summary.prompt,
            "n_images": summary.n_images,
            "class_names": list(summary.class_names),
            "findings": findings(summary),
            "notes": summary.notes,
            "layers": [run(item) for item in summary.layers],
            "baselines": [run(item) for item in summary.baselines],
            "diffc": [run(item) for item in summary.diffc],
            "seconds": dict(summary.seconds),
            "config": dict(summary.config),
            "versions": dict(summary.versions),
        }
    )


def _json_values(value: Any) -> Any:
    """The value with names for what JSON does not know, and null for numbers that are not finite."""
    if isinstance(value, Mapping):
        return {str(key): _json_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_values(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | None) else str(value)


def _sheets(
    summary: RunSummary, folder: Path, load_image: LoadImage | None, latents: int, images: int, progress: bool
) -> tuple[list[tuple[LayerRun, list[Path]]], dict[int, str]]:
    if load_image is None:
        return [], {}
    drawer = ContactSheets(load_image, summary.labels, summary.class_names)
    written = []
    for run in tqdm(summary.layers, desc="contact sheets", disable=not progress):
        if run.tops is None:
            continue
        where = folder / "sheets" / f"{run.layer.replace('/', '_')}_t{run.timestep}"
        paths = write_sheets(run, drawer, where, latents, images)
        if paths:
            written.append((run, [path.relative_to(folder) for path in paths]))
    return written, drawer.missing


def _markdown(
    summary: RunSummary,
    tables: list[Table],
    drawn: list[tuple[str, str]],
    sheets: list[tuple[LayerRun, list[Path]]],
    unreadable: dict[int, str],
) -> str:
    parts = [f"# {summary.title}\n", _facts(summary)]
    notes = list(summary.notes)
    if unreadable:
        image_id, reason = next(iter(unreadable.items()))
        notes.append(f"Images that the sheets could not show: {len(unreadable)} (first: #{image_id}, {reason}).")
    if not any(run.baseline for run in summary.diffc) and not summary.baselines:
        notes.append("No baselines were run: read the figures below against chance only.")
    parts += [_section("Notes", _bullets(notes)), _section("Findings", _bullets(findings(summary)))]
    body = "".join(f"**{t.name}** ([CSV](tables/{t.name}.csv)). {t.caption}\n\n{t.markdown()}\n" for t in tables)
    parts.append(_section("Tables", body))
    parts.append(_section("Figures", "".join(f"![{caption}]({path})\n\n{caption}\n\n" for path, caption in drawn)))
    parts.append(_section("Top images of top latents", "".join(_gallery(run, paths) for run, paths in sheets)))
    if summary.config:
        text = json.dumps(_json_values(summary.config), indent=2, ensure_ascii=False)
        parts.append(_section("Configuration", f"```json\n{text}\n```\n"))
    parts.append(_section("Made with", _bullets([f"{name}: {value}" for name, value in summary.versions.items()])))
    return "\n".join(part for part in parts if part)


def _facts(summary: RunSummary) -> str:
    prompt = f"`{summary.prompt}`" if summary.prompt else "empty"
    classes = f", {len(summary.class_names)} classes" if summary.class_names else ""
    return f"Model {summary.model}; data {summary.dataset}, {summary.n_images} images{classes}; prompt {prompt}.\n"


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body.rstrip()}\n" if body else ""


def _bullets(lines: list[str]) -> str:
    return "".join(f"- {line}\n" for line in lines)


def _gallery(run: LayerRun, paths: list[Path]) -> str:
    links = "\n".join(f"![{path.stem}]({quote(path.as_posix())})" for path in paths)
    return f"### {run.layer}, t = {run.timestep}\n\n{links}\n\n"
