"""The sentences of a report: what stands out against chance and against the baselines, as far as tests support it."""

from __future__ import annotations

from collections.abc import Sequence

from revelio_fast.concepts.purity import shortfall
from revelio_fast.report.comparisons import SIGNIFICANT, Comparison, comparisons, purity_difference
from revelio_fast.report.records import DIFFC, MODEL, FeatureResult, RunSummary, accuracy_of, by_place, purity_of

WORDS = {"sigma_label": "sigma_label", "majority_share": "majority share"}


def findings(summary: RunSummary) -> list[str]:
    """Sentences on purity against chance, and on every baseline, in the report's order."""
    return [
        *_against_chance(summary),
        *_baselines(comparisons(summary)),
        *_classifiers_at_chance(summary),
        *_training(summary),
    ]


def _against_chance(summary: RunSummary) -> list[str]:
    judged = [each for each in summary.layers if each.compared_purity]
    if not judged:
        return []
    several = len(summary.seeds) > 1
    sentences = []
    for measure, words in WORDS.items():
        worse = [each for each in judged if each.compared_purity.p_value[measure] > SIGNIFICANT]  # type: ignore[union-attr]
        text = (
            f"By {words}, latents are purer than chance (p <= {SIGNIFICANT}) in {len(judged) - len(worse)} of "
            f"{len(judged)} results"
        )
        named = ", ".join(_titled(each, several) for each in worse)
        sentences.append(text + (f"; not in {named}." if worse else "."))
    return [*sentences, _highest(summary), *_notes(judged, several)]


def _highest(summary: RunSummary) -> str:
    """The place with the highest majority share, and those that it cannot be told apart from."""
    measure = "majority_share"
    groups = [group for group in by_place(summary.layers) if all(each.compared_purity for each in group)]
    best = max(groups, key=lambda group: purity_of(group, measure).mean)
    purity = best[0].compared_purity
    assert purity is not None
    text = (
        f"Highest majority share, over the {purity.n_latents_used} best-ranked latents: {best[0].title}, where "
        f"{purity_of(best, measure).mean:.1%} of a latent's top {purity.top_images} images share a label (chance "
        f"{purity.chance[measure]:.1%})"
    )
    others = [group for group in groups if group is not best]
    close = [
        group[0].title
        for group in others
        if purity_difference(best, group, measure).p_value * len(others) > SIGNIFICANT
    ]
    return text + (f"; not told apart from {', '.join(close)}." if close else ".")


def _notes(judged: Sequence[FeatureResult], several: bool) -> list[str]:
    """What the purity results remark, each remark once with the results it is about."""
    found: dict[str, list[str]] = {}
    fewer = []
    for each in judged:
        if each.purity is None:
            continue
        remark = shortfall(each.purity.n_latents_used, each.purity.top_latents)
        if remark in each.purity.note:
            fewer.append(f"{_titled(each, several)} {each.purity.n_latents_used}")
        if rest := each.purity.note.replace(remark, "").strip():
            found.setdefault(rest, []).append(_titled(each, several))
    sentences = [f"{', '.join(where)}: {note}" for note, where in found.items()]
    if fewer and judged[0].purity:
        asked = judged[0].purity.top_latents
        sentences.insert(0, f"Of the {asked} latents asked for, fewer are active often enough: {', '.join(fewer)}.")
    return sentences


def _baselines(found: list[Comparison]) -> list[str]:
    if not found:
        return []
    tests = list(dict.fromkeys(each.difference.test for each in found))
    rule = (
        f"How results are compared: by {', by '.join(tests)}; p-values are multiplied by the number of results that "
        f"the model's is the best of, and nobody wins above p = {SIGNIFICANT}."
    )
    return [rule, *(_sentence(each) for each in found)]


def _sentence(each: Comparison) -> str:
    low, high = each.difference.interval
    best = f", the best of {each.chosen_from}" if each.chosen_from > 1 else ""
    ours, theirs = each.sides
    verdict = {"ours": f"{ours} wins", "theirs": f"**{theirs} wins**", "": "no difference shown"}[each.winner]
    p = f"p = {each.p_value:.2g}" if each.p_value >= 1e-4 else "p < 0.0001"
    return (
        f"{each.figure[0].upper()}{each.figure[1:]}, {each.theirs}: {each.their_value:.1%} against "
        f"{each.our_value:.1%} for {each.ours}{best}: {verdict} (difference "
        f"{100 * each.difference.value:+.1f} points, 95 % interval {100 * low:+.1f} to {100 * high:+.1f}, {p})."
    )


def _classifiers_at_chance(summary: RunSummary) -> list[str]:
    sentences = []
    for group in by_place(summary.classifiers):
        accuracy = accuracy_of(group)
        if group[0].name == MODEL and group[0].head == DIFFC and accuracy.interval[0] <= group[0].chance:
            sentences.append(
                f"Diff-C on {group[0].title} ({accuracy.mean:.1%}) is not above chance ({group[0].chance:.1%})."
            )
    return sentences


def _training(summary: RunSummary) -> list[str]:
    several = len(summary.seeds) > 1
    return [
        f"The k-SAE of {_titled(each, several)} explains less than half of the variance (FVU "
        f"{each.metrics['fvu']:.2f}): its latents say little; train longer or raise k."
        for each in summary.layers
        if each.metrics.get("fvu", 0.0) > 0.5
    ]


def _titled(each: FeatureResult, several: bool) -> str:
    return f"{each.title} (seed {each.seed})" if several else each.title
