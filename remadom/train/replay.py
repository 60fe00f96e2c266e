"""The passes of a model as CUDA graphs: recorded once, then started with one call instead of a thousand.

A step is some hundreds of small operations, on which a GPU works for 2 ms and which Python takes 20 ms to start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from remadom.align import AlignmentHead
from remadom.core.fusion import ABSENT
from remadom.core.residual import BatchResidual
from remadom.core.vae import MosaicVAE
from remadom.shapes import Float
from remadom.types import Batch, Latent, Logs, Posterior, Rows

MOST_VALUES = 2**25
"""Values of a place up to which batches are replayed: they are all dense, 128 MB of them and some of what they give."""

VALUE = "value"
"""What a recorded head gives beside its scalars for the log."""

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
    heads
        Recordable alignment heads, by name; see :meth:`head`.
    record
        What records.
    """

    def __init__(
        self,
        model: MosaicVAE,
        heads: Mapping[str, AlignmentHead] | None = None,
        record: Recorder = torch.cuda.make_graphed_callables,
    ) -> None:
        self.model, self.heads = model, dict(heads or {})
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
        return _kept(self._passes[1](*(part[: batch.n_seeds] for part in _parts(latent))))

    def head(self, name: str, otherwise: nn.Module) -> Callable[..., tuple[Tensor, Logs]]:
        """What does as the head of this name with the batch that was inferred last, or else the module itself."""
        head, place = self.heads.get(name), self._place
        if head is None or place is None or not self._replayed:
            return otherwise
        recorded, room = self._passes[2 + list(self.heads).index(name)], len(place)

        def replayed(**given: Any) -> tuple[Tensor, Logs]:
            found = _kept(recorded(*(_padded(*value, room) for value in _read(head, given))))
            return found.pop(VALUE), found

        return replayed

    def _begin(self, batch: Batch, room: int) -> None:
        model, place = self.model, empty_like(batch, room)
        conditions = [] if model.technical is None else [model.technical]
        infer = _Pass(lambda: _flat(*model.infer(place)), [model.encoders, model.fusion, *conditions])
        means = _Pass(
            lambda *parts: model.means(_latent(*parts), place.scored), [model.decoders, *conditions]
        )
        names = list(model.encoders)
        heads = [_Pass(partial(_of_head, head, place, names), [head]) for head in self.heads.values()]
        with torch.random.fork_rng(devices=[place.index.device] if place.index.is_cuda else []):
            with torch.no_grad():
                experts, latent = model.infer(place)
                example = [part[: batch.n_seeds].clone() for part in _parts(latent)]
            given = {"z_bio": latent.mu, "posteriors": experts}
            read = [[value.clone() for value, _ in _read(head, given)] for head in self.heads.values()]
            samples = [tuple(part.requires_grad_() for part in parts) for parts in ([], example, *read)]
            self._passes = self._record((infer, means, *heads), tuple(samples), allow_unused_input=True)
        self._place = place


@contextmanager
def streams_may_differ() -> Iterator[None]:
    """Within, newer releases of torch do not warn that what was recorded lives on the stream of the recording."""
    warn = getattr(torch.autograd.graph, "set_warn_on_accumulate_grad_stream_mismatch", lambda enabled: None)
    warn(False)
    try:
        yield
    finally:
        warn(True)


class _Pass(nn.Module):
    """A function with the modules of which it reads the parameters."""

    def __init__(self, function: Callable[..., Any], reads: Iterable[nn.Module]) -> None:
        super().__init__()
        self.function, self.reads = function, nn.ModuleList(reads)

    def forward(self, *args: Tensor) -> Any:
        return self.function(*args)


def is_recordable(module: nn.Module) -> TypeGuard[AlignmentHead]:
    """Whether a module is an alignment head that can be recorded."""
    return isinstance(module, AlignmentHead) and module.recordable


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
    """Write what is read of a batch into the first cells of a filled one; the others stay, in no group."""
    n = len(batch)
    for m, rows in batch.x.items():
        rows.dense_into(place.x[m].values[:n])
    for m, rows in batch.rep.items():
        values = rows.dense_into(place.rep[m].values[:n])
        values.masked_fill_(~batch.has[m].unsqueeze(1), 0.0)  # a cell that lacks it may have no numbers there
    for key in place.groups:
        place.groups[key][n:] = -1  # heads compare groups
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


def _kept(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same scalars elsewhere: the next batch is written over what was recorded."""
    return dict(zip(found, torch.stack(list(found.values())).unbind(), strict=True))


def _read(head: AlignmentHead, given: Mapping[str, Any]) -> Iterator[tuple[Tensor, float]]:
    """What a head reads of a differentiable input, and what stands there for a cell that is not."""
    if "z_bio" in head.inputs():
        yield given["z_bio"], 0.0
    if "posteriors" in head.inputs():
        for mu, logvar in given["posteriors"].values():
            yield mu, 0.0
            yield logvar, ABSENT


def _padded(value: Float[Tensor, "cell latent"], fill: float, room: int) -> Float[Tensor, "room latent"]:
    return F.pad(value, (0, 0, 0, room - len(value)), value=fill)


def _of_head(head: AlignmentHead, place: Batch, modalities: list[str], *read: Tensor) -> dict[str, Tensor]:
    """What a head gives on what :func:`_read` found."""
    left: Iterator[Tensor] = iter(read)
    given: dict[str, Any] = {"groups": place.groups}
    if "z_bio" in head.inputs():
        given["z_bio"] = next(left)
    if "posteriors" in head.inputs():
        given["posteriors"] = {
            m: Posterior(mu, logvar) for m, mu, logvar in zip(modalities, left, left, strict=True)
        }
    value, logs = head(**given)
    return {VALUE: value, **logs}
