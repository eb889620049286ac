"""The model beside its baselines: differences with intervals and p-values, a verdict only where they support it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from revelio_fast.concepts import ProbeResult
from revelio_fast.records import Record
from revelio_fast.report.records import (
    DIFFC,
    MODEL,
    ClassifierResult,
    FeatureResult,
    RunSummary,
    accuracy_of,
    by_place,
    purity_of,
)
from revelio_fast.statistics import Difference, independent_difference, marked, paired_difference

SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Comparison(Record):
    """Two figures side by side.

    Attributes
    ----------
    figure : str
        ``"linear probe"``, ``"majority share"`` or the classifier.
    ours, theirs : str
        Titles of what is compared.
    our_value, their_value : float
        Means over seeds.
    difference : Difference
        `our_value` less `their_value`.
    chosen_from : int
        Of how many results ours is the best: choosing is paid for in `p_value`.
    p_value : float
        That of the difference times `chosen_from` (Bonferroni), at most 1.
    winner : str
        ``"ours"``, ``"theirs"``, or ``""`` where p is above 0.05.
    sides : (str, str)
        What the two are called in a verdict.
    """

    figure: str
    ours: str
    theirs: str
    our_value: float
    their_value: float
    difference: Difference
    chosen_from: int
    p_value: float
    winner: str
    sides: tuple[str, str] = ("the model", "the baseline")


def compared(
    figure: str,
    ours: str,
    theirs: str,
    our_value: float,
    their_value: float,
    difference: Difference,
    chosen_from: int,
    sides: tuple[str, str] = ("the model", "the baseline"),
) -> Comparison:
    """A comparison with its corrected p-value and its winner, if there is one."""
    p_value = min(1.0, difference.p_value * chosen_from)
    winner = "" if p_value > SIGNIFICANT else "ours" if difference.value > 0 else "theirs"
    return Comparison(figure, ours, theirs, our_value, their_value, difference, chosen_from, p_value, winner, sides)


def comparisons(summary: RunSummary) -> list[Comparison]:
    """Every baseline beside the model's result at its place, or beside the best of all where it has no place."""
    return [*_probes(summary), *_purities(summary), *_classifiers(summary)]


def accuracy_difference(
    ours: Sequence[ProbeResult | ClassifierResult], theirs: Sequence[ProbeResult | ClassifierResult]
) -> Difference:
    """Of two accuracies: paired where both sides were tested on the same images."""
    tested = {each.images for each in (*ours, *theirs)}
    if len(tested) == 1 and "" not in tested:
        return paired_difference(marked([each.correct for each in ours]), marked([each.correct for each in theirs]))
    (our_value, _, our_interval), (their_value, _, their_interval) = accuracy_of(ours), accuracy_of(theirs)
    return independent_difference(our_value, our_interval, their_value, their_interval)


def purity_difference(ours: Sequence[FeatureResult], theirs: Sequence[FeatureResult], measure: str) -> Difference:
    """Of two purities, whose latents differ: from the two intervals."""
    (our_value, _, our_interval), (their_value, _, their_interval) = (purity_of(g, measure) for g in (ours, theirs))
    return independent_difference(our_value, our_interval, their_value, their_interval)


def _best(
    groups: list[list[FeatureResult]], baseline: FeatureResult, value: Callable[[list[FeatureResult]], float]
) -> tuple[list[FeatureResult], int] | None:
    rivals = [group for group in groups if baseline.stands_beside(group[0])]
    return (max(rivals, key=value), len(rivals)) if rivals else None


def _probes(summary: RunSummary) -> list[Comparison]:
    def probes(group: Sequence[FeatureResult]) -> list[ProbeResult]:
        return [each.probe for each in group if each.probe]

    models = [group for group in by_place(summary.layers) if probes(group)]
    found = []
    for group in by_place(summary.baselines):
        chosen = _best(models, group[0], lambda each: accuracy_of(probes(each)).mean) if probes(group) else None
        if chosen:
            best, count = chosen
            found.append(
                compared(
                    "linear probe", best[0].title, group[0].title, accuracy_of(probes(best)).mean,
                    accuracy_of(probes(group)).mean, accuracy_difference(probes(best), probes(group)), count,
                )
            )  # fmt: skip
    return found


def _purities(summary: RunSummary) -> list[Comparison]:
    measure = "majority_share"
    models = [group for group in by_place(summary.layers) if all(each.compared_purity for each in group)]
    found = []
    for group in by_place(summary.baselines):
        judged = all(each.compared_purity for each in group)
        chosen = _best(models, group[0], lambda each: purity_of(each, measure).mean) if judged else None
        if chosen:
            best, count = chosen
            found.append(
                compared(
                    "majority share", best[0].title, group[0].title, purity_of(best, measure).mean,
                    purity_of(group, measure).mean, purity_difference(best, group, measure), count,
                )
            )  # fmt: skip
    return found


def _classifiers(summary: RunSummary) -> list[Comparison]:
    groups = by_place(summary.classifiers)
    models = [group for group in groups if group[0].name == MODEL and group[0].head == DIFFC]
    found = []
    for group in groups:
        rivals = [each for each in models if group[0].stands_beside(each[0])]
        if group in models or not rivals:
            continue
        best = max(rivals, key=lambda each: accuracy_of(each).mean)
        head = group[0].head
        same = head == DIFFC
        found.append(
            compared(
                DIFFC, best[0].title, group[0].title if same else f"{head} on {group[0].title}", accuracy_of(best).mean,
                accuracy_of(group).mean, accuracy_difference(best, group), len(rivals),
                ("the model", "the baseline") if same else (DIFFC, head),
            )
        )  # fmt: skip
    return found
