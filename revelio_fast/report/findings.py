"""The sentences of a report: what stands out against chance, and which baseline wins."""

from __future__ import annotations

from revelio_fast.report.summary import DIFFC, Baseline, LayerRun, RunSummary
from revelio_fast.report.tables import diffc_chance, diffc_interval

SIGNIFICANT = 0.05


def findings(summary: RunSummary) -> list[str]:
    """Sentences on purity against chance, and on every baseline, in the report's order."""
    return [
        *_against_chance(summary),
        *_probe_baselines(summary),
        *_purity_baselines(summary),
        *_diffc(summary),
        *_training(summary),
    ]


def _against_chance(summary: RunSummary) -> list[str]:
    judged = [run for run in summary.layers if run.purity]
    if not judged:
        return []
    sentences = []
    for measure, words in (("sigma_label", "sigma_label"), ("majority_share", "the majority share")):
        better = [run for run in judged if run.purity and run.purity.p_value[measure] <= SIGNIFICANT]
        worse = [f"{run.layer} t={run.timestep}" for run in judged if run not in better]
        text = f"By {words}, latents are purer than chance (p <= {SIGNIFICANT}) in {len(better)} of {len(judged)} runs"
        sentences.append(text + (f"; not in {', '.join(worse)}." if worse else "."))
    best = max(judged, key=lambda run: run.purity.majority_share if run.purity else 0.0)
    assert best.purity is not None
    sentences.append(
        f"Purest by majority share: {best.layer} at t={best.timestep}, {best.purity.majority_share:.1%} of the top "
        f"{best.purity.top_images} images share a label, by chance {best.purity.chance['majority_share']:.1%}."
    )
    return sentences + _purity_notes(judged)


def _purity_notes(judged: list[LayerRun]) -> list[str]:
    """What the purity results remark, each remark once with the runs it is about."""
    runs: dict[str, list[str]] = {}
    for run in judged:
        if run.purity and run.purity.note:
            runs.setdefault(run.purity.note, []).append(f"{run.layer} t={run.timestep}")
    return [f"{', '.join(where)}: {note}" for note, where in runs.items()]


def _rivals(summary: RunSummary, baseline: Baseline) -> list[LayerRun]:
    """The model's runs that a baseline stands beside."""
    return [
        run
        for run in summary.layers
        if baseline.layer in (None, run.layer) and baseline.timestep in (None, run.timestep)
    ]


def _beside(baseline: Baseline) -> str:
    if baseline.layer is None:
        return baseline.name
    return f"{baseline.name} ({baseline.layer}" + (
        f", t={baseline.timestep})" if baseline.timestep is not None else ")"
    )


def _of(rivals: list[LayerRun]) -> str:
    """Owns up that the model's figure is the best of several."""
    return f", the best of {len(rivals)} runs" if len(rivals) > 1 else ""


def _probe_baselines(summary: RunSummary) -> list[str]:
    sentences = []
    for baseline in summary.baselines:
        rivals = [run for run in _rivals(summary, baseline) if run.probe]
        if not baseline.probe or not rivals:
            continue
        best = max(rivals, key=lambda run: run.probe.accuracy if run.probe else 0.0)
        assert best.probe is not None
        verdict = _verdict(best.probe.accuracy, best.probe.interval, baseline.probe.accuracy, baseline.probe.interval)
        sentences.append(
            f"Linear probe, {_beside(baseline)}: {baseline.probe.accuracy:.1%} against {best.probe.accuracy:.1%} for "
            f"{best.layer} at t={best.timestep}{_of(rivals)}: {verdict}."
        )
    return sentences


def _purity_baselines(summary: RunSummary) -> list[str]:
    sentences = []
    for baseline in summary.baselines:
        rivals = [run for run in _rivals(summary, baseline) if run.purity]
        if not baseline.purity or not rivals:
            continue
        best = max(rivals, key=lambda run: run.purity.majority_share if run.purity else 0.0)
        assert best.purity is not None
        ours, theirs = best.purity, baseline.purity
        verdict = _verdict(
            ours.majority_share,
            ours.interval["majority_share"],
            theirs.majority_share,
            theirs.interval["majority_share"],
        )
        sentences.append(
            f"Majority share, {_beside(baseline)}: {theirs.majority_share:.1%} against {ours.majority_share:.1%} for "
            f"{best.layer} at t={best.timestep}{_of(rivals)}: {verdict}."
        )
    return sentences


def _diffc(summary: RunSummary) -> list[str]:
    sentences = []
    models = [run for run in summary.diffc if run.baseline is None and run.head == DIFFC]
    for run in models:
        if diffc_interval(run)[0] <= diffc_chance(run):
            sentences.append(
                f"Diff-C on {run.layer} at t={run.timestep} ({run.accuracy:.1%}) is not above chance "
                f"({diffc_chance(run):.1%})."
            )
    for other in (run for run in summary.diffc if run.head != DIFFC and run.baseline is None):
        for run in models:
            if (run.layer, run.timestep) == (other.layer, other.timestep):
                verdict = _verdict(run.accuracy, diffc_interval(run), other.accuracy, diffc_interval(other))
                sentences.append(
                    f"{other.head} ({other.layer}, t={other.timestep}): {other.accuracy:.1%} against "
                    f"{run.accuracy:.1%} for Diff-C on the same maps: {verdict.replace('the model', 'Diff-C')}."
                )
    for baseline in (run for run in summary.diffc if run.baseline and run.head == DIFFC):
        same = [run for run in models if (run.layer, run.timestep) == (baseline.layer, baseline.timestep)] or models
        if same:
            best = max(same, key=lambda run: run.accuracy)
            verdict = _verdict(best.accuracy, diffc_interval(best), baseline.accuracy, diffc_interval(baseline))
            sentences.append(
                f"Diff-C, {baseline.baseline} ({baseline.layer}, t={baseline.timestep}): {baseline.accuracy:.1%} "
                f"against {best.accuracy:.1%} for {best.layer} at t={best.timestep}: {verdict}."
            )
    return sentences


def _training(summary: RunSummary) -> list[str]:
    return [
        f"The k-SAE of {run.layer} at t={run.timestep} explains less than half of the variance "
        f"(FVU {run.metrics['fvu']:.2f}): its latents say little; train longer or raise k."
        for run in summary.layers
        if run.metrics.get("fvu", 0.0) > 0.5
    ]


def _verdict(ours: float, our_interval: tuple[float, float], theirs: float, their_interval: tuple[float, float]) -> str:
    if our_interval[0] > their_interval[1]:
        return "the model wins"
    if their_interval[0] > our_interval[1]:
        return "**the baseline wins**"
    who = "the baseline is ahead" if theirs > ours else "the model is ahead" if ours > theirs else "equal"
    return f"no clear winner ({who}, but the 95 % intervals overlap)"
