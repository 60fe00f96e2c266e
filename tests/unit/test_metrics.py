from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from remadom.errors import InputError
from remadom.eval.metrics import (
    asw_batch,
    asw_label,
    clisi,
    embedding_metrics,
    ilisi,
    imputation_metrics,
    knn_purity,
    lisi,
)


def blobs(n_cells=600, n_groups=4, distance=20.0, seed=0):
    rng = np.random.default_rng(seed)
    group = np.arange(n_cells) % n_groups
    return rng.normal(size=(n_cells, 6)) + distance * np.eye(6)[group], group


def test_separated_labels_and_mixed_batches_score_near_one():
    z, labels = blobs()
    batch = np.random.default_rng(1).integers(3, size=len(z))
    scores = embedding_metrics(z, labels, batch)
    assert scores["knn_purity"] == 1
    assert scores["clisi"] == pytest.approx(1)
    assert scores["asw_label"] > 0.85
    assert scores["ilisi"] > 0.8
    assert scores["asw_batch"] > 0.9


def test_scattered_labels_and_separated_batches_score_near_chance_and_zero():
    z, batch = blobs()
    labels = np.random.default_rng(1).integers(3, size=len(z))
    scores = embedding_metrics(z, labels, batch)
    assert scores["knn_purity"] == pytest.approx(scores["knn_purity_chance"], abs=0.03)
    assert scores["asw_label"] == pytest.approx(0.5, abs=0.03)
    assert scores["clisi"] < 0.2
    assert scores["ilisi"] == pytest.approx(0, abs=1e-9)
    assert scores["asw_batch"] < 0.3


@settings(max_examples=25, deadline=None)
@given(
    z=arrays(
        np.float64, st.tuples(st.integers(1, 40), st.integers(1, 3)), elements=st.integers(-1, 1).map(float)
    ),
    data=st.data(),
)
def test_duplicates_and_tiny_data_give_scores_in_range_without_warnings(z, data):
    choose = st.lists(st.sampled_from(["a", "b", "c", None]), min_size=len(z), max_size=len(z))
    scores = embedding_metrics(z, data.draw(choose), data.draw(choose))
    for name, score in scores.items():
        assert 0 <= score <= (len(z) if name.startswith("n_") else 1 + 1e-9), name
    json.dumps(scores, allow_nan=False)


def test_a_cell_is_not_its_own_neighbor_among_duplicates():
    z = np.repeat([[0.0, 0.0], [9.0, 9.0]], 50, axis=0)
    labels = np.tile(["a", "b"], 50)
    assert knn_purity(z, np.arange(100), k=15) == 0
    np.testing.assert_allclose(lisi(z, np.repeat([0, 1], 50), neighbors=40), 1)
    # all other cells at the same distance: they weigh the same, 49 of one kind and 50 of the other
    np.testing.assert_allclose(lisi(np.zeros((100, 2)), labels, neighbors=100), 99**2 / (49**2 + 50**2))


def test_identical_cells_are_half_of_a_silhouette():
    z, labels, batch = np.full((30, 4), 0.1), np.arange(30) % 3, np.arange(30) % 2
    scores = embedding_metrics(z, labels, batch)
    assert scores["asw_label"] == 0.5
    assert scores["asw_batch"] == 1
    assert scores["ilisi"] > 0.9


def test_scores_do_not_change_with_position_scale_or_order():
    z, labels = blobs(300, distance=1.5)
    batch = np.random.default_rng(1).integers(2, size=len(z))
    order = np.random.default_rng(2).permutation(len(z))
    expected = embedding_metrics(z, labels, batch)
    for moved in (z + 1e8, z * 1e-6, z * 1e8):
        assert embedding_metrics(moved, labels, batch) == pytest.approx(expected, abs=1e-5)
    assert embedding_metrics(z[order], labels[order], batch[order]) == pytest.approx(expected, abs=1e-9)


def test_missing_labels_are_dropped_from_label_scores_only():
    z, labels = blobs(200)
    batch = np.arange(200) % 3
    some = pd.Series(labels.astype(object)).mask(np.arange(200) >= 120)
    some[0], some[1] = None, pd.NA
    scores, full = embedding_metrics(z, some, batch), embedding_metrics(z, labels, batch)
    assert (scores["n_cells"], scores["n_labeled"]) == (200, 118)
    assert scores["ilisi"] == full["ilisi"]
    assert scores["asw_label"] == pytest.approx(asw_label(z[2:120], labels[2:120]))
    assert scores["asw_batch"] == pytest.approx(asw_batch(z[2:120], batch[2:120], labels[2:120]))


def test_cells_without_a_batch_do_not_count_for_mixing():
    z, labels = blobs(200)
    batch = np.random.default_rng(0).choice(np.array(["a", "b", None]), size=200)
    known = batch != np.array(None)
    scores = embedding_metrics(z, labels, batch)
    assert scores["n_batches"] == 2
    assert scores["ilisi"] == pytest.approx(ilisi(z[known], batch[known]))
    assert scores["asw_batch"] == pytest.approx(asw_batch(z[known], batch[known], labels[known]))
    assert scores["n_labeled"] == 200


