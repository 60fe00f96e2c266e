"""The metrics beside definitions written out cell by cell in float64, with none of their code."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import pearsonr, spearmanr

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

N_LABELS, N_BATCHES = 4, 3


@pytest.fixture(params=[(150, 2, 0), (130, 7, 1), (40, 5, 2)], ids=["2d", "7d", "few"])
def cells(request):
    n_cells, n_latent, seed = request.param
    rng = np.random.default_rng(seed)
    labels, batch = rng.integers(N_LABELS, size=n_cells), rng.integers(N_BATCHES, size=n_cells)
    z = (
        rng.normal(size=(n_cells, n_latent))
        + rng.normal(size=(N_LABELS, n_latent))[labels]
        + 0.3 * batch[:, None]
    )
    return z, labels, batch


def distances(z):
    return [[math.dist(a, b) for b in z] for a in z]


def others_by_distance(row, cell):
    return sorted((i for i in range(len(row)) if i != cell), key=lambda i: row[i])


def silhouette(z, groups):
    out = []
    for i, row in enumerate(distances(z)):
        mean = {}
        for group in set(groups):
            members = [row[j] for j in range(len(z)) if groups[j] == group and j != i]
            mean[group] = sum(members) / len(members) if members else None
        inside = mean.pop(groups[i])
        nearest = min(mean.values())
        out.append(0.0 if inside is None else (nearest - inside) / max(nearest, inside))
    return np.array(out)


def inverse_simpson(z, codes, neighbors, perplexity):
    out = []
    for i, row in enumerate(distances(z)):
        near = others_by_distance(row, i)[: neighbors - 1]
        d = np.array([row[j] for j in near])

        def weights(beta, d=d):
            w = np.exp(-beta * d)
            return w / w.sum()

        def excess(beta, d=d, weights=weights):
            w = weights(beta)
            return -np.sum(w * np.log(w)) - math.log(min(perplexity, len(d) / 3))

        w = weights(brentq(excess, 1e-9, 60 / d.max(), xtol=1e-14))
        out.append(1 / sum(w[codes[near] == c].sum() ** 2 for c in set(codes)))
    return np.array(out)


def test_knn_purity_counts_the_nearest_other_cells(cells):
    z, labels, _ = cells
    for k in (1, 15):
        shares = []
        for i, row in enumerate(distances(z)):
            near = others_by_distance(row, i)[:k]
            shares.append(sum(labels[j] == labels[i] for j in near) / k)
        assert knn_purity(z, labels, k) == pytest.approx(np.mean(shares), abs=1e-12)


def test_silhouettes_are_means_over_cells_and_over_labels(cells):
    z, labels, batch = cells
    assert asw_label(z, labels) == pytest.approx((silhouette(z, labels).mean() + 1) / 2, abs=1e-9)
    per_label = [(1 - abs(silhouette(z[labels == c], batch[labels == c]))).mean() for c in range(N_LABELS)]
    assert asw_batch(z, batch, labels) == pytest.approx(np.mean(per_label), abs=1e-9)


@pytest.mark.parametrize(("neighbors", "perplexity"), [(90, 30), (31, 5)])
def test_lisi_weighs_neighbors_to_the_perplexity(cells, neighbors, perplexity):
    z, labels, batch = cells
    size = {"neighbors": neighbors, "perplexity": perplexity}
    of_labels = inverse_simpson(z, labels, neighbors, perplexity)
    of_batches = inverse_simpson(z, batch, neighbors, perplexity)
    np.testing.assert_allclose(lisi(z, labels, **size), of_labels, rtol=1e-7)
    assert clisi(z, labels, **size) == pytest.approx((N_LABELS - np.median(of_labels)) / (N_LABELS - 1))
    assert ilisi(z, batch, **size) == pytest.approx((np.median(of_batches) - 1) / (N_BATCHES - 1))


def test_embedding_metrics_gathers_these_scores(cells):
    z, labels, batch = cells
    scores = embedding_metrics(z, labels, batch)
    assert scores == {
        "knn_purity": pytest.approx(knn_purity(z, labels)),
        "knn_purity_chance": pytest.approx(sum(np.mean(labels == c) ** 2 for c in range(N_LABELS))),
        "asw_label": pytest.approx(asw_label(z, labels)),
        "clisi": pytest.approx(clisi(z, labels)),
        "ilisi": pytest.approx(ilisi(z, batch)),
        "asw_batch": pytest.approx(asw_batch(z, batch, labels)),
        "n_cells": len(z),
        "n_labeled": len(z),
        "n_labels": N_LABELS,
        "n_batches": N_BATCHES,
    }


def test_imputation_scores_are_correlations_over_cells_and_an_error_at_the_true_depth():
    rng = np.random.default_rng(3)
    rate = rng.gamma(1.0, 3.0, size=(60, 8))
    truth = rng.poisson(rate).astype(float)
    predicted = rate * rng.uniform(0.2, 3, size=(60, 1))
    baseline = rng.gamma(1.0, 3.0, size=8)

    def rmse(guess):
        squares = []
        for guessed, known in zip(guess, truth, strict=True):
            at_depth = guessed / guessed.sum() * known.sum()
            squares += [
                (math.log(1 + a) - math.log(1 + b)) ** 2 for a, b in zip(at_depth, known, strict=True)
            ]
        return math.sqrt(sum(squares) / len(squares))

    pairs = list(zip(np.log1p(predicted).T, np.log1p(truth).T, strict=True))
    assert imputation_metrics(predicted, truth, baseline) == {
        "pearson": pytest.approx(np.mean([pearsonr(a, b).statistic for a, b in pairs])),
        "spearman": pytest.approx(np.mean([spearmanr(a, b).statistic for a, b in pairs])),
        "rmse": pytest.approx(rmse(predicted)),
        "rmse_mean_baseline": pytest.approx(rmse([baseline] * 60)),
    }
