"""The verb behind ``remadom mapref``: new cells onto a reference, with labels and how well they fit."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from remadom.adapters.arches import add_residuals, train_added
from remadom.adapters.labels import Transfer
from remadom.adapters.mixtures import Mixture, corrected
from remadom.adapters.placing import Placed, place
from remadom.adapters.profile_axes import measured_profiles
from remadom.config.load import Raw
from remadom.config.query import Query, make_query, query_config
from remadom.config.reference import Reference
from remadom.config.trained import Trained
from remadom.data.source import Source
from remadom.errors import InputError, nearest
from remadom.results.imputed import write_imputed
from remadom.results.mapped import level_scores, record_mapping
from remadom.train.coordinates import in_coordinates
from remadom.train.embedding import embed_cells
from remadom.types import Latent
from remadom.utils.log import collected_warnings
from remadom.utils.outputs import MAPPING, RunDir
from remadom.utils.portable import is_portable
from remadom.utils.seed import derive, seed_everything


@dataclass(frozen=True, eq=False)
class Mapped:
    """New cells on a reference.

    Attributes
    ----------
    trained
        The reference's model, ready for the new cells (see :class:`~remadom.config.query.Query`).
    source
        The new cells.
    latent
        Their embedding, corrected where that was asked for.
    labels
        Labels by level.
    metrics
        Contents of ``mapping.json``.
    """

    trained: Trained
    source: Source
    latent: Latent
    labels: Mapping[str, Transfer]
    metrics: dict[str, Any]


def map_reference(
    reference: str | Path | Reference,
    query: Any,
    out: str | Path | None = None,
    *,
    config: Raw | None = None,
    where: str = "",
    impute: Sequence[str] = (),
    force: bool = False,
    overwrite: bool = False,
) -> Mapped:
    """Map new cells onto a trained model, label them, and say how well they fit.

    Parameters
    ----------
    reference
        Folder of a saved model or of a finished run, or a loaded one.
    query
        File, AnnData, MuData or mapping of AnnData.
    out
        Folder for the outputs; ``None`` writes nothing.
    config
        Sections ``adapter`` and ``data`` (layout of the query).
    where
        File that they came from, for messages.
    impute
        Modalities whose values are imputed for every new cell, into ``imputed_<modality>.h5ad``.
    force
        Go on where few features match.
    overwrite
        Replace the outputs of an earlier mapping.

    Raises
    ------
    InputError
        The reference, the query or the settings cannot work; nothing has been written then.
    """
    folder = None if out is None else RunDir(out)
    if folder is not None:
        _check_out(folder, overwrite=overwrite)
    if impute and folder is None:
        raise InputError("imputed values go to files; give an output folder")
    started = time.perf_counter()
    with collected_warnings() as warned:
        found = reference if isinstance(reference, Reference) else Reference.load(reference)
        settings = query_config(found.trained, config or {}, where)
        if settings.adapter.labels is not None:
            found = found.with_levels(settings.adapter.labels)
        seed_everything(settings.optim.seed)
        read = make_query(found.trained, settings, query, force=force)
        for modality in impute:
            if modality not in read.trained.model.decoders:
                known = nearest(modality, read.trained.model.decoders)
                raise InputError(f"impute '{modality}': the model has no decoder of it: {known}")
        timing = {"read": time.perf_counter() - started}
        latent, whole, mixture = _adapted(found, read, timing)
        began = time.perf_counter()
        placed = place(
            found.cells,
            read.trained.model,
            {m: read.source.has[m] for m in read.known_modalities},
            latent.mu.numpy(),
            whole,
            _profiles(found, read),
            mixture,
            settings.adapter,
            derive(settings.optim.seed, "labels"),
        )
        timing["labels"] = time.perf_counter() - began
    notes = (*read.notes, *dict.fromkeys(warned))
    metrics = _metrics(found, read, placed, notes, timing)
    if folder is not None:
        folder.path.mkdir(parents=True, exist_ok=True)
        for modality in impute:
            write_imputed(read.trained, modality, folder / f"imputed_{modality}.h5ad", lambda: read.source)
        metrics["seconds"]["total"] = round(time.perf_counter() - started, 3)
        record_mapping(folder, found, read, latent, placed, metrics)
    return Mapped(read.trained, read.source, latent, placed.labels, metrics)


def _profiles(reference: Reference, query: Query) -> dict[str, np.ndarray]:
    """Components of the new cells along the reference's axes, by modality."""
    source, shares = query.source, query.trained.shares
    return {
        m: measured_profiles(axes.lacking(query.matches[m].present, shares[m]), source, m)
        for m, axes in reference.cells.axes.items()
        if m in query.matches
    }


