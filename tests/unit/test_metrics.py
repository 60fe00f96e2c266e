from __future__ import annotations

import json
import random

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from remadom.errors import InputError
from remadom.eval.clustering import RESOLUTIONS, cluster_agreement
from remadom.eval.connectivity import graph_connectivity, knn_purity
from remadom.eval.kbet import kbet
from remadom.eval.lisi import clisi, ilisi, lisi
from remadom.eval.metrics import BATCH, BIO, embedding_metrics
from remadom.eval.neighbors import nearest_cells, neighborhood
from remadom.eval.regression import explained_variance, pcr
from remadom.eval.silhouettes import asw_batch, asw_label, isolated_label


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
    assert scores["nmi"] == scores["ari"] == scores["graph_connectivity"] == 1
    assert scores["kbet"] > 0.9
    assert scores["isolated_label"] == pytest.approx(scores["asw_label"], abs=0.02)
    assert scores["total"] > 0.9


def test_scattered_labels_and_separated_batches_score_near_chance_and_zero():
    z, batch = blobs()
    labels = np.random.default_rng(1).integers(3, size=len(z))
    scores = embedding_metrics(z, labels, batch)
    assert scores["knn_purity"] == pytest.approx(scores["knn_purity_chance"], abs=0.03)
    assert scores["asw_label"] == pytest.approx(0.5, abs=0.03)
    assert scores["clisi"] < 0.2
    assert scores["ilisi"] == pytest.approx(0, abs=1e-9)
    assert scores["asw_batch"] < 0.3
    assert scores["kbet"] < 0.05
    assert scores["nmi"] < 0.02
    assert scores["ari"] == pytest.approx(0, abs=0.02)


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
    assert scores.pop("clustering", "leiden") == "leiden"
    for name, score in scores.items():
        lowest = -0.5 if name == "ari" else 0
        assert lowest <= score <= (len(z) if name.startswith("n_") else 1 + 1e-9), name
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
    reordered = embedding_metrics(z[order], labels[order], batch[order])
    by_chance = {"nmi", "ari", "bio", "total"}  # Leiden takes the cells in their order
    assert {
        name for name in expected if reordered[name] != pytest.approx(expected[name], abs=1e-9)
    } <= by_chance


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
        isolated_label(z, labels, one),
        isolated_label(z, one, labels),
        kbet(z, one, labels),
        kbet(z[:9], np.arange(9) % 2, one[:9]),
        graph_connectivity(z[:0], []),
        pcr(z, z, one),
        pcr(np.ones((60, 2)), z, labels),
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


def test_missing_rows_of_components_and_other_lengths():
    z, labels = blobs(120)
    batch = np.arange(120) % 2
    before = z + 3.0 * batch[:, None]
    expected = pcr(before[20:], z[20:], batch[20:])
    before[:20] = np.nan
    assert embedding_metrics(z, labels, batch, before=before)["pcr"] == pytest.approx(expected)
    assert "pcr" not in embedding_metrics(z, labels, batch, before=np.full((120, 2), np.nan))
    assert "pcr" not in embedding_metrics(z, labels, batch)
    with pytest.raises(InputError, match=r"before: found shape \(119, 6\); expected .* each of 120 cells"):
        embedding_metrics(z, labels, batch, before=before[1:])


def test_bio_batch_and_total_are_means_of_what_there_is():
    z, labels = blobs(300, distance=2.0)
    batch = np.arange(300) % 3
    scores = embedding_metrics(z, labels, batch)
    assert scores["bio"] == pytest.approx(
        np.mean([scores[name] for name in ("nmi", "ari", "asw_label", "clisi")])
    )
    assert scores["batch"] == pytest.approx(
        np.mean([scores[name] for name in ("ilisi", "graph_connectivity", "asw_batch")])
    )
    assert scores["total"] == pytest.approx(0.6 * scores["bio"] + 0.4 * scores["batch"])
    apart = embedding_metrics(z, labels, labels)  # no label has two batches
    assert apart["batch"] == pytest.approx((apart["ilisi"] + apart["graph_connectivity"]) / 2)
    assert not {"batch", "total", "kbet", "isolated_label"} & set(embedding_metrics(z, labels))
    assert not {"bio", "batch", "total"} & set(embedding_metrics(z, batch=batch))
    assert set(BIO) < set(scores)
    assert set(BATCH) < set(scores)


