from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from remadom.bridges import BRIDGES
from remadom.bridges.canonical import canonical_scores, leading_vectors, standard_components, unit, white
from remadom.bridges.linked_features import LinkedFeaturesBridge, _linked
from remadom.errors import InputError
from remadom.types import View

N, GENES = 400, 40


def two_sides(seed=0, n=N, noise=1.0):
    """RNA-like and protein-like features of the same cells in the same order, under positions of their own.

    Four types and a gradient; the first 12 genes have a noisy partner on the other side, the rest of each side
    follows the same latent in its own way.
    """
    rng = np.random.default_rng(seed)
    types = rng.integers(0, 4, n)
    latent = np.c_[np.eye(4)[types] * 3, rng.normal(size=n)]
    to_linked, to_a, to_b = (
        rng.normal(size=(5, 12)),
        rng.normal(size=(5, GENES - 12)),
        rng.normal(size=(5, 20)),
    )
    a = np.c_[latent @ to_linked, latent @ to_a] + noise * rng.normal(size=(n, GENES))
    b = np.c_[latent @ to_linked, latent @ to_b] + noise * rng.normal(size=(n, 32))
    b[:, :12] += noise * rng.normal(size=(n, 12))
    names = tuple(f"G{j}" for j in range(GENES))
    view_a = View("rna", np.arange(n), sp.csr_matrix(a.astype(np.float32)), names)
    of_b = tuple(name.lower() for name in names[:12]) + tuple(f"own{j}" for j in range(20))
    return view_a, View("adt", np.arange(n, 2 * n), b.astype(np.float32), of_b), types


def foscttm(a, b):
    """Share of cells nearer than the partner, which has the same row."""
    d = ((a[:, None] - b[None]) ** 2).sum(2)
    own = np.diag(d)
    return ((d < own[:, None]).mean() + (d < own[None]).mean()) / 2


def test_partners_meet_though_nothing_pairs_them():
    a, b, types = two_sides()
    bridge = LinkedFeaturesBridge()
    edges = bridge.build({"rna": a, "adt": b}, 2 * N)
    assert foscttm(*bridge.coordinates(a, b)) < 0.1
    assert (types[edges.src.numpy()] == types[edges.dst.numpy() - N]).mean() > 0.95
    assert set(edges.src.tolist()) <= set(a.cells)
    assert set(edges.dst.tolist()) <= set(b.cells)
    assert bool(((edges.weight > 0) & (edges.weight <= 1)).all())
    assert bool(((edges.confidence >= 0) & (edges.confidence <= 1)).all())


def test_each_part_earns_its_place():
    """Smoothing makes the first space better where links are noisy, all features make the last one better."""
    a, b, _ = two_sides(noise=3.0)
    found = {
        (smooth, rounds): foscttm(*LinkedFeaturesBridge(smooth=smooth, rounds=rounds).coordinates(a, b))
        for smooth in (0, 15)
        for rounds in (0, 2)
    }
    assert found[15, 0] < found[0, 0] - 0.02
    assert found[0, 2] < found[0, 0] - 0.02


def test_the_order_of_the_cells_and_known_pairs_change_nothing():
    a, b, _ = two_sides()
    edges = LinkedFeaturesBridge().build({"rna": a, "adt": b}, 2 * N)
    order = np.random.default_rng(1).permutation(N)
    shuffled = replace(b, features=b.features[order])
    again = LinkedFeaturesBridge().build({"rna": a, "adt": shuffled}, 2 * N)
    paired = LinkedFeaturesBridge().build({"rna": a, "adt": replace(b, cells=a.cells)}, N)

    def pairs(edges, dst):
        return set(zip(edges.src.tolist(), dst.tolist(), strict=True))

    same = pairs(edges, edges.dst - N)
    assert pairs(paired, paired.dst) == same
    moved = pairs(again, torch.from_numpy(order)[again.dst - N])
    assert len(moved & same) > 0.98 * len(same)


def test_links_by_name_and_by_table(tmp_path):
    a = ("CD4", "Cd8a", "NCAM1", "ENSG00000010610.9", "AL1.1", "AL1.2", "cd4")
    b = ("cd4.1", "CD4.2", "CD8A", "cd56", "ENSG00000010610.12", "AL1.3", "AL1.2")
    assert _linked(a, b, ()) == [(0, 0), (0, 1), (1, 2), (3, 4), (5, 6)]
    assert _linked(b, a, ()) == [(0, 0), (1, 0), (2, 1), (4, 3), (6, 5)]
    told = _linked(a, b, [("ncam1", "CD56"), ("CD8A", "cd4.1"), ("absent", "cd56")])
    assert told == [(0, 1), (1, 0), (1, 2), (2, 3), (3, 4), (5, 6)]
    path = tmp_path / "links.csv"
    path.write_text("G20, own3\n\nG21,own4\nG0,own5\n")
    one, two, _ = two_sides()
    rows, columns = LinkedFeaturesBridge(table=str(path)).links(one, two)
    assert {(20, 15), (21, 16), (0, 17), (0, 0), (11, 11)} <= set(
        zip(rows.tolist(), columns.tolist(), strict=True)
    )
    path.write_text("G20\n")
    with pytest.raises(InputError, match="found 1 columns in the line 'G20'"):
        LinkedFeaturesBridge(table=str(path)).links(one, two)
    with pytest.raises(InputError, match="no such file: nowhere"):
        LinkedFeaturesBridge(table="nowhere").links(one, two)


