"""The objective: the one owner of weights, schedules and the sum."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from remadom.core.vae import MosaicVAE
from remadom.schedule import Schedule
from remadom.types import Batch


class Objective(nn.Module):
    """The loss of a batch in nats per cell: the negative ELBO with a scheduled weight of its KL term.

    Parameters
    ----------
    model
        The model that is trained.
    beta
        Weight of the KL term over the training, in epochs.
    """

    def __init__(self, model: MosaicVAE, beta: Schedule) -> None:
        super().__init__()
        self.model = model
        self.beta = beta

    @property
    def names(self) -> tuple[str, ...]:
        """Names of everything that is logged."""
        recon = [f"elbo.recon.{modality}" for modality in self.model.decoders]
        return ("loss", "elbo.loss", "elbo.recon", "elbo.kl", *recon, "beta")

    def forward(self, batch: Batch, epoch: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch at a point of the training, and its parts by name for the log.

        ``elbo.loss`` weighs the KL term as at the end of the schedule, so that epochs can be compared.
        """
        beta = self.beta(epoch)
        parts = self.model.elbo(batch, beta)
        logs = {"loss": parts["loss"].detach(), **self._named(parts)}
        logs["beta"] = torch.tensor(beta)
        return parts["loss"], logs

    @torch.no_grad()
    def score(self, batch: Batch) -> dict[str, Tensor]:
        """The same values for a validation batch: every modality is read, the final KL weight is used."""
        parts = self.model.elbo(batch, self.beta.final)
        return {"loss": parts["loss"], **self._named(parts)}

    @torch.no_grad()
    def blame(self, batch: Batch, epoch: float) -> list[tuple[str, Tensor]]:
        """Terms that are not finite, each with the cells of the batch where it is not."""
        terms = self.model.terms(batch)
        return [
            (name, ~value.isfinite()) for name, value in terms.items() if not bool(value.isfinite().all())
        ]

    def _named(self, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        named = {f"elbo.{name}": value.detach() for name, value in parts.items()}
        named["elbo.loss"] = named["elbo.recon"] + self.beta.final * named["elbo.kl"]
        return named
