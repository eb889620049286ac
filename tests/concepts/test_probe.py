"""Probes: scikit-learn's answers, planted classes, the choice of the penalty, and what is refused."""

from __future__ import annotations

import pytest
import torch

from revelio_fast.concepts import ProbeResult, centroid_probe, linear_probe, neighbour_probe
from revelio_fast.concepts.logistic import logistic_path, principal_axes
from revelio_fast.concepts.probe import GRID, stratified_folds
from revelio_fast.statistics import marked, wilson_interval


def planted(rows: int, noise: float, d: int = 10, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.arange(rows) % classes
    centres = 3 * torch.eye(classes, d)
    scale = torch.logspace(-3, 3, d)
    return (centres[labels] + noise * torch.randn(rows, d)) * scale + 100 * scale, labels


def standardised(x: torch.Tensor) -> torch.Tensor:
    from sklearn.preprocessing import StandardScaler

    return torch.from_numpy(StandardScaler().fit_transform(x.double().numpy()))


@pytest.mark.parametrize("C", [1e-4, 1e-2, 1.0, 100.0])
@pytest.mark.parametrize("d", [12, 150])
def test_solutions_are_those_of_scikit_learn(C, d):
    """Wide and tall rows, a small and a large penalty, classes of unequal size, a constant column."""
    from sklearn.linear_model import LogisticRegression

    x, _ = planted(90, noise=2.0, d=d)
    y = torch.tensor([0] * 40 + [1] * 30 + [2] * 20)
    x[:, 3] = 7.0
    rows = standardised(x)
    axes = principal_axes(rows)
    (fit,) = logistic_path(rows @ axes, y, 3, torch.ones(1, 90, dtype=torch.bool), [C], 5000, 1e-9)
    assert fit.converged.all()
    expected = LogisticRegression(C=C, tol=1e-10, max_iter=100_000).fit(rows.numpy(), y.numpy())
    ours = axes @ fit.weights[:, 0].T
    # A constant added to all classes changes no probability. The minimum is strictly convex in the rest: with a
    # gradient below 1e-9 and a curvature of at least 1 / (C n), weights are off by 1e-9 C n sqrt(K d) < 4e-4 at worst.
    theirs = torch.from_numpy(expected.coef_.T)
    torch.testing.assert_close(
        ours - ours.mean(1, keepdim=True), theirs - theirs.mean(1, keepdim=True), rtol=0, atol=4e-4
    )
    probabilities = (rows @ ours + fit.intercepts[:, 0]).softmax(1)
    torch.testing.assert_close(probabilities, torch.from_numpy(expected.predict_proba(rows.numpy())), rtol=0, atol=1e-4)


def test_problems_side_by_side_are_the_problems_one_by_one():
    x, y = planted(80, noise=1.5)
    rows = standardised(x)
    used = torch.rand(3, 80) < 0.7
    together = list(logistic_path(rows, y, 4, used, [0.01, 1.0], 500, 1e-10))
    for problem in range(3):
        alone = list(
            logistic_path(
                rows[used[problem]],
                y[used[problem]],
                4,
                torch.ones(1, int(used[problem].sum()), dtype=torch.bool),
                [0.01, 1.0],
                500,
                1e-10,
            )
        )
        for a, b in zip(together, alone, strict=True):
            assert a.C == b.C
            # Gradients below 1e-10 over a curvature of at least 1 / (C n) leave 1e-8 in each weight.
            torch.testing.assert_close(a.weights[:, problem], b.weights[:, 0], rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("noise, d", [(2.0, 10), (6.0, 60), (30.0, 200)])
def test_the_penalty_is_the_one_that_scikit_learn_chooses(noise, d):
    from sklearn.linear_model import LogisticRegressionCV

    x, y = planted(240, noise=noise, d=d)
    result = linear_probe(x[:160], y[:160], x[160:], y[160:], seed=3)
    fold_of = stratified_folds(y[:160], 5, 3)
    folds = [((fold_of != f).nonzero().flatten().numpy(), (fold_of == f).nonzero().flatten().numpy()) for f in range(5)]
    mean, scale = x[:160].double().mean(0), x[:160].double().std(0, correction=0)
    rows, test = ((x[:160].double() - mean) / scale).numpy(), ((x[160:].double() - mean) / scale).numpy()
    model = LogisticRegressionCV(Cs=list(GRID), cv=folds, max_iter=10_000, tol=1e-8, scoring="accuracy").fit(
        rows, y[:160].numpy()
    )
    scores = next(iter(model.scores_.values())).mean(0)
    # A held-out row may lie so near a boundary that the tolerances of the solvers decide: 1 of 160.
    assert result.cv_accuracy == pytest.approx(scores.tolist(), abs=1.01 / 160)
    assert result.C in {GRID[i] for i in range(len(GRID)) if scores[i] >= scores.max() - 1.01 / 160}
    assert result.accuracy == pytest.approx(model.score(test, y[160:].numpy()), abs=1.01 / 80)
    assert (result.grid, result.folds) == (list(GRID), 5)


def test_a_wide_noisy_feature_gets_a_strong_penalty_and_gains_by_it():
    """The finding that began this: at C = 1 pixels lost ten points against their own best penalty."""
    torch.manual_seed(5)
    y = torch.arange(1200) % 6
    x = torch.randn(1200, 200) + 0.15 * torch.randn(6, 200)[y]
    chosen = linear_probe(x[:600], y[:600], x[600:], y[600:])
    fixed = linear_probe(x[:600], y[:600], x[600:], y[600:], C=10.0)
    assert chosen.C < 0.1 and chosen.accuracy > fixed.accuracy + 0.05
    assert fixed.grid == [] and fixed.folds == 0 and fixed.C == 10.0


def test_probe_reads_planted_classes_whatever_the_scale_of_columns():
    x, y = planted(400, noise=0.3)
    result = linear_probe(x[:200], y[:200], x[200:], y[200:])
    assert result.accuracy == 1.0 and result.converged and result.kind == "linear"
    assert result.interval == pytest.approx(wilson_interval(200, 200))
    assert (result.n_train, result.n_test, result.n_classes, result.d) == (200, 200, 4, 10)
    assert result.chance == 0.25 and result.correct == "1" * 200


@pytest.mark.parametrize("probe", [linear_probe, centroid_probe, neighbour_probe])
def test_probes_of_noise_are_at_chance(probe):
    x, y = torch.randn(2000, 5), torch.randint(0, 4, (2000,))
    result = probe(x[:1000], y[:1000], x[1000:], y[1000:])
    # Five standard errors of a share of 1/4 among 1000.
    assert abs(result.accuracy - 0.25) < 5 * (0.25 * 0.75 / 1000) ** 0.5


def test_simple_probes_agree_with_scikit_learn():
    from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = planted(500, noise=3.0)
    train, test = (x[:300].numpy(), y[:300].numpy()), (x[300:].numpy(), y[300:].numpy())
    for probe, theirs in ((centroid_probe, NearestCentroid()), (neighbour_probe, KNeighborsClassifier(5))):
        model = make_pipeline(StandardScaler(), theirs).fit(*train)
        result = probe(x[:300], y[:300], x[300:], y[300:])
        guessed = torch.from_numpy(model.predict(test[0]) == test[1])
        assert torch.equal(marked([result.correct])[0], guessed)
        assert result.train_accuracy == model.score(*train) and 0.3 < result.accuracy < 1
    assert "5 nearest" in result.kind and "3 nearest" in neighbour_probe(x[:3], y[:3], x, y).kind


def test_results_are_comparable_image_by_image():
    x, y = planted(200, noise=2.5)
    ids = torch.randperm(1000)[:100]
    order = torch.randperm(100)
    one = linear_probe(x[:100], y[:100], x[100:], y[100:], test_ids=ids, C=1.0)
    other = linear_probe(x[:100], y[:100], x[100:][order], y[100:][order], test_ids=ids[order], C=1.0)
    assert one == other and 0 < one.accuracy < 1
    assert one.images != linear_probe(x[:100], y[:100], x[100:], y[100:], test_ids=ids + 1, C=1.0).images
    assert ProbeResult.from_dict(one.as_dict()) == one


def test_folds_are_stratified_shuffled_and_follow_from_the_seed():
    labels = torch.tensor([0] * 23 + [1] * 10 + [2] * 7)[torch.randperm(40)]
    folds = stratified_folds(labels, 5, 0)
    for label, count in ((0, 23), (1, 10), (2, 7)):
        each = torch.bincount(folds[labels == label], minlength=5)
        assert each.sum() == count and each.max() - each.min() <= 1
    assert torch.equal(folds, stratified_folds(labels, 5, 0)) and not torch.equal(folds, stratified_folds(labels, 5, 1))
    assert stratified_folds(torch.tensor([0, 0, 0, 1, 1, 1, 2]), 5, 0).max() == 2
    with pytest.raises(ValueError, match="No class has two training rows"):
        stratified_folds(torch.arange(4), 5, 0)


def test_a_class_of_one_row_does_not_stop_the_choice():
    x, y = planted(60, noise=1.0)
    y[0] = 9
    result = linear_probe(x[:40], y[:40], x[40:], y[40:])
    assert result.n_classes == 5 and result.accuracy > 0.5


def test_probe_says_when_it_did_not_converge():
    x, y = planted(200, noise=2.0)
    assert not linear_probe(x, y, x, y, C=1.0, max_iter=1).converged


def test_probe_refuses_what_it_cannot_use():
    x, y = planted(20, noise=1.0)
    bad = x.clone()
    bad[3, 2] = float("nan")
    for arguments, message in (
        ((x, y[:19], x, y), r"train rows must be features \[rows, d\] with one label each"),
        ((x, y, x[:0], y[:0]), "test rows must be"),
        ((x, y.float(), x, y), r"train labels must be integers, got torch.float32"),
        ((bad, y, x, y), "train features hold NaN"),
        ((x, y, x[:, :3], y), "have 10 columns, test features 3"),
        ((x, torch.zeros_like(y), x, y), "at least two classes"),
    ):
        for probe in (linear_probe, centroid_probe, neighbour_probe):
            with pytest.raises(ValueError, match=message):
                probe(*arguments)
    with pytest.raises(ValueError, match="grid must hold values of C above 0"):
        linear_probe(x, y, x, y, grid=[])
