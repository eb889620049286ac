"""`Table`: rows that are written both as CSV (full precision) and as Markdown (rounded), and the tables of a report."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from revelio_fast.atomic import atomic_write_bytes
from revelio_fast.concepts import PurityResult, wilson_interval
from revelio_fast.report.summary import DIFFC, Baseline, DiffCRun, LayerRun, RunSummary

Cell = str | float | int | None


@dataclass
class Table:
    """A table with a caption.

    Attributes
    ----------
    name : str
        File name without ending.
    caption : str
        One or two sentences: what the columns are, what is better.
    columns : list of str
    rows : list of list
        Strings, numbers, or None for an empty cell.
    formats : dict of str to str
        Format of a column's numbers in Markdown (``".2f"``, ``".1%"``); CSV keeps full precision.
    """

    name: str
    caption: str
    columns: list[str]
    rows: list[list[Cell]]
    formats: dict[str, str] = field(default_factory=dict)

    def markdown(self) -> str:
        """The table in GitHub's Markdown, without caption."""
        lines = ["| " + " | ".join(_escaped(c) for c in self.columns) + " |"]
        numeric = [
            all(isinstance(row[i], int | float) or row[i] is None for row in self.rows)
            for i in range(len(self.columns))
        ]
        lines.append("|" + "|".join("---:" if right else "---" for right in numeric) + "|")
        for row in self.rows:
            cells = [self._cell(column, value) for column, value in zip(self.columns, row, strict=True)]
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join(lines) + "\n"

    def csv(self) -> str:
        """The table as CSV with a header line."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows([["" if _missing(value) else value for value in row] for row in self.rows])
        return out.getvalue()

    def write(self, folder: Path) -> None:
        """Write ``NAME.csv`` and ``NAME.md`` into `folder`."""
        atomic_write_bytes(folder / f"{self.name}.csv", self.csv().encode())
        atomic_write_bytes(folder / f"{self.name}.md", f"{self.caption}\n\n{self.markdown()}".encode())

    def _cell(self, column: str, value: Cell) -> str:
        if _missing(value):
            return ""
        if isinstance(value, float):
            return format(value, self.formats.get(column, ".4g"))
        return _escaped(str(value))


def timesteps_of(summary: RunSummary) -> list[int]:
    """Timesteps of the runs, rising."""
    return sorted({run.timestep for run in summary.layers})


def layers_of(summary: RunSummary) -> list[str]:
    """Layers of the runs, in the order they were given."""
    return list(dict.fromkeys(run.layer for run in summary.layers))


def sigma_table(summary: RunSummary) -> Table | None:
    """Layers by timesteps of sigma_label, as the paper's Table 2, the chance level in brackets."""
    found = {(run.layer, run.timestep): run.purity for run in summary.layers if run.purity}
    if not found:
        return None
    times = timesteps_of(summary)

    def cell(purity: PurityResult | None) -> str | None:
        return f"{purity.sigma_label:.2f} ({purity.chance['sigma_label']:.2f})" if purity else None

    first = next(iter(found.values()))
    return Table(
        "sigma_label",
        f"Label purity sigma_label by layer and timestep (layout of the paper's Table 2), {summary.dataset}: mean "
        f"standard deviation of the integer labels of the top-{first.top_images} images over the top latents; lower is "
        "purer. In brackets: chance, by shuffling labels. Depends on how classes are numbered; other measures do not.",
        ["layer", *(f"t = {t}" for t in times)],
        [[layer, *(cell(found.get((layer, t))) for t in times)] for layer in layers_of(summary)],
    )


PURITY_COLUMNS = [
    "layer", "timestep", "features", "sigma_label", "sigma chance", "sigma p", "majority share", "majority low",
    "majority high", "majority chance", "majority p", "entropy (bits)", "entropy chance", "entropy (0-1)",
    "latents used",
]  # fmt: skip


def _purity_row(layer: str | None, timestep: int | None, name: str, purity: PurityResult) -> list[Cell]:
    return [
        layer, timestep, name, purity.sigma_label, purity.chance["sigma_label"], purity.p_value["sigma_label"],
        purity.majority_share, *purity.interval["majority_share"], purity.chance["majority_share"],
        purity.p_value["majority_share"], purity.entropy, purity.chance["entropy"], purity.entropy_normalised,
        purity.n_latents_used,
    ]  # fmt: skip


def purity_table(summary: RunSummary) -> Table | None:
    """All purity measures with chance, p-values and intervals, the baselines' rows below the model's."""
    rows = [_purity_row(r.layer, r.timestep, "model", r.purity) for r in summary.layers if r.purity]
    rows += [_purity_row(b.layer, b.timestep, b.name, b.purity) for b in summary.baselines if b.purity]
    if not rows:
        return None
    percent = dict.fromkeys(["majority share", "majority low", "majority high", "majority chance"], ".1%")
    plain = dict.fromkeys(["sigma_label", "sigma chance", "entropy (bits)", "entropy chance", "entropy (0-1)"], ".3f")
    example = next(p for p in (*(r.purity for r in summary.layers), *(b.purity for b in summary.baselines)) if p)
    return Table(
        "purity",
        f"Agreement of the labels of each latent's top-{example.top_images} images. Chance and p-values by shuffling "
        "labels among images; low and high: 95 % bootstrap interval over latents. "
        f"Latents ranked by {example.ranking_text}.",
        PURITY_COLUMNS,
        rows,
        {**percent, **plain, "sigma p": ".3f", "majority p": ".3f"},
    )


