"""Entropic transport against closed forms, exact transport, duality, finite differences and the other back ends."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from remadom.errors import InputError, MissingExtra
from remadom.solvers import native
from remadom.solvers.kernel import pairwise_cost
from remadom.solvers.native import NativeBackend
from remadom.solvers.ot import OtSolver, emd_plan
from remadom.solvers.transport import Problem, problem_of_points

EXACT: dict[str, Any] = {"tol": 1e-10, "max_iter": 20_000}
METRICS = ("sqeuclidean", "euclidean", "cosine")


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def pair(n: int = 40, m: int = 30, d: int = 3, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    return normal(n, d, dtype=dtype), 0.7 * normal(m, d, seed=1, dtype=dtype) + 0.5


def weights(n: int, seed: int = 2) -> Tensor:
    found = 0.1 + torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return found / found.sum()


def kl(p: Tensor, q: Tensor) -> Tensor:
    return (torch.xlogy(p, p / q.clamp_min(1e-300)) - p + q).sum()


# ---- what a solution is ----------------------------------------------------------------------------------


@dataclass
class Case:
    options: dict[str, Any]
    total_b: float = 1.0


CASES = {
    "balanced": Case({}),
    "unbalanced": Case({"reach": 1.0}, total_b=1.4),
    "nearly balanced": Case({"reach": 30.0}, total_b=1.1),
    "one side free": Case({"reach": (0.8, None)}, total_b=1.2),
    "partial": Case({"mass": 0.6}, total_b=1.3),
    "partial, all of the smaller": Case({"mass": 1.0}, total_b=1.3),
}


def problem(x: Tensor, y: Tensor, epsilon: float, metric: str = "sqeuclidean", **options: Any) -> Problem:
    given = {"reach": None, "a": None, "b": None, "mass": None, "mask": None, **options}
    return problem_of_points(x, y, epsilon, metric, **given)


@pytest.mark.parametrize(("epsilon", "chunk_size"), [(0.1, None), (0.5, None), (0.5, 17), (5.0, None)])
@pytest.mark.parametrize("name", CASES)
def test_the_plan_is_feasible_and_its_cost_is_the_dual_value(
    name: str, epsilon: float, chunk_size: int | None
) -> None:
    """A feasible plan whose cost equals a lower bound of all costs is the best one."""
    x, y = pair()
    case = CASES[name]
    a, b = weights(40), case.total_b * weights(30, seed=3)
    given = problem(x, y, epsilon, a=a, b=b, **case.options)
    backend = NativeBackend(scaling=0.5, chunk_size=chunk_size, **EXACT)
    solved = backend.transport(given, slopes=False, plan=True)
    plan = solved.info.plan
    assert plan is not None
    assert solved.info.converged
    rows, columns = plan.sum(1), plan.sum(0)
    cost = (plan * pairwise_cost(x, y)).sum() + epsilon * kl(plan, a[:, None] * b)
    if "mass" in case.options:
        assert float(plan.sum()) == pytest.approx(case.options["mass"], abs=1e-9)
        assert (rows <= a + 1e-9).all()
        assert (columns <= b + 1e-9).all()
    else:
        for sums, asked, rho in zip((rows, columns), (a, b), given.rho, strict=True):
            if rho is None:
                torch.testing.assert_close(sums, asked, atol=1e-9, rtol=0)
            else:
                cost = cost + rho * kl(sums, asked)
    assert float(solved.value) == pytest.approx(float(cost), rel=1e-8, abs=1e-8)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("share", [0.02, 0.05, 1.0])
def test_marginals_to_one_in_a_million(metric: str, share: float) -> None:
    x, y = pair()
    epsilon = share * float(pairwise_cost(x, y, metric).mean())
    plan, info = OtSolver(metric=metric, tol=1e-8, max_iter=20_000).plan(x, y, epsilon)
    assert info.converged
    assert float((plan.sum(1) - 1 / 40).abs().sum()) < 1e-6
    assert float((plan.sum(0) - 1 / 30).abs().sum()) < 1e-6
    single, info = OtSolver(metric=metric, tol=1e-5, max_iter=20_000).plan(x.float(), y.float(), epsilon)
    assert info.converged
    assert float((single.sum(1) - 1 / 40).abs().sum()) < 5e-5


def test_the_divergence_is_zero_at_equality_symmetric_and_not_negative() -> None:
    x, y = pair(30, 30)
    for options in ({}, {"reach": 0.7}, {"mass": 0.7}):
        for epsilon in (0.3, 1.0):
            solver = OtSolver(**EXACT)
            same, _ = solver.sinkhorn_divergence(x, x.flip(0), epsilon, **options)
            assert float(same) == pytest.approx(0, abs=1e-9)
            there, _ = solver.sinkhorn_divergence(x, y, epsilon, **options)
            back, _ = solver.sinkhorn_divergence(y, x, epsilon, **options)
            assert float(there) == pytest.approx(float(back), abs=1e-9)
            assert float(there) > 1e-3
    for seed in range(20):
        near = x + 0.05 * normal(30, 3, seed=seed)
        assert float(OtSolver().sinkhorn_divergence(x, near, 0.5)[0]) > 0
        assert float(OtSolver().sinkhorn_divergence(x, near, 0.5, reach=1.0)[0]) > 0
    leaf = x.clone().requires_grad_()
    OtSolver(**EXACT).sinkhorn_divergence(leaf, x, 0.5)[0].backward()
    assert leaf.grad is not None
    assert float(leaf.grad.abs().max()) < 1e-9


def gaussian_ot(mean: float, v: float, w: float, epsilon: float) -> float:
    """Janati et al. 2020, https://arxiv.org/abs/2006.02572, theorem 1, in one dimension."""
    s2 = epsilon / 2
    d = math.sqrt(4 * v * w + s2**2)
    return mean**2 + v + w - d + s2 * (1 - math.log(2 * s2)) + s2 * math.log(d + s2)


