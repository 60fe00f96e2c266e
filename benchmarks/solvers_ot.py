"""Time and accuracy of the Sinkhorn divergence and of MMD^2 beside geomloss and POT, in turn, in one run.

    OMP_NUM_THREADS=1 python benchmarks/solvers_ot.py [--sizes 256 512 2000] [--repeats 9] [--seed 0]

Two normal samples of n cells in 16 dimensions, half a standard deviation apart in each; epsilon is 0.05 of the mean
squared distance. Milliseconds are medians over the repeats of forward and backward together (forward alone for
POT), single-threaded, each repeat timing every solver once. ``error`` is the distance of the value from the
one in float64 at a marginal error of 1e-9, relative to it. geomloss runs at its own default (scaling 0.5) and at
0.99; its blur is sqrt(epsilon / 2), since it halves the squared distance. Last, the native solver in blocks.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable

import geomloss
import ot
import torch

from remadom.solvers.kernel import pairwise_cost
from remadom.solvers.mmd import mmd2
from remadom.solvers.ot import OtSolver, emd_plan
from remadom.utils.memory import keep_freed_memory


def samples(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(n, 16, generator=generator), 0.5 + torch.randn(n, 16, generator=generator)
    return x.requires_grad_(), y.requires_grad_()


def trained(loss: Callable[[], torch.Tensor], *leaves: torch.Tensor) -> Callable[[], float]:
    def run() -> float:
        for leaf in leaves:
            leaf.grad = None
        value = loss()
        value.backward()
        return float(value.detach())

    return run


def contenders(n: int, seed: int) -> dict[str, Callable[[], float]]:
    x, y = samples(n, seed)
    cost = pairwise_cost(x, y).detach()
    epsilon = 0.05 * float(cost.mean())
    blur = math.sqrt(epsilon / 2)
    weights = torch.full((n,), 1 / n)

    def of_geomloss(scaling: float) -> Callable[[], torch.Tensor]:
        loss = geomloss.SamplesLoss("sinkhorn", p=2, blur=blur, scaling=scaling, backend="tensorized")
        return lambda: 2 * loss(x, y)

    def of_native(**options: object) -> Callable[[], torch.Tensor]:
        solver = OtSolver(**options)  # type: ignore[arg-type]
        return lambda: solver.sinkhorn_divergence(x, y, epsilon)[0]

    def of_pot() -> float:
        plan = ot.bregman.sinkhorn_log(
            weights, weights, cost, epsilon, stopThr=1e-4, numItermax=300, warn=False
        )
        return float((plan * cost).sum())

    gaussian = geomloss.SamplesLoss("gaussian", blur=math.sqrt(16.0), backend="tensorized")
    found = {
        "sinkhorn native": trained(of_native(), x, y),
        "sinkhorn native, tol 1e-6": trained(of_native(tol=1e-6), x, y),
        "sinkhorn geomloss 0.5": trained(of_geomloss(0.5), x, y),
        "sinkhorn geomloss 0.99": trained(of_geomloss(0.99), x, y),
        "POT sinkhorn_log (one plan, forward)": of_pot,
        "POT exact (one plan, forward)": lambda: float((emd_plan(cost) * cost).sum()),
        "mmd native, 3 bandwidths": trained(lambda: mmd2(x, y), x, y),
        "mmd native, 1 bandwidth": trained(lambda: mmd2(x, y, (1.0,), sigma2=16.0), x, y),
        "mmd geomloss, 1 bandwidth": trained(lambda: 2 * gaussian(x, y), x, y),
    }
    if n >= 2000:
        found["sinkhorn native, blocks of 256"] = trained(of_native(chunk_size=256), x, y)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 2000])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    for n in options.sizes:
        x, y = (sample.detach() for sample in samples(n, options.seed))
        epsilon = 0.05 * float(pairwise_cost(x, y).mean())
        exact = OtSolver(tol=1e-9, max_iter=20_000)
        truth = float(exact.sinkhorn_divergence(x.double(), y.double(), epsilon)[0])
        solvers = contenders(n, options.seed)
        values = {name: solver() for name, solver in solvers.items()}
        times: dict[str, list[float]] = {name: [] for name in solvers}
        for _ in range(options.repeats):
            for name, solver in solvers.items():
                start = time.perf_counter()
                solver()
                times[name].append(1000 * (time.perf_counter() - start))
        print(f"n = m = {n}, epsilon = {epsilon:.3g}, divergence = {truth:.6g}")
        for name, measured in times.items():
            error = f"   error {abs(values[name] / truth - 1):.1e}" if name.startswith("sinkhorn") else ""
            print(f"  {name:38s} {statistics.median(measured):9.1f} ms{error}")


if __name__ == "__main__":
    main()
