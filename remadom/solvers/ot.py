"""Entropic optimal transport between two samples: the debiased divergence, and plans."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from remadom.errors import InputError, nearest
from remadom.solvers.kernel import METRICS, attach_gradient, full_precision
from remadom.solvers.native import NativeBackend
from remadom.solvers.ot_backends import GeomlossBackend, PotBackend, emd_plan
from remadom.solvers.transport import Backend, Reach, TransportInfo, problem_of_costs, problem_of_points

__all__ = ["OtSolver", "TransportInfo", "emd_plan"]


class OtSolver:
    """Solves entropic optimal transport, by turns of the two sides' potentials in the log domain.

    The problem, for weights ``a`` and ``b`` (uniform, of total 1, by default) and costs ``C``, is::

        OT = min over plans P >= 0 of <P, C> + epsilon KL(P | a b')

    with ``KL(p | q) = sum p log(p / q) - p + q``. ``C`` is ``|x - y|^2`` itself, not its half (``sqeuclidean``),
    ``|x - y|`` (``euclidean``) or ``1 - cos`` (``cosine``), and ``epsilon`` is in units of that cost: a pair that is
    one epsilon dearer is used ``e`` times less. Of which plans:

    - balanced (default): the row sums of ``P`` are ``a`` and the column sums ``b``, whose totals must be equal;
    - unbalanced (``reach``): any sums, at ``rho KL(P 1 | a) + rho KL(P' 1 | b)`` with ``rho = reach ** 2`` for
      ``sqeuclidean`` and ``rho = reach`` otherwise. Mass is left behind rather than moved at a cost above ``2 rho``.
      :meth:`plan` takes a pair of reaches, None for a side that is balanced;
    - partial (``mass``, a share of the smaller total): sums of at most ``a`` and ``b``, and that much in total.

    A ``mask`` (..., n, m), 0 or above, multiplies ``exp(-C / epsilon)``: 0 forbids a pair, and a prior favors
    pairs by its ratios. Points of weight 0 change nothing and may hold anything: pad groups of different
    sizes with them to solve a batch along leading dimensions. Half precision is computed in float32, with
    autocast off. In float64 a marginal error of 1e-9 can be reached, in float32 about 1e-6 (1e-5 where
    ``epsilon`` is below a hundredth of the mean cost); a ``tol`` below that runs to ``max_iter``. An ``epsilon`` below
    2e-6 (float32) of the largest cost is lost in rounding and taken as that.

    Feydy et al. 2019, https://arxiv.org/abs/1810.08278; Séjourné et al. 2019, https://arxiv.org/abs/1910.12958
    (unbalanced); Benamou et al. 2015, https://doi.org/10.1137/141000439 (partial).

    Parameters
    ----------
    backend : str
        ``native``; where installed, ``geomloss`` (no ``mass``, no ``mask``, no plan, no measure of convergence) or
        ``pot`` (no ``mask``, no leading dimensions). Converged, all agree to 1e-4 of the cost.
    metric : str
        ``sqeuclidean``, ``euclidean`` or ``cosine``.
    max_iter : int
        Most iterations, each one update of both sides.
    tol : float
        Marginal error (L1, relative to the mass) at which to stop; values are wrong by its square.
    scaling : float, optional
        Annealing: ratio of successive length scales, whose squares are the temperatures; 0.5 by default; 0.99
        for geomloss, which takes one step at each and converges by them alone (0.5: wrong by percents).
    chunk_size : int, optional
        Rows per block of costs, of which one is in memory at a time; a number at or above both sample sizes
        keeps the whole matrix, which is faster. By default the matrix is kept up to 2^24 pairs.
    """

    def __init__(
        self,
        *,
        backend: str = "native",
        metric: str = "sqeuclidean",
        max_iter: int = 300,
        tol: float = 1e-4,
        scaling: float | None = None,
        chunk_size: int | None = None,
    ) -> None:
        if metric not in METRICS:
            raise InputError(f"unknown metric '{metric}': {nearest(metric, METRICS)}")
        if scaling is not None and not 0 < scaling < 1:
            raise InputError(f"scaling is {scaling}, expected a ratio above 0 and below 1")
        if max_iter < 1 or tol <= 0 or (chunk_size is not None and chunk_size < 1):
            raise InputError(
                f"max_iter={max_iter}, tol={tol}, chunk_size={chunk_size}: expected at least 1, above 0, at least 1"
            )
        makers: dict[str, Callable[[], Backend]] = {
            "native": lambda: NativeBackend(
                max_iter=max_iter, tol=tol, scaling=scaling or 0.5, chunk_size=chunk_size
            ),
            "geomloss": lambda: GeomlossBackend(scaling=scaling or 0.99),
            "pot": lambda: PotBackend(max_iter=max_iter, tol=tol),
        }
        if backend not in makers:
            raise InputError(f"unknown transport back end '{backend}': {nearest(backend, makers)}")
        self.metric, self._backend = metric, makers[backend]()

    def sinkhorn_divergence(
        self,
        X: Tensor,
        Y: Tensor,
        epsilon: float,
        *,
        reach: float | None = None,
        a: Tensor | None = None,
        b: Tensor | None = None,
        mass: float | None = None,
        mask: Tensor | None = None,
        return_plan: bool = False,
    ) -> tuple[Tensor, TransportInfo]:
        """Debiased divergence ``OT(X, Y) - OT(X, X) / 2 - OT(Y, Y) / 2 + epsilon / 2 (sum a - sum b)^2``.

        0 at ``X = Y`` and never negative, balanced or unbalanced; between half an energy distance (large
        ``epsilon``) and the exact transport cost (small). Neither is promised with ``mass`` (0 at ``X = Y`` holds) or
        with ``mask`` (which acts between the samples only, so that the loss stays at or above the divergence
        without it if no value exceeds 1).

        Parameters
        ----------
        X, Y : Tensor
            Samples of shape (..., n, d) and (..., m, d).
        epsilon : float
            Temperature, in units of the cost, above 0.
        reach : float, optional
            Unbalanced transport; in units of distance for ``sqeuclidean``, of cost otherwise.
        a, b : Tensor, optional
            Weights of shape (..., n) and (..., m), at least 0; constants of the gradient.
        mass : float, optional
            Partial transport of this share, above 0 and at most 1.
        mask : Tensor, optional
            Non-negative factors of the coupling between ``X`` and ``Y``, of shape (..., n, m).
        return_plan : bool
            Put the plan between ``X`` and ``Y`` into the info.

        Returns
        -------
        loss : Tensor
            Of shape (...), differentiable once in ``X`` and ``Y`` (by the envelope theorem, from the plans).
        info : TransportInfo
            Whether it converged, iterations, marginal error, and the plan on request.

        Raises
        ------
        InputError
            Shapes or weights that do not fit, an option out of range or unknown to the back end, ``reach`` with
            ``mass``, or a mask that leaves no partner to mass that must be transported.
        """
        if isinstance(reach, tuple):
            raise InputError(
                f"reach is {reach}; a divergence takes one number for both sides, a plan takes a pair"
            )
        with full_precision(X):
            problem = problem_of_points(X, Y, epsilon, self.metric, reach, a, b, mass, mask)
            slopes = torch.is_grad_enabled() and (X.requires_grad or Y.requires_grad)
            solved = self._backend.divergence(problem, slopes=slopes, plan=return_plan)
        if not slopes:
            return solved.value, solved.info
        loss = attach_gradient(solved.value, (X, Y), (solved.slope_x, solved.slope_y))
        return loss, solved.info

    def plan(
        self,
        X: Tensor,
        Y: Tensor,
        epsilon: float,
        *,
        reach: Reach = None,
        a: Tensor | None = None,
        b: Tensor | None = None,
        mass: float | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, TransportInfo]:
        """Detached coupling (..., n, m) between two samples; parameters and errors of :meth:`sinkhorn_divergence`.

        ``plan @ Y / plan.sum(-1, keepdim=True)`` is where each row of ``X`` is sent.
        """
        with full_precision(X):
            problem = problem_of_points(X, Y, epsilon, self.metric, reach, a, b, mass, mask)
            return _plan(self._backend.transport(problem, slopes=False, plan=True).info)

    def plan_of_costs(
        self,
        cost: Tensor,
        epsilon: float,
        *,
        reach: Reach = None,
        a: Tensor | None = None,
        b: Tensor | None = None,
        mass: float | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, TransportInfo]:
        """Detached coupling for given costs (..., n, m), of either sign; ``reach`` is then ``rho`` itself."""
        with full_precision(cost):
            problem = problem_of_costs(cost, epsilon, reach, a, b, mass, mask)
            return _plan(self._backend.transport(problem, slopes=False, plan=True).info)


def _plan(info: TransportInfo) -> tuple[Tensor, TransportInfo]:
    assert info.plan is not None
    return info.plan, info