def probe_table(summary: RunSummary) -> Table | None:
    """Linear-probe accuracies of the model's features and of the baselines."""
    runs: list[tuple[str, LayerRun | Baseline]] = [("model", run) for run in summary.layers]
    runs += [(baseline.name, baseline) for baseline in summary.baselines]
    rows: list[list[Cell]] = [
        [name, run.layer, run.timestep, run.probe.accuracy, *run.probe.interval, run.probe.chance,
         run.probe.train_accuracy, run.probe.d, run.probe.n_train, run.probe.n_test]
        for name, run in runs
        if run.probe
    ]  # fmt: skip
    if not rows:
        return None
    return Table(
        "linear_probe",
        "Accuracy of logistic regression on standardised features, with 95 % Wilson intervals, beside its baselines. "
        "Chance: always the commonest training class.",
        [
            "features",
            "layer",
            "timestep",
            "accuracy",
            "low",
            "high",
            "chance",
            "train accuracy",
            "d",
            "n train",
            "n test",
        ],
        rows,
        dict.fromkeys(["accuracy", "low", "high", "chance", "train accuracy"], ".1%"),
    )


def diffc_interval(run: DiffCRun) -> tuple[float, float]:
    """The run's 95 % interval, Wilson's where none was given."""
    return run.interval or wilson_interval(run.accuracy, run.n_test)


def diffc_chance(run: DiffCRun) -> float:
    """The run's chance level, uniform guessing where none was given."""
    return 1 / run.n_classes if run.chance is None else run.chance


def diffc_table(summary: RunSummary) -> Table | None:
    """Diff-C test accuracies (the paper's Tables 3-6), the baselines' rows below."""
    runs = [run for run in summary.diffc if run.head == DIFFC]
    if not runs:
        return None
    rows: list[list[Cell]] = [
        [run.baseline or "model", run.layer, run.timestep, run.accuracy, *diffc_interval(run), diffc_chance(run),
         run.n_train, run.n_test, run.n_classes, run.epochs, run.parameters]
        for run in sorted(runs, key=lambda run: run.baseline is not None)
    ]  # fmt: skip
    return Table(
        "diffc",
        "Diff-C: top-1 accuracy on test images of a convolutional classifier on feature maps, 95 % interval, chance.",
        ["features", "layer", "timestep", "accuracy", "low", "high", "chance", "n train", "n test", "classes", "epochs",
         "parameters"],
        rows,
        dict.fromkeys(["accuracy", "low", "high", "chance"], ".1%"),
    )  # fmt: skip


def classifiers_table(summary: RunSummary) -> Table | None:
    """The classifiers of each layer and timestep side by side (the paper's Table 5), where there is more than one."""
    rows: list[list[Cell]] = []
    for layer, timestep in dict.fromkeys((run.layer, run.timestep) for run in summary.diffc if not run.baseline):
        for layer_run in summary.layers:
            if (layer_run.layer, layer_run.timestep) == (layer, timestep) and layer_run.probe:
                probe = layer_run.probe
                count = probe.n_classes * (probe.d + 1)
                rows.append([layer, timestep, "linear probe", probe.accuracy, *probe.interval, count, None])
        for run in summary.diffc:
            if (run.layer, run.timestep, run.baseline) == (layer, timestep, None):
                seconds = run.seconds.get("train")
                rows.append(
                    [layer, timestep, run.head, run.accuracy, *diffc_interval(run), run.parameters, seconds]
                )  # fmt: skip
    if len({row[2] for row in rows}) < 2:
        return None
    return Table(
        "classifiers",
        "Classifiers of the same features: logistic regression on the pooled map; SD features, the paper's baseline (a "
        "residual network); Diff-C. Top-1 accuracy on test images, 95 % interval, trained parameters, seconds of "
        "training.",
        ["layer", "timestep", "classifier", "accuracy", "low", "high", "parameters", "seconds"],
        rows,
        {**dict.fromkeys(["accuracy", "low", "high"], ".1%"), "seconds": ".1f"},
    )


def ksae_table(summary: RunSummary) -> Table | None:
    """Sizes and final training figures of each k-SAE."""
    if not summary.layers:
        return None
    names = [name for name in ("fvu", "holdout_fvu", "l0", "dead") if any(name in r.metrics for r in summary.layers)]
    rows: list[list[Cell]] = []
    for run in summary.layers:
        active = int((run.tops.counts > 0).sum()) if run.tops else None
        figures = [run.metrics.get(name) for name in names]
        rows.append([run.layer, run.timestep, run.d, run.n_latents, run.k, run.n_images, *figures, active])
    return Table(
        "ksae",
        "The k-sparse autoencoders. FVU: fraction of variance unexplained (0 is perfect, 1 is the mean); "
        "active latents: those active in at least one of the images read.",
        ["layer", "timestep", "d", "latents", "k", "images", *names, "active latents"],
        rows,
    )


def seconds_table(summary: RunSummary) -> Table | None:
    """Measured wall times of the run's phases."""
    rows: list[list[Cell]] = [["whole run", phase, float(s)] for phase, s in summary.seconds.items()]
    for run in summary.layers:
        rows += [[f"{run.layer} t={run.timestep}", phase, float(s)] for phase, s in run.seconds.items()]
    for diffc in summary.diffc:
        where = f"{diffc.head} {diffc.layer} t={diffc.timestep}" + (f" ({diffc.baseline})" if diffc.baseline else "")
        rows += [[where, phase, float(s)] for phase, s in diffc.seconds.items()]
    if not rows:
        return None
    return Table("seconds", "Measured wall time, seconds.", ["what", "phase", "seconds"], rows, {"seconds": ".1f"})


def all_tables(summary: RunSummary) -> list[Table]:
    """Every table that the summary has figures for, in the report's order."""
    makers = (sigma_table, purity_table, probe_table, diffc_table, classifiers_table, ksae_table, seconds_table)
    return [table for maker in makers if (table := maker(summary)) is not None]


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
