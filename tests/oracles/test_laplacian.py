"""The Laplacian and its penalty against closed forms and brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from remadom.graph import GraphBuilder, GraphRegularizer
from remadom.types import SparseGraph


def of_edges(edges, n, weights=None, normalized=False) -> SparseGraph:
    weights = np.ones(len(edges)) if weights is None else np.asarray(weights)
    i, j = np.array(edges).reshape(-1, 2).T
    a = sp.csr_matrix((np.r_[weights, weights], (np.r_[i, j], np.r_[j, i])), shape=(n, n))
    a.sort_indices()
    return SparseGraph(
        torch.from_numpy(a.indptr.astype(np.int64)),
        torch.from_numpy(a.indices.astype(np.int64)),
        torch.from_numpy(a.data),
        torch.from_numpy(np.asarray(a.sum(1)).ravel()),
        normalized,
    )


def spectrum(graph: SparseGraph) -> np.ndarray:
    return np.linalg.eigvalsh(graph.L.to_dense().numpy())


def brute(z, graph: SparseGraph) -> float:
    """The sum over edges as it is written in the documentation."""
    total, a = 0.0, graph.A.to_dense()
    for i in range(len(graph)):
        for j in range(len(graph)):
            if a[i, j]:
                y_i, y_j = z[i], z[j]
                if graph.normalized:
                    y_i, y_j = y_i / math.sqrt(graph.degrees[i]), y_j / math.sqrt(graph.degrees[j])
                total += 0.5 * float(a[i, j]) * float(((y_i - y_j) ** 2).sum())
    return total / len(graph)


def test_spectra_of_path_and_cycle():
    n = 9
    path = of_edges([(i, i + 1) for i in range(n - 1)], n)
    cycle = of_edges([(i, (i + 1) % n) for i in range(n)], n)
    k = np.arange(n)
    np.testing.assert_allclose(spectrum(path), np.sort(2 - 2 * np.cos(np.pi * k / n)), atol=1e-12)
    np.testing.assert_allclose(spectrum(cycle), np.sort(2 - 2 * np.cos(2 * np.pi * k / n)), atol=1e-12)
    normal = of_edges([(i, (i + 1) % n) for i in range(n)], n, normalized=True)
    np.testing.assert_allclose(spectrum(normal), np.sort(1 - np.cos(2 * np.pi * k / n)), atol=1e-12)


def random_graph(seed: int, normalized: bool) -> tuple[SparseGraph, torch.Tensor]:
    """Random weighted edges; some cells have none, some cells are copies."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 14))
    pairs = [(i, j) for i in range(n) for j in range(i) if rng.random() < 0.3]
    z = torch.from_numpy(rng.normal(size=(n, 3)))
    z[-1] = z[0]
    return of_edges(pairs, n, rng.random(len(pairs)) + 0.1, normalized), z


@given(st.integers(0, 10**6), st.booleans())
@settings(max_examples=60, deadline=None)
def test_penalty_equals_the_trace_and_the_sum_over_edges(seed, normalized):
    graph, z = random_graph(seed, normalized)
    loss, logs = GraphRegularizer()(z, graph)
    laplacian = graph.L.to_dense()
    assert float(loss) == pytest.approx(brute(z, graph), abs=1e-12)
    assert float(loss) == pytest.approx(float((z.T @ laplacian @ z).trace()) / len(z), abs=1e-12)
    assert float(logs["n_edges"]) == len(graph.indices) / 2
    assert np.linalg.eigvalsh(laplacian.numpy()).min() > -1e-12
    if not normalized:
        np.testing.assert_allclose(laplacian.sum(1).numpy(), 0, atol=1e-12)


@pytest.mark.parametrize("normalized", [False, True])
def test_penalty_of_an_induced_graph_sums_its_edges_with_the_degrees_of_the_whole(normalized):
    rng = np.random.default_rng(0)
    z = torch.from_numpy(rng.normal(size=(40, 3)))
    graph = GraphBuilder(k=5, weights="gaussian", normalized=normalized).build(z)
    index = torch.from_numpy(rng.permutation(40)[:17])
    loss, _ = GraphRegularizer()(z[index], graph.induced(index))
    inside = set(index.tolist())
    rows, columns = graph.rows.tolist(), graph.indices.tolist()
    scale = graph.degrees.double().rsqrt() if normalized else torch.ones(40)
    expected = sum(
        0.5 * float(w) * float(((z[i] * scale[i] - z[j] * scale[j]) ** 2).sum())
        for i, j, w in zip(rows, columns, graph.weight, strict=True)
        if i in inside and j in inside
    )
    assert float(loss) == pytest.approx(expected / 17, rel=1e-6)


@pytest.mark.parametrize("normalized", [False, True])
def test_gradient_is_the_laplacian_times_the_latent(normalized):
    graph, z = random_graph(5, normalized)
    z = z.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: GraphRegularizer()(z, graph)[0], (z,))
    GraphRegularizer()(z, graph)[0].backward()
    np.testing.assert_allclose(
        z.grad.numpy(), (2 / len(z)) * (graph.L.to_dense() @ z.detach()).numpy(), atol=1e-12
    )


def test_a_constant_latent_far_from_the_origin_costs_nothing_in_single_precision():
    z = torch.full((50, 4), 1e4)
    z[:, 0] += torch.linspace(0, 1e-1, 50)
    graph = GraphBuilder(k=4).build(z)
    loss, _ = GraphRegularizer()(z, graph)
    assert float(loss) == pytest.approx(brute(z.double(), graph), rel=1e-4)


@pytest.mark.parametrize("normalized", [False, True])
def test_a_graph_without_edges_costs_nothing_and_has_a_gradient_of_zero(normalized):
    for n in (0, 1, 3):
        z = torch.randn(n, 2, requires_grad=True)
        loss, logs = GraphRegularizer()(z, of_edges([], n, normalized=normalized))
        loss.backward()
        assert loss.item() == 0
        assert torch.equal(z.grad, torch.zeros(n, 2))
        assert logs["n_edges"] == 0


def test_half_precision_is_computed_in_single():
    graph, z = random_graph(3, False)
    loss, _ = GraphRegularizer()(z.bfloat16(), graph)
    assert loss.dtype == torch.float64  # the weights of this graph
    single = SparseGraph(graph.indptr, graph.indices, graph.weight.float(), graph.degrees.float())
    half, _ = GraphRegularizer()(z.bfloat16(), single)
    assert half.dtype == torch.float32
    assert float(half) == pytest.approx(brute(z.bfloat16().double(), graph), rel=1e-5)


def test_a_graph_on_another_device_is_moved_once():
    graph, _ = random_graph(3, True)
    penalty, meta = GraphRegularizer(), torch.device("meta")
    moved = penalty._at(graph, meta)
    assert moved.indices.device == meta
    assert penalty._at(graph, meta) is moved
    assert penalty._at(graph, torch.device("cpu")) is graph
    assert penalty._at(random_graph(4, True)[0], meta) is not moved
