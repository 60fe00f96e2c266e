"""The encoder: one Gaussian MLP for every modality."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from annotated_types import Ge, Lt
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn

from remadom.core.inputs import EncoderInput
from remadom.core.linear import ComponentLinear, SparseLinear
from remadom.core.residual import BatchResidual
from remadom.registry import Registry
from remadom.shapes import Float, Int
from remadom.types import Posterior, Rows

LOGVAR_RANGE = (-12.0, 6.0)
"""Bounds of a posterior's log variance: a deviation from 0.0025 to 20 prior deviations."""


ENCODERS: Registry[GaussianEncoder] = Registry("encoder")


@ENCODERS.register("gaussian")
class GaussianEncoder(nn.Module):
    """MLP from one modality's rows to the diagonal Gaussian ``q(z|x)``.

    Parameters
    ----------
    in_dim
        Number of features (or LSI components).
    latent_dim
        Dimension of the latent space.
    transform
        What is made of the rows before the first layer.
    hidden
        Width of the hidden layers.
    n_layers
        Number of hidden layers.
    dropout
        Share of hidden units dropped while training.
    components
        Principal components of training cells that the first layer starts from, as many as there are at most; 0: it
        starts at random.
    """

    def __init__(
        self,
        in_dim: int,
        latent_dim: int,
        transform: EncoderInput,
        *,
        hidden: PositiveInt = 128,
        n_layers: PositiveInt = 1,
        dropout: Annotated[float, Ge(0.0), Lt(1.0)] = 0.1,
        components: NonNegativeInt = 0,
    ) -> None:
        super().__init__()
        self.in_dim, self.latent_dim = in_dim, latent_dim
        self.transform = transform
        n_axes = min(components, in_dim)
        self.first = ComponentLinear(in_dim, hidden, n_axes) if n_axes else SparseLinear(in_dim, hidden)
        rest: list[nn.Module] = [nn.LayerNorm(hidden), nn.ReLU(), nn.Dropout(dropout)]
        for _ in range(n_layers - 1):
            rest += [nn.Linear(hidden, hidden), nn.LayerNorm(hidden), nn.ReLU(), nn.Dropout(dropout)]
        self.rest = nn.Sequential(*rest)
        self.head = nn.Linear(hidden, 2 * latent_dim)
        self.residual: BatchResidual | None = None

    def start_from(self, sample: Rows, batch: np.ndarray, seed: int) -> None:
        """Learn from training cells and the codes of their batches what is made of rows, and the axes that are read."""
        self.transform.fit(sample)
        if isinstance(self.first, ComponentLinear):
            self.first.start_from(self.transform(sample), batch, seed)

    def hidden(
        self, rows: Rows, batch_labels: Int[Tensor, " cell"] | None = None
    ) -> Float[Tensor, "cell hidden"]:
        """Last hidden layer of each cell of the block."""
        hidden: Tensor = self.rest(self.first(self.transform(rows)))
        return hidden if self.residual is None else self.residual(hidden, batch_labels)

    def forward(self, rows: Rows, batch_labels: Int[Tensor, " cell"] | None = None) -> Posterior:
        """Posterior of each cell of the block, cell x latent; of its batch only a ``residual`` takes notice."""
        mu, logvar = self.head(self.hidden(rows, batch_labels)).float().chunk(2, dim=1)
        return Posterior(mu, logvar.clamp(*LOGVAR_RANGE))
