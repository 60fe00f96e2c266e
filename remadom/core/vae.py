"""The mosaic variational autoencoder: encoders, product of experts, decoders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any, cast

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from torch import Tensor, nn

from remadom.core.coordinates import DecodedCoordinates, comparable
from remadom.core.correction import BatchCorrection
from remadom.core.decoders.base import Decoder
from remadom.core.encoder import GaussianEncoder
from remadom.core.fusion import ABSENT, ProductOfExperts, drop_modalities
from remadom.core.gaussians import drawn, kl_between, kl_to_prior
from remadom.core.technical import TechnicalPrior
from remadom.errors import InputError
from remadom.shapes import Float, Int
from remadom.types import Batch, Latent, Posterior


class MosaicVAE(nn.Module):
    """One latent space for cells that were measured in any subset of the modalities.

    A cell's posterior is the product of the experts of the modalities that it has, and it is scored on those
    modalities only, so that no measurement is ever made up.

    Parameters
    ----------
    encoders
        Encoder by modality. A modality that is decoded only is predicted from the others.
    fusion
        How the posteriors are joined.
    decoders
        Decoder by modality. A modality that is encoded only is not scored.
    batch_group
        Group whose codes condition the decoders.
    modality_dropout
        Probability that a training cell is encoded from a random non-empty subset of its modalities while all
        of them are scored, so that one modality alone embeds and imputes well.
    modality_weights
        Weight of each modality's reconstruction in the loss; 1 where it is not named.
    technical
        Prior of a technical latent space. The encoders then have its dimensions after those of ``z_bio``, and the
        decoders read ``z_tech`` as their last covariates.

    Raises
    ------
    InputError
        No encoder.
    """

    def __init__(
        self,
        encoders: Mapping[str, GaussianEncoder],
        fusion: ProductOfExperts,
        decoders: Mapping[str, Decoder],
        batch_group: str = "batch",
        *,
        modality_dropout: Annotated[float, Ge(0.0), Le(1.0)] = 0.0,
        modality_weights: Mapping[str, float] | None = None,
        technical: TechnicalPrior | None = None,
    ) -> None:
        super().__init__()
        if not encoders:
            raise InputError("the model has no encoder; enable at least one under model.encoders")
        self.encoders = nn.ModuleDict(encoders)
        self.decoders = nn.ModuleDict(decoders)
        self.fusion = fusion
        self.batch_group = batch_group
        self.technical = technical
        self.latent_dim = next(iter(encoders.values())).latent_dim - (technical.dim if technical else 0)
        self.modality_dropout = modality_dropout
        self.modality_weights = dict(modality_weights or {})
        self.correction: BatchCorrection | None = None
        """What is taken out of ``z_bio`` when cells are embedded; never while training, and never before decoding."""
        self.coordinates: DecodedCoordinates | None = None
        """Coordinates in which ``z_bio`` is then given; never while training."""

    def encoder(self, modality: str) -> GaussianEncoder:
        """Encoder of a modality."""
        return cast(GaussianEncoder, self.encoders[modality])

    def decoder(self, modality: str) -> Decoder:
        """Decoder of a modality."""
        return cast(Decoder, self.decoders[modality])

    def encode(self, batch: Batch) -> dict[str, Posterior]:
        """Posterior of each modality, cell x latent; a cell without the modality has an infinite variance."""
        return self._bio(self._experts(batch))

    def _experts(self, batch: Batch) -> dict[str, Posterior]:
        """Posterior of each modality over ``z_bio`` and, after it, ``z_tech``."""
        return {modality: self._encode_one(modality, batch) for modality in self.encoders}

    def _bio(self, experts: Mapping[str, Posterior]) -> dict[str, Posterior]:
        if self.technical is None:
            return dict(experts)
        n = self.latent_dim
        return {m: Posterior(mu[:, :n], logvar[:, :n]) for m, (mu, logvar) in experts.items()}

    def _encode_one(self, modality: str, batch: Batch) -> Posterior:
        at, labels = batch.at.get(modality), batch.groups.get(self.batch_group)
        if modality in batch.has and at is None:
            whole: Posterior = self.encoder(modality)(batch.encoder_rows(modality), labels)
            return _of_present(whole, batch.has[modality]) if batch.filled else whole
        shape, device = (len(batch), self.encoder(modality).latent_dim), batch.index.device
        mu, logvar = torch.zeros(shape, device=device), torch.full(shape, ABSENT, device=device)
        if at is None or at.shape[0] == 0:
            return Posterior(mu, logvar)
        present = self.encoder(modality)(batch.encoder_rows(modality), _at(labels, at))
        return Posterior(mu.index_copy(0, at, present.mu), logvar.index_copy(0, at, present.logvar))

    def hidden(self, batch: Batch, modality: str) -> Float[Tensor, "present hidden"]:
        """Last hidden layer of a modality's encoder, for the cells that have it."""
        labels = batch.groups.get(self.batch_group)
        labels = None if labels is None else batch.of_present(modality, labels)
        return self.encoder(modality).hidden(batch.encoder_rows(modality), labels)

    def fuse(self, enc_outs: Mapping[str, Posterior]) -> Latent:
        """Fused posterior; ``z_bio`` is a sample while training and the mean otherwise."""
        mu, logvar = self.product(enc_outs)
        return Latent(drawn(mu, logvar) if self.training else mu, mu, logvar)

    def _fuse_all(self, experts: Mapping[str, Posterior], batch: Batch, *, sample: bool) -> Latent:
        """Fused posterior, and that of ``z_tech``, of which the batch of a cell is one more expert."""
        mu, logvar = self.product(self._bio(experts))
        latent = Latent(drawn(mu, logvar) if sample else mu, mu, logvar)
        if self.technical is None:
            return latent
        n, names = self.latent_dim, list(experts)
        tech = Posterior(
            *self.fusion(
                [experts[m].mu[:, n:] for m in names],
                [experts[m].logvar[:, n:] for m in names],
                modality_names=names,
                prior=self.technical(len(batch), batch.groups.get(self.batch_group)),
            )
        )
        return replace(latent, z_tech=drawn(*tech) if sample else tech.mu, tech=tech)

    def product(self, enc_outs: Mapping[str, Posterior]) -> Posterior:
        """Product of the experts, without a sample of it."""
        names = list(enc_outs)
        mu, logvar = self.fusion(
            [enc_outs[m].mu for m in names], [enc_outs[m].logvar for m in names], modality_names=names
        )
        return Posterior(mu, logvar)

    def decode(
        self,
        z: Float[Tensor, "cell latent"],
        batch: Batch,
        z_tech: Float[Tensor, "cell tech"] | None = None,
    ) -> dict[str, Any]:
        """Likelihood parameters of every decoded modality for every cell, measured or not.

        Without ``z_tech``, a model that has it takes the mean of each cell's batch.
        """
        return {m: self.decoder(m)(z, *self._conditions(batch, m, z_tech)) for m in self.decoders}

    def embed(self, batch: Batch) -> Latent:
        """Shared embedding of each cell: ``mu`` and ``z_tech`` are the posterior means, ``z_bio`` is made of ``mu``.

        It is corrected by a :class:`~remadom.core.correction.BatchCorrection` and given in
        :class:`~remadom.core.coordinates.DecodedCoordinates` where the model has these; else it is ``mu``.
        """
        latent = self._fuse_all(self._experts(batch), batch, sample=False)
        labels, z = batch.groups.get(self.batch_group), latent.mu
        if self.correction is not None and labels is not None:
            z = self.correction(z, labels)
        if self.coordinates is not None:
            z = self.coordinates(z, self.profile, labels)
        return replace(latent, z_bio=z)

    def profile(
        self, z: Float[Tensor, "cell latent"], modality: str, total: float
    ) -> Float[Tensor, "cell feature"]:
        """What cells at these places decode to, whatever their batch, covariates and depth, made comparable."""
        totals, decoder = z.new_full((len(z),), total), self.decoder(modality)
        of_none = torch.full((len(z),), -1, device=z.device)
        z_tech = None if self.technical is None else self.technical(len(z), of_none).mu
        expected = decoder.mean(decoder(z, *self._given(modality, totals, of_none, None, z_tech)))
        return comparable(expected, decoder.support)

    def impute(
        self,
        batch: Batch,
        modality: str,
        *,
        library: Float[Tensor, " cell"] | None = None,
        batch_labels: Int[Tensor, " cell"] | None = None,
    ) -> Float[Tensor, "cell feature"]:
        """Expected values of a modality for each cell, measured or not, from the mean of its posterior.

        Parameters
        ----------
        batch
            Cells; what they have is encoded.
        modality
            Any that has a decoder.
        library
            Totals to give the cells where the decoder scales with them; their own by default.
        batch_labels
            Batch as which each cell is decoded (-1: the average of those that have the modality); its own by
            default.
        """
        decoder, latent = self.decoder(modality), self.embed(batch)
        z_tech = latent.z_tech if batch_labels is None else None
        given = self._conditions(batch, modality, z_tech, library, batch_labels)
        expected: Tensor = decoder.mean(decoder(latent.mu, *given))
        return expected

    def draws(
        self,
        batch: Batch,
        modality: str,
        n: int,
        generator: torch.Generator,
        *,
        library: Float[Tensor, " cell"] | None = None,
        batch_labels: Int[Tensor, " cell"] | None = None,
    ) -> Iterator[Float[Tensor, "cell feature"]]:
        """Draws of counts from the posterior predictive: of the latent, then of the likelihood.

        Parameters as for :meth:`impute`, ``n`` draws by the generator.
        """
        decoder, latent = self.decoder(modality), self.embed(batch)
        z_tech = None
        for _ in range(n):
            z_bio = drawn(latent.mu, latent.logvar, generator)
            if latent.tech is not None and batch_labels is None:
                z_tech = drawn(*latent.tech, generator)
            given = self._conditions(batch, modality, z_tech, library, batch_labels)
            yield decoder.sample(decoder(z_bio, *given), generator)

    def _conditions(
        self,
        batch: Batch,
        modality: str,
        z_tech: Tensor | None,
        library: Tensor | None = None,
        batch_labels: Tensor | None = None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """What a decoder is given beside ``z_bio``; without ``z_tech`` the mean of the batch stands for it."""
        totals = batch.library.get(modality) if library is None else library
        labels = batch.groups.get(self.batch_group) if batch_labels is None else batch_labels
        if z_tech is None and self.technical is not None:
            z_tech = self.technical(len(batch), labels).mu
        return self._given(modality, totals, labels, batch.covariates, z_tech)

    def _given(
        self,
        modality: str,
        totals: Tensor | None,
        labels: Tensor | None,
        covariates: Tensor | None,
        z_tech: Tensor | None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The three conditions of a decoder, of which a technical state is a covariate."""
        if self.technical is None or z_tech is None:
            return totals, labels, covariates
        state = self.technical.state_for(modality, z_tech, labels)
        if covariates is not None:
            return totals, labels, torch.cat([covariates, state], dim=1)
        lacking = self.decoder(modality).n_covariates - self.technical.dim
        return totals, labels, F.pad(state, (lacking, 0))

    def reconstruction(
        self,
        z: Float[Tensor, "seed latent"],
        batch: Batch,
        z_tech: Float[Tensor, "seed tech"] | None = None,
    ) -> dict[str, Float[Tensor, " seed"]]:
        """Negative log-likelihood of each modality per seed cell, in nats; 0 where the cell lacks it."""
        scored = batch.scored
        out = {}
        for modality in self.decoders:
            if modality not in scored.x:
                continue
            at = scored.at.get(modality)
            given: tuple[Tensor | None, ...] = self._conditions(scored, modality, z_tech)
            if at is not None:
                given = tuple(_at(value, at) for value in given)
            nll = self.decoder(modality).nll(
                scored.decoder_rows(modality), z if at is None else z[at], *given
            )
            if at is not None:
                nll = nll.new_zeros(len(scored)).index_copy(0, at, nll)
            out[modality] = torch.where(scored.has[modality], nll, 0.0) if batch.filled else nll
        return out

    def infer(self, batch: Batch) -> tuple[dict[str, Posterior], Latent]:
        """Posterior of each modality on its own, and the fused latent.

        While training, ``modality_dropout`` leaves modalities out of the fused latent, not of the first.
        """
        kept = experts = self._experts(batch)
        if self.training and self.modality_dropout > 0 and len(experts) > 1:
            kept = drop_modalities(experts, self.modality_dropout)
        return self._bio(experts), self._fuse_all(kept, batch, sample=self.training)

    def terms(self, latent: Latent, batch: Batch) -> dict[str, Float[Tensor, " seed"]]:
        """Terms of the negative ELBO per seed cell: ``recon.<modality>`` (unweighted) and ``kl``.

        ``kl_tech`` is the part of ``kl`` that is of ``z_tech``, where there is one.
        """
        n, scored = batch.n_seeds, batch.scored
        z_tech = None if latent.z_tech is None else latent.z_tech[:n]
        recon = self.reconstruction(latent.z_bio[:n], batch, z_tech)
        terms = {f"recon.{m}": nll for m, nll in recon.items()}
        terms["kl"] = kl_to_prior(latent.mu[:n], latent.logvar[:n])
        if self.technical is not None and latent.tech is not None:
            prior = self.technical(n, scored.groups.get(self.batch_group))
            terms["kl_tech"] = kl_between(Posterior(*(v[:n] for v in latent.tech)), prior)
            terms["kl"] = terms["kl"] + terms["kl_tech"]
        return terms

    def elbo(self, batch: Batch, beta: float = 1.0) -> dict[str, Float[Tensor, ""]]:
        """Negative ELBO, mean over the seed cells: ``loss = recon + beta * kl``, and ``recon.<modality>``."""
        return self.elbo_of(self.infer(batch)[1], batch, beta)

    def elbo_of(self, latent: Latent, batch: Batch, beta: float) -> dict[str, Float[Tensor, ""]]:
        """:meth:`elbo` from a latent that was inferred."""
        return self.combine(self.means(latent, batch), beta)

    def means(self, latent: Latent, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """:meth:`terms`, each its mean over the seed cells."""
        terms = self.terms(latent, batch)
        return {name: value.sum() / max(1, batch.n_seeds) for name, value in terms.items()}

    def combine(self, terms: Mapping[str, Tensor], beta: float) -> dict[str, Tensor]:
        """Weigh and add the terms; the same sum for a batch's means and for single cells."""
        weighted = [
            value * self.modality_weights.get(name.removeprefix("recon."), 1.0)
            for name, value in terms.items()
            if name.startswith("recon.")
        ]
        recon = sum(weighted, torch.zeros_like(terms["kl"]))
        return {"loss": recon + beta * terms["kl"], "recon": recon, **terms}


def _of_present(posterior: Posterior, has: Tensor) -> Posterior:
    """The posterior where a cell has the modality, and that of an absent one elsewhere."""
    has = has.unsqueeze(1)
    return Posterior(torch.where(has, posterior.mu, 0.0), torch.where(has, posterior.logvar, ABSENT))


def _at(value: Tensor | None, at: Tensor) -> Tensor | None:
    return None if value is None else value[at]
