"""What two samples have in common, by entropic unbalanced optimal transport."""

from __future__ import annotations

import math

from torch import Tensor

from remadom.solvers.kernel import LOG2_E

ENTROPY = 0.2
"""Entropy of the plan that tells what two samples have in common, in units of the median squared distance."""

TINY = 1e-30
"""Kept below what is divided by, where a row is out of reach of all others."""

LEFT = 0.02
"""Of how far the scalings of that plan are from where they end, what Sinkhorn's iteration leaves."""

SLOWEST = 0.98
"""Contraction by which turns are counted where a reach is so long that all mass moves: 97 of them."""


def in_common(
    squared: Tensor, a: Tensor, b: Tensor, sigma2: Tensor | float, reach: float
) -> tuple[Tensor, Tensor]:
    """Weights of rows by how much of their like the other sample has.

    What each row sends and receives under the entropic plan of unbalanced optimal transport with squared distances
    (Chizat et al. 2018, doi:10.1090/mcom/3303; entropy ``ENTROPY * sigma2``, mass left alone at a cost of
    ``reach**2 * sigma2``). Two samples of the same types in other shares are alike with these weights, and a type of
    one sample alone has hardly any.

    Parameters
    ----------
    squared : Tensor
        Squared distances, of shape (..., n, m).
    a, b : Tensor
        Weights of shape (..., n) and (..., m), each of total 1; 0 leaves a row out.
    sigma2 : Tensor or float
        Unit of the squared distances, of shape (..., 1, 1) or a number.
    reach : float
        Distance up to which rows meet, in units of ``sqrt(sigma2)``, above 0.

    Returns
    -------
    Tensor, Tensor
        Weights of the same shapes, each of total 1.
    """
    relaxed = reach**2 / (reach**2 + ENTROPY)
    turns = math.ceil(math.log(LEFT) / (2 * math.log(min(relaxed, SLOWEST))))  # each contracts by relaxed**2
    kernel = (squared * (-LOG2_E / (ENTROPY * sigma2))).exp2_()
    a, b = a.unsqueeze(-1), b.unsqueeze(-1)
    v = (b > 0).to(kernel)
    for _ in range(turns):
        u = (a / (kernel @ v).clamp(min=TINY)) ** relaxed
        v = (b / (kernel.mT @ u).clamp(min=TINY)) ** relaxed
    sent, received = (u * (kernel @ v)).squeeze(-1), (v * (kernel.mT @ u)).squeeze(-1)
    of_x, of_y = (mass / mass.sum(-1, keepdim=True).clamp(min=TINY) for mass in (sent, received))
    return of_x, of_y
