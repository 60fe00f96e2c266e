"""The model of a configuration and of the data that it is for: its sections, itself, and what it starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from remadom.config import components
from remadom.config.schema import RunConfig
from remadom.core.decoders import DECODERS
from remadom.core.fusion import ProductOfExperts
from remadom.core.technical import TechnicalPrior
from remadom.core.vae import MosaicVAE
from remadom.data.modality import modality_named
from remadom.data.prepared import Prepared
from remadom.data.source import Source
from remadom.data.validate import validate_dims
from remadom.errors import InputError
from remadom.types import Rows
from remadom.utils.seed import derive

SAMPLE = 4096
"""Training cells from which input statistics and output biases are set."""


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
        default = usual_input(sections, modality) if rep is None else "identity"
        section["input"] = section["input"] or default
    for modality, section in decoders.items():
        section["out_dim"] = len(source.features[modality])
    return {"encoders": dict(encoders), "decoders": dict(decoders)}


def usual_input(sections: Mapping[str, Any], modality: str) -> str:
    """What an encoder makes of the values unless the configuration says otherwise."""
    decoder = sections["decoders"].get(modality)
    if decoder is not None and DECODERS[decoder["likelihood"]].support in ("real", "fractions"):
        return "standardized"
    return modality_named(modality).encoder_input


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


def library_of(model: MosaicVAE, prepared: Prepared) -> dict[str, float]:
    """Median totals of the modalities whose decoder scales with the cell's total."""
    scaled = [m for m in model.decoders if getattr(model.decoder(m), "library", False)]
    return {m: total for m, total in prepared.library.items() if m in scaled}


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
            read = sample if rep is None else Rows.from_dense(rep[cells])
            model.encoder(modality).start_from(read, batch[cells], derive(seed, f"components.{modality}"))
        if modality in model.decoders:
            decoder = model.decoder(modality)
            decoder.batch.see(labels)
            decoder.start_from(sample, torch.from_numpy(batch[cells]))
            if model.technical is not None:
                model.technical.see(modality, labels)
