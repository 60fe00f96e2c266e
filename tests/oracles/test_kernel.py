"""Pairwise costs against scipy and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from remadom.errors import InputError
from remadom.solvers.kernel import pairwise_cost


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean", "cosine"])
def test_costs_equal_scipy_and_their_gradient_the_finite_difference(metric: str) -> None:
    x, y = normal(7, 4), normal(5, 4, seed=1) + 2
    np.testing.assert_allclose(pairwise_cost(x, y, metric), cdist(x, y, metric), atol=1e-12)
    batched = pairwise_cost(torch.stack([x, x + 1]), torch.stack([y, y]), metric)
    torch.testing.assert_close(batched[1], pairwise_cost(x + 1, y, metric))
    leaves = x.clone().requires_grad_(), y.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda one, other: pairwise_cost(one, other, metric), leaves)


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean", "cosine"])
def test_equal_and_zero_rows_have_finite_costs_and_gradients(metric: str) -> None:
    x = torch.tensor([[1.0, 2.0], [1.0, 2.0], [0.0, 0.0]], requires_grad=True)
    cost = pairwise_cost(x, x, metric)
    cost.sum().backward()
    assert float(cost[0, 1].detach()) == pytest.approx(0, abs=1e-6)
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert x.grad.abs().max() < 100


def test_squared_distances_survive_a_large_offset_and_half_precision_is_computed_in_float32() -> None:
    x, y = normal(20, 3, dtype=torch.float32), normal(30, 3, seed=1, dtype=torch.float32)
    far = pairwise_cost(x + 1000, y + 1000)
    torch.testing.assert_close(far, pairwise_cost(x, y), atol=5e-3, rtol=1e-3)
    half = pairwise_cost(x.bfloat16(), y.bfloat16())
    assert half.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(pairwise_cost(x, y), pairwise_cost(x.double(), y.double()).float())


def test_what_cannot_be_computed_is_refused_in_words() -> None:
    x = normal(4, 3)
    with pytest.raises(InputError, match="did you mean 'euclidean'"):
        pairwise_cost(x, x, "euclid")
    with pytest.raises(InputError, match="3 and 2 dimensions"):
        pairwise_cost(x, x[:, :2])
