"""The tables of a report: probes, classifiers, comparisons, k-SAEs and seconds, beside those of purity."""

from __future__ import annotations

from collections.abc import Sequence

from revelio_fast.report.comparisons import comparisons
from revelio_fast.report.purity_tables import over_seeds, purity_table, sigma_table
from revelio_fast.report.records import (
    DIFFC,
    MODEL,
    ClassifierResult,
    RunSummary,
    accuracy_of,
    by_place,
)
from revelio_fast.report.table import DEVIATION, SHARE, Cell, Table


def probe_table(summary: RunSummary) -> Table | None:
    """Accuracies of linear, nearest-centroid and nearest-neighbour probes of the model's features and the baselines."""
    groups = [g for g in by_place([*summary.layers, *summary.baselines]) if all(each.probe for each in g)]
    if not groups:
        return None
    example = groups[0][0].probe
    assert example is not None
    others = [probe.kind for probe in groups[0][0].other_probes]
    rows: list[list[Cell]] = []
    for group in groups:
        probes = [each.probe for each in group if each.probe]
        accuracy, probe = accuracy_of(probes), probes[0]
        simple = {kind: [p for each in group for p in each.other_probes if p.kind == kind] for kind in others}
        rows.append(
            [group[0].features, group[0].layer, group[0].timestep, accuracy.mean, *accuracy.interval, probe.chance,
             *(accuracy_of(found).mean if found else None for found in simple.values()), probe.C, probe.train_accuracy,
             probe.d, probe.n_train, probe.n_test]
        )  # fmt: skip
    edge = [group[0].title for group in groups for each in group[:1] if each.probe and each.probe.at_edge]
    if example.folds:
        chosen = (
            f"C, the inverse strength of its L2 penalty, was chosen for every feature alike from {_grid(example.grid)} "
            f"by {example.folds}-fold cross-validation on the training images"
            + (f"; at the edge of the grid for {', '.join(edge)}." if edge else ".")
        )
    else:
        chosen = "C, the inverse strength of its L2 penalty, was given."
    return Table(
        "linear_probe",
        "Test accuracy of multinomial logistic regression on standardised features, with 95 % Wilson intervals. "
        f"{chosen} Beside it simpler probes of the same features: {', '.join(others) or 'none'}. Chance: always the "
        "commonest training class.",
        ["features", "layer", "timestep", "accuracy", "low", "high", "chance", *others, "C", "train accuracy", "d",
         "n train", "n test"],
        rows,
        {**dict.fromkeys(["accuracy", "low", "high", "chance", "train accuracy", *others], SHARE), "C": ".0e"},
    )  # fmt: skip