@pytest.mark.parametrize("epsilon", [0.2, 1.0, 20.0])
def test_the_value_between_normal_distributions_is_the_closed_form(epsilon: float) -> None:
    grid = torch.linspace(-9, 9, 400, dtype=torch.float64)
    mean, v, w = 0.8, 1.0, 0.36
    a = torch.exp(-(grid**2) / (2 * v))
    b = torch.exp(-((grid - mean) ** 2) / (2 * w))
    a, b = a / a.sum(), b / b.sum()
    points = grid[:, None]
    expected = gaussian_ot(mean, v, w, epsilon)
    backend = NativeBackend(scaling=0.5, chunk_size=None, **EXACT)
    raw = backend.transport(problem(points, points, epsilon, a=a, b=b), slopes=False, plan=False)
    assert float(raw.value) == pytest.approx(expected, abs=1e-6)
    own = gaussian_ot(0, v, v, epsilon) + gaussian_ot(0, w, w, epsilon)
    found, _ = OtSolver(**EXACT).sinkhorn_divergence(points, points, epsilon, a=a, b=b)
    assert float(found) == pytest.approx(expected - own / 2, abs=1e-6)


def test_a_shifted_permutation_is_found_and_costs_the_shift() -> None:
    x = 10 * torch.arange(25, dtype=torch.float64)[:, None] + normal(25, 2)
    order = torch.randperm(25, generator=torch.Generator().manual_seed(0))
    shift = torch.tensor([0.5, -1.0], dtype=torch.float64)
    y = (x + shift)[order]
    found, info = OtSolver(**EXACT).sinkhorn_divergence(x, y, 0.5, return_plan=True)
    assert float(found) == pytest.approx(1.25, abs=1e-8)
    assert info.plan is not None
    torch.testing.assert_close(info.plan[order].diagonal(), torch.full((25,), 1 / 25, dtype=torch.float64))


