"""The one place that knows how a run is assembled: from a raw configuration to what is trained."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from remadom.config import components, plan, terms
from remadom.config.load import Raw, overlay, validate
from remadom.config.model import (
    build_model,
    library_of,
    model_sections,
    start_from_data,
    usual_input,
    with_sizes,
)
from remadom.config.schema import RunConfig
from remadom.core.decoders import DECODERS
from remadom.core.inputs import INPUTS
from remadom.core.vae import MosaicVAE
from remadom.data.covariates import Covariates, fit_covariates
from remadom.data.diagnosis import Diagnosis, diagnose
from remadom.data.fit import fit_preprocess
from remadom.data.holdout import Hidden, held_out
from remadom.data.loader import Codes, Loader, groups_of, times_of
from remadom.data.partners import GroupPartners
from remadom.data.prepared import Prepared
from remadom.data.source import Source
from remadom.data.split import Split, split_cells
from remadom.data.validate import validate_values
from remadom.errors import InputError
from remadom.train.objective import Objective
from remadom.types import Support
from remadom.utils.seed import derive

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Assembly:
    """Everything that a run is made of."""

    config: RunConfig
    diagnosis: Diagnosis
    """What the data is, as trained on."""
    choices: list[plan.Choice]
    notes: list[str]
    hidden: dict[str, Hidden]
    """Cells whose values in a modality are known and were kept out of training."""
    measured: Source
    """The data with all that is known, features selected, held-out values included."""
    source: Source
    """The data as trained on: held-out values hidden."""
    split: Split
    prepared: Prepared
    covariates: Covariates
    groups: dict[str, Codes]
    time: np.ndarray | None
    model: MosaicVAE
    objective: Objective
    ties: terms.Ties
    batches: Callable[..., Loader]
    """Batches of some cells of a source, in the run's batch size and seed."""

    def loader(self, cells: np.ndarray, source: Source | None = None) -> Loader:
        """Batches of some cells, in their order; of the source that is trained on, or of a variant of it."""
        return self.batches(self.source if source is None else source, cells)

    def training_loader(self) -> Loader:
        """Shuffled batches of the training cells, with the partners that the terms need."""
        keys = self.ties.group_keys
        loader = self.batches(
            self.source, self.split.train, shuffle=True, strata=terms.strata_of(keys, self.groups)
        )
        at_least = self.config.structure.group_cells
        for key in keys if at_least else ():
            partners = GroupPartners(self.groups[key][0], self.split.train, at_least)
            loader.sampler.partners[f"group.{key}"] = partners
        if self.objective.structure is not None:
            self.objective.structure.attach(loader.sampler.partners.__setitem__)
        return loader

    def described(self) -> dict[str, Any]:
        """What the data is and which settings follow from it, as plain values: ``diagnosis.json``."""
        settings = [
            {"setting": choice.key, "value": json.dumps(choice.value), "why": choice.reason}
            for choice in self.choices
        ]
        return {**self.diagnosis.as_dict(), "settings": settings}

    def metadata(self) -> dict[str, Any]:
        """What a checkpoint needs so that the model can be rebuilt and used on other cells."""
        return {
            "config": self.config.model_dump(mode="json"),
            "prepared": self.prepared.state(),
            "covariates": self.covariates.state(),
            "groups": {name: list(names) for name, (_, names) in self.groups.items()},
        }


def assemble(raw: Raw, *, where: str = "", data: Any = None) -> Assembly:
    """Read, check and prepare the data, choose what was left open, and build the model.

    Parameters
    ----------
    raw
        Configuration as given: only what the user set.
    where
        File that it came from, for messages.
    data
        AnnData, MuData or mapping to use in place of ``data.path``.

    Raises
    ------
    InputError
        Anything about the configuration or the data that cannot work, before any work is lost.
    """
    config = validate(raw, where)
    components.check_components(config, where)
    measured = open_source(config, data)
    measured, visible, hidden = hide_known(measured, config)
    diagnosis = diagnose(
        visible,
        batch_key=config.data.batch_key,
        dataset_key=config.data.dataset_key,
        label_key=config.evaluation.label_key,
    )
    choices = plan.choose(plan.Facts.of(visible, diagnosis), raw)
    config = validate(plan.apply(choices, raw), where)
    sections = model_sections(config, visible)
    for modality in visible.modalities:
        for reader, support in _readers(sections, modality):
            validate_values(visible, modality, support=support, reader=reader)
    split = trainable(split_cells(visible, **_split_settings(config)), visible)
    covariates = fit_covariates(visible, config.data, split.train)
    prepared = fit_preprocess(visible, config.data, split.train)
    source = prepared.apply(visible)
    sections = with_sizes(sections, source)
    ties = terms.Ties.of(config)
    groups, time = groups_of(source, config.data, ties.group_keys), times_of(source, config.data)
    n_batches = len(groups["batch"][1])
    if config.model.latent_tech and n_batches == 1:
        raise InputError(
            f"model.latent_tech is {config.model.latent_tech}, but there is one batch "
            f"(data.batch_key: {config.data.batch_key}), so nothing for it to explain; set it to 0"
        )
    for section in sections["decoders"].values():
        default = 1 if config.model.latent_tech else n_batches  # z_tech tells of the batch
        section["conditional_batches"] = section["conditional_batches"] or default
        if section["conditional_batches"] not in (1, n_batches):
            raise InputError(
                f"conditional_batches is {section['conditional_batches']}, but obs[{config.data.batch_key!r}] "
                f"has {n_batches} batch{'es' * (n_batches > 1)}; leave it out, or set it to 1 for none"
            )
    config = validate(overlay(config.model_dump(mode="json"), {"model": sections}), where)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(config.optim.seed, "init"))
        model = build_model(config, n_batches, covariates.width)
        terms.connect(ties, config, groups, time)
    start_from_data(model, source, split.train, groups["batch"][0], config.optim.seed)
    batches = partial(
        Loader,
        batch_size=config.optim.batch_size,
        seed=config.optim.seed,
        groups=groups,
        time=time,
        library=library_of(model, prepared),
        covariates=covariates.encode(source),
    )
    training = batches(source, np.sort(split.train))
    structure = terms.build_structure(ties, config, source, split.train, groups, model, training)
    if structure is not None:  # what rests on fixed features: no edges is told before a run begins
        structure.refresh(0)
    if config.model.latent_tech and "batch" not in ties.group_keys:
        logger.warning(
            "model.latent_tech is %d, but no head of alignment compares the batches, so z_bio can still tell of them; "
            "enable one, for example alignment.mmd",
            config.model.latent_tech,
        )
    notes = [*_source_notes(measured, hidden), *prepared.notes]
    return Assembly(
        config=config,
        diagnosis=diagnosis,
        choices=choices,
        notes=notes,
        hidden=hidden,
        measured=prepared.apply(measured),
        source=source,
        split=split,
        prepared=prepared,
        covariates=covariates,
        groups=groups,
        time=time,
        model=model,
        objective=Objective(
            model,
            components.beta_schedule(config.model),
            terms.build_terms(ties, config),
            structure,
            config.optim.terms_every,
        ),
        ties=ties,
        batches=batches,
    )