def _check_out(folder: RunDir, *, overwrite: bool) -> None:
    if folder.begun or is_portable(folder.path):
        what = "run" if folder.begun else "saved model"
        raise InputError(f"{folder.path} holds a {what}; choose another folder for the mapping")
    if folder.path.is_file() or ((folder / MAPPING).exists() and not overwrite):
        raise InputError(f"{folder.path} exists; choose another --out, or give --overwrite")


def _adapted(
    reference: Reference, query: Query, timing: dict[str, float]
) -> tuple[Latent, np.ndarray, Mixture]:
    """Embedding of the new cells by the method asked for, moved as whole batches only, and the reference's clusters.

    What adapters leave of a batch is corrected by the clusters as well.
    """
    trained, settings, seed = query.trained, query.trained.config.adapter, query.trained.config.optim.seed
    arches = settings.method == "arches" and bool(query.new_batches)
    began = time.perf_counter()
    if arches:
        known = len(reference.trained.groups["batch"])
        add_residuals(trained.model, known, len(query.new_batches), settings.rank, seed)
    if arches or query.new_modalities:
        loader = trained.loader(query.source, shuffle=True)
        train_added(trained.model, loader, settings, trained.config.optim, query.new_modalities)
        timing["train"] = time.perf_counter() - began
    began = time.perf_counter()
    latent = embed_cells(trained.model, trained.loader(query.source))
    timing["embed"] = time.perf_counter() - began
    began = time.perf_counter()
    alike = reference.cells.seen_by(reference.trained.model, query.known_modalities)
    mixture = Mixture.fit(alike, clusters=settings.clusters, seed=derive(seed, "mixture") % 2**32)
    whole = latent.mu.numpy()
    if settings.method != "none":
        codes, names = trained.batches_of(query.source)
        new = np.isin(np.asarray(names, dtype=object)[codes], query.new_batches)
        mu, whole = latent.mu.numpy().copy(), latent.mu.numpy().copy()
        mu[new], whole[new] = corrected(mu[new], codes[new], mixture, shrinkage=settings.shrinkage)
        latent = replace(latent, mu=torch.from_numpy(np.ascontiguousarray(mu, dtype=np.float32)))
    latent = replace(latent, z_bio=in_coordinates(trained.model, latent.mu))
    timing["mixtures"] = time.perf_counter() - began
    return latent, whole, mixture


def _metrics(
    reference: Reference, query: Query, placed: Placed, notes: Sequence[str], timing: Mapping[str, float]
) -> dict[str, Any]:
    """Contents of ``mapping.json``."""
    source, trained = query.source, query.trained
    levels = {
        level: level_scores(
            found,
            source.obs.get(level),
            np.unique(reference.cells.labels[level]),
        )
        for level, found in placed.labels.items()
    }
    return {
        "reference": {
            "path": str(reference.trained.path),
            "cells": len(reference.cells),
            "batches": list(reference.trained.groups["batch"]),
        },
        "query": {
            "data": source.path,
            "cells": source.n_cells,
            "modalities": {m: int(source.has[m].sum()) for m in source.modalities},
            "new_modalities": list(query.new_modalities),
            "new_batches": list(query.new_batches),
        },
        "method": trained.config.adapter.method,
        "features": {m: match.summary() for m, match in query.matches.items()},
        "quality": placed.quality(),
        "labels": levels,
        "notes": list(notes),
        "seconds": {name: round(value, 3) for name, value in timing.items()},
    }
