from __future__ import annotations

import builtins

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from remadom.errors import InputError, MissingExtra
from remadom.solvers import ann, ann_backends
from remadom.solvers.ann import AnnIndex, first_of_rows

BACKENDS = ["faiss", "hnsw", "numpy"]


@pytest.fixture(params=BACKENDS)
def backend(request):
    if request.param != "numpy":
        pytest.importorskip({"faiss": "faiss", "hnsw": "hnswlib"}[request.param])
    return request.param


def brute(queries, points, k, metric="euclidean"):
    """Every distance in float64, rounded to float32, sorted by (distance, index)."""
    q, p = np.asarray(queries, np.float64), np.asarray(points, np.float64)
    if metric == "euclidean":
        distance = np.sqrt(((q[:, None] - p[None]) ** 2).sum(2))
    else:
        length = np.linalg.norm(q, axis=1)[:, None] * np.linalg.norm(p, axis=1)[None]
        distance = 1 - np.divide(q @ p.T, length, out=np.zeros_like(length), where=length > 0)
        distance[(q == 0).all(1)[:, None] & (p == 0).all(1)[None]] = 0
    distance = distance.astype(np.float32)
    order = np.argsort(distance, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(distance, order, 1)


def brute_self(points, k, metric="euclidean"):
    order, distance = brute(points, points, len(points), metric)
    other = order != np.arange(len(points))[:, None]
    shape = (len(points), len(points) - 1)
    return order[other].reshape(shape)[:, :k], distance[other].reshape(shape)[:, :k]


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_search_and_self_neighbors_equal_brute_force(backend, metric):
    rng = np.random.default_rng(0)
    points, queries = rng.normal(size=(300, 6)).astype(np.float32), rng.normal(size=(40, 6))
    points[7] = 0
    index = AnnIndex(points, backend=backend, metric=metric)
    for (found, distance), (order, expected) in (
        (index.search(queries, 9), brute(queries, points, 9, metric)),
        (index.self_neighbors(9), brute_self(points, 9, metric)),
    ):
        np.testing.assert_array_equal(found.numpy(), order)
        np.testing.assert_allclose(distance.numpy(), expected, atol=1e-6)
        assert found.dtype == torch.int64
        assert distance.dtype == torch.float32


def test_ties_are_broken_by_index_on_a_lattice(backend):
    rng = np.random.default_rng(1)
    points = rng.integers(0, 4, size=(400, 3)).astype(np.float32)  # copies and equal distances
    found, distance = AnnIndex(points, backend=backend).self_neighbors(11)
    order, expected = brute_self(points, 11)
    np.testing.assert_array_equal(found.numpy(), order)
    np.testing.assert_allclose(distance.numpy(), expected, rtol=1e-6)


def test_a_cell_among_more_copies_than_k_is_never_its_own_neighbor(backend):
    points = np.concatenate([np.zeros((40, 4)), np.ones((3, 4))])
    found, distance = AnnIndex(points, backend=backend).self_neighbors(5)
    assert not (found == torch.arange(43)[:, None]).any()
    assert found[39].tolist() == [0, 1, 2, 3, 4]
    assert found[2].tolist() == [0, 1, 3, 4, 5]
    assert found[41].tolist() == [40, 42, 0, 1, 2]
    assert distance[41].tolist() == [0, 0, 2, 2, 2]


@given(st.integers(0, 10**6), st.integers(1, 12), st.sampled_from(["euclidean", "cosine"]))
@settings(max_examples=60, deadline=None)
def test_any_small_lattice_of_points_equals_brute_force(seed, k, metric):
    rng = np.random.default_rng(seed)
    points = rng.integers(-1, 2, size=(rng.integers(2, 30), rng.integers(1, 4))).astype(np.float64)
    found, distance = AnnIndex(points, backend="numpy", metric=metric).self_neighbors(k)
    order, expected = brute_self(points, k, metric)
    np.testing.assert_allclose(distance.numpy(), expected, atol=1e-6)
    np.testing.assert_array_equal(found.numpy(), order)


@pytest.fixture
def large(monkeypatch):
    """Let 2,000 points count as many."""
    monkeypatch.setattr(ann, "EXACT_BELOW", 500)
    monkeypatch.setattr(ann_backends, "EXACT_BELOW", 500)
    monkeypatch.setattr(ann, "SAMPLE", 100)


def test_lists_and_small_worlds_find_what_exact_search_finds(backend, large):
    rng = np.random.default_rng(2)
    points = rng.normal(size=(2000, 16)).astype(np.float32)  # one Gaussian: hard for inverted lists
    points[100:140] = points[100]
    index = AnnIndex(points, backend=backend)
    found, _ = index.self_neighbors(15)
    order, _ = brute_self(points, 15)
    recall = (found.numpy()[:, :, None] == order[:, None]).any(1).mean()
    assert recall >= 0.999
    again, _ = AnnIndex(points, backend=backend).self_neighbors(15)
    assert torch.equal(found, again)


def test_rounding_of_single_precision_hides_no_neighbor():
    pytest.importorskip("faiss")
    x = 100 + np.sort(np.random.default_rng(3).random(600))[:, None] * np.array([[1e-4, 0.0]])
    points = np.concatenate([x, [[0.0, 0.0]]])  # gaps of 2e-7 beside a spread of 100
    found, _ = AnnIndex(points, backend="faiss").self_neighbors(6)
    np.testing.assert_array_equal(found.numpy(), brute_self(points, 6)[0])


def test_equivariant_to_the_order_of_points(backend):
    rng = np.random.default_rng(4)
    points = rng.normal(size=(80, 3))
    order = rng.permutation(80)
    found, distance = AnnIndex(points, backend=backend).self_neighbors(7)
    again, distance_again = AnnIndex(points[order], backend=backend).self_neighbors(7)
    assert np.array_equal(order[again.numpy()], found.numpy()[order])
    assert torch.equal(distance_again, distance[torch.from_numpy(order)])


def test_tiny_and_empty_inputs(backend):
    index = AnnIndex(torch.tensor([[1.0, 2.0]]), backend=backend)
    assert index.self_neighbors(3)[0].shape == (1, 0)
    found, distance = index.search(torch.tensor([[1.0, 5.0]]), 4)
    assert found.tolist() == [[0]]
    assert distance.tolist() == [[3.0]]
    assert index.search(torch.zeros(0, 2), 3)[0].shape == (0, 1)
    assert AnnIndex(torch.ones(3, 2), backend=backend).self_neighbors(9)[0].tolist() == [
        [1, 2],
        [0, 2],
        [0, 1],
    ]
    assert (
        AnnIndex(torch.tensor([[0.0], [-0.0]]), backend=backend).self_neighbors(1)[1].tolist() == [[0.0]] * 2
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: AnnIndex(torch.zeros(0, 3)), "expected at least one"),
        (lambda: AnnIndex(torch.zeros(4)), r"shape \(4,\), expected points x dimensions"),
        (lambda: AnnIndex(torch.tensor([[0.0], [float("nan")]])), "1 of 2 points.*first is point 1"),
        (lambda: AnnIndex(torch.zeros(3, 2)).search(torch.full((1, 2), torch.inf), 1), "NaN or infinite"),
        (lambda: AnnIndex(torch.zeros(3, 2)).search(torch.zeros(1, 3), 1), "points x 2 dimensions"),
        (lambda: AnnIndex(torch.zeros(3, 2)).self_neighbors(0), "k = 0, expected at least 1"),
        (lambda: AnnIndex(torch.zeros(3, 2), metric="cosin"), "did you mean 'cosine'"),
        (lambda: AnnIndex(torch.zeros(3, 2), backend="fais"), "did you mean 'faiss'"),
    ],
)
def test_what_cannot_be_searched_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_absent_packages_name_their_extra_and_auto_does_without(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name in ("faiss", "hnswlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    points = torch.randn(10, 2, generator=torch.Generator().manual_seed(0))
    for name in ("faiss", "hnsw"):
        with pytest.raises(MissingExtra, match=r"remadom\[ann\]"):
            AnnIndex(points, backend=name)
    np.testing.assert_array_equal(AnnIndex(points).self_neighbors(3)[0].numpy(), brute_self(points, 3)[0])


def test_faiss_uses_the_threads_of_torch_and_leaves_its_own_as_they_were(monkeypatch):
    faiss = pytest.importorskip("faiss")
    before, seen = faiss.omp_get_max_threads(), []
    set_threads = faiss.omp_set_num_threads
    monkeypatch.setattr(faiss, "omp_set_num_threads", lambda n: (seen.append(n), set_threads(n)))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    AnnIndex(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), backend="faiss").self_neighbors(
        3
    )
    assert seen[:2] == [3, before]
    assert faiss.omp_get_max_threads() == before


def test_first_of_rows_sorts_by_value_then_column():
    rows, columns = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([5, 3, 9, 2, 1])
    values = torch.tensor([2.0, 2.0, 1.0, 4.0, 3.0], dtype=torch.float64)
    chosen, smallest = first_of_rows(rows, columns, values, 2, 2)
    assert chosen.tolist() == [[9, 3], [1, 2]]
    assert smallest.tolist() == [[1.0, 2.0], [3.0, 4.0]]