def open_source(
    config: RunConfig, data: Any = None, among: Sequence[str] | None = None, *, repeated: bool = False
) -> Source:
    """The configured data set; with ``among``, only the modalities of the data that are in it."""
    if among is not None:
        found = open_source(config, data).modalities
        wanted = tuple(m for m in found if m in among)
        if not wanted:
            raise InputError(f"the data has {', '.join(found)}, the model was trained on {', '.join(among)}")
        settings = config.data.model_copy(update={"modalities": wanted})
        config = config.model_copy(update={"data": settings})
    if data is None and config.data.path is None:
        raise InputError("data.path is missing: name the .h5ad, .h5mu or .zarr file to read")
    return Source.open(
        config.data.path if data is None else data,
        keys=config.data.keys,
        modalities=config.data.modalities,
        backed=config.data.backed,
        lsi_key=config.data.preprocess.atac.lsi.obsm_key,
        repeated=repeated,
    )


def hide_known(measured: Source, config: RunConfig) -> tuple[Source, Source, dict[str, Hidden]]:
    """The data with every value that is known, the data to train on, and the cells that differ, by modality."""
    evaluation = config.evaluation
    hidden = held_out(
        measured,
        evaluation.holdout,
        key=evaluation.holdout_key,
        batch_key=config.data.batch_key,
        seed=config.optim.seed,
    )
    visible = measured
    for modality, those in hidden.items():
        visible = visible.hide(modality, those.cells)
    if evaluation.truth_key is None:
        return measured, visible, hidden
    known = measured.revealed(evaluation.truth_key)
    for modality in known.modalities:
        told = known.has[modality] & ~measured.has[modality]
        if told.any():
            words = f"with a known truth in obsm['{evaluation.truth_key}{modality}']"
            before = hidden.get(modality)
            hidden[modality] = (
                Hidden(told, words)
                if before is None
                else Hidden(told | before.cells, f"{before.words} or {words}")
            )
    return known, visible, hidden


def trainable(split: Split, source: Source) -> Split:
    """The split without the cells that have nothing left to train on."""
    anything = np.any([source.has[m] for m in source.modalities], axis=0)
    return Split(*(cells[anything[cells]] for cells in (split.train, split.val, split.test)))


def _split_settings(config: RunConfig) -> dict[str, Any]:
    data = config.data
    return {"val_fraction": data.val_fraction, "split_key": data.split_key, "seed": config.optim.seed}


def _readers(sections: Mapping[str, Any], modality: str) -> Iterator[tuple[str, Support | None]]:
    """What reads the values of a modality, and what it expects (``None``: any numbers, as components are)."""
    decoder, encoder = sections["decoders"].get(modality), sections["encoders"].get(modality)
    support: Support | None = None
    if decoder is not None:
        support = DECODERS[decoder["likelihood"]].support
        yield f"the likelihood {decoder['likelihood']}", support
    if encoder is not None and support in (None, "real"):
        name, _ = components.named_input(encoder["input"] or usual_input(sections, modality))
        if not INPUTS[name].signed:
            yield f"model.encoders.{modality}.input: {name}", "events"
        elif support is None:
            yield f"model.encoders.{modality}.input: {name}", None


def _source_notes(source: Source, hidden: Mapping[str, Hidden]) -> list[str]:
    notes = [
        f"{name}: in the file, not used (data.keys and data.modalities choose)" for name in source.ignored
    ]
    notes += [
        f"{modality}: {int(those.cells.sum()):,} cells {those.words} keep it out of training, for scoring"
        for modality, those in hidden.items()
    ]
    return notes
