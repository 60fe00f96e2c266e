"""The passes of a model as CUDA graphs: recorded once, then started with one call instead of a thousand.

A step is some hundreds of small operations, on which a GPU works for 2 ms and which Python takes 20 ms to start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from remadom.core.residual import BatchResidual
from remadom.core.vae import MosaicVAE
from remadom.shapes import Float
from remadom.types import Batch, Latent, Posterior, Rows

MOST_VALUES = 2**25
"""Values of a place up to which batches are replayed: they are all dense, 128 MB of them and some of what they give."""

ROOM = 1.5
"""Cells that there is room for, in units of those of the first batch: partners differ in number from step to step."""

Recorder = Callable[..., tuple[Callable[..., Any], ...]]
"""What makes of modules and their arguments functions that do the same, as ``torch.cuda.make_graphed_callables``."""


class Replay:
    """The two passes of a model that a step of training needs, recorded once, on a GPU.

    Has :meth:`MosaicVAE.infer` and :meth:`MosaicVAE.means` for training. Batches with as many seeds as the first are
    copied to one place, dense, and what was recorded there is done again: same values, other kernels. All others
    (the last of an epoch, those with many more partners) go to the model.

    Parameters
    ----------
    model
        The model, on its device; its parameters must keep their places.
    record
        What records.
    """

    def __init__(self, model: MosaicVAE, record: Recorder = torch.cuda.make_graphed_callables) -> None:
        self.model = model
        self._record = record
        self._place: Batch | None = None
        self._passes: tuple[Callable[..., Any], ...] = ()
        self._replayed = False

    @staticmethod
    def takes(model: MosaicVAE) -> bool:
        """Whether the passes do the same whatever the cells: not with residuals of new batches, nor parts of others."""
        known = ("remadom", "torch")
        return all(
            type(module).__module__.split(".")[0] in known and not isinstance(module, BatchResidual)
            for module in model.modules()
        )

    def infer(self, batch: Batch) -> tuple[dict[str, Posterior], Latent]:
        """As the model's, of a training batch."""
        room = round(ROOM * len(batch))
        if self._place is None and room * _width(batch) <= MOST_VALUES:
            self._begin(batch, room)
        place, n = self._place, len(batch)
        self._replayed = place is not None and n <= len(place) and batch.n_seeds == place.n_seeds
        if place is None or not self._replayed:
            return self.model.infer(batch)
        fill(place, batch)
        experts, latent = self._passes[0]()
        experts = {m: Posterior(mu[:n], logvar[:n]) for m, (mu, logvar) in experts.items()}
        return experts, _latent(*(part[:n] for part in latent))

    def means(self, latent: Latent, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """As the model's, of the batch that was inferred last."""
        if not self._replayed:
            return self.model.means(latent, batch)
        found: dict[str, Tensor] = self._passes[1](*(part[: batch.n_seeds] for part in _parts(latent)))
        values = torch.stack(list(found.values()))  # the next batch is written over what was recorded
        return dict(zip(found, values.unbind(), strict=True))

    def _begin(self, batch: Batch, room: int) -> None:
        model, place = self.model, empty_like(batch, room)
        conditions = [] if model.technical is None else [model.technical]
        infer = _Pass(lambda: _flat(*model.infer(place)), [model.encoders, model.fusion, *conditions])
        means = _Pass(
            lambda *parts: model.means(_latent(*parts), place.scored), [model.decoders, *conditions]
        )
        with torch.random.fork_rng(devices=[place.index.device] if place.index.is_cuda else []):
            with torch.no_grad():
                example = [part[: batch.n_seeds].clone() for part in _parts(model.infer(place)[1])]
            samples = ((), tuple(part.requires_grad_() for part in example))
            self._passes = self._record((infer, means), samples, allow_unused_input=True)
        self._place = place


class _Pass(nn.Module):
    """A function with the modules of which it reads the parameters."""

    def __init__(self, function: Callable[..., Any], reads: Iterable[nn.Module]) -> None:
        super().__init__()
        self.function, self.reads = function, nn.ModuleList(reads)

    def forward(self, *args: Tensor) -> Any:
        return self.function(*args)


def empty_like(batch: Batch, n_cells: int) -> Batch:
    """A filled batch (see :class:`Batch`) for cells like these, dense, in which none has a modality yet."""

    def room(value: Tensor, fill: float = 0) -> Tensor:
        return value.new_full((n_cells, *value.shape[1:]), fill)

    def rows(like: Rows) -> Rows:
        return Rows(like.values.new_zeros(n_cells, like.n_features), like.n_features)

    return Batch(
        x={m: rows(like) for m, like in batch.x.items()},
        has={m: room(has) for m, has in batch.has.items()},
        library={m: room(totals, 1) for m, totals in batch.library.items()},
        groups={key: room(codes, -1) for key, codes in batch.groups.items()},
        index=room(batch.index),
        seed=torch.arange(n_cells, device=batch.index.device) < batch.n_seeds,
        rep={m: rows(like) for m, like in batch.rep.items()},
        covariates=None if batch.covariates is None else room(batch.covariates),
        n_seeds=batch.n_seeds,
        filled=True,
    )


@torch.no_grad()
def fill(place: Batch, batch: Batch) -> None:
    """Write what a model reads of a batch into the first cells of a filled one; the others stay as they are."""
    n = len(batch)
    for m, rows in batch.x.items():
        rows.dense_into(place.x[m].values[:n])
    for m, rows in batch.rep.items():
        values = rows.dense_into(place.rep[m].values[:n])
        values.masked_fill_(~batch.has[m].unsqueeze(1), 0.0)  # a cell that lacks it may have no numbers there
    told = ((place.has, batch.has), (place.library, batch.library), (place.groups, batch.groups))
    for kept, new in told:
        for key, value in new.items():
            kept[key][:n] = value
    if place.covariates is not None and batch.covariates is not None:
        place.covariates[:n] = batch.covariates


def _width(batch: Batch) -> int:
    return sum(rows.n_features for rows in [*batch.x.values(), *batch.rep.values()])


def _flat(experts: dict[str, Posterior], latent: Latent) -> tuple[dict[str, Posterior], tuple[Tensor, ...]]:
    return experts, _parts(latent)


def _parts(latent: Latent) -> tuple[Tensor, ...]:
    tech = () if latent.z_tech is None or latent.tech is None else (latent.z_tech, *latent.tech)
    return (*latent, *tech)


def _latent(z_bio: Tensor, mu: Tensor, logvar: Tensor, *tech: Tensor) -> Latent:
    return Latent(z_bio, mu, logvar, tech[0], Posterior(*tech[1:])) if tech else Latent(z_bio, mu, logvar)
