"""New cells made ready for the model of a reference: features matched, batches added, new modalities fitted in."""

from __future__ import annotations

import copy
import csv
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from remadom.adapters.lacking import leave_out
from remadom.adapters.settings import AdapterSettings
from remadom.config import components
from remadom.config.build import open_source
from remadom.config.load import Raw, overlay, validate
from remadom.config.model import start_from_data, with_sizes
from remadom.config.schema import RunConfig
from remadom.config.trained import Trained
from remadom.core.decoders import DECODERS
from remadom.data.fit import fit_steps
from remadom.data.matching import Match, match_features
from remadom.data.prepared import Prepared, Steps
from remadom.data.source import Source
from remadom.data.validate import validate_values
from remadom.errors import InputError
from remadom.utils.seed import derive

logger = logging.getLogger(__name__)

BATCH = "query"
"""Batch of cells that name none."""


@dataclass(frozen=True, eq=False)
class Query:
    """New cells, and the model of a reference made ready for them.

    Attributes
    ----------
    trained
        The reference's model, copied: without the features that the cells lack, with their batches, and with a fresh
        encoder and decoder for each modality that the reference never saw.
    source
        The cells, with the reference's features.
    matches
        How the features of each modality were found.
    new_modalities, new_batches
        What the reference never saw.
    notes
        What was decided, in sentences.
    """

    trained: Trained
    source: Source
    matches: Mapping[str, Match]
    new_modalities: tuple[str, ...]
    new_batches: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def known_modalities(self) -> tuple[str, ...]:
        """Modalities of the cells that the reference has."""
        return tuple(m for m in self.source.modalities if m not in self.new_modalities)


def query_config(reference: Trained, given: Raw, where: str = "") -> RunConfig:
    """Configuration of a mapping: the reference's, another layout of the data, and what is given.

    Parameters
    ----------
    reference
        The model.
    given
        Nested sections; only ``data`` and ``adapter`` are about a mapping.
    where
        File that they came from, for messages.

    Raises
    ------
    InputError
        Another section, or anything in them that cannot work.
    """
    others = [section for section in given if section not in ("data", "adapter")]
    if others:
        raise InputError(
            f"{where or 'configuration'}: section '{others[0]}' is settled by the reference; a mapping takes data and "
            "adapter"
        )
    kept = {"batch_key": reference.config.data.batch_key, "preprocess": reference.raw["data"]["preprocess"]}
    data = {**kept, **given.get("data", {})}
    adapter = overlay(reference.raw.get("adapter", {}), given.get("adapter", {}))
    return validate({**reference.raw, "data": data, "adapter": adapter}, where)


def make_query(reference: Trained, config: RunConfig, data: Any = None, *, force: bool = False) -> Query:
    """Read new cells, match their features with those of a reference, and copy its model for them.

    Parameters
    ----------
    reference
        The model.
    config
        See :func:`query_config`.
    data
        File, AnnData, MuData or mapping of AnnData, in place of ``data.path``.
    force
        Go on where fewer features match than ``adapter.min_overlap`` asks for.

    Raises
    ------
    InputError
        The data cannot be read, too few features match, or nothing links a new modality to the reference.
    """
    source = open_source(config, data, repeated=True)
    known = tuple(m for m in source.modalities if m in reference.prepared.steps)
    new = tuple(m for m in source.modalities if m not in known)
    if not known:
        raise InputError(
            f"the query has {', '.join(source.modalities)}, the reference {', '.join(reference.prepared.steps)}: with "
            "no modality in common nothing says where the cells belong"
        )
    _check_links(source, known, new)
    model = copy.deepcopy(reference.model)
    table = read_feature_table(config.adapter.feature_table)
    matches, steps, shares, notes = {}, dict(reference.prepared.steps), {}, []
    for modality in known:
        match, note = _matched(source, modality, steps[modality], table, config.adapter, force=force)
        matches[modality] = match
        notes += note
        shares[modality] = max(match.share, 1e-6)
        source = source.project(modality, match.matrix, steps[modality].features)
        lsi = steps[modality].lsi
        leave_out(
            model, modality, match.present, shares[modality], reads_features=modality not in _reps(steps)
        )
        if lsi is not None and not match.present.all():
            steps[modality] = replace(steps[modality], lsi=lsi.lacking(match.present, shares[modality]))
        if modality in model.decoders:
            validate_values(source, modality, support=model.decoder(modality).support)
        source = steps[modality].apply(source, modality)
    source, batches, added = _batches(source, config.data.batch_key, reference.groups["batch"])
    notes += added
    fresh = tuple(name for name in batches if name not in reference.groups["batch"])
    groups = {**reference.groups, "batch": (*reference.groups["batch"], *fresh)}
    for modality in new:
        cells = np.flatnonzero(source.has[modality])
        steps[modality] = fit_steps(source, modality, config.data, cells)
        source = steps[modality].apply(source, modality)
        notes.append(
            f"{modality}: the reference never saw it; an encoder and a decoder are trained on {len(cells):,} cells"
        )
    trained = replace(
        reference, config=config, model=model, prepared=Prepared(steps), groups=groups, shares=shares
    )
    if new:
        _add_modalities(trained, source, new)
    return Query(trained, source, matches, new, fresh, tuple(notes))


