"""The tables of purity: sigma_label by layer and timestep, and all measures beside chance and baselines."""

from __future__ import annotations

from collections.abc import Sequence

from revelio_fast.report.records import FeatureResult, RunSummary, by_place, purity_of
from revelio_fast.report.table import DEVIATION, SHARE, Cell, Table


def over_seeds(summary: RunSummary) -> str:
    """A sentence for captions where figures are means over seeds; empty for one seed."""
    if len(summary.seeds) < 2:
        return ""
    seeds = ", ".join(map(str, summary.seeds))
    return (
        f" Means over seeds {seeds}; deviation: n - 1 standard deviation over them; intervals join the doubt of each "
        "measurement and that of the mean over seeds."
    )


def at_common(summary: RunSummary) -> str:
    """A sentence for captions: how many latents purity is compared at."""
    count = summary.common_latents
    if count is None:
        return ""
    return (
        f" All results are compared at the same number of latents, the {count} best-ranked of each: the smallest "
        "number that any of them has, since purity falls with rank."
    )


def sigma_table(summary: RunSummary) -> Table | None:
    """Layers by timesteps of sigma_label, as the paper's Table 2, the chance level in brackets."""
    groups = {group[0].place[1:]: group for group in by_place(summary.layers) if group[0].compared_purity}
    if not groups:
        return None
    first = next(iter(groups.values()))[0].compared_purity
    assert first is not None

    def cell(group: Sequence[FeatureResult] | None) -> str | None:
        purity = group[0].compared_purity if group else None
        if group is None or purity is None:
            return None
        spread = purity_of(group, "sigma_label")
        deviation = f" ± {spread.deviation:.2f}" if spread.deviation is not None else ""
        return f"{spread.mean:.2f}{deviation} ({purity.chance['sigma_label']:.2f})"

    times = summary.timesteps
    return Table(
        "sigma_label",
        f"Label purity sigma_label by layer and timestep (layout of the paper's Table 2), {summary.dataset}: the "
        f"standard deviation (with n - 1) of the integer labels of a latent's top {first.top_images} images, averaged "
        "over the top latents; lower is purer. In brackets: chance, by shuffling labels. It depends on how classes are "
        f"numbered; the other measures do not.{at_common(summary)}{over_seeds(summary)}",
        ["layer", *(f"t = {t}" for t in times)],
        [[layer, *(cell(groups.get((layer, t))) for t in times)] for layer in summary.layer_names],
    )


def purity_table(summary: RunSummary) -> Table | None:
    """All purity measures with chance, p-values and intervals, the baselines' rows below the model's."""
    groups = [
        group
        for group in by_place([*summary.layers, *summary.baselines])
        if all(each.compared_purity and each.purity for each in group)
    ]
    if not groups:
        return None
    several = len(summary.seeds) > 1
    rows: list[list[Cell]] = []
    for group in groups:
        purity, own = group[0].compared_purity, group[0].purity
        assert purity is not None and own is not None
        sigma, majority, entropy, scaled = (
            purity_of(group, name) for name in ("sigma_label", "majority_share", "entropy", "entropy_normalised")
        )
        worst = {
            name: max(each.compared_purity.p_value[name] for each in group if each.compared_purity)
            for name in ("sigma_label", "majority_share")
        }
        owns = [each.purity for each in group if each.purity]
        rows.append(
            [group[0].layer, group[0].timestep, group[0].features, majority.mean, *majority.interval,
             *([majority.deviation] if several else []), purity.chance["majority_share"], worst["majority_share"],
             sigma.mean, *([sigma.deviation] if several else []), purity.chance["sigma_label"], worst["sigma_label"],
             entropy.mean, purity.chance["entropy"], scaled.mean, purity.n_latents_used,
             sum(each.n_latents_used for each in owns) / len(owns) if several else own.n_latents_used,
             sum(each.majority_share for each in owns) / len(owns), sum(each.sigma_label for each in owns) / len(owns)]
        )  # fmt: skip
    example = groups[0][0].compared_purity
    assert example is not None
    deviation = [f"majority {DEVIATION}"] if several else []
    return Table(
        "purity",
        f"Agreement of the labels of each latent's top {example.top_images} images. Majority share: share of the "
        "commonest label, higher is purer; sigma_label (n - 1 deviation of the integer labels) and entropy: lower is "
        "purer. Chance and p-values by shuffling labels among images; low and high: 95 % bootstrap interval over "
        f"latents. Ranked by {example.ranking_text}.{at_common(summary)} 'Own': over all the latents that the settings "
        f"ask for and the k-SAE has.{over_seeds(summary)}",
        ["layer", "timestep", "features", "majority share", "low", "high", *deviation, "majority chance", "majority p",
         "sigma_label", *([f"sigma {DEVIATION}"] if several else []), "sigma chance", "sigma p", "entropy (bits)",
         "entropy chance", "entropy (0-1)", "latents", "own latents", "own majority share", "own sigma_label"],
        rows,
        {**dict.fromkeys(["majority share", "low", "high", "majority chance", "own majority share", *deviation], SHARE),
         **dict.fromkeys(["sigma_label", f"sigma {DEVIATION}", "sigma chance", "entropy (bits)", "entropy chance",
                          "entropy (0-1)", "own sigma_label", "sigma p", "majority p"], ".3f"), "own latents": ".0f"},
    )  # fmt: skip
