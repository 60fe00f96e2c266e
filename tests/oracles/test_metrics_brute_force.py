"""The metrics beside definitions written out cell by cell in float64, with none of their code."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.spatial.distance import cdist
from scipy.stats import chisquare
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from remadom.eval import clustering
from remadom.eval.clustering import agreement, cluster_agreement, jaccard_edges
from remadom.eval.connectivity import graph_connectivity, knn_purity
from remadom.eval.diffusion import affinities, diffusion_map
from remadom.eval.kbet import accepted, kbet
from remadom.eval.lisi import clisi, ilisi, lisi
from remadom.eval.metrics import embedding_metrics
from remadom.eval.neighbors import neighborhood
from remadom.eval.regression import explained_variance, pcr
from remadom.eval.silhouettes import asw_batch, asw_label, isolated_label

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
            return -np.sum(w * np.log(w)) - math.log(min(perplexity, (len(d) + 1) / 3))

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


def nearest(z, k):
    return [set(others_by_distance(row, cell)[:k]) for cell, row in enumerate(distances(z))]


def test_graph_connectivity_walks_through_each_label(cells):
    z, labels, _ = cells
    near = nearest(z, 3)
    shares = []
    for label in set(labels):
        left = {i for i in range(len(z)) if labels[i] == label}
        size, largest = len(left), 0
        while left:
            piece, found = set(), [left.pop()]
            while found:
                cell = found.pop()
                piece.add(cell)
                reached = {other for other in left if other in near[cell] or cell in near[other]}
                left -= reached
                found += reached
            largest = max(largest, len(piece))
        shares.append(largest / size)
    assert np.mean(shares) < 1
    assert graph_connectivity(z, labels, 3) == pytest.approx(np.mean(shares), abs=1e-12)


def test_agreement_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    for n_cells, kinds, clusters in ((200, 5, 7), (50, 2, 2), (30, 1, 3), (40, 6, 1), (12, 1, 1)):
        codes, found = rng.integers(kinds, size=n_cells), rng.integers(clusters, size=n_cells)
        for other in (found, codes, (codes + found) // 2):
            assert agreement(codes, other) == pytest.approx(
                (normalized_mutual_info_score(codes, other), adjusted_rand_score(codes, other)), abs=1e-12
            )


def test_leiden_takes_the_best_partition_of_the_jaccard_graph(cells):
    """As good as the partition into the labels, in the modularity that it maximizes, or better."""
    igraph = pytest.importorskip("igraph")
    z, labels, _ = cells
    near = nearest(z, 15)
    joined = [near[i] | {j for j in range(len(z)) if i in near[j]} for i in range(len(z))]
    edges = [(i, j) for i in range(len(z)) for j in joined[i] if i < j]
    weights = [(len(joined[i] & joined[j]) + 1) / len(joined[i] | joined[j]) for i, j in edges]
    found_edges, found_weights = jaccard_edges(neighborhood(z, 15).graph(15))
    expected = dict(zip(edges, weights, strict=True))
    assert dict(zip(map(tuple, found_edges.tolist()), found_weights, strict=True)) == pytest.approx(expected)
    graph = igraph.Graph(n=len(z), edges=edges)
    found = list(clustering._leiden(neighborhood(z, 15).graph(15), 0))
    for resolution, clusters in zip(clustering.RESOLUTIONS, found, strict=True):
        reached = graph.modularity(clusters.tolist(), weights=weights, resolution=resolution)
        for other in (labels.tolist(), [0] * len(z), list(range(len(z)))):
            assert reached >= graph.modularity(other, weights=weights, resolution=resolution) - 1e-9
    best = max((normalized_mutual_info_score(labels, c), adjusted_rand_score(labels, c)) for c in found)
    assert cluster_agreement(z, labels)[1:] == pytest.approx(best)


def test_isolated_labels_are_averaged_one_by_one(cells):
    z, labels, batch = cells
    batch = np.where(labels == 2, 0, np.where(labels == 1, 1, batch))
    widths = (silhouette(z, labels) + 1) / 2
    expected = (widths[labels == 1].mean() + widths[labels == 2].mean()) / 2
    assert isolated_label(z, labels, batch) == pytest.approx(expected, abs=1e-9)


def test_regression_on_each_principal_component(cells):
    z, _, batch = cells

    def explained(values):
        values = values - values.mean(0)
        left, size, _ = np.linalg.svd(values, full_matrices=False)
        design = np.eye(N_BATCHES)[batch]
        share = 0.0
        for component in (left * size).T:
            fit = design @ np.linalg.lstsq(design, component, rcond=None)[0]
            share += (1 - ((component - fit) ** 2).sum() / (component**2).sum()) * component.var()
        return share / values.var(0).sum()

    before = z + np.random.default_rng(0).normal(size=(N_BATCHES, z.shape[1]))[batch]
    assert explained_variance(z, batch) == pytest.approx(explained(z), abs=1e-12)
    assert pcr(before, z, batch) == pytest.approx(
        (explained(before) - explained(z)) / explained(before), abs=1e-9
    )


def test_affinities_are_those_of_umap(cells):
    umap = pytest.importorskip("umap.umap_")
    z = np.concatenate([cells[0], cells[0][:5]])  # copies
    near = neighborhood(z, 29)
    alone = np.arange(len(z))[:, None]
    expected = umap.fuzzy_simplicial_set(
        z,
        30,
        np.random.RandomState(0),
        "euclidean",
        knn_indices=np.hstack([alone, near.indices]),
        knn_dists=np.hstack([0.0 * alone, near.distances]).astype(np.float32),
    )[0]
    np.testing.assert_allclose(affinities(near).toarray(), expected.toarray(), atol=2e-4)


@pytest.mark.parametrize("n_cells", [120, 600])
def test_distances_of_a_diffusion_map_are_those_of_all_steps_of_a_walk(n_cells):
    """Summed powers of the transitions, but for the constant part: (1 - T)^-1 T, applied to both ends."""
    z = np.random.default_rng(0).normal(size=(n_cells, 2))
    affinity = affinities(neighborhood(z, 49))
    dense = affinity.toarray()
    kernel = dense / dense.sum(0) / dense.sum(1)[:, None]
    root = np.sqrt(kernel.sum(1))
    transitions = kernel / root / root[:, None]
    constant = np.outer(root, root) / (root**2).sum()
    walks = np.linalg.inv(np.eye(n_cells) - transitions + constant) @ transitions  # constant part: itself
    expected = cdist(walks, walks, "sqeuclidean")
    found = diffusion_map(affinity)
    squared = cdist(found, found, "sqeuclidean")
    assert found.shape == (n_cells, 100)
    np.testing.assert_allclose(squared, expected, rtol=0.02, atol=0.02 * expected.max())


def test_kbet_is_a_chi_squared_test_for_each_neighborhood():
    rng = np.random.default_rng(0)
    lots = rng.choice([0, 2, 5], p=[0.5, 0.3, 0.2], size=200)
    neighborhoods = np.stack([rng.choice(200, size=25, replace=False) for _ in range(200)])
    neighborhoods[:60] = np.flatnonzero(lots == 5)[:25]
    share = [np.mean(lots == lot) for lot in (0, 2, 5)]
    passed = [
        chisquare([np.sum(lots[row] == lot) for lot in (0, 2, 5)], 25 * np.array(share)).pvalue >= 0.05
        for row in neighborhoods
    ]
    assert 0.5 < np.mean(passed) < 0.7
    assert accepted(neighborhoods, lots, 0.05) == np.mean(passed)


def test_kbet_takes_a_quarter_of_a_batch_around_each_cell_of_a_label():
    """The cell itself and its nearest in the diffusion map of the label: here of 300 and of 120 cells."""
    rng = np.random.default_rng(0)
    labels, batch = np.repeat([0, 1], [300, 120]), rng.choice(3, p=[0.6, 0.2, 0.2], size=420)
    z = rng.normal(size=(420, 2)) + 0.6 * batch[:, None] + 30 * labels[:, None]
    graph = affinities(neighborhood(z, 49))
    shares = []
    for label, k in ((0, 300 // 3 // 4), (1, 120 // 3 // 4)):
        here = np.flatnonzero(labels == label)
        rows = distances(diffusion_map(graph[here][:, here]))
        around = [[i, *others_by_distance(row, i)[:k]] for i, row in enumerate(rows)]
        shares.append(accepted(np.array(around), batch[here], 0.05))
    assert 0.1 < min(shares) < max(shares) < 0.9
    assert kbet(z, batch, labels) == pytest.approx(np.mean(shares), abs=1e-12)


def test_embedding_metrics_gathers_these_scores(cells):
    z, labels, batch = cells
    before = z[:, :2] + batch[:, None]
    scores = embedding_metrics(z, labels, batch, before=before)
    name, nmi, ari = cluster_agreement(z, labels)
    bio = (nmi + ari + asw_label(z, labels) + clisi(z, labels)) / 4
    mixing = (ilisi(z, batch) + graph_connectivity(z, labels) + asw_batch(z, batch, labels)) / 3
    assert scores == {
        "clustering": name,
        "nmi": pytest.approx(nmi),
        "ari": pytest.approx(ari),
        "asw_label": pytest.approx(asw_label(z, labels)),
        "clisi": pytest.approx(clisi(z, labels)),
        "isolated_label": pytest.approx(isolated_label(z, labels, batch)),
        "ilisi": pytest.approx(ilisi(z, batch)),
        "asw_batch": pytest.approx(asw_batch(z, batch, labels)),
        "graph_connectivity": pytest.approx(graph_connectivity(z, labels)),
        "kbet": pytest.approx(kbet(z, batch, labels)),
        "pcr": pytest.approx(pcr(before, z, batch)),
        "bio": pytest.approx(bio),
        "batch": pytest.approx(mixing),
        "total": pytest.approx(0.6 * bio + 0.4 * mixing),
        "knn_purity": pytest.approx(knn_purity(z, labels)),
        "knn_purity_chance": pytest.approx(sum(np.mean(labels == c) ** 2 for c in range(N_LABELS))),
        "n_cells": len(z),
        "n_labeled": len(z),
        "n_labels": N_LABELS,
        "n_batches": N_BATCHES,
    }
