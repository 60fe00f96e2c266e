"""The objective: the one owner of weights, schedules and the sum."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from remadom.align import AlignmentHead
from remadom.core.vae import MosaicVAE
from remadom.schedule import Schedule
from remadom.shapes import Float
from remadom.train.gradients import GradientMeter
from remadom.train.replay import Replay, is_recordable, streams_may_differ
from remadom.train.structure import Structure
from remadom.types import Batch, Logs, Posterior

logger = logging.getLogger(__name__)

SEEN = ("n_pairs", "n_edges")
"""Names under which terms log what they had to work with."""


@dataclass(frozen=True)
class Term:
    """One addend of the loss beside the ELBO.

    Attributes
    ----------
    module
        Gives the raw value from the inputs that it reads, and scalars for the log.
    weight
        Weight over the training, in units of :func:`placing_cost`.
    inputs
        Names of what the module reads, where the run has it.
    needs_edges
        Whether it has nothing to do among cells without edges.
    """

    module: nn.Module
    weight: Schedule
    inputs: tuple[str, ...]
    needs_edges: bool = False

    @classmethod
    def of_head(cls, head: AlignmentHead) -> Term:
        """Term of an alignment head."""
        needs_edges = bool({"graph", "edges"} & set(head.inputs(required=True)))
        return cls(head, head.weight, head.inputs(), needs_edges)


class Objective(nn.Module):
    """The loss of a batch: the negative ELBO in nats per cell, and the alignment terms beside it.

    ``loss = recon + beta * kl + unit * sum_t weight_t * term_t``. The ``unit`` (see :func:`placing_cost`, without a
    gradient) is what it costs to put a cell in the place of another one, so that a weight means the same for 14
    proteins and for 60,000 peaks, and terms cannot outweigh a latent that knows little.

    Parameters
    ----------
    model
        The model that is trained.
    beta
        Weight of the KL term over the training, in epochs.
    terms
        What is added to the ELBO, by name.
    structure
        The graph and the edges that the terms read, if any does.
    terms_every
        Steps from one with terms to the next: of an epoch's steps the first, and each that many later. There they weigh
        as much more as there are fewer, so that an epoch's mean loss is the same.
    """

    def __init__(
        self,
        model: MosaicVAE,
        beta: Schedule,
        terms: Mapping[str, Term] | None = None,
        structure: Structure | None = None,
        terms_every: int = 1,
    ) -> None:
        super().__init__()
        self.model = model
        self.beta = beta
        self.terms = dict(terms or {})
        self.heads = nn.ModuleDict({name: term.module for name, term in self.terms.items()})
        self.structure = structure
        self.terms_every, self.n_steps = terms_every, 1
        self.meter = GradientMeter()
        self.recorded: Replay | None = None
        self._stands_for = 1.0
        self._unseen: set[str] = set(self.terms)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of everything that is logged and can be monitored."""
        recon = [f"elbo.recon.{modality}" for modality in self.model.decoders]
        terms = [f"{name}.loss" for name in self.terms]
        tech = () if self.model.technical is None else ("elbo.kl_tech",)
        return ("loss", "elbo.loss", "elbo.recon", "elbo.kl", *tech, *recon, "beta", *terms)

    def forward(self, batch: Batch, epoch: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch at a point of the training, and its parts by name for the log.

        ``elbo.loss`` weighs the KL term as at the end of the schedule, so that epochs can be compared.
        """
        beta = self.beta(epoch)
        steps = self._stands_for = self._steps_of_terms(epoch)
        terms = self.terms if steps else {}
        passes = self.model if self.recorded is None else self.recorded
        enc_outs, latent = passes.infer(batch)
        self.meter.clear()
        if terms:
            z_bio, mu, logvar = (self.meter.tap("elbo", value) for value in latent)
            latent = replace(latent, z_bio=z_bio, mu=mu, logvar=logvar)
        parts = self.model.combine(passes.means(latent, batch), beta)
        loss, logs = parts["loss"], {**self._named(parts), "beta": torch.tensor(beta)}
        if terms:
            means, logvar = self.model.product(enc_outs)
            unit = logs["unit"] = placing_cost(means.detach(), logvar.detach())
        for name, term in terms.items():
            weight = term.weight(epoch)
            module = term.module if self.recorded is None else self.recorded.head(name, term.module)
            value, more = self._value(name, batch, enc_outs, means, epoch, module)
            loss = loss + steps * weight * unit * value
            logs |= {f"{name}.loss": value.detach(), f"{name}.weight": torch.tensor(weight)}
            logs |= {f"{name}.{key}": scalar for key, scalar in more.items()}
        return loss, {"loss": loss.detach(), **logs}

    def _steps_of_terms(self, epoch: float) -> float:
        """For how many steps the terms stand in the one at this point of the training; 0 where they are left out."""
        step = round(epoch % 1 * self.n_steps)
        if not self.terms or step % self.terms_every:
            return 0.0
        return self.n_steps / math.ceil(self.n_steps / self.terms_every)

    @contextmanager
    def replaying(self) -> Iterator[None]:
        """Within, the model's passes over training batches are recorded on a GPU, where they can be, and replayed."""
        if Replay.takes(self.model):
            modules = [(name, term.module) for name, term in self.terms.items()]
            heads = {name: module for name, module in modules if is_recordable(module)}
            self.recorded = Replay(self.model, heads)
        try:
            with streams_may_differ():
                yield
        finally:
            self.recorded = None

    def gradients(self) -> Logs:
        """After the backward pass: each term's gradient at the latent a step, as a multiple of the ELBO's."""
        found = self.meter.relative_to("elbo")
        return {f"{name}.grad_norm": value / self._stands_for for name, value in found.items()}

    @torch.no_grad()
    def score(self, batch: Batch) -> dict[str, Tensor]:
        """The same values for a validation batch: every modality is read, the final weights are used.

        Validation cells have no edges: terms that read edges are left out.
        """
        enc_outs, latent = self.model.infer(batch)
        parts = self.model.elbo_of(latent, batch, self.beta.final)
        logs = self._named(parts)
        loss, means = parts["loss"], latent.mu
        unit = placing_cost(means, latent.logvar)
        for name, term in self.terms.items():
            if term.needs_edges:
                continue
            value, _ = self._value(name, batch, enc_outs, means, float("inf"))
            loss = loss + term.weight.final * unit * value
            logs[f"{name}.loss"] = value
        return {"loss": loss, **logs}

    @torch.no_grad()
    def blame(self, batch: Batch, epoch: float) -> list[tuple[str, Tensor]]:
        """Terms that are not finite, each with the cells of the batch where it is not."""
        enc_outs, latent = self.model.infer(batch)
        values, means = self.model.terms(latent, batch), self.model.product(enc_outs).mu
        for name in self.terms:
            value, _ = self._value(name, batch, enc_outs, means, epoch)
            values[name] = value.expand(len(batch))
        return [
            (name, ~value.isfinite()) for name, value in values.items() if not bool(value.isfinite().all())
        ]

    @torch.no_grad()
    def probe(self, batch: Batch) -> dict[str, dict[str, float]]:
        """Raw value and log of each term on some cells, in evaluation mode and at the end of the schedules."""
        enc_outs = self.model.encode(batch)
        means, found = self.model.product(enc_outs).mu, {}
        for name in self.terms:
            value, logs = self._value(name, batch, enc_outs, means, float("inf"))
            found[name] = {"loss": float(value), **{key: float(scalar) for key, scalar in logs.items()}}
        return found

    def begin_epoch(self, epoch: int, n_steps: int) -> None:
        """Rebuild the graph and the edges where they are due, before an epoch of so many steps."""
        self.n_steps = max(1, n_steps)
        if self.structure is not None:
            self.structure.refresh(epoch)

    def end_epoch(self, means: Mapping[str, float]) -> None:
        """Say once of each term that saw nothing in an epoch."""
        for name in sorted(self._unseen):
            if self.terms[name].needs_edges and (self.structure is None or not self.structure.built):
                continue
            seen = [means[f"{name}.{key}"] for key in SEEN if f"{name}.{key}" in means]
            if seen and not any(seen):
                self._unseen.discard(name)
                logger.warning(
                    "%s saw no pair of groups and no edge in a whole epoch, so it does nothing; "
                    "see its group_key, optim.batch_size, or the bridge's settings",
                    name,
                )

    def given(self, name: str, batch: Batch, epoch: float = float("inf")) -> dict[str, Any]:
        """What a term reads beside the latent."""
        inputs = self.terms[name].inputs
        given: dict[str, Any] = {"groups": batch.groups, "time": batch.time, "epoch": epoch}
        if self.structure is not None:
            given |= self.structure.induced(batch.index, inputs)
        return given

    def _value(
        self,
        name: str,
        batch: Batch,
        enc_outs: Mapping[str, Posterior],
        means: Tensor,
        epoch: float,
        module: Callable[..., tuple[Tensor, Logs]] | None = None,
    ) -> tuple[Tensor, Logs]:
        """Raw value of a term, on what :meth:`MosaicVAE.embed` returns: means of all modalities of a cell.

        Samples, or cells of which modalities were dropped, can be indistinguishable while the embeddings lie apart.
        """
        inputs, tap = self.terms[name].inputs, self.meter.tap
        given = self.given(name, batch, epoch)
        given["z_bio"] = tap(name, means)
        if "posteriors" in inputs:
            given["posteriors"] = {
                m: Posterior(tap(name, p.mu), tap(name, p.logvar)) for m, p in enc_outs.items()
            }
        compute = self.terms[name].module if module is None else module
        value, logs = compute(**{key: given[key] for key in inputs if key in given})
        return value, logs

    def _named(self, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        named = {f"elbo.{name}": value.detach() for name, value in parts.items()}
        named["elbo.loss"] = named["elbo.recon"] + self.beta.final * named["elbo.kl"]
        return named


def placing_cost(mu: Float[Tensor, "cell latent"], logvar: Float[Tensor, "cell latent"]) -> Float[Tensor, ""]:
    """What it costs on average to put a cell in the place of another, nats.

    Near its mean the log-likelihood of a cell falls by ``|z - mu|^2 / (2 sigma^2)`` (Laplace's approximation), and two
    cells are ``2 var(mu)`` apart: ``sum_k var(mu_k) / mean(sigma_k^2)``. It is 0 where the latent knows nothing.
    """
    if len(mu) < 2:
        return mu.new_zeros(())
    known = logvar.float().exp().mean(0).clamp(min=1e-6)
    return (mu.float().var(0, unbiased=False) / known).sum()
