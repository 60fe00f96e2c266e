"""From a source to batches: one gather a modality, prepared ahead of the consumer."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from anndata import AnnData
from mudata import MuData

from remadom.data.covariates import fit_covariates
from remadom.data.fit import fit_preprocess
from remadom.data.modality import modality_named
from remadom.data.sampler import Draw, Sampler
from remadom.data.settings import DataSettings
from remadom.data.source import Source
from remadom.data.split import cell_positions
from remadom.errors import InputError
from remadom.types import Batch, Rows

AHEAD = 2
"""Batches prepared ahead."""

Codes = tuple[np.ndarray, tuple[str, ...]]
"""Group of each cell of the source, and the names of the groups."""

A = TypeVar("A")
B = TypeVar("B")


class Loader(Iterable[Batch]):
    """Batches of some cells of a source, in an order that depends on the seed and the epoch alone.

    Parameters
    ----------
    source
        All cells, preprocessed.
    cells
        Positions of the cells to give out.
    batch_size
        Cells in a batch; the last one may be short.
    shuffle
        Give the cells in a new order every epoch.
    seed
        Seed of the orders.
    groups
        Codes of every cell of the source by name (see :func:`groups_of`), so that loaders over other cells
        of the same source agree on the names.
    time
        Time of every cell of the source, or ``None``.
    library
        Total that stands for a cell without the modality (see :class:`Prepared`), for those modalities whose
        decoder scales with the total.
    strata
        Group of every cell of the source, to be evenly spread over shuffled batches.
    covariates
        Covariates of every cell of the source (see :meth:`Covariates.encode`), or ``None``.
    shares
        Share of a cell's counts in the features that this source has, for modalities of which it lacks some: totals
        are those of a cell with all.
    """

    def __init__(
        self,
        source: Source,
        cells: np.ndarray,
        *,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        groups: Mapping[str, Codes] | None = None,
        time: np.ndarray | None = None,
        library: Mapping[str, float] | None = None,
        strata: np.ndarray | None = None,
        covariates: np.ndarray | None = None,
        shares: Mapping[str, float] | None = None,
    ) -> None:
        self.source = source
        self.sampler = Sampler(
            cell_positions(cells, source.n_cells),
            batch_size=batch_size,
            shuffle=shuffle,
            seed=seed,
            strata=strata,
        )
        self.groups = {name: names for name, (_, names) in (groups or {}).items()}
        self.epoch = 0
        self._codes = {name: codes for name, (codes, _) in (groups or {}).items()}
        self._time = time
        self._library = dict(library or {})
        self._covariates = covariates
        self._shares = dict(shares or {})

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        return map_ahead(self.batch, self.sampler.batches(self.epoch))

    def batch(self, draw: Draw) -> Batch:
        """The cells at these positions of the source, seeds first."""
        source, index = self.source, np.concatenate(draw)
        x, library, rep = {}, {}, {}
        for modality in source.modalities:
            rows = source.rows(modality, index)
            if modality in self._library:
                totals = np.asarray(rows.sum(axis=1), dtype=np.float32).ravel()
                # a measured cell without counts has no scale of its own: one count is the least there is
                totals[totals <= 0] = 1.0
                totals /= np.float32(self._shares.get(modality, 1.0))
                totals[~source.has[modality][index]] = self._library[modality]
                library[modality] = torch.from_numpy(totals)
            x[modality] = Rows.of(rows)
        for modality, values in source.reps.items():
            rep[modality] = Rows.from_dense(values[index])
        return Batch(
            x=x,
            has={modality: torch.from_numpy(source.has[modality][index]) for modality in source.modalities},
            library=library,
            groups={name: torch.from_numpy(codes[index]) for name, codes in self._codes.items()},
            index=torch.from_numpy(index),
            seed=torch.arange(len(index)) < len(draw.seeds),
            time=None if self._time is None else torch.from_numpy(self._time[index]),
            rep=rep,
            covariates=None if self._covariates is None else torch.from_numpy(self._covariates[index]),
        )


def map_ahead(function: Callable[[A], B], items: Iterable[A], ahead: int = AHEAD) -> Iterator[B]:
    """``map`` that computes up to ``ahead`` results in a thread before they are asked for.

    An error of the function is raised in the consumer, with its traceback, in place of that result. Closing the
    iterator, as leaving a ``for`` loop does, waits for the result in the making at most and ends the thread.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="remadom-loader")
    pending: deque[Future[B]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def groups_of(source: Source, settings: DataSettings, also: Sequence[str] = ()) -> dict[str, Codes]:
    """Codes of ``batch`` and ``dataset``; one group where obs has no such column and none was asked for.

    Parameters
    ----------
    also
        More groupings: ``modality`` (which modalities a cell has), ``time`` (equal times; -1 where a cell has none)
        and columns of obs.

    Raises
    ------
    InputError
        A column that the configuration names (other than by default) does not exist.
    """
    groups = {
        name: source.codes(getattr(settings, f"{name}_key"), required=_is_asked_for(settings, f"{name}_key"))
        for name in ("batch", "dataset")
    }
    for name in also:
        if name == "modality":
            groups[name] = source.patterns()
        elif name == "time":
            groups[name] = _time_groups(times_of(source, settings), source.n_cells)
        elif name not in groups:
            groups[name] = source.codes(name, required=True)
    return groups


def _time_groups(time: np.ndarray | None, n_cells: int) -> Codes:
    known = np.zeros(n_cells, dtype=bool) if time is None else np.isfinite(time)
    codes = np.full(n_cells, -1, dtype=np.int64)
    if time is None:
        return codes, ()
    times, codes[known] = np.unique(time[known], return_inverse=True)
    return codes, tuple(f"{t:g}" for t in times)


def times_of(source: Source, settings: DataSettings) -> np.ndarray | None:
    """Time of each cell, or ``None`` where obs has no such column and none was asked for."""
    return source.values(settings.time_key, required=_is_asked_for(settings, "time_key"))


def _is_asked_for(settings: DataSettings, key: str) -> bool:
    return bool(getattr(settings, key) != DataSettings.model_fields[key].default)


class LoaderConfig(Protocol):
    """The part of the configuration that :func:`dataloader` reads."""

    @property
    def data(self) -> DataSettings: ...

    @property
    def optim(self) -> Any: ...


def dataloader(
    adata: AnnData | MuData | Mapping[str, AnnData] | Source | str | Path,
    cfg: LoaderConfig,
    x_keys: Mapping[str, str] | None = None,
    *,
    cells: np.ndarray | None = None,
    shuffle: bool = True,
) -> Loader:
    """Batches of a data set as the configuration says: preprocessing and covariates fitted on ``cells``, groups, time.

    Parameters
    ----------
    adata
        The data, or a source over it.
    cfg
        Configuration; its ``data`` section and ``optim.batch_size`` and ``optim.seed`` are read.
    x_keys
        Matrix of each modality, in place of ``cfg.data.keys``.
    cells
        Positions or mask of the cells to give out; all by default.
    shuffle
        Give the cells in a new order every epoch; call ``set_epoch`` before each.

    Raises
    ------
    InputError
        The data are not as the configuration says, or ``x_keys`` was given with a source.
    """
    settings = cfg.data
    if not isinstance(adata, Source):
        adata = Source.open(
            adata,
            keys=settings.keys if x_keys is None else x_keys,
            modalities=settings.modalities,
            backed=settings.backed,
            lsi_key=settings.preprocess.atac.lsi.obsm_key,
        )
    elif x_keys is not None:
        raise InputError("x_keys: the source has chosen its matrices already; give keys to Source.open")
    chosen = cell_positions(cells, adata.n_cells)
    prepared = fit_preprocess(adata, settings, chosen)
    source = prepared.apply(adata)
    return Loader(
        source,
        chosen,
        batch_size=cfg.optim.batch_size,
        shuffle=shuffle,
        seed=cfg.optim.seed,
        groups=groups_of(source, settings),
        time=times_of(source, settings),
        library={m: total for m, total in prepared.library.items() if modality_named(m).library},
        covariates=fit_covariates(source, settings, chosen).encode(source),
    )