def test_features_that_do_not_vary_are_no_links():
    a, b, _ = two_sides()
    values = b.features.copy()
    values[:, 1:] = 3.3
    with pytest.raises(InputError, match=r"found 1 links.*40 features of rna \(G0, G1, G2, ...\).*table"):
        LinkedFeaturesBridge().links(a, replace(b, features=values))


def test_which_modalities_are_linked():
    a, b, _ = two_sides()
    more = View("peaks", b.cells, b.features[:, 12:], b.names[12:])
    views = {"rna": a, "adt": b, "peaks": more}
    with pytest.raises(InputError, match="found 3 modalities"):
        LinkedFeaturesBridge().build(views, 2 * N)
    with pytest.raises(InputError, match="no modality 'prot'"):
        LinkedFeaturesBridge(modalities=("rna", "prot")).build(views, 2 * N)
    swapped = LinkedFeaturesBridge(modalities=("adt", "rna")).build(views, 2 * N)
    assert set(swapped.src.tolist()) <= set(b.cells)
    with pytest.raises(InputError, match="400 of 400 cells of rna lack peaks"):
        LinkedFeaturesBridge(also={"rna": "peaks"}).build(views, 2 * N)


def test_features_beside_those_of_a_side_make_the_space_better():
    a, b, _ = two_sides(noise=3.0)
    linked = replace(b, features=b.features[:, :12], names=b.names[:12])
    more = View("peaks", np.arange(N - 5, 2 * N + 5), np.zeros((N + 10, 20), np.float32), b.names[12:])
    more.features[5 : N + 5] = b.features[:, 12:]
    bridge = LinkedFeaturesBridge(also={"adt": "peaks"})
    assert len(bridge.build({"rna": a, "adt": linked, "peaks": more}, 2 * N + 5))
    alone, both = (foscttm(*bridge.coordinates(a, linked, given)) for given in ({}, {"adt": more}))
    assert both < alone - 0.02


@pytest.mark.parametrize("n", [2, 3, 7])
def test_few_cells_survive(n):
    a, b, _ = two_sides(n=n)
    edges = LinkedFeaturesBridge().build({"rna": a, "adt": b}, 2 * n)
    assert len(edges) >= 1
    assert bool(edges.weight.isfinite().all())


def test_a_cell_without_any_count_survives():
    a, b, _ = two_sides()
    values = a.features.toarray()
    values[3] = 0
    assert np.isfinite(
        LinkedFeaturesBridge().coordinates(replace(a, features=sp.csr_matrix(values)), b)
    ).all()


def test_configuration_comes_from_the_registry():
    bridge = BRIDGES.build(
        "linked_features", modalities=["rna", "activity"], also={"activity": "atac"}, rounds=0
    )
    assert bridge.modalities == ("rna", "activity")
    assert bridge.inputs() == ("views", "n_cells")
    with pytest.raises(InputError, match="greater than"):
        BRIDGES.build("linked_features", neighbors=0)


def test_components_are_the_principal_components_of_standardized_features():
    a, _, _ = two_sides()
    expected = PCA(30, svd_solver="full").fit_transform(StandardScaler().fit_transform(a.dense))
    for view in (a, replace(a, features=a.dense)):
        found = standard_components(view)
        assert found.dtype == np.float32
        signs = np.sign((found * expected).sum(0))
        np.testing.assert_allclose(found[:, :25] * signs[:25], expected[:, :25], atol=2e-3)
    ready = replace(a, features=a.dense[:, :5], ready=True)
    np.testing.assert_array_equal(standard_components(ready), a.dense[:, :5])
    np.testing.assert_allclose(np.cov(white(found).T, bias=True), np.eye(found.shape[1]), atol=1e-4)


@pytest.mark.parametrize("width", [3, 60])
def test_leading_vectors_are_those_of_the_cross_covariance(width):
    rng = np.random.default_rng(0)
    scale = 0.8 ** np.arange(width)
    a, b = rng.normal(size=(90, width)) * scale, rng.normal(size=(70, width)) * scale
    left, values, right = leading_vectors(a, b, 5)
    u, s, vt = np.linalg.svd(a @ b.T)
    n = min(5, width)
    np.testing.assert_allclose(values, s[:n], rtol=1e-5)
    np.testing.assert_allclose(np.abs((left * u[:, :n]).sum(0)), 1, atol=1e-5)
    np.testing.assert_allclose(np.abs((right * vt[:n].T).sum(0)), 1, atol=1e-5)


def test_canonical_scores_of_true_pairs_are_those_of_a_canonical_correlation_analysis():
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(500, 2))
    a, b = (np.c_[shared, rng.normal(size=(500, 3))] @ rng.normal(size=(5, 5)) for _ in range(2))
    rows = np.arange(500)
    za, zb = canonical_scores(white(a), white(b), rows, rows, np.full(500, 0.7), 2)
    qa, qb = (np.linalg.qr(x - x.mean(0))[0] for x in (a, b))
    u, r, vt = np.linalg.svd(qa.T @ qb)
    for found, expected in ((za, unit(qa @ u[:, :2] * r[:2])), (zb, unit(qb @ vt[:2].T * r[:2]))):
        np.testing.assert_allclose(np.abs(found @ found.T), np.abs(expected @ expected.T), atol=1e-3)
    assert (za * zb).sum(1).min() > 0.99
