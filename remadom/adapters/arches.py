"""Training of what new cells add to a reference, which stays as it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from remadom.adapters.settings import AdapterSettings
from remadom.align.posterior import PosteriorHead
from remadom.core.residual import BatchResidual
from remadom.core.vae import MosaicVAE
from remadom.schedule import schedule_of
from remadom.train.callbacks import History
from remadom.train.objective import Objective, Term
from remadom.train.settings import EarlyStopping, OptimSettings, Scheduler
from remadom.train.trainer import Trainer
from remadom.types import Batch
from remadom.utils.seed import derive

DROPOUT = 0.5
"""Share of the cells that are encoded from a part of their modalities while a new one is learned."""


def add_residuals(model: MosaicVAE, known: int, n_new: int, rank: int, seed: int) -> None:
    """Give each encoder and decoder a residual for new batches, in place; it is zero until it is trained.

    Parameters
    ----------
    model
        A copy of the reference's.
    known, n_new
        Batches of the reference, and new ones.
    rank
        See :class:`~remadom.core.residual.BatchResidual`.
    seed
        Of its random projection.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "residuals"))
        for modality in model.encoders:
            encoder = model.encoder(modality)
            encoder.residual = BatchResidual(encoder.head.in_features, known, n_new, rank)
        for modality in model.decoders:
            decoder = model.decoder(modality)
            decoder.add_batches(BatchResidual(decoder.first.out_features, known, n_new, rank))


def train_added(
    model: MosaicVAE,
    loader: Iterable[Batch],
    settings: AdapterSettings,
    optim: OptimSettings,
    new_modalities: Sequence[str] = (),
) -> History:
    """Train the residuals and the new modalities of a model on new cells; all else is frozen.

    The loss is the negative ELBO of the new cells; a new modality is also asked to place a cell where the modalities of
    the reference do (see :class:`~remadom.align.posterior.PosteriorHead`).

    Parameters
    ----------
    model
        A copy of the reference's with what is to be trained.
    loader
        Shuffled batches of the new cells.
    settings
        Epochs and learning rate.
    optim
        Device, precision, clipping and seed.
    new_modalities
        Those whose encoder and decoder are trained.
    """
    for name, parameter in model.named_parameters():
        fresh = any(name.startswith((f"encoders.{m}.", f"decoders.{m}.")) for m in new_modalities)
        parameter.requires_grad_(fresh or ".residual." in name or name.endswith(".more"))
    dropout, model.modality_dropout = model.modality_dropout, DROPOUT if new_modalities else 0.0
    terms = {"posterior": Term.of_head(PosteriorHead(weight=1.0))} if new_modalities else {}
    chosen = optim.model_copy(
        update={
            "epochs": settings.epochs,
            "lr": settings.lr,
            "scheduler": Scheduler(name="cosine"),
            "early_stopping": EarlyStopping(),
        }
    )
    try:
        return Trainer(Objective(model, schedule_of(1.0), terms), chosen).fit(loader)
    finally:
        model.modality_dropout = dropout
        model.requires_grad_(True)
        model.eval()
