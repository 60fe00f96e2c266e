"""Principal axes of cells, and how much of them sets batches apart."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from remadom.solvers.axes import NEAREST, batch_shrinkage, principal_axes

TYPES = np.array([[6.0, 0, 0, 0, 0], [0, 6, 0, 0, 0], [0, 0, 6, 0, 0], [-6, 0, 0, 0, 0]])
SHIFT = np.array([0.0, 0, 0, 4, 0])
"""What the second batch lies apart by; cells of a type vary by 1 in every direction."""


def cells(shares: tuple[np.ndarray, ...], shift: np.ndarray = SHIFT, seed: int = 0):
    """Scores, types and batches of 400 cells of each batch, that hold the types in these shares."""
    rng = np.random.default_rng(seed)
    kind = np.concatenate([rng.choice(len(TYPES), 400, p=share) for share in shares])
    batch = np.repeat(np.arange(len(shares)), 400)
    return TYPES[kind] + rng.normal(0, 1, (len(kind), 5)) + batch[:, None] * shift, kind, batch


EVEN, OTHER, LACKS_ONE = np.full(4, 0.25), np.array([0.7, 0.1, 0.1, 0.1]), np.array([0, 0.4, 0.3, 0.3])


@pytest.mark.parametrize("shares", [(EVEN, EVEN), (EVEN, OTHER), (EVEN, LACKS_ONE)])
def test_what_sets_batches_apart_shrinks_and_what_sets_types_apart_does_not(shares):
    scores, kind, batch = cells(shares)
    mapped = scores @ batch_shrinkage(scores, batch, 0)

    def centers(of: np.ndarray, code: int) -> np.ndarray:
        return np.array([of[(kind == k) & (batch == code)].mean(0) for k in range(1, 4)])

    apart, left = ((centers(of, 1) - centers(of, 0)).mean(0) for of in (scores, mapped))
    assert np.linalg.norm(apart) > 3.5
    assert np.linalg.norm(left) < 0.5 * np.linalg.norm(apart)
    for one, other in ((1, 2), (1, 3), (2, 3)):
        before, after = (
            np.linalg.norm(
                of[(kind == one) & (batch == 0)].mean(0) - of[(kind == other) & (batch == 0)].mean(0)
            )
            for of in (scores, mapped)
        )
        assert after == pytest.approx(before, rel=0.12)


def test_a_shift_becomes_as_small_as_what_cells_of_a_kind_differ_by():
    """By hand: neighbors across differ by ``s^2 + d^2`` in the direction of the shift, by ``s^2`` in the others."""
    scores, _, batch = cells((EVEN, EVEN))
    found = batch_shrinkage(scores, batch, 0)
    squares = np.linalg.svd(found, compute_uv=False) ** 2
    assert squares[:4] == pytest.approx(1, abs=0.35), "the other directions stay nearly as they are"
    # mutual neighbors in the direction of the shift are those that are nearest in it: about half of it is left
    assert 0.05 < squares[4] < 0.35
    np.testing.assert_allclose(np.abs(found[3, 3]), np.sqrt(squares[4]), atol=0.1)


def test_batches_that_lie_together_stay_as_they_are():
    scores, _, batch = cells((EVEN, OTHER), np.zeros(5))
    assert np.linalg.svd(batch_shrinkage(scores, batch, 0), compute_uv=False) == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize(
    "batch",
    [np.zeros(800, int), np.full(800, -1), np.arange(800), np.where(np.arange(800) < NEAREST, 1, 0)],
    ids=["one batch", "no batch", "a batch for each cell", "a batch of few cells"],
)
def test_nothing_is_shrunken_where_no_batches_can_be_compared(batch: np.ndarray):
    scores, *_ = cells((EVEN, EVEN))
    assert np.array_equal(batch_shrinkage(scores, batch, 0), np.eye(5))


def test_neither_the_order_of_cells_nor_that_of_batches_matters():
    scores, _, batch = cells((EVEN, OTHER, LACKS_ONE))
    found = batch_shrinkage(scores, batch, 0)
    order = np.random.default_rng(3).permutation(len(scores))
    np.testing.assert_allclose(batch_shrinkage(scores[order], batch[order], 0), found, atol=1e-8)
    np.testing.assert_allclose(batch_shrinkage(scores, 2 - batch, 0), found, atol=1e-8)
    assert np.array_equal(batch_shrinkage(scores, batch, 1), found), "all three pairs are compared"


def test_copies_of_a_few_cells_and_many_batches():
    scores, _, batch = cells((EVEN, EVEN))
    copies = np.repeat(scores[:1], 800, axis=0)
    assert np.array_equal(batch_shrinkage(copies, batch, 0), np.eye(5))
    many = np.arange(800) % 32
    first, again = (batch_shrinkage(scores, many, 0) for _ in range(2))
    assert np.array_equal(first, again)
    assert np.isfinite(first).all()


def test_principal_axes_are_those_of_a_singular_value_decomposition():
    values = np.random.default_rng(0).poisson(1.5, (40, 12)).astype(float)
    axes, mean = principal_axes(sp.csr_matrix(values), 5, 0)
    u, s, _ = np.linalg.svd(values - values.mean(0), full_matrices=False)
    np.testing.assert_allclose(mean, values.mean(0))
    scores = (values - mean) @ axes
    np.testing.assert_allclose(np.abs(scores), np.abs((u * s)[:, :5]) / (s[0] / np.sqrt(39)), atol=1e-6)
    assert principal_axes(sp.csr_matrix(values[:3]), 5, 0)[0].shape == (12, 2)
    assert principal_axes(sp.csr_matrix(np.ones((6, 4))), 5, 0)[0].shape == (4, 0)
