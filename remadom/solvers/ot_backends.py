"""Optional packages that solve transport problems too: geomloss and POT, in the native back end's conventions."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from remadom.errors import InputError, MissingExtra
from remadom.solvers.kernel import as_computed, cost_pull, pairwise_cost
from remadom.solvers.transport import Backend, Problem, Transport, TransportInfo, problem_of_costs

EMD_PIVOTS = 10**8
"""Most pivots of the network simplex: more than 10,000 points take, since it must not stop short."""


def load_geomloss(needed_for: str) -> Any:
    """The optional package geomloss."""
    try:
        import geomloss
    except ImportError as error:
        raise MissingExtra("geomloss", "ot", needed_for) from error
    return geomloss


def load_pot(needed_for: str) -> Any:
    """The optional package POT."""
    try:
        import ot
    except ImportError as error:
        raise MissingExtra("POT", "ot", needed_for) from error
    return ot


def _refuse(backend: str, **found: bool) -> None:
    options = " and ".join(name for name, present in found.items() if present)
    if options:
        raise InputError(f"the transport back end '{backend}' does not know {options}; use backend='native'")


class GeomlossBackend(Backend):
    """Divergences by geomloss, balanced and unbalanced; it follows a schedule and measures no error.

    Parameters
    ----------
    scaling : float
        Ratio of successive blurs, one step at each: 0.99 is right to about 1e-4, 0.5 (its own default) to percents.
    """

    def __init__(self, *, scaling: float) -> None:
        self.geomloss = load_geomloss("the transport back end 'geomloss'")
        self.scaling = scaling

    def transport(self, problem: Problem, *, slopes: bool, plan: bool) -> Transport:
        raise InputError("the transport back end 'geomloss' does not know plan; use backend='native'")

    def divergence(self, problem: Problem, *, slopes: bool, plan: bool) -> Transport:
        _refuse("geomloss", mask=problem.mask is not None, mass=problem.share is not None, return_plan=plan)
        leading = problem.x.shape[:-2]
        x, y = (one.reshape(-1, *one.shape[-2:]).requires_grad_(slopes) for one in (problem.x, problem.y))
        a, b = (one.reshape(-1, one.shape[-1]) for one in (problem.a, problem.b))
        with torch.enable_grad():
            values = self._loss(problem)(a, x, b, y)
            of_x, of_y = torch.autograd.grad(values.sum(), (x, y)) if slopes else (x, y)
        rho, epsilon = problem.rho[0], problem.epsilon
        # geomloss weighs values and derivatives alike, where the derivatives need rho + epsilon (its own comment)
        correction = 1.0 if rho is None else (rho + epsilon) / (rho + epsilon / 2)
        slope_x, slope_y = (
            correction * slope.reshape(points.shape)
            for slope, points in ((of_x, problem.x), (of_y, problem.y))
        )
        return Transport(values.detach().reshape(leading), slope_x, slope_y, TransportInfo(None, None, None))

    def _loss(self, problem: Problem) -> Any:
        """A function of (a, x, b, y): geomloss halves the squared distance, and so its epsilon, reach and value."""
        metric, rho = problem.metric, problem.rho[0]
        if metric != "sqeuclidean":
            most = max(float(problem.cost().max()), problem.epsilon)
            return self.geomloss.SamplesLoss(
                "sinkhorn",
                p=1,
                blur=problem.epsilon,
                reach=rho,
                diameter=most,
                scaling=self.scaling**2,
                cost=lambda x, y: pairwise_cost(x, y, metric),
                backend="tensorized",
            )
        halved = self.geomloss.SamplesLoss(
            "sinkhorn",
            p=2,
            blur=math.sqrt(problem.epsilon / 2),
            reach=None if rho is None else math.sqrt(rho / 2),
            scaling=self.scaling,
        )
        return lambda a, x, b, y: 2 * halved(a, x, b, y)


class PotBackend(Backend):
    """Entropic problems by POT in float64 on the CPU: balanced, unbalanced and partial; one problem at a time.

    Parameters
    ----------
    max_iter, tol : int, float
        POT's ``numItermax`` and ``stopThr``.
    """

    def __init__(self, *, max_iter: int, tol: float) -> None:
        self.ot = load_pot("the transport back end 'pot'")
        self.max_iter, self.tol = max_iter, tol

    def transport(self, problem: Problem, *, slopes: bool, plan: bool) -> Transport:
        _refuse("pot", **{"mask": problem.mask is not None, "leading dimensions": problem.a.ndim > 1})
        kept = torch.where(problem.a > 0)[0], torch.where(problem.b > 0)[0]
        cost = _numpy(problem.cost()[kept[0]][:, kept[1]])
        a, b = _numpy(problem.a[kept[0]]), _numpy(problem.b[kept[1]])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is not converged is told in the info
            coupling, errors = self._solve(problem, a, b, cost)
        value = (coupling * cost).sum() + problem.epsilon * _kl(coupling, np.outer(a, b))
        for sums, weights, rho in (
            (coupling.sum(1), a, problem.rho[0]),
            (coupling.sum(0), b, problem.rho[1]),
        ):
            value += 0.0 if rho is None else rho * _kl(sums, weights)
        whole = problem.a.new_zeros(len(problem.a), len(problem.b))
        whole[kept[0].unsqueeze(1), kept[1]] = torch.as_tensor(coupling).to(whole)
        slope_x, slope_y = torch.zeros_like(problem.x), torch.zeros_like(problem.y)
        if slopes:
            slope_x, slope_y = cost_pull(whole, problem.x, problem.y, problem.metric)
        error = float(errors[-1])
        info = TransportInfo(error <= self.tol, None, error, whole if plan else None)
        return Transport(problem.a.new_tensor(value), slope_x, slope_y, info)

    def _solve(
        self, problem: Problem, a: np.ndarray, b: np.ndarray, cost: np.ndarray
    ) -> tuple[np.ndarray, list[float]]:
        how = {"numItermax": self.max_iter, "stopThr": self.tol, "log": True}
        if problem.share is not None:
            # POT measures the entropy against the uniform plan, we against a b'
            cost = cost - problem.epsilon * (np.log(a)[:, None] + np.log(b))
            mass = float(problem.mass())
            coupling, log = self.ot.partial.entropic_partial_wasserstein(
                a, b, cost - cost.min(), problem.epsilon, m=mass, **how
            )
        elif problem.rho == (None, None):
            coupling, log = self.ot.bregman.sinkhorn_log(a, b, cost, problem.epsilon, **how)
        else:
            rho = tuple(math.inf if one is None else one for one in problem.rho)
            coupling, log = self.ot.unbalanced.sinkhorn_knopp_unbalanced(
                a, b, cost, problem.epsilon, rho, reg_type="kl", **how
            )
        return coupling, log["err"]


def emd_plan(cost: Tensor, a: Tensor | None = None, b: Tensor | None = None) -> Tensor:
    """Exact optimal transport plan (network simplex of POT), for small groups: 0.05 s at 512 points, 1 s at 2,000.

    Parameters
    ----------
    cost : Tensor
        Costs of shape (n, m).
    a, b : Tensor, optional
        Weights of equal total, of shape (n,) and (m,); uniform by default.

    Returns
    -------
    Tensor
        Detached plan (n, m) whose sums are the weights.

    Raises
    ------
    MissingExtra
        POT is not installed.
    InputError
        Costs that are not a matrix, or weights that do not fit it or each other.
    """
    ot = load_pot("the exact transport plan")
    problem = problem_of_costs(cost, 1.0, None, a, b, None, None)
    _refuse("emd_plan", **{"leading dimensions": problem.a.ndim > 1})
    of_a, of_b = _numpy(problem.a), _numpy(problem.b)
    plan = ot.emd(of_a, of_b * (of_a.sum() / of_b.sum()), _numpy(problem.cost()), numItermax=EMD_PIVOTS)
    return torch.as_tensor(plan).to(as_computed(cost))


def _numpy(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().double().cpu().numpy()
    return array


def _kl(found: np.ndarray, reference: np.ndarray) -> float:
    present = found > 0
    return float(
        (found[present] * np.log(found[present] / reference[present])).sum() - found.sum() + reference.sum()
    )
