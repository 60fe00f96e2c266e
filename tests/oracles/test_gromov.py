"""Gromov-Wasserstein and what it stands on, against POT, closed forms and brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from remadom.errors import InputError
from remadom.solvers.alignment import Structures
from remadom.solvers.canonical import canonical_axes
from remadom.solvers.geodesic import geodesics, neighbor_graph
from remadom.solvers.gromov import gromov_wasserstein, gw_loss, local_cost, spectral_starts
from remadom.solvers.scaling import scale, soft_min


def distances(n: int, seed: int, dim: int = 2) -> torch.Tensor:
    points = torch.from_numpy(np.random.default_rng(seed).normal(size=(n, dim)))
    found = torch.cdist(points, points)
    return found / found.square().mean().sqrt()


def masses(n: int, seed: int) -> torch.Tensor:
    raw = torch.from_numpy(np.random.default_rng(seed).uniform(0.5, 1.5, n))
    return raw / raw.sum()


def turned(Cx: torch.Tensor, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(Cx)))
    return Cx[order][:, order], order


@pytest.fixture
def ot():
    return pytest.importorskip("ot")


# ---------------------------------------------------------------------------------- entropic coupling
@pytest.mark.parametrize("epsilon", [1.0, 0.02])
def test_a_coupling_has_the_given_marginals_and_is_that_of_pot(ot, epsilon):
    cost, a, b = torch.rand(12, 9, dtype=torch.float64), masses(12, 1), masses(9, 2)
    found = scale(cost, a, b, epsilon, max_iter=20_000, tol=1e-12)
    torch.testing.assert_close(found.plan.sum(1), a, atol=1e-9, rtol=0)
    torch.testing.assert_close(found.plan.sum(0), b, atol=1e-9, rtol=0)
    wanted = ot.sinkhorn(
        a.numpy(), b.numpy(), cost.numpy(), epsilon, method="sinkhorn_log", stopThr=1e-12, numItermax=50_000
    )
    np.testing.assert_allclose(found.plan.numpy(), wanted, atol=1e-8)
    by_potentials = a[:, None] * b * ((found.f[:, None] + found.g - cost) / epsilon).exp()
    torch.testing.assert_close(by_potentials, found.plan)


def test_an_unbalanced_coupling_is_that_of_pot(ot):
    cost, a, b = torch.rand(12, 9, dtype=torch.float64), masses(12, 1), 2 * masses(9, 2)
    found = scale(cost, a, b, 0.1, reach=0.7, max_iter=5000, tol=1e-12)
    wanted = ot.unbalanced.sinkhorn_unbalanced(
        a.numpy(), b.numpy(), cost.numpy(), 0.1, 0.7, reg_type="kl", stopThr=1e-13, numItermax=20_000
    )
    np.testing.assert_allclose(found.plan.numpy(), wanted, atol=1e-8)
    by_potentials = a[:, None] * b * ((found.f[:, None] + found.g - cost) / 0.1).exp()
    torch.testing.assert_close(by_potentials, found.plan)


def test_many_couplings_at_once_are_those_one_by_one():
    costs, a, b = torch.rand(4, 6, 5, dtype=torch.float64), masses(6, 1), masses(5, 2)
    together = scale(costs, a, b, 0.2, max_iter=500, tol=1e-13).plan
    for cost, plan in zip(costs, together, strict=True):
        torch.testing.assert_close(plan, scale(cost, a, b, 0.2, max_iter=500, tol=1e-13).plan)


def test_single_precision_survives_a_small_epsilon():
    cost = 10 * torch.rand(40, 30)
    a, b = torch.full((40,), 1 / 40), torch.full((30,), 1 / 30)
    found = scale(cost, a, b, 1e-3, max_iter=3000)
    assert found.plan.isfinite().all()
    torch.testing.assert_close(found.plan.sum(0), b, atol=1e-5, rtol=0)


def test_a_potential_extends_to_a_point_that_took_part():
    cost, a, b = torch.rand(12, 9, dtype=torch.float64), masses(12, 1), masses(9, 2)
    found = scale(cost, a, b, 0.3, max_iter=2000, tol=1e-13)
    torch.testing.assert_close(soft_min(cost[:3], found.g, b.log(), 0.3), found.f[:3])


# --------------------------------------------------------------------------------- Gromov-Wasserstein
def test_the_local_cost_is_the_brute_force_sum():
    Cx, Cy, plan = distances(5, 1), distances(4, 2), torch.rand(5, 4, dtype=torch.float64)
    wanted = torch.einsum("ijkl,kl->ij", (Cx[:, None, :, None] - Cy[None, :, None, :]) ** 2, plan)
    torch.testing.assert_close(local_cost(Cx, Cy, plan), wanted)
    torch.testing.assert_close(gw_loss(Cx, Cy, plan), (wanted * plan).sum())


def test_the_entropic_value_and_plan_are_those_of_pot(ot):
    Cx, Cy, a, b = distances(20, 1), distances(15, 2), masses(20, 3), masses(15, 4)
    found = gromov_wasserstein(Cx, Cy, a, b, epsilon=0.3, anneal=0, max_iter=500, inner_iter=1000, tol=1e-9)
    wanted, log = ot.gromov.entropic_gromov_wasserstein(
        *(part.numpy() for part in (Cx, Cy, a, b)),
        "square_loss",
        epsilon=0.3,
        tol=1e-10,
        log=True,
        numItermax=20_000,
    )
    np.testing.assert_allclose(found.plan.numpy(), wanted, atol=1e-5)
    assert float(found.values[0]) == pytest.approx(log["gw_dist"], abs=1e-3)


def test_the_fused_value_and_plan_are_those_of_pot(ot):
    Cx, Cy, M = distances(20, 1), distances(15, 2), torch.rand(20, 15, dtype=torch.float64)
    a, b = masses(20, 3), masses(15, 4)
    options = {"epsilon": 0.2, "alpha": 0.4}
    found = gromov_wasserstein(
        Cx, Cy, a, b, features=M, anneal=0, max_iter=500, inner_iter=1000, tol=1e-9, **options
    )
    wanted, log = ot.gromov.entropic_fused_gromov_wasserstein(
        *(part.numpy() for part in (M, Cx, Cy, a, b)),
        "square_loss",
        tol=1e-10,
        log=True,
        numItermax=20_000,
        **options,
    )
    np.testing.assert_allclose(found.plan.numpy(), wanted, atol=1e-5)
    assert float(found.values[0]) == pytest.approx(log["fgw_dist"], abs=1e-3)


def test_the_unbalanced_plan_is_that_of_pot(ot):
    Cx, Cy, a, b = distances(15, 1), distances(12, 2), masses(15, 3), masses(12, 4)
    found = gromov_wasserstein(
        Cx, Cy, a, b, epsilon=0.2, reach=0.8, anneal=0, max_iter=2000, inner_iter=2000, tol=1e-11
    )
    # POT weighs both quadratic divergences in full where we weigh half
    wanted = ot.gromov.fused_unbalanced_gromov_wasserstein(
        *(part.numpy() for part in (Cx, Cy, a, b)),
        reg_marginals=0.4,
        epsilon=0.1,
        unbalanced_solver="sinkhorn_log",
        max_iter=2000,
        tol=1e-11,
        max_iter_ot=5000,
        tol_ot=1e-12,
    )[0]
    np.testing.assert_allclose(found.plan.numpy(), wanted, atol=1e-5)


def test_unbalanced_tends_to_balanced():
    Cx, Cy = distances(9, 1), distances(8, 2)
    options = {"epsilon": 0.5, "anneal": 0, "max_iter": 100, "inner_iter": 1000}
    kept = gromov_wasserstein(Cx, Cy, **options).plan
    off = [
        float((gromov_wasserstein(Cx, Cy, reach=reach, **options).plan - kept).abs().max())
        for reach in (1.0, 10.0, 100.0)
    ]
    assert off[0] > 5 * off[1] > 25 * off[2] > 0


def test_the_exact_value_is_reached_at_a_small_epsilon(ot):
    Cx, Cy = distances(10, 1), distances(10, 5)
    a = torch.full((10,), 0.1, dtype=torch.float64)
    starts = spectral_starts(Cx, Cy, a, a)
    found = gromov_wasserstein(Cx, Cy, epsilon=2e-3, starts=starts, anneal=6, max_iter=100, inner_iter=500)
    exact = []
    for start in (found.plan, *starts):
        matched = np.eye(10)[linear_sum_assignment(-start.numpy())[1]] / 10
        exact.append(ot.gromov.gromov_wasserstein2(Cx.numpy(), Cy.numpy(), G0=matched))
    torch.testing.assert_close(found.plan.sum(1), a, atol=3e-4, rtol=0)
    assert float(found.values[0]) == pytest.approx(min(exact), abs=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_known_matching_is_found_among_the_starts(dtype):
    Cx = distances(30, 1, dim=3).to(dtype)
    Cy, order = turned(Cx)
    a = torch.full((30,), 1 / 30, dtype=dtype)
    found = gromov_wasserstein(Cx, Cy, epsilon=5e-3, starts=spectral_starts(Cx, Cy, a, a))
    assert torch.equal(order[found.plan.argmax(1)], torch.arange(30))
    assert float(found.values[0]) < 1e-3
    assert bool((found.values.diff() >= 0).all())


def test_the_starts_hold_both_orientations_of_an_axis():
    place = torch.arange(9, dtype=torch.float64) ** 1.2
    C, a = (place[:, None] - place).abs(), torch.full((9,), 1 / 9, dtype=torch.float64)
    starts = spectral_starts(C, C, a, a, axes=1, epsilon=0.05)
    torch.testing.assert_close(starts[0], a[:, None] * a)
    torch.testing.assert_close(starts.sum(2), a.expand(3, 9), atol=5e-3, rtol=0)
    ends = {(int(start[0].argmax()) > 4, int(start[8].argmax()) > 4) for start in starts[1:]}
    assert ends == {(False, True), (True, False)}
    assert len(spectral_starts(C, C, a, a)) == 6 * 8 + 1


def test_neighborhoods_are_kept_by_a_matching_and_not_by_chance():
    C = distances(40, 1)
    turned_C, order = turned(C)
    a = torch.full((40,), 1 / 40, dtype=torch.float64)
    matched = torch.zeros(40, 40, dtype=torch.float64)
    matched[order, torch.arange(40)] = 1 / 40
    structures = Structures([(C, turned_C)], a, a)
    assert structures.neighborhoods_kept(matched) == pytest.approx(1)
    assert structures.neighborhoods_kept(torch.eye(40, dtype=torch.float64) / 40) < 0.6
    assert structures.neighborhoods_kept(a[:, None] * a) < 0.6


def test_the_order_of_the_points_and_a_motion_change_nothing():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(15, 3)), rng.normal(size=(12, 2))
    moved = x @ np.linalg.qr(rng.normal(size=(3, 3)))[0] + 7
    Cx, Cm, Cy = (torch.cdist(p, p) for p in map(torch.from_numpy, (x, moved, y)))
    plain = gromov_wasserstein(Cx, Cy, epsilon=0.5)
    torch.testing.assert_close(gromov_wasserstein(Cm, Cy, epsilon=0.5).plan, plain.plan)
    shuffled, order = turned(Cx)
    torch.testing.assert_close(gromov_wasserstein(shuffled, Cy, epsilon=0.5).plan, plain.plan[order])


def test_features_decide_where_the_structure_cannot():
    line = torch.arange(6, dtype=torch.float64)
    C = (line[:, None] - line).abs()
    mirrored = (5 - line)[:, None] - line  # zero where i and j are mirror images
    plan = gromov_wasserstein(C, C, epsilon=0.02, features=mirrored.abs(), alpha=0.5).plan
    assert torch.equal(plan.argmax(1), torch.arange(6).flip(0))


def test_the_gradient_of_the_loss_goes_through_the_costs_alone():
    Cx, Cy = distances(6, 1).requires_grad_(), distances(5, 2).requires_grad_()
    plan = torch.rand(6, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda first, second: gw_loss(first, second, plan), (Cx, Cy))
    gw_loss(Cx, Cy, plan).backward()
    assert plan.grad is None


def test_costs_of_wrong_shape_are_refused():
    with pytest.raises(InputError, match="expected n x n"):
        gromov_wasserstein(torch.zeros(3, 4), torch.zeros(3, 3), epsilon=0.1)


# ------------------------------------------------------------------------------------- graph geodesics
def test_geodesics_of_a_line_are_its_lengths_and_its_hops():
    place = np.array([0.0, 1.0, 3.0, 6.0, 10.0])
    graph = neighbor_graph(place[:, None], 1)
    np.testing.assert_allclose(geodesics(graph), np.abs(place[:, None] - place), rtol=1e-6)
    rank = np.arange(5)
    np.testing.assert_array_equal(geodesics(graph, hops=True), np.abs(rank[:, None] - rank))
    np.testing.assert_allclose(geodesics(graph, np.array([3])), [[6, 5, 3, 0, 4]], rtol=1e-6)


def test_pieces_are_joined_by_their_shortest_links():
    place = np.array([0.0, 0.1, 0.2, 5.0, 5.1, 5.2, 50.0, 50.1, 50.2])
    graph = neighbor_graph(place[:, None], 2)
    np.testing.assert_allclose(geodesics(graph), np.abs(place[:, None] - place), rtol=1e-5)


def test_copies_of_a_point_are_at_no_distance_and_few_points_are_enough():
    graph = neighbor_graph(np.array([[0.0], [0.0], [0.0], [2.0]]), 2)
    np.testing.assert_allclose(geodesics(graph)[0], [0, 0, 0, 2], atol=1e-6)
    np.testing.assert_allclose(geodesics(neighbor_graph(np.array([[0.0], [3.0]]), 15)), [[0, 3], [3, 0]])
    with pytest.raises(InputError, match="2 or more"):
        neighbor_graph(np.zeros((1, 2)), 3)
    with pytest.raises(InputError, match="finite"):
        neighbor_graph(np.array([[0.0], [np.nan]]), 1)


# --------------------------------------------------------------------------------------- canonical axes
def test_canonical_correlations_of_pairs_are_the_cosines_between_the_spaces():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 4))
    y = np.c_[x[:, :2] + 0.5 * rng.normal(size=(80, 2)), rng.normal(size=80)]
    found = canonical_axes(
        torch.from_numpy(x), torch.from_numpy(y), torch.eye(80, dtype=torch.float64), ridge=1e-12
    )
    left, right = (np.linalg.qr(side - side.mean(0))[0] for side in (x, y))
    cosines = np.linalg.svd(left.T @ right, compute_uv=False)
    np.testing.assert_allclose(found.correlations.numpy(), cosines, atol=1e-6)
    u, v = found.of_x(torch.from_numpy(x)).numpy(), found.of_y(torch.from_numpy(y)).numpy()
    np.testing.assert_allclose(u.T @ v / 80, np.diag(cosines**5), atol=1e-6)
    np.testing.assert_allclose(u.T @ u / 80, np.diag(cosines**4), atol=1e-6)
    assert found.information == pytest.approx(-0.5 * np.log(1 - cosines**2).sum(), rel=1e-4)
