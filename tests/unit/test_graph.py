from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from remadom.errors import InputError
from remadom.graph import GraphBuilder
from remadom.solvers.affinity import local_kernel
from remadom.types import SparseGraph


def points(n: int = 60, d: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def dense(graph: SparseGraph) -> np.ndarray:
    """Adjacency from the CSR arrays, which must be canonical: ascending columns, no self-loop."""
    n = len(graph)
    out = np.zeros((n, n), np.float32)
    for i in range(n):
        columns = graph.indices[graph.indptr[i] : graph.indptr[i + 1]]
        assert (columns.diff() > 0).all()
        assert i not in columns.tolist()
        out[i, columns] = graph.weight[graph.indptr[i] : graph.indptr[i + 1]]
    return out


def lists(x: np.ndarray, k: int) -> np.ndarray:
    """Directed kNN by scikit-learn, as a dense 0/1 matrix; only for points without copies."""
    return NearestNeighbors(n_neighbors=k).fit(x).kneighbors_graph().toarray().astype(np.float32)


@pytest.mark.parametrize("symmetrize", ["union", "mean"])
@pytest.mark.parametrize("mutual", [False, True])
def test_the_graph_is_the_symmetrized_neighbor_lists(symmetrize, mutual):
    x = points()
    listed = lists(x, 5)
    expected = np.maximum(listed, listed.T) if symmetrize == "union" else (listed + listed.T) / 2
    if mutual:
        expected = expected * (listed * listed.T)
    graph = GraphBuilder(k=5, symmetrize=symmetrize, mutual=mutual).build(x)
    np.testing.assert_array_equal(dense(graph), expected)
    np.testing.assert_allclose(graph.degrees.numpy(), expected.sum(1), rtol=1e-6)
    np.testing.assert_array_equal(graph.A.to_dense().numpy(), expected)


def test_gaussian_weights_follow_the_local_scales():
    x = points(40)
    listed = lists(x, 9)
    distance = np.sqrt(((x[:, None] - x[None]).astype(np.float64) ** 2).sum(2))
    scale = np.sort(distance, axis=1)[:, 7]
    expected = np.maximum(listed, listed.T) * np.exp(-(distance**2) / np.outer(scale, scale))
    graph = GraphBuilder(k=9, weights="gaussian").build(x)
    np.testing.assert_allclose(dense(graph), expected, rtol=1e-5, atol=1e-7)
    stretched = GraphBuilder(k=9, weights="gaussian").build(1000 * x)
    np.testing.assert_allclose(dense(stretched), expected, rtol=1e-4, atol=1e-7)


def test_copies_weigh_one_and_give_no_nan():
    x = np.concatenate([np.zeros((12, 3)), points(20, 3)])
    graph = GraphBuilder(k=10, weights="gaussian").build(x)
    weight = dense(graph)
    assert np.isfinite(weight).all()
    assert weight[0, 1] == 1
    assert ((weight >= 0) & (weight <= 1)).all()
    same = local_kernel(torch.tensor([[1], [0]]), torch.zeros(2, 1))
    assert same.tolist() == [[1.0], [1.0]]


@pytest.mark.parametrize("backend", ["faiss", "hnsw", "numpy"])
def test_every_back_end_gives_the_same_graph(backend):
    pytest.importorskip({"faiss": "faiss", "hnsw": "hnswlib", "numpy": "numpy"}[backend])
    x = np.concatenate([points(), points()])  # every cell twice
    graph = GraphBuilder(k=6, backend=backend, metric="cosine", weights="gaussian").build(x)
    np.testing.assert_array_equal(
        dense(graph), dense(GraphBuilder(k=6, metric="cosine", weights="gaussian").build(x))
    )


def test_the_order_of_cells_does_not_matter():
    x, order = points(), np.random.default_rng(1).permutation(60)
    graph = dense(GraphBuilder(k=4, weights="gaussian").build(x))
    np.testing.assert_array_equal(
        dense(GraphBuilder(k=4, weights="gaussian").build(torch.from_numpy(x[order]))),
        graph[np.ix_(order, order)],
    )


def test_a_graph_over_some_cells_has_a_row_for_every_cell():
    x, cells = points(10), torch.arange(20, 0, -2)
    graph = GraphBuilder(k=3, normalized=True).build(x, cells=cells, n_cells=23)
    expected = np.zeros((23, 23), np.float32)
    expected[np.ix_(cells, cells)] = dense(GraphBuilder(k=3).build(x))
    np.testing.assert_array_equal(dense(graph), expected)
    assert graph.degrees[1] == 0
    assert graph.normalized


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_tiny_graphs(n):
    graph = GraphBuilder(k=15).build(points(n))
    np.testing.assert_array_equal(dense(graph), 1 - np.eye(n) if n else np.zeros((0, 0)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: GraphBuilder().build(np.full((3, 2), np.nan)), "NaN or infinite"),
        (lambda: GraphBuilder().build(points(3), cells=torch.arange(3)), "expected n_cells"),
        (lambda: GraphBuilder().build(points(3), cells=torch.arange(2), n_cells=9), "2 positions for 3 rows"),
        (lambda: GraphBuilder().build(points(2), cells=torch.tensor([1, 1]), n_cells=9), "all different"),
        (lambda: GraphBuilder().build(points(2), cells=torch.tensor([1, 9]), n_cells=9), "from 0 to 8"),
    ],
)
def test_what_cannot_be_a_graph_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


@given(st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_an_induced_graph_is_the_dense_adjacency_indexed(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 30))
    graph = GraphBuilder(k=3, weights="gaussian", normalized=bool(seed % 2)).build(rng.normal(size=(n, 2)))
    index = rng.permutation(n)[: rng.integers(0, n + 1)]
    induced = graph.induced(torch.from_numpy(index))
    np.testing.assert_array_equal(dense(induced), dense(graph)[np.ix_(index, index)])
    np.testing.assert_array_equal(induced.degrees.numpy(), graph.degrees.numpy()[index])
    assert induced.normalized == graph.normalized