def test_small_epsilon_tends_to_exact_transport_and_large_to_an_energy_distance() -> None:
    pytest.importorskip("ot")
    x, y = pair(25, 20)
    cost = pairwise_cost(x, y)
    a, b = weights(25), weights(20, seed=3)
    plan = emd_plan(cost, a, b)
    torch.testing.assert_close(plan.sum(1), a)
    torch.testing.assert_close(plan.sum(0), b)
    exact = float((plan * cost).sum())
    wrong = []
    for epsilon in (0.3, 0.1, 0.03):
        soft, _ = OtSolver(tol=1e-6, max_iter=20_000).plan(x, y, epsilon, a=a, b=b)
        wrong.append(float((soft * cost).sum()) - exact)
    assert wrong[0] > wrong[1] > wrong[2] > -1e-5
    assert wrong[2] < 5e-3 * exact
    for metric in METRICS:
        between, of_x, of_y = (pairwise_cost(*two, metric).mean() for two in ((x, y), (x, x), (y, y)))
        energy = float(between - (of_x + of_y) / 2)
        found, _ = OtSolver(metric=metric, **EXACT).sinkhorn_divergence(x, y, 1e5)
        assert float(found) == pytest.approx(energy, rel=1e-3)


@pytest.mark.parametrize("options", [{}, {"reach": 0.8}, {"mass": 0.6}], ids=str)
@pytest.mark.parametrize("metric", METRICS)
def test_the_gradient_is_the_finite_difference(metric: str, options: dict[str, Any]) -> None:
    x, y = pair(6, 5)
    leaves = x.requires_grad_(), y.requires_grad_()
    solver = OtSolver(metric=metric, tol=1e-11, max_iter=500)
    a, b = weights(6), weights(5, seed=3)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return 3 * solver.sinkhorn_divergence(x, y, 0.3, a=a, b=b, **options)[0]

    assert torch.autograd.gradcheck(loss, leaves, eps=1e-5, atol=1e-6, rtol=1e-5)


def test_the_gradient_with_a_mask_and_of_a_batch_is_the_finite_difference() -> None:
    x, y = normal(2, 4, 2).requires_grad_(), (normal(2, 4, 2, seed=1) + 0.5).requires_grad_()
    mask = torch.ones(4, 4, dtype=torch.float64)
    mask[0, 1:] = 0
    mask[3, 2] = 2.5
    solver = OtSolver(tol=1e-11, max_iter=500)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return solver.sinkhorn_divergence(x, y, 0.4, reach=2.0, mask=mask)[0]

    assert loss(x, y).shape == (2,)
    assert torch.autograd.gradcheck(loss, (x, y), eps=1e-5, atol=1e-6, rtol=1e-5)


# ---- masks and priors ------------------------------------------------------------------------------------