def test_one_search_of_neighbors_serves_all(monkeypatch):
    z, labels = blobs(300)
    searched = []

    def counted(points, k):
        searched.append((len(points), k))
        return nearest_cells(points, k)

    monkeypatch.setattr("remadom.eval.neighbors.nearest_cells", counted)
    embedding_metrics(z, labels, np.arange(300) % 2)
    assert searched == [(300, 89)]
    embedding_metrics(z, np.where(np.arange(300) < 10, None, labels), np.arange(300) % 2)
    assert searched[1:] == [(290, 89), (300, 89)]


def test_without_igraph_clusters_are_those_of_k_means(monkeypatch):
    z, labels = blobs(200)
    assert cluster_agreement(z, labels) == ("leiden", 1, 1)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert cluster_agreement(z, labels) == ("k-means", 1, 1)
    assert embedding_metrics(z, labels)["clustering"] == "k-means"
    assert cluster_agreement(np.zeros((10, 2)), np.arange(10) % 2) == ("k-means", 0, 0)


def test_the_best_resolution_counts_and_the_random_numbers_of_others_are_left_alone():
    z, labels = blobs(400, n_groups=5, distance=6.0)
    fine = 2 * labels + (np.arange(400) // 5) % 2  # halves of a blob, which nothing tells apart
    assert cluster_agreement(z, labels).ari == pytest.approx(1)
    assert 0.3 < cluster_agreement(z, fine).ari < 0.7
    random.seed(7)
    expected = random.random()
    random.seed(7)
    first = cluster_agreement(z, fine, seed=1)
    assert random.random() == expected
    assert cluster_agreement(z, fine, seed=1) == first
    assert cluster_agreement(z, np.random.default_rng(0).permutation(labels)).nmi < 0.1
    assert len(RESOLUTIONS) == 7


def test_a_label_in_pieces_counts_by_its_largest():
    z = np.repeat([[0.0, 0.0], [50.0, 0.0], [0.0, 50.0]], [60, 20, 40], axis=0)
    z = z + np.random.default_rng(0).normal(size=z.shape)
    labels = np.repeat(["a", "b"], [80, 40])
    assert graph_connectivity(z, labels) == pytest.approx((60 / 80 + 1) / 2)
    assert graph_connectivity(z, labels[::-1]) < 0.9


def test_isolated_labels_are_those_in_the_fewest_batches():
    z, labels = blobs(300, n_groups=3, distance=4.0)
    batch = np.random.default_rng(0).integers(3, size=300)
    batch[labels == 1] = 0
    z[labels == 2] = z[labels == 0][:, ::-1] + 4 * (np.eye(6)[0] - np.eye(6)[5])  # where label 0 is
    alone, mixed = isolated_label(z, labels, batch), asw_label(z, labels)
    assert alone > mixed + 0.1
    renamed = np.array(["x", "b", "q"])[labels]
    assert isolated_label(z, renamed, batch) == pytest.approx(alone)


def test_kbet_of_a_label_in_pieces():
    rng = np.random.default_rng(0)
    batch = np.arange(240) % 2
    spread = rng.normal(size=(240, 3)) + 100 * np.eye(3)[np.arange(240) % 3]
    assert kbet(spread, batch, np.zeros(240)) == 0  # pieces of 80 cells, where 90 are needed
    mostly = np.concatenate([rng.normal(size=(400, 3)), rng.normal(size=(100, 3)) + 100])
    batch = np.concatenate([np.arange(400) % 2, np.zeros(100)])  # the far 100 are not tested
    assert kbet(mostly, batch, np.zeros(500)) > 0.9


def test_explained_variance_is_that_between_batches():
    batch = np.repeat([0, 1], 50)
    noise = np.tile([-1.0, 1.0], 50)
    values = np.stack([3.0 * (2 * batch - 1), noise], axis=1)
    assert explained_variance(values, batch) == pytest.approx(0.9)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(2, 2)))[0]
    assert explained_variance(values @ turn + 7, batch) == pytest.approx(0.9)
    assert pcr(values, noise[:, None], batch) == 1
    assert pcr(values, values, batch) == 0
    assert pcr(values, batch[:, None], batch) == 0
    assert explained_variance(np.ones((100, 2)), batch) == 0


def test_a_search_is_cut_to_what_a_score_needs():
    z, labels = blobs(200, distance=1.0)
    near = neighborhood(z, 89)
    for score in (ilisi, clisi, knn_purity, graph_connectivity):
        assert score(near, labels) == score(z, labels)
    assert kbet(near, np.arange(200) // 100, labels) == kbet(z, np.arange(200) // 100, labels)


def test_single_scores_refuse_missing_labels():
    with pytest.raises(InputError, match="labels: 1 of 3 cells have no value"):
        knn_purity(np.zeros((3, 2)), ["a", None, "b"])
