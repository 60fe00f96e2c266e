"""What every decoder is: from the latent space to the parameters of a likelihood."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from remadom.core.covariates import BatchCovariates
from remadom.core.likelihood import Affine
from remadom.core.residual import BatchResidual, ExtendedLinear
from remadom.registry import Registry
from remadom.shapes import Float, Int
from remadom.types import Rows, Support


class Decoder(nn.Module, ABC):
    """From ``z`` to the parameters of one modality's likelihood, given the batch and the covariates of each cell.

    They enter the hidden layer and, as an offset per feature, the output: what they explain need not be in ``z``,
    and that is what removes batch effects (see :class:`~remadom.core.covariates.BatchCovariates` for cells whose
    batch is not known; covariates that are not given are all 0, the average cell).

    Parameters
    ----------
    latent_dim
        Dimension of the latent space.
    out_dim
        Number of features.
    n_batches
        Number of batches that the decoder is conditioned on; 0 or 1 conditions on none.
    n_covariates
        Number of covariates (columns) that the decoder is conditioned on.
    hidden
        Width of the hidden layer.
    """

    support: ClassVar[Support] = "counts"
    """What values the likelihood is one of: ``counts``, ``events`` (above 0 or not), ``real`` or ``fractions``."""

    scores_zeros: ClassVar[bool] = True
    """Whether a zero is a measured value; else zeros are left out of the likelihood."""

    scored: Tensor | None
    """Positions of the features that count in the likelihood, where the data lacks some; all by default."""

    def __init__(self, latent_dim: int, out_dim: int, n_batches: int, n_covariates: int, hidden: int) -> None:
        super().__init__()
        self.latent_dim, self.out_dim = latent_dim, out_dim
        self.batch = BatchCovariates(n_batches)
        self.n_batches, self.n_covariates = self.batch.width, n_covariates
        self.n_conditions = self.n_batches + n_covariates
        self.first = nn.Linear(latent_dim + self.n_conditions, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.residual: BatchResidual | None = None
        self.register_buffer("scored", None, persistent=False)

    @abstractmethod
    def natural(
        self, z: Tensor, libsize: Tensor | None, batch_labels: Tensor | None, covariates: Tensor | None
    ) -> tuple[Tensor, ...]:
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
        """One draw from the likelihood."""

    @abstractmethod
    def start_from(self, sample: Rows, batch_labels: Int[Tensor, " cell"] | None) -> None:
        """Set the output biases from values of training cells, so that training starts at their means."""

    def forward(
        self,
        z: Float[Tensor, "cell latent"],
        libsize: Float[Tensor, " cell"] | None = None,
        batch_labels: Int[Tensor, " cell"] | None = None,
        covariates: Float[Tensor, "cell covariate"] | None = None,
    ) -> Any:
        """Parameters of the likelihood for each cell."""
        return self.params(*self.natural(z, libsize, batch_labels, covariates))

    def nll(
        self,
        x: Rows,
        z: Tensor,
        libsize: Tensor | None = None,
        batch_labels: Tensor | None = None,
        covariates: Tensor | None = None,
    ) -> Float[Tensor, " cell"]:
        """Negative log-likelihood of the values at ``z``, nats per cell."""
        if self.scored is None:
            return self.likelihood(x, *self.layers(z, libsize, batch_labels, covariates))
        natural = self.natural(z, libsize, batch_labels, covariates)
        return self.likelihood(x.at_columns(self.scored), *(value[..., self.scored] for value in natural))

    def layers(
        self, z: Tensor, libsize: Tensor | None, batch_labels: Tensor | None, covariates: Tensor | None
    ) -> tuple[Any, ...]:
        """Natural parameters for the likelihood, to which a decoder may leave its output layer (:func:`affine`)."""
        return self.natural(z, libsize, batch_labels, covariates)

    def reconstruction_loss(self, x: Rows | Tensor, params: Any) -> Float[Tensor, ""]:
        """Negative log-likelihood under the parameters of :meth:`forward`, mean over the cells."""
        return self.likelihood(x, *self.from_params(params)).mean()

    def hidden(self, z: Tensor, batch_labels: Tensor | None, covariates: Tensor | None) -> Tensor:
        """Hidden layer, with the batch and the covariates (``n_conditions`` columns) appended for the output layer."""
        given = self.conditions(z, batch_labels, covariates) if self.n_conditions else None
        read = z if given is None else torch.cat([z, given], dim=1)
        hidden: Tensor = F.relu(self.norm(self.first(read)))
        parts = [] if given is None else [given.to(hidden.dtype)]
        if self.residual is not None:
            hidden = self.residual(hidden, batch_labels)
            parts.append(self.residual.codes(len(z), batch_labels).to(hidden.dtype))
        return torch.cat([hidden, *parts], dim=1) if parts else hidden

    def add_batches(self, residual: BatchResidual) -> None:
        """Take a residual for new batches, and for each an offset of every feature, which starts at zero."""
        self.residual = residual
        for name, head in list(self.named_children()):
            if isinstance(head, nn.Linear) and head is not self.first and head.out_features == self.out_dim:
                setattr(self, name, ExtendedLinear(head, len(residual.offset)))

    def conditions(
        self, z: Tensor, batch_labels: Tensor | None, covariates: Tensor | None
    ) -> Float[Tensor, "cell condition"]:
        """What each cell is decoded with beside ``z``: its batch, one-hot, and its covariates."""
        parts = []
        if self.n_batches:
            parts.append(self.batch(len(z), batch_labels).to(z.dtype))
        if self.n_covariates:
            parts.append(
                z.new_zeros(len(z), self.n_covariates) if covariates is None else covariates.to(z.dtype)
            )
        return torch.cat(parts, dim=1)

    def batch_offsets(self, head: nn.Linear) -> Float[Tensor, "feature batch"]:
        """The weights (a view) by which each batch shifts the output of a head that reads :meth:`hidden`."""
        first = head.in_features - self.n_conditions
        return head.weight[:, first : first + self.n_batches]


DECODERS: Registry[Decoder] = Registry("likelihood")


def affine(head: nn.Module, inputs: Tensor, shift: Tensor | None = None) -> Tensor | Affine:
    """Output of a layer for a likelihood: as an affine map if it is one."""
    if isinstance(head, nn.Linear):
        return Affine(inputs, head.weight, head.bias, shift)
    out: Tensor = head(inputs).float()
    return out if shift is None else out + shift.unsqueeze(1)


def logit(p: Tensor) -> Tensor:
    """``log p - log(1 - p)``, finite for every float in [0, 1]."""
    return safe_log(p) - (-p).log1p().clamp(min=-88.0)


def safe_log(x: Tensor) -> Tensor:
    """Log of a number that may be zero: finite."""
    return x.clamp(min=torch.finfo(x.dtype).tiny).log()
