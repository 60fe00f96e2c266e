from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import average_precision_score, roc_auc_score

from remadom.errors import InputError
from remadom.eval.imputation import at_depth, binary_metrics, imputation_metrics
from remadom.eval.intervals import calibrated_widths, coverage, widened
from remadom.eval.scales import COUNTS, FRACTIONS, REAL


def test_a_perfect_imputation_scores_one_and_no_error():
    truth = np.random.default_rng(0).poisson(3.0, size=(40, 6))
    scores = imputation_metrics(2.0 * truth, truth)
    assert scores["pearson"] == pytest.approx(1, abs=0.02)
    assert [scores["spearman"], scores["spearman_cell"]] == pytest.approx([1, 1])
    assert [scores["rmse"], scores["nrmse"]] == pytest.approx([0, 0])


def test_constant_features_and_predictions_are_no_correlation():
    truth = np.random.default_rng(0).poisson(3.0, size=(40, 3))
    truth[:, 2] = 5
    predicted = truth.astype(float)
    predicted[:, 0] = 0.1
    scores = imputation_metrics(predicted, truth)
    assert scores["pearson"] == scores["spearman"] == pytest.approx(0.5)
    assert "pearson" not in imputation_metrics(predicted[:1], truth[:1])
    assert set(imputation_metrics(np.ones((2, 2)), np.ones((2, 2)))) == {"rmse"}


def test_empty_cells_and_negative_predictions_are_zeros():
    truth = np.array([[0.0, 0.0], [1.0, 3.0]])
    assert imputation_metrics(np.array([[-1.0, -2.0], [1.0, 3.0]]), truth)["rmse"] == 0
    assert imputation_metrics(np.zeros((2, 2)), truth)["rmse"] == pytest.approx(
        np.sqrt((np.log(2) ** 2 + np.log(4) ** 2) / 4)
    )


@pytest.mark.parametrize(
    ("predicted", "truth", "message"),
    [
        (np.ones((2, 3)), np.ones((3, 2)), r"predicted \(2, 3\) and truth \(3, 2\)"),
        (np.ones((0, 3)), np.ones((0, 3)), r"expected one shape, cells x features"),
        (np.full((2, 2), np.nan), np.ones((2, 2)), "missing or infinite values"),
        (np.ones((2, 2)), np.full((2, 2), np.nan), "of which some are known"),
        (
            np.ones((2, 2)),
            -np.ones((2, 2)),
            r"values from -1 to -1; expected log\(1 \+ count\) of values from 0",
        ),
    ],
)
@pytest.mark.parametrize("score", [imputation_metrics, binary_metrics])
def test_wrong_imputations_say_what_is_wrong(score, predicted, truth, message):
    with pytest.raises(InputError, match=message):
        score(predicted, truth)


def test_scores_are_correlations_and_an_error_at_the_true_depth():
    rng = np.random.default_rng(3)
    rate = rng.gamma(1.0, 3.0, size=(60, 8))
    truth = rng.poisson(rate).astype(float)
    predicted = rate * rng.uniform(0.2, 3, size=(60, 1))

    def error(column: int | None = None) -> float:
        squares = []
        for guessed, known in zip(predicted, truth, strict=True):
            scaled = guessed / guessed.sum() * known.sum()
            squares.append(
                [(math.log(1 + a) - math.log(1 + b)) ** 2 for a, b in zip(scaled, known, strict=True)]
            )
        return math.sqrt(np.mean(squares if column is None else [row[column] for row in squares]))

    logs = np.log1p(predicted), np.log1p(truth)
    by_feature, by_cell = list(zip(logs[0].T, logs[1].T, strict=True)), list(zip(*logs, strict=True))
    assert imputation_metrics(predicted, truth) == {
        "pearson": pytest.approx(np.mean([pearsonr(a, b).statistic for a, b in by_feature])),
        "spearman": pytest.approx(np.mean([spearmanr(a, b).statistic for a, b in by_feature])),
        "pearson_cell": pytest.approx(np.mean([pearsonr(a, b).statistic for a, b in by_cell])),
        "spearman_cell": pytest.approx(np.mean([spearmanr(a, b).statistic for a, b in by_cell])),
        "rmse": pytest.approx(error()),
        "nrmse": pytest.approx(np.mean([error(j) / logs[1][:, j].std() for j in range(8)])),
    }


