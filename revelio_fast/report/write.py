"""`write_report`: lays a run out as one folder with report.md, tables, figures and contact sheets."""

from __future__ import annotations

import json
import os
from pathlib import Path
from urllib.parse import quote

from revelio_fast.atomic import atomic_write_bytes, atomic_write_json
from revelio_fast.progress import tqdm
from revelio_fast.records import json_value
from revelio_fast.report import curves, figures
from revelio_fast.report.comparisons import comparisons
from revelio_fast.report.contact import ContactSheets, sheets_in, write_sheets
from revelio_fast.report.drawing import save_figure
from revelio_fast.report.findings import findings
from revelio_fast.report.records import MODEL, FeatureResult, LoadImage, RunSummary, by_place
from revelio_fast.report.table import Table
from revelio_fast.report.tables import all_tables

LONGEST = 60  # rows of a table that report.md shows
FIGURES = (
    ("purity_by_layer", figures.purity_by_layer, "Purity by layer, at the number of latents that the tables compare. "
     "Bars: 95 % bootstrap intervals over latents; dashed and grey: chance, by shuffling labels, and its central 95 %; "
     "dotted: baselines, those of several layers by their median and range. sigma_label is the n - 1 standard "
     "deviation of the integer labels."),
    ("purity_by_timestep", figures.purity_by_timestep, "Purity by timestep, drawn as above."),
    ("sigma_curve", curves.sigma_curves, "Mean sigma_label (n - 1 standard deviation of the integer labels of a "
     "latent's top images) of the best-ranked latents, over how many are taken, up to all that qualify; dotted: "
     "baselines; dashed: chance."),
    ("accuracy", figures.accuracies, "Test accuracies with 95 % intervals; dotted: baselines, those of several layers "
     "by their median and range; dashed: chance, the commonest training class."),
    ("training", curves.training_curves, "Training of the k-SAEs, the baselines' dotted. Dead in training: not active "
     "for the last rows seen (`dead_after`)."),
    ("density", curves.density_histogram, "Density of latents: for each number of images, how many latents are active "
     "in just so many. Numbers are grouped on the logarithmic axis and counted per number. Never active: in none of "
     "the images read, which is not the same as dead in training."),
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
    ``sheets/<layer>_t<timestep>/*.png`` (of the first seed). Tables, figures and sheets that an earlier report left
    there and this one does not have are removed.

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
    drawn: list[tuple[str, str]] = []
    for name, draw, caption in FIGURES:
        figure = draw(summary)
        if figure is not None:
            save_figure(figure, folder / "figures" / f"{name}.png")
            drawn.append((f"figures/{name}.png", caption))
    sheets, unreadable = _sheets(summary, folder, load_image, latents, images, progress)
    kept = {folder / "tables" / f"{table.name}.{ending}" for table in tables for ending in ("csv", "md")}
    kept |= {folder / path for path, _ in drawn} | {folder / path for _, paths in sheets for path in paths}
    _remove_stale(folder, kept)
    derived = {
        "common_latents": summary.common_latents,
        "findings": findings(summary),
        "comparisons": [each.as_dict() for each in comparisons(summary)],
    }
    atomic_write_json(folder / "summary.json", {**summary.as_dict(), "derived": derived})
    lines = _markdown(summary, tables, drawn, sheets, unreadable)
    atomic_write_bytes(folder / "report.md", lines.encode())
    return folder / "report.md"


def _remove_stale(folder: Path, kept: set[Path]) -> None:
    """Remove what an earlier report left: files with the names of ours, and the folders that this empties."""
    sheets = [path for place in (folder / "sheets").glob("*") for path in sheets_in(place)]
    tables = [path for ending in ("csv", "md") for path in (folder / "tables").glob(f"*.{ending}")]
    for path in [*(folder / "figures").glob("*.png"), *tables, *sheets]:
        if path not in kept:
            path.unlink()
    for place in [*(folder / "sheets").glob("*"), folder / "sheets"]:
        if place.is_dir() and not any(place.iterdir()):
            place.rmdir()


def _sheets(
    summary: RunSummary, folder: Path, load_image: LoadImage | None, latents: int, images: int, progress: bool
) -> tuple[list[tuple[FeatureResult, list[Path]]], dict[int, str]]:
    if load_image is None:
        return [], {}
    drawer = ContactSheets(load_image, summary.labels, summary.class_names, summary.file_names)
    written = []
    first = [group[0] for group in by_place(summary.layers)]
    for run in tqdm(first, desc="contact sheets", disable=not progress):
        if run.tops is None:
            continue
        where = folder / "sheets" / f"{str(run.layer).replace('/', '_')}_t{run.timestep}"
        paths = write_sheets(run, drawer, where, latents, images)
        if paths:
            written.append((run, [path.relative_to(folder) for path in paths]))
    return written, drawer.missing


def _markdown(
    summary: RunSummary,
    tables: list[Table],
    drawn: list[tuple[str, str]],
    sheets: list[tuple[FeatureResult, list[Path]]],
    unreadable: dict[int, str],
) -> str:
    parts = [f"# {summary.title}\n", _facts(summary)]
    notes = list(summary.notes)
    if unreadable:
        image_id, reason = next(iter(unreadable.items()))
        name = summary.file_names.get(image_id, f"#{image_id}")
        notes.append(f"Images that the sheets could not show: {len(unreadable)} (first: {name}, {reason}).")
    if not any(each.name != MODEL for each in summary.classifiers) and not summary.baselines:
        notes.append("No baselines were run: read the figures below against chance only.")
    parts += [_section("Notes", _bullets(notes)), _section("Findings", _bullets(findings(summary)))]
    parts.append(_section("Tables", "".join(map(_table, tables))))
    parts.append(_section("Figures", "".join(f"![{caption}]({path})\n\n{caption}\n\n" for path, caption in drawn)))
    parts.append(_section("Top images of top latents", "".join(_gallery(run, paths) for run, paths in sheets)))
    if summary.config:
        text = json.dumps(json_value(summary.config), indent=2, ensure_ascii=False)
        parts.append(_section("Configuration", f"```json\n{text}\n```\n"))
    parts.append(_section("Made with", _bullets([f"{name}: {value}" for name, value in summary.versions.items()])))
    return "\n".join(part for part in parts if part)


def _table(table: Table) -> str:
    """A table with its caption; a long one only by its link."""
    head = f"**{table.name}** ([CSV](tables/{table.name}.csv)). {table.caption}\n\n"
    if len(table.rows) > LONGEST:
        return f"{head}{len(table.rows)} rows: see [the table](tables/{table.name}.md).\n\n"
    return f"{head}{table.markdown()}\n"


def _facts(summary: RunSummary) -> str:
    prompt = f"`{summary.prompt}`" if summary.prompt else "empty"
    classes = f", {len(summary.class_names)} classes" if summary.class_names else ""
    return f"Model {summary.model}; data {summary.dataset}, {summary.n_images} images{classes}; prompt {prompt}.\n"


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body.rstrip()}\n" if body else ""


def _bullets(lines: list[str]) -> str:
    return "".join(f"- {line}\n" for line in lines)


def _gallery(run: FeatureResult, paths: list[Path]) -> str:
    links = "\n".join(f"![{path.stem}]({quote(path.as_posix())})" for path in paths)
    return f"### {run.title}\n\n{links}\n\n"