def test_a_mask_forbids_and_a_prior_is_a_cost() -> None:
    x, y = pair()
    prior = 0.2 + torch.rand(40, 30, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    allowed = torch.rand(40, 30, generator=torch.Generator().manual_seed(6)) < 0.5
    solver = OtSolver(**EXACT)
    for options in ({}, {"reach": 1.0}, {"mass": 0.5}):
        plan, info = solver.plan(x, y, 0.3, mask=prior * allowed, **options)
        assert info.converged
        assert (plan[~allowed] == 0).all()
        assert (plan[allowed] > 0).all()
    favored, _ = solver.plan(x, y, 0.3, mask=prior)
    dearer, _ = solver.plan_of_costs(pairwise_cost(x, y) - 0.3 * prior.log(), 0.3)
    torch.testing.assert_close(favored, dearer)
    restricted, _ = solver.sinkhorn_divergence(x, y, 0.3, mask=allowed)
    assert float(restricted) > float(solver.sinkhorn_divergence(x, y, 0.3)[0])


def test_points_that_a_mask_cuts_off_stay_where_they_are() -> None:
    x, y = pair()
    mask = torch.ones(40, 30)
    mask[:5] = 0
    mask[:, 7] = 0
    nearly = mask.double().clamp_min(1e-200)
    solver = OtSolver(**EXACT)
    plan, info = solver.plan(x, y, 0.3, reach=1.0, mask=mask)
    assert info.converged
    assert (plan[:5] == 0).all()
    torch.testing.assert_close(plan, solver.plan(x, y, 0.3, reach=1.0, mask=nearly)[0])
    values = [solver.sinkhorn_divergence(x, y, 0.3, reach=1.0, mask=one)[0] for one in (mask, nearly)]
    assert float(values[0]) == pytest.approx(float(values[1]), abs=1e-8)
    partial, _ = solver.plan(x, y, 0.3, mass=0.5, mask=mask)
    torch.testing.assert_close(partial, solver.plan(x, y, 0.3, mass=0.5, mask=nearly)[0])
    with pytest.raises(InputError, match=r"every partner of some rows.*give reach or mass"):
        solver.plan(x, y, 0.3, mask=mask)
    with pytest.raises(InputError, match="every partner of some columns"):
        solver.plan(x[5:], y, 0.3, mask=mask[5:])
    with pytest.raises(InputError, match="lower mass"):
        solver.plan(x, y, 0.3, mass=0.9, mask=mask)


def test_a_private_population_is_left_alone_where_mass_may_stay() -> None:
    shared = normal(30, 2)
    private = normal(10, 2, seed=1) + 20
    x, y = torch.cat([shared, private]), normal(30, 2, seed=2)
    solver = OtSolver(**EXACT)
    balanced, _ = solver.plan(x, y, 0.5)
    assert float(balanced[30:].sum()) == pytest.approx(0.25)
    for options in ({"reach": 3.0}, {"mass": 0.7}):
        plan, _ = solver.plan(x, y, 0.5, **options)
        assert float(plan[30:].sum()) < 1e-6
        assert float(plan[:30].sum()) > 0.69


def test_points_too_far_to_send_anything_do_not_slow_the_others_down() -> None:
    """Their sums underflow in float32, where the plan itself cannot tell their potentials."""
    x = torch.cat([normal(30, 2), normal(10, 2, seed=1) + 60]).float()
    y = normal(30, 2, seed=2).float()
    plan, info = OtSolver(tol=1e-5).plan(x, y, 0.5, reach=3.0)
    assert info.converged
    assert (info.iterations or 0) < 60
    assert (plan[30:] == 0).all()
    a = torch.full((30,), 1 / 40, dtype=torch.float64)
    expected, _ = OtSolver(**EXACT).plan(x[:30].double(), y.double(), 0.5, reach=3.0, a=a)
    torch.testing.assert_close(plan[:30].double(), expected, atol=1e-6, rtol=1e-3)


def test_a_large_reach_takes_about_as_many_iterations_as_balance() -> None:
    x, y = pair()
    b = 1.5 * weights(30, seed=3)
    balanced = OtSolver(tol=1e-8).plan(x, y, 1.0)[1].iterations
    for reach in (30.0, (30.0, None), (30.0, 10.0)):
        _, info = OtSolver(tol=1e-8, max_iter=5000).plan(x, y, 1.0, reach=reach, b=b)
        assert info.converged
        assert (info.iterations or 0) < 3 * (balanced or 0)


# ---- invariances -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"reach": 0.8}, {"mass": 0.6}], ids=str)
@pytest.mark.parametrize("metric", METRICS)
def test_blocks_give_what_the_whole_matrix_gives(metric: str, options: dict[str, Any]) -> None:
    x, y = (sample.requires_grad_() for sample in pair())
    results = []
    for chunk_size in (1000, 7):
        solver = OtSolver(metric=metric, chunk_size=chunk_size, tol=1e-6, max_iter=500)
        loss, info = solver.sinkhorn_divergence(x, y, 0.2, return_plan=True, **options)
        results.append((loss.detach(), *torch.autograd.grad(loss, (x, y)), info.plan))
        assert info.converged
    torch.testing.assert_close(*results, atol=1e-9, rtol=1e-7)


class Largest(TorchDispatchMode):
    """Remembers the most elements of any tensor that an operation made."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for one in result if isinstance(result, tuple | list) else (result,):
            if isinstance(one, Tensor):
                self.elements = max(self.elements, one.numel())
        return result


def test_large_groups_never_hold_the_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "DENSE_PAIRS", 5_000)
    monkeypatch.setattr(native, "BLOCK_PAIRS", 1_000)
    x, y = (sample.requires_grad_() for sample in pair(100, 75))
    with Largest() as seen:
        loss, info = OtSolver(max_iter=6).sinkhorn_divergence(x, y, 1.0)
        loss.backward()
    assert seen.elements <= 1_000
    assert info.plan is None
    with Largest() as seen:
        OtSolver(max_iter=20).sinkhorn_divergence(x[:60], y[:60], 1.0)
    assert seen.elements == 60 * 60


def test_points_without_weight_change_nothing_and_may_hold_anything() -> None:
    x, y = pair(12, 9)
    padded = torch.cat([torch.full((2, 3), 1e6, dtype=torch.float64), x, torch.full((1, 3), math.nan)])
    padded_y = torch.cat([y, torch.full((4, 3), -math.inf)])
    a = torch.tensor([0.0, 0.0] + [1 / 12] * 12 + [0.0], dtype=torch.float64)
    b = torch.tensor([1 / 9] * 9 + [0.0] * 4, dtype=torch.float64)
    for metric in METRICS:
        solver = OtSolver(metric=metric, **EXACT)
        for options in ({}, {"reach": 1.0}, {"mass": 0.6}):
            leaf = padded.clone().requires_grad_()
            found, info = solver.sinkhorn_divergence(
                leaf, padded_y, 0.3, a=a, b=b, return_plan=True, **options
            )
            plain = x.clone().requires_grad_()
            expected, reference = solver.sinkhorn_divergence(plain, y, 0.3, return_plan=True, **options)
            assert float(found.detach()) == pytest.approx(float(expected.detach()), abs=1e-9)
            assert info.plan is not None
            torch.testing.assert_close(info.plan[2:14, :9], reference.plan)
            assert float(info.plan.sum()) == pytest.approx(float(info.plan[2:14, :9].sum()))
            found.backward()
            expected.backward()
            assert leaf.grad is not None
            torch.testing.assert_close(leaf.grad[2:14], plain.grad, atol=1e-9, rtol=1e-6)
            assert (leaf.grad[[0, 1, 14]] == 0).all()


def test_order_and_duplicates_change_nothing_but_the_order_of_the_plan() -> None:
    x, y = pair(12, 9)
    solver = OtSolver(**EXACT)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    plan, _ = solver.plan(x, y, 0.3)
    torch.testing.assert_close(solver.plan(x[order], y.flip(0), 0.3)[0], plan[order].flip(1))
    twice, _ = solver.plan(x.repeat(2, 1), y, 0.3)
    torch.testing.assert_close(twice[:12] + twice[12:], plan)


def test_a_batch_is_its_problems_one_by_one() -> None:
    x, y = normal(2, 3, 10, 4), normal(2, 3, 8, 4, seed=1) + 0.5
    for options in ({}, {"reach": 1.0}, {"mass": 0.6}):
        losses, info = OtSolver(**EXACT).sinkhorn_divergence(x, y, 0.5, return_plan=True, **options)
        assert losses.shape == (2, 3)
        assert info.plan is not None
        for i in range(2):
            for j in range(3):
                one, alone = OtSolver(**EXACT).sinkhorn_divergence(
                    x[i, j], y[i, j], 0.5, return_plan=True, **options
                )
                assert float(losses[i, j]) == pytest.approx(float(one), abs=1e-8)
                torch.testing.assert_close(info.plan[i, j], alone.plan, atol=1e-9, rtol=1e-5)


# ---- numbers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"reach": 1.0}, {"mass": 0.6}], ids=str)
@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean"])
def test_scales_from_1e_minus_4_to_1e4_in_float32(metric: str, options: dict[str, Any]) -> None:
    x, y = pair(dtype=torch.float32)
    power = 2 if metric == "sqeuclidean" else 1
    reference, _ = OtSolver(metric=metric, **EXACT).sinkhorn_divergence(
        x.double(), y.double(), 0.2, **options
    )
    for scale in (1e-4, 1.0, 1e4):
        leaf = (scale * x).requires_grad_()
        scaled = {name: value * scale if name == "reach" else value for name, value in options.items()}
        loss, info = OtSolver(metric=metric).sinkhorn_divergence(
            leaf, scale * y, 0.2 * scale**power, **scaled
        )
        loss.backward()
        assert float(loss.detach()) / scale**power == pytest.approx(float(reference), rel=2e-3)
        assert info.converged
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()


@pytest.mark.parametrize("options", [{}, {"reach": 1.0}, {"mass": 0.6}], ids=str)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("spread", [0.0, 1e-4, 1.0, 1e4])
def test_tiny_epsilon_copies_and_single_points_stay_finite_in_float32(
    metric: str, options: dict[str, Any], spread: float
) -> None:
    x = (spread * normal(9, 3, dtype=torch.float32)).repeat(2, 1)
    y = spread * normal(7, 3, seed=1, dtype=torch.float32) + 3 * spread
    for one, other in ((x, y), (x[:1], y), (x, y[:1]), (x[:1], y[:1]), (x, x)):
        for epsilon in (1e-4, 1.0, 1e6):
            leaf, target = one.clone().requires_grad_(), other.clone()
            solver = OtSolver(metric=metric, max_iter=50)
            loss, info = solver.sinkhorn_divergence(leaf, target, epsilon, return_plan=True, **options)
            loss.backward()
            assert loss.isfinite()
            assert leaf.grad is not None
            assert leaf.grad.isfinite().all()
            assert info.plan is not None
            assert info.plan.isfinite().all()
            assert math.isfinite(info.marginal_error or 0.0)


def test_half_precision_is_computed_in_float32_with_and_without_autocast() -> None:
    x, y = pair(dtype=torch.float32)
    expected, _ = OtSolver().sinkhorn_divergence(x.bfloat16().float(), y.bfloat16().float(), 0.2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        leaf = x.bfloat16().requires_grad_()
        found, info = OtSolver().sinkhorn_divergence(leaf, y.bfloat16(), 0.2, return_plan=True)
    found.backward()
    assert found.dtype == torch.float32
    assert info.plan is not None
    assert info.plan.dtype == torch.float32
    assert not info.plan.requires_grad
    assert float(found.detach()) == pytest.approx(float(expected), rel=1e-5)
    assert leaf.grad is not None
    assert leaf.grad.dtype == torch.bfloat16


def test_a_large_offset_does_not_cost_the_digits_of_float32() -> None:
    x, y = pair(dtype=torch.float32)
    near, far = x.clone().requires_grad_(), (x + 300).requires_grad_()
    one, _ = OtSolver().sinkhorn_divergence(near, y, 0.2)
    other, _ = OtSolver().sinkhorn_divergence(far, y + 300, 0.2)
    assert float(one.detach()) == pytest.approx(float(other.detach()), rel=1e-3)
    one.backward()
    other.backward()
    torch.testing.assert_close(near.grad, far.grad, atol=1e-4, rtol=1e-2)
    padded = torch.cat([x + 3000, torch.zeros(1, 3)])
    a = torch.tensor([1 / 40] * 40 + [0.0])
    given = problem(padded, y + 3000, 0.2, a=a)
    assert given.x.abs().max() < 10


def test_the_info_says_what_happened() -> None:
    x, y = pair()
    loss, info = OtSolver(max_iter=1, tol=1e-12).sinkhorn_divergence(x, y, 0.02)
    assert info.converged is False
    assert info.marginal_error is not None
    assert info.marginal_error > 1e-6
    assert info.plan is None
    assert not loss.requires_grad
    _, info = OtSolver(tol=1e-8, max_iter=5000).sinkhorn_divergence(x, y, 0.2)
    assert info.converged is True
    assert info.marginal_error is not None
    assert info.marginal_error <= 1e-8
    assert 1 < (info.iterations or 0) < 500
    bad = x.clone()
    bad[3, 1] = math.nan
    loss, info = OtSolver().sinkhorn_divergence(bad, y, 0.2)
    assert math.isnan(float(loss))
    assert info.converged is False


# ---- back ends -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"reach": 1.0}, {"mass": 0.6}], ids=str)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("backend", ["geomloss", "pot"])
def test_back_ends_agree_to_1e_4(backend: str, metric: str, options: dict[str, Any]) -> None:
    pytest.importorskip({"geomloss": "geomloss", "pot": "ot"}[backend])
    x, y = (sample.requires_grad_() for sample in pair())
    mean = float(pairwise_cost(x, y, metric).mean().detach())
    a = weights(40)
    b = weights(30, seed=3) * (1.2 if "reach" in options else 1.0)
    theirs = OtSolver(
        backend=backend,
        metric=metric,
        tol=1e-9,
        max_iter=5000,
        scaling=0.998 if backend == "geomloss" else None,
    )
    ours = OtSolver(metric=metric, **EXACT)
    for epsilon in (0.2 * mean, mean):
        if "mass" in options and backend == "geomloss":
            with pytest.raises(InputError, match="'geomloss' does not know mass"):
                theirs.sinkhorn_divergence(x, y, epsilon, a=a, b=b, **options)
            continue
        found, _ = theirs.sinkhorn_divergence(x, y, epsilon, a=a, b=b, **options)
        expected, _ = ours.sinkhorn_divergence(x, y, epsilon, a=a, b=b, **options)
        assert float(found.detach()) == pytest.approx(float(expected.detach()), abs=1e-4 * mean)
        for one, other in zip(
            torch.autograd.grad(found, (x, y)), torch.autograd.grad(expected, (x, y)), strict=True
        ):
            torch.testing.assert_close(one, other, atol=1e-2 * float(other.abs().max()), rtol=0)


def test_plans_of_pot_are_ours() -> None:
    pytest.importorskip("ot")
    x, y = pair()
    a, b = weights(40), weights(30, seed=3)
    a[3] = 0
    a = a / a.sum()
    for options in ({}, {"reach": 1.0}, {"reach": (0.8, None)}, {"mass": 0.6}):
        plan, info = OtSolver(backend="pot", tol=1e-10, max_iter=20_000).plan(x, y, 0.5, a=a, b=b, **options)
        assert info.converged
        torch.testing.assert_close(
            plan, OtSolver(**EXACT).plan(x, y, 0.5, a=a, b=b, **options)[0], atol=1e-7, rtol=1e-4
        )


def test_partial_transport_tends_to_the_exact_one() -> None:
    ot = pytest.importorskip("ot")
    x, y = pair(20, 15)
    cost = pairwise_cost(x, y)
    exact = ot.partial.partial_wasserstein([1 / 20] * 20, [1 / 15] * 15, cost.numpy(), m=0.5)
    plan, _ = OtSolver(**EXACT).plan(x, y, 0.005, mass=0.5)
    assert float((plan * cost).sum()) == pytest.approx(float((exact * cost.numpy()).sum()), rel=1e-2)


def test_geomloss_solves_a_batch() -> None:
    pytest.importorskip("geomloss")
    x, y = normal(2, 3, 10, 4), normal(2, 3, 8, 4, seed=1) + 0.5
    found, info = OtSolver(backend="geomloss").sinkhorn_divergence(x, y, 5.0)
    expected, _ = OtSolver(**EXACT).sinkhorn_divergence(x, y, 5.0)
    torch.testing.assert_close(found, expected, atol=1e-4 * float(pairwise_cost(x, y).mean()), rtol=0)
    assert info.converged is None


@pytest.mark.parametrize(("backend", "package"), [("geomloss", "geomloss"), ("pot", "ot")])
def test_a_missing_package_names_its_extra(
    backend: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=r"remadom\[ot\]"):
        OtSolver(backend=backend)
    if package == "ot":
        with pytest.raises(MissingExtra, match="exact transport plan"):
            emd_plan(torch.ones(2, 2))


# ---- errors ----------------------------------------------------------------------------------------------

X, Y = pair(4, 3)
ONES = torch.ones


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": 0.0}, "epsilon is 0.0"),
        ({"reach": -1.0}, "reach is -1.0"),
        ({"reach": (1.0, None)}, "takes one number for both sides"),
        ({"mass": 1.5}, "mass is 1.5"),
        ({"mass": 0.5, "reach": 1.0}, "choose one"),
        ({"a": ONES(3)}, r"a has shape \(3,\), expected \(..., 4\)"),
        ({"a": -ONES(4)}, "a holds negative weights"),
        ({"b": torch.zeros(3)}, "b holds negative weights"),
        ({"b": ONES(3)}, "the weights add up to 1 and 3"),
        ({"a": ONES(4, requires_grad=True)}, "a asks for a gradient"),
        ({"mask": ONES(3, 4)}, r"mask has shape \(3, 4\), expected \(..., 4, 3\)"),
        ({"mask": -ONES(4, 3)}, "mask holds negative"),
        ({"X": X[:, :2]}, "cannot be compared"),
        ({"X": X[None]}, "leading dimensions"),
        ({"X": X[:0]}, "sample a has no points"),
    ],
)
def test_what_cannot_be_solved_is_refused_in_words(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        OtSolver().sinkhorn_divergence(**{"X": X, "Y": Y, "epsilon": 1.0, **options})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backend": "nativ"}, "did you mean 'native'"),
        ({"metric": "cosin"}, "did you mean 'cosine'"),
        ({"scaling": 1.0}, "scaling is 1.0"),
        ({"tol": 0.0}, "tol=0.0"),
        ({"chunk_size": 0}, "chunk_size=0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        OtSolver(**settings)


@pytest.mark.parametrize(
    ("backend", "options", "message"),
    [
        ("geomloss", {"mask": ONES(4, 3)}, "mask"),
        ("geomloss", {"return_plan": True}, "return_plan"),
        ("pot", {"mask": ONES(4, 3)}, "mask"),
        ("pot", {"X": X[None], "Y": Y[None]}, "leading dimensions"),
    ],
)
def test_what_a_back_end_cannot_do_is_refused_by_name(
    backend: str, options: dict[str, Any], message: str
) -> None:
    pytest.importorskip({"geomloss": "geomloss", "pot": "ot"}[backend])
    with pytest.raises(InputError, match=f"'{backend}' does not know {message}"):
        OtSolver(backend=backend).sinkhorn_divergence(**{"X": X, "Y": Y, "epsilon": 1.0, **options})


def test_plans_are_refused_by_geomloss_and_costs_that_are_no_matrix_by_all() -> None:
    pytest.importorskip("geomloss")
    with pytest.raises(InputError, match="'geomloss' does not know plan"):
        OtSolver(backend="geomloss").plan(X, Y, 1.0)
    with pytest.raises(InputError, match=r"expected \(..., n, m\)"):
        OtSolver().plan_of_costs(ONES(3), 1.0)