@pytest.mark.parametrize("scale", [COUNTS, REAL, FRACTIONS])
def test_what_was_not_measured_changes_no_score(scale):
    """Each feature's scores are those of its own known cells; other scales than that of counts know no depth."""
    rng = np.random.default_rng(4)
    truth = rng.beta(1, 2, size=(50, 4))
    truth = {COUNTS: rng.poisson(5 * truth).astype(float), REAL: 20 * truth - 10, FRACTIONS: truth}[scale]
    predicted = np.clip(truth + rng.normal(0, 0.2, truth.shape), scale.least, scale.most)
    whole = imputation_metrics(predicted, truth, scale)
    if scale is not COUNTS:
        assert whole["rmse"] == pytest.approx(np.sqrt(((predicted - truth) ** 2).mean()))
        assert whole["pearson"] == pytest.approx(
            np.mean([pearsonr(predicted[:, j], truth[:, j]).statistic for j in range(4)])
        )
    holes = rng.random(truth.shape) < 0.3
    found = imputation_metrics(predicted, np.where(holes, np.nan, truth), scale)
    by_hand = []
    for j in range(4):
        a, b = scale.to(predicted[~holes[:, j], j]), scale.to(truth[~holes[:, j], j])
        by_hand.append((pearsonr(a, b).statistic, spearmanr(a, b).statistic))
    assert [found["pearson"], found["spearman"]] == pytest.approx(np.mean(by_hand, axis=0))
    if scale is not COUNTS:
        assert found["rmse"] == pytest.approx(np.sqrt(((predicted - truth)[~holes] ** 2).mean()))


@pytest.mark.parametrize("scale", [REAL, FRACTIONS])
def test_calibrated_intervals_of_real_values_hold_what_they_promise(scale):
    rng = np.random.default_rng(0)
    center = rng.uniform(0.3, 0.7, size=(4000, 5)) if scale is FRACTIONS else rng.uniform(-9, 9, (4000, 5))
    truth = (center + rng.normal(0, 0.1, center.shape)).clip(scale.least, scale.most)
    truth[rng.random(truth.shape) < 0.2] = np.nan
    lower, upper = center - 0.05, center + 0.05
    widths = calibrated_widths(lower[::2], upper[::2], truth[::2], level=0.9, scale=scale)
    low, high = widened(lower[1::2], upper[1::2], widths, scale)
    assert coverage(low, high, truth[1::2]) == pytest.approx(0.9, abs=0.015)
    assert low.min() < 0 if scale is REAL else (low.min() >= 0 and high.max() <= 1)


def test_binary_scores_are_those_of_scikit_learn_with_ties():
    rng = np.random.default_rng(0)
    truth = rng.random((40, 70)) < 0.3
    truth[:, 0], truth[:, 1] = True, False
    truth[:5, 1], truth[0] = True, True
    predicted = rng.integers(0, 12, truth.shape) + 3.0 * truth
    cells = [i for i in range(40) if 0 < truth[i].sum() < 70]
    peaks = [j for j in range(70) if 10 <= truth[:, j].sum() < 40]
    assert len(cells) == 39
    assert len(peaks) < 69
    assert binary_metrics(predicted, truth * 2.0) == {
        "prevalence": pytest.approx(truth.mean()),
        "auroc_cell": pytest.approx(np.mean([roc_auc_score(truth[i], predicted[i]) for i in cells])),
        "auprc_cell": pytest.approx(
            np.mean([average_precision_score(truth[i], predicted[i]) for i in cells])
        ),
        "auroc_feature": pytest.approx(np.mean([roc_auc_score(truth[:, j], predicted[:, j]) for j in peaks])),
        "auprc_feature": pytest.approx(
            np.mean([average_precision_score(truth[:, j], predicted[:, j]) for j in peaks])
        ),
    }
    assert binary_metrics(np.ones((3, 2)), np.ones((3, 2))) == {"prevalence": 1.0}


def test_depth_scales_rows_and_leaves_empty_ones():
    scaled = at_depth(np.array([[1.0, 3.0], [0.0, 0.0]]), np.array([8.0, 5.0]))
    assert scaled.tolist() == [[2.0, 6.0], [0.0, 0.0]]


@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
def test_calibrated_intervals_hold_what_they_promise(scale):
    """Whatever the model's own intervals are: too narrow, right or too wide."""
    rng = np.random.default_rng(0)
    center = rng.uniform(2, 4, size=(4000, 5))
    truth = np.expm1(center + rng.normal(0, 0.5, size=center.shape))
    half = 1.645 * 0.5 * scale
    lower, upper = np.expm1(center - half), np.expm1(center + half)
    raw = coverage(lower, upper, truth)
    assert abs(raw - 0.9) > 0.08 or scale == 1.0
    widths = calibrated_widths(lower[::2], upper[::2], truth[::2], level=0.9)
    assert np.allclose(widths, 1.645 * 0.5 * (1 - scale), atol=0.06)
    low, high = widened(lower[1::2], upper[1::2], widths)
    assert coverage(low, high, truth[1::2]) == pytest.approx(0.9, abs=0.015)


def test_few_calibration_cells_promise_nothing():
    """With n cells no level above n / (n + 1) can be promised."""
    ones = np.ones((8, 2))
    assert np.isinf(calibrated_widths(ones, ones, ones, level=0.9)).all()
    assert np.isfinite(calibrated_widths(ones, ones, ones, level=0.8)).all()


def test_intervals_neither_cross_nor_fall_below_zero():
    lower, upper = np.array([[1.0, 5.0]]), np.array([[2.0, 9.0]])
    low, high = widened(lower, upper, np.array([-5.0, 4.0]))
    assert low[0, 0] == pytest.approx(high[0, 0])
    assert low[0, 1] == 0
    assert coverage(lower, upper, np.array([[1.0, 9.5]])) == 0.5