def read_feature_table(path: str | None) -> list[dict[str, str]]:
    """Rows of a table of names of features, with ``query``, ``reference`` and perhaps ``modality``.

    Raises
    ------
    InputError
        There is no such file, or it lacks a column.
    """
    if path is None:
        return []
    if not Path(path).is_file():
        raise InputError(
            f"adapter.feature_table: {path} does not exist; name a CSV file with the columns query,reference"
        )
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    found = list(rows[0]) if rows else []
    if not {"query", "reference"} <= {*found}:
        raise InputError(
            f"adapter.feature_table: {path} has the columns {', '.join(map(str, found)) or 'none'}, expected query and "
            "reference"
        )
    return rows


def _reps(steps: Mapping[str, Steps]) -> list[str]:
    """Modalities of which the encoder reads components."""
    return [m for m, step in steps.items() if step.lsi is not None or step.stored is not None]


def _matched(
    source: Source,
    modality: str,
    steps: Steps,
    table: Sequence[Mapping[str, str]],
    settings: AdapterSettings,
    *,
    force: bool,
) -> tuple[Match, list[str]]:
    rows = {row["query"]: row["reference"] for row in table if row.get("modality") in (None, "", modality)}
    if any(not row.get("modality") for row in table):  # names without a modality may be those of another one
        rows = {query: name for query, name in rows.items() if name in set(steps.features)}
    match = match_features(
        modality, steps.features, list(source.features[modality]), rates=steps.rates, table=rows
    )
    missing = [name for name, there in zip(match.reference, match.present, strict=True) if not there]
    found, size = int(match.present.sum()), len(match.reference)
    words = (
        f"{modality}: {found:,} of the reference's {size:,} features found ({match.share:.0%} of its counts)"
    )
    if not found or (match.overlap < settings.min_overlap and not force):
        raise InputError(
            f"{words}, expected {settings.min_overlap:.0%}; missing for example {', '.join(missing[:3])}, while the "
            f"query has for example {', '.join(map(str, source.features[modality][:3]))}. Name the features alike, "
            "give adapter.feature_table, lower adapter.min_overlap" + (", or use --force" if found else "")
        )
    notes = [words]
    if missing:
        notes.append(
            f"{modality}: {len(missing):,} features are left out of the encoder and of the likelihood "
            f"({', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''})"
        )
    renamed = [
        f"{found[0]} as {name}"
        for name, found, how in zip(match.reference, match.found, match.how, strict=True)
        if how not in ("exact", "missing")
    ]
    if renamed:
        notes.append(
            f"{modality}: {len(renamed):,} features have another spelling ({', '.join(renamed[:3])})"
        )
    several = [name for name, found in zip(match.reference, match.found, strict=True) if len(found) > 1]
    if several:
        notes.append(
            f"{modality}: {len(several):,} features are found more than once, and their counts are added "
            f"({', '.join(several[:3])})"
        )
    if match.extra:
        notes.append(
            f"{modality}: {match.extra:,} features of the query are not in the reference and are ignored"
        )
    return match, notes


def _batches(source: Source, key: str, known: Sequence[str]) -> tuple[Source, tuple[str, ...], list[str]]:
    """The source with a batch for every cell, the names of its batches, and what is to be said of them."""
    if key not in source.obs:
        obs = source.obs.assign(**{key: BATCH})
        return (
            replace(source, obs=obs),
            (BATCH,),
            [f"obs has no column '{key}': all cells are of the batch '{BATCH}'"],
        )
    names = source.codes(key, required=True)[1]
    same = [name for name in names if name in known]
    notes = [
        f"{len(same)} batches have the names of batches of the reference ({', '.join(same[:3])}) and are taken for "
        "them; if they are others, name them apart"
    ]
    return source, names, notes if same else []


def _check_links(source: Source, known: Sequence[str], new: Sequence[str]) -> None:
    """A new modality can be placed only by cells that have one of the reference's, too."""
    anchored = np.any([source.has[m] for m in known], axis=0)
    for modality in new:
        linked = int((source.has[modality] & anchored).sum())
        if linked < 2:
            raise InputError(
                f"{modality}: the reference never saw it, and {linked} cells of the query have it together with "
                f"{' or '.join(known)}: nothing says where its values lie in the latent space; leave it out with "
                "data.modalities, or add cells that have both"
            )


def _add_modalities(trained: Trained, source: Source, new: Sequence[str]) -> None:
    """Fresh encoders and decoders in the model, in place, started from the data."""
    config, model = trained.config, trained.model
    sections = with_sizes(
        {
            "encoders": {m: components.encoder_section(m, {}) for m in new},
            "decoders": {m: components.decoder_section(m, {}) for m in new},
        },
        source,
    )
    n_batches = len(trained.groups["batch"])
    n_tech, n_bio = config.model.latent_tech, config.model.latent_bio
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(config.optim.seed, "new modality"))
        for modality in new:
            section = sections["decoders"][modality]
            support = DECODERS[section["likelihood"]].support
            validate_values(
                source, modality, support=support, reader=f"the likelihood {section['likelihood']}"
            )
            section["conditional_batches"] = 1 if n_tech else n_batches
            model.encoders[modality] = components.build_encoder(
                sections["encoders"][modality], n_bio + n_tech
            )
            model.decoders[modality] = components.build_decoder(
                section, n_bio, trained.covariates.width + n_tech
            )
    codes, _ = trained.batches_of(source)
    start_from_data(model, source, np.arange(source.n_cells), codes, config.optim.seed, new)
