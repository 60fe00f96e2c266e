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
from remadom.config.schema import RunConfig
from remadom.core.decoders import DECODERS
from remadom.core.fusion import ProductOfExperts
from remadom.core.inputs import INPUTS
from remadom.core.technical import TechnicalPrior
from remadom.core.vae import MosaicVAE
from remadom.data.covariates import Covariates, fit_covariates
from remadom.data.diagnosis import Diagnosis, diagnose
from remadom.data.fit import fit_preprocess
from remadom.data.holdout import Hidden, held_out
from remadom.data.loader import Codes, Loader, groups_of, times_of
from remadom.data.modality import modality_named
from remadom.data.partners import GroupPartners
from remadom.data.prepared import Prepared
from remadom.data.source import Source
from remadom.data.split import Split, split_cells
from remadom.data.validate import validate_dims, validate_values
from remadom.errors import InputError
from remadom.train.objective import Objective
from remadom.types import Rows, Support
from remadom.utils.seed import derive

logger = logging.getLogger(__name__)

SAMPLE = 4096
"""Training cells from which input statistics and output biases are set."""


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
            model, components.beta_schedule(config.model), terms.build_terms(ties, config), structure
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


def model_sections(config: RunConfig, source: Source) -> dict[str, dict[str, Any]]:
    """Encoder and decoder sections of every modality of the data; the ones set to null are left out."""
    for part in ("encoders", "decoders", "modality_weights"):
        for modality in getattr(config.model, part):
            if modality not in source.modalities:
                raise InputError(
                    f"model.{part}.{modality}: the data has no modality '{modality}' "
                    f"(it has {', '.join(source.modalities)}); remove it, or see data.keys"
                )
    encoders = {
        m: components.encoder_section(m, config.model.encoders.get(m) or {})
        for m in source.modalities
        if config.model.encoders.get(m, {}) is not None
    }
    decoders = {
        m: components.decoder_section(m, config.model.decoders.get(m) or {})
        for m in source.modalities
        if config.model.decoders.get(m, {}) is not None
    }
    if not decoders:
        raise InputError(
            "there is no decoder, so nothing to train on; leave one of model.decoders switched on"
        )
    return {"encoders": encoders, "decoders": decoders}


def with_sizes(sections: Mapping[str, Any], source: Source) -> dict[str, Any]:
    """Sections with the sizes and inputs that were left out; a size that contradicts the data is an error."""
    encoders, decoders = sections["encoders"], sections["decoders"]
    validate_dims(
        source,
        {m: section["in_dim"] for m, section in encoders.items()},
        {m: section["out_dim"] for m, section in decoders.items()},
    )
    for modality, section in encoders.items():
        rep = source.reps.get(modality)
        section["in_dim"] = len(source.features[modality]) if rep is None else rep.shape[1]
        default = _usual_input(sections, modality) if rep is None else "identity"
        section["input"] = section["input"] or default
    for modality, section in decoders.items():
        section["out_dim"] = len(source.features[modality])
    return {"encoders": dict(encoders), "decoders": dict(decoders)}


def library_of(model: MosaicVAE, prepared: Prepared) -> dict[str, float]:
    """Median totals of the modalities whose decoder scales with the cell's total."""
    scaled = [m for m in model.decoders if getattr(model.decoder(m), "library", False)]
    return {m: total for m, total in prepared.library.items() if m in scaled}


def build_model(config: RunConfig, n_batches: int, n_covariates: int = 0) -> MosaicVAE:
    """The model of a resolved configuration (every size filled in), for as many covariates as were fitted."""
    model = config.model
    technical = None
    if model.latent_tech:
        decoded = [m for m, section in model.decoders.items() if section is not None]
        technical = TechnicalPrior(n_batches, model.latent_tech, decoded)
    encoders = {
        m: components.build_encoder(section, model.latent_bio + model.latent_tech)
        for m, section in model.encoders.items()
        if section is not None
    }
    decoders = {
        m: components.build_decoder(section, model.latent_bio, n_covariates + model.latent_tech)
        for m, section in model.decoders.items()
        if section is not None
    }
    return MosaicVAE(
        encoders,
        ProductOfExperts(model.fusion_temps, list(encoders)),
        decoders,
        modality_dropout=model.modality_dropout,
        modality_weights=model.modality_weights,
        technical=technical,
    )


def start_from_data(
    model: MosaicVAE,
    source: Source,
    train: np.ndarray,
    batch: np.ndarray,
    seed: int,
    among: Sequence[str] | None = None,
) -> None:
    """Fit the inputs' statistics and set the output biases from a sample of the training cells.

    With ``among``, those of these modalities only.
    """
    rng = np.random.default_rng(derive(seed, "sample"))
    for modality in source.modalities if among is None else among:
        all_cells = train[source.has[modality][train]]
        if len(all_cells) == 0:
            continue
        cells = np.sort(rng.choice(all_cells, min(SAMPLE, len(all_cells)), replace=False))
        sample = Rows.of(source.rows(modality, cells))
        rep = source.reps.get(modality)
        labels = torch.from_numpy(batch[all_cells])
        if modality in model.encoders:
            encoder = model.encoder(modality)
            encoder.transform.fit(sample if rep is None else Rows.from_dense(rep[cells]))
        if modality in model.decoders:
            decoder = model.decoder(modality)
            decoder.batch.see(labels)
            decoder.start_from(sample, torch.from_numpy(batch[cells]))
            if model.technical is not None:
                model.technical.see(modality, labels)


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
        name, _ = components.named_input(encoder["input"] or _usual_input(sections, modality))
        if not INPUTS[name].signed:
            yield f"model.encoders.{modality}.input: {name}", "events"
        elif support is None:
            yield f"model.encoders.{modality}.input: {name}", None


def _usual_input(sections: Mapping[str, Any], modality: str) -> str:
    """What an encoder makes of the values unless the configuration says otherwise."""
    decoder = sections["decoders"].get(modality)
    if decoder is not None and DECODERS[decoder["likelihood"]].support in ("real", "fractions"):
        return "standardized"
    return modality_named(modality).encoder_input


def _source_notes(source: Source, hidden: Mapping[str, Hidden]) -> list[str]:
    notes = [
        f"{name}: in the file, not used (data.keys and data.modalities choose)" for name in source.ignored
    ]
    notes += [
        f"{modality}: {int(those.cells.sum()):,} cells {those.words} keep it out of training, for scoring"
        for modality, those in hidden.items()
    ]
    return notes