def _grid(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e") for value in values)


def _classifier_rows(summary: RunSummary, groups: Sequence[Sequence[ClassifierResult]]) -> list[list[Cell]]:
    several = len(summary.seeds) > 1
    rows: list[list[Cell]] = []
    for group in groups:
        accuracy, first = accuracy_of(group), group[0]
        rows.append(
            [first.features, first.layer, first.timestep, first.head, accuracy.mean, *accuracy.interval,
             *([accuracy.deviation] if several else []), first.chance, first.n_train, first.n_test, first.n_classes,
             first.epochs, first.parameters, first.seconds.get("train")]
        )  # fmt: skip
    return rows


def classifier_table(summary: RunSummary) -> Table | None:
    """Test accuracies of Diff-C (the paper's Tables 3 and 6 to 9) and of the other heads, the baselines below."""
    groups = by_place(summary.classifiers)
    if not groups:
        return None
    several = len(summary.seeds) > 1
    return Table(
        "diffc",
        "Top-1 accuracy on test images of convolutional classifiers on feature maps, 95 % Wilson interval, beside "
        "chance (the commonest training class). SD features: the paper's baseline, a residual network."
        f"{over_seeds(summary)}",
        ["features", "layer", "timestep", "classifier", "accuracy", "low", "high", *([DEVIATION] if several else []),
         "chance", "n train", "n test", "classes", "epochs", "parameters", "seconds"],
        _classifier_rows(summary, groups),
        {**dict.fromkeys(["accuracy", "low", "high", "chance", DEVIATION], SHARE), "seconds": ".1f"},
    )  # fmt: skip


def per_class_table(summary: RunSummary) -> Table | None:
    """Accuracy of each class, a column for each of the model's classifiers; of the first seed."""
    groups = [
        group for group in by_place(summary.classifiers) if group[0].name == MODEL and group[0].per_class_accuracy
    ]
    if not groups:
        return None
    titles = [group[0].title if group[0].head == DIFFC else f"{group[0].head}, {group[0].title}" for group in groups]
    first = groups[0][0].per_class_accuracy
    rows: list[list[Cell]] = [
        [each["class"], each["images"], *(group[0].per_class_accuracy[number]["accuracy"] for group in groups)]
        for number, each in enumerate(first)
    ]
    return Table(
        "per_class_accuracy",
        "Test accuracy of each class, of the first seed.",
        ["class", "test images", *titles],
        rows,
        dict.fromkeys(titles, SHARE),
    )


def comparison_table(summary: RunSummary) -> Table | None:
    """Every comparison with its difference, interval and p-value."""
    found = comparisons(summary)
    if not found:
        return None
    rows: list[list[Cell]] = [
        [each.figure, each.ours, each.our_value, each.theirs, each.their_value, each.difference.value,
         *each.difference.interval, each.p_value, each.chosen_from, each.difference.test,
         {"ours": each.ours, "theirs": each.theirs, "": "not shown"}[each.winner]]
        for each in found
    ]  # fmt: skip
    return Table(
        "comparisons",
        "The model beside its baselines. Where a baseline has no layer it stands beside the model's best result, and "
        "the p-value is multiplied by the number of results that this is the best of.",
        ["figure", "ours", "our value", "theirs", "their value", "difference", "low", "high", "p", "best of", "test",
         "higher"],
        rows,
        {**dict.fromkeys(["our value", "their value", "difference", "low", "high"], SHARE), "p": ".2g"},
    )  # fmt: skip


def ksae_table(summary: RunSummary) -> Table | None:
    """Sizes and final training figures of each k-SAE, the baselines' below."""
    trained = [each for each in (*summary.layers, *summary.baselines) if each.metrics or each.tops]
    if not trained:
        return None
    names = [name for name in ("fvu", "holdout_fvu", "l0", "dead") if any(name in each.metrics for each in trained)]
    titles = {"fvu": "FVU", "holdout_fvu": "held-out FVU", "l0": "L0", "dead": "dead in training"}
    several = len(summary.seeds) > 1
    rows: list[list[Cell]] = []
    for each in trained:
        never = int((each.tops.counts == 0).sum()) if each.tops else None
        figures = [each.metrics.get(name) for name in names]
        rows.append(
            [each.features, each.layer, each.timestep, *([each.seed] if several else []), each.d, each.n_latents,
             each.k, each.n_images, *figures, never]
        )  # fmt: skip
    return Table(
        "ksae",
        "The k-sparse autoencoders. FVU: fraction of variance unexplained (0 is perfect, 1 is the mean). Dead in "
        "training: latents that were not active for the last rows seen in training (`dead_after`), with the weights as "
        "they changed; never active: those that the finished k-SAE activates for none of the images read. The two "
        "counts need not agree.",
        ["features", "layer", "timestep", *(["seed"] if several else []), "d", "latents", "k", "images",
         *(titles[name] for name in names), "never active"],
        rows,
        {"dead in training": ".0f"},
    )  # fmt: skip


def seconds_table(summary: RunSummary) -> Table | None:
    """Measured wall times of the run's phases."""
    now = summary.seconds if summary.seconds_now is None else summary.seconds_now
    rows: list[list[Cell]] = [
        ["all", phase, float(seconds), float(now.get(phase, 0.0))] for phase, seconds in summary.seconds.items()
    ]
    if rows:
        rows.append(
            ["all", "together", sum(float(row[2] or 0) for row in rows), sum(float(row[3] or 0) for row in rows)]
        )
    timed = [(each.title, each.seed, each.seconds) for each in summary.features]
    timed += [(f"{each.head} {each.title}", each.seed, each.seconds) for each in summary.classifiers]
    for what, seed, phases in timed:
        what += f", seed {seed}" if len(summary.seeds) > 1 else ""
        rows += [[what, phase, float(seconds), None] for phase, seconds in phases.items()]
    if not rows:
        return None
    return Table(
        "seconds",
        "Measured wall time of the stages, seconds. A rerun takes finished stages from earlier calls; 'in this call' "
        "counts only what was done now. Opening the images and writing the report are not counted.",
        ["what", "phase", "seconds", "in this call"],
        rows,
        {"seconds": ".1f", "in this call": ".1f"},
    )


def all_tables(summary: RunSummary) -> list[Table]:
    """Every table that the summary has figures for, in the report's order."""
    makers = (
        sigma_table, purity_table, probe_table, classifier_table, per_class_table, comparison_table, ksae_table,
        seconds_table,
    )  # fmt: skip
    return [table for maker in makers if (table := maker(summary)) is not None]