def test_categories_are_taken_as_they_come():
    z, labels = blobs(120, 3)
    names = np.array(["T", "B", "NK"])[labels]
    for same in (
        names,
        list(names),
        pd.Series(names, dtype="category"),
        pd.Categorical(names),
        labels.astype(float),
    ):
        assert embedding_metrics(z, same)["clisi"] == pytest.approx(clisi(z, labels))


def test_at_most_max_cells_are_used_and_the_draw_follows_the_seed():
    z, labels = blobs(900, distance=1.0)
    first = embedding_metrics(z, labels, labels, max_cells=200, seed=1)
    assert first["n_cells"] == first["n_labeled"] == 200
    assert first == embedding_metrics(z, labels, labels, max_cells=200, seed=1)
    assert first != embedding_metrics(z, labels, labels, max_cells=200, seed=2)
    rare = np.where(np.arange(900) < 90, labels, None)
    assert embedding_metrics(z, rare, max_cells=200)["n_labeled"] == 90


def test_undefined_scores_are_left_out():
    z, labels = blobs(60)
    one = ["x"] * 60
    assert embedding_metrics(z) == {"n_cells": 0}
    assert embedding_metrics(z, one, one) == {"n_cells": 60, "n_labeled": 60, "n_labels": 1, "n_batches": 1}
    assert "asw_batch" not in embedding_metrics(z, labels, labels)
    assert set(embedding_metrics(z, labels)) >= {"knn_purity", "asw_label", "clisi"}
    assert "asw_label" not in embedding_metrics(z, np.arange(60))
    assert embedding_metrics(z[:1], ["a"], ["b"]) == {
        "n_cells": 1,
        "n_labeled": 1,
        "n_labels": 1,
        "n_batches": 1,
    }
    assert embedding_metrics(z[:0], [], [])["n_cells"] == 0
    for score in (
        knn_purity(z[:1], ["a"]),
        asw_label(z, one),
        ilisi(z, one),
        clisi(z, one),
        lisi(z[:1], ["a"])[0],
    ):
        assert np.isnan(score)


def test_labels_of_one_cell_have_no_silhouette():
    z, labels = blobs(41, 2)
    alone = labels.copy()
    alone[-1] = 7
    assert asw_label(z, alone) == pytest.approx(asw_label(z[:-1], labels[:-1]))


@pytest.mark.parametrize(
    ("z", "labels", "message"),
    [
        ([[0.0], [np.nan], [np.inf]], None, "2 of 3 cells have NaN or infinite values .* cell 1"),
        (np.zeros(5), None, r"shape \(5,\), expected cells x latent"),
        (np.zeros((5, 0)), None, r"shape \(5, 0\)"),
        (np.zeros((5, 2)), ["a"] * 4, "labels: found 4 values for 5 cells"),
    ],
)
def test_wrong_input_says_what_is_wrong(z, labels, message):
    with pytest.raises(InputError, match=message):
        embedding_metrics(z, labels)


def test_single_scores_refuse_missing_labels():
    with pytest.raises(InputError, match="labels: 1 of 3 cells have no value"):
        knn_purity(np.zeros((3, 2)), ["a", None, "b"])


def test_a_perfect_imputation_scores_one_and_no_error():
    truth = np.random.default_rng(0).poisson(3.0, size=(40, 6))
    scores = imputation_metrics(2.0 * truth, truth)
    assert scores == {
        "pearson": pytest.approx(1, abs=0.02),
        "spearman": pytest.approx(1),
        "rmse": pytest.approx(0),
    }


def test_constant_features_and_predictions_are_no_correlation():
    rng = np.random.default_rng(0)
    truth = rng.poisson(3.0, size=(40, 3))
    truth[:, 2] = 5
    predicted = truth.astype(float)
    predicted[:, 0] = 0.1
    scores = imputation_metrics(predicted, truth)
    assert scores["pearson"] == scores["spearman"] == pytest.approx(0.5)
    assert set(imputation_metrics(predicted[:1], truth[:1], truth.mean(0))) == {"rmse", "rmse_mean_baseline"}


def test_empty_cells_and_negative_predictions_are_zeros():
    truth = np.array([[0.0, 0.0], [1.0, 3.0]])
    assert imputation_metrics(np.array([[-1.0, -2.0], [1.0, 3.0]]), truth)["rmse"] == 0
    assert imputation_metrics(np.zeros((2, 2)), truth)["rmse"] == pytest.approx(
        np.sqrt((np.log(2) ** 2 + np.log(4) ** 2) / 4)
    )


@pytest.mark.parametrize(
    ("predicted", "truth", "baseline", "message"),
    [
        (np.ones((2, 3)), np.ones((3, 2)), None, r"predicted \(2, 3\) and truth \(3, 2\)"),
        (np.ones((0, 3)), np.ones((0, 3)), None, r"expected one shape, cells x features"),
        (np.full((2, 2), np.nan), np.ones((2, 2)), None, "missing, infinite or negative"),
        (np.ones((2, 2)), -np.ones((2, 2)), None, "missing, infinite or negative"),
        (np.ones((2, 2)), np.ones((2, 2)), np.ones(3), r"baseline \(3,\), expected \(2,\)"),
    ],
)
def test_wrong_imputations_say_what_is_wrong(predicted, truth, baseline, message):
    with pytest.raises(InputError, match=message):
        imputation_metrics(predicted, truth, baseline)
