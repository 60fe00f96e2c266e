"""What every decoder is: from the latent space to the parameters of a likelihood."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from remadom.core.covariates import BatchCovariates
from remadom.registry import Registry
from remadom.shapes import Float, Int
from remadom.types import Rows


class Decoder(nn.Module, ABC):
    """From ``z`` to the parameters of one modality's likelihood, given the batch of each cell.

    The batch enters the hidden layer and, as an offset per feature, the output: what the batch explains need
    not be in ``z``, and that is what removes batch effects (see :class:`~remadom.core.covariates.BatchCovariates`
    for cells whose batch is not known).

    Parameters
    ----------
    latent_dim
        Dimension of the latent space.
    out_dim
        Number of features.
    n_batches
        Number of batches that the decoder is conditioned on; 0 or 1 conditions on none.
    hidden
        Width of the hidden layer.
    """

    integers: bool = True
    """Whether the likelihood is one of whole counts."""

    def __init__(self, latent_dim: int, out_dim: int, n_batches: int, hidden: int) -> None:
        super().__init__()
        self.latent_dim, self.out_dim = latent_dim, out_dim
        self.batch = BatchCovariates(n_batches)
        self.n_batches = self.batch.width
        self.first = nn.Linear(latent_dim + self.n_batches, hidden)
        self.norm = nn.LayerNorm(hidden)

    @abstractmethod
    def natural(self, z: Tensor, libsize: Tensor | None, batch_labels: Tensor | None) -> tuple[Tensor, ...]:
        """Natural (unconstrained) parameters of the likelihood, cell x feature."""

    @abstractmethod
    def params(self, *natural: Tensor) -> tuple[Tensor, ...]:
        """The parameters as the literature writes them."""

    @abstractmethod
    def from_params(self, params: Any) -> tuple[Tensor, ...]:
        """Natural parameters from those of :meth:`params`."""

    @abstractmethod
    def likelihood(self, x: Rows | Tensor, *natural: Tensor) -> Float[Tensor, " cell"]:
        """Negative log-likelihood in nats per cell."""

    @abstractmethod
    def mean(self, params: Any) -> Float[Tensor, "cell feature"]:
        """Expected value of each feature."""

    @abstractmethod
    def sample(self, params: Any, generator: torch.Generator) -> Float[Tensor, "cell feature"]:
        """One draw of counts from the likelihood."""

    @abstractmethod
    def start_from(self, sample: Rows, batch_labels: Int[Tensor, " cell"] | None) -> None:
        """Set the output biases from counts of training cells, so that training starts at their means."""

    def forward(
        self,
        z: Float[Tensor, "cell latent"],
        libsize: Float[Tensor, " cell"] | None = None,
        batch_labels: Int[Tensor, " cell"] | None = None,
    ) -> Any:
        """Parameters of the likelihood for each cell."""
        return self.params(*self.natural(z, libsize, batch_labels))

    def nll(
        self, x: Rows, z: Tensor, libsize: Tensor | None = None, batch_labels: Tensor | None = None
    ) -> Float[Tensor, " cell"]:
        """Negative log-likelihood of the counts at ``z``, nats per cell."""
        return self.likelihood(x, *self.natural(z, libsize, batch_labels))

    def reconstruction_loss(self, x: Rows | Tensor, params: Any) -> Float[Tensor, ""]:
        """Negative log-likelihood under the parameters of :meth:`forward`, mean over the cells."""
        return self.likelihood(x, *self.from_params(params)).mean()

    def hidden(self, z: Tensor, batch_labels: Tensor | None) -> Tensor:
        """Hidden layer, with the batch appended for the output layer."""
        covariates = self.batch(len(z), batch_labels)
        if covariates is None:
            plain: Tensor = F.relu(self.norm(self.first(z)))
            return plain
        hidden = F.relu(self.norm(self.first(torch.cat([z, covariates.to(z.dtype)], dim=1))))
        return torch.cat([hidden, covariates.to(hidden.dtype)], dim=1)


DECODERS: Registry[Decoder] = Registry("likelihood")


def logit(p: Tensor) -> Tensor:
    """``log p - log(1 - p)``, finite for every float in [0, 1]."""
    return safe_log(p) - (-p).log1p().clamp(min=-88.0)


def safe_log(x: Tensor) -> Tensor:
    """Log of a number that may be zero: finite."""
    return x.clamp(min=torch.finfo(x.dtype).tiny).log()
