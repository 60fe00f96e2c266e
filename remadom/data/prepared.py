"""Preprocessing that was fitted: the same for any cells, and kept with a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch

from remadom.data.lsi import FittedLSI
from remadom.data.sampler import blocks
from remadom.data.source import Source
from remadom.errors import InputError


@dataclass(frozen=True)
class Steps:
    """What is done to one modality.

    Attributes
    ----------
    features
        Names of the features, in order.
    notes
        What was decided, in words.
    binary
        Read as zeros and ones.
    lsi
        Components that the encoder reads, computed.
    stored
        Components that the encoder reads, from the data: key in ``obsm`` and their number.
    total
        Median total of the training cells over the features.
    rates
        Share of each feature in all counts of the training cells.
    """

    features: list[str]
    notes: tuple[str, ...]
    rates: np.ndarray
    binary: bool = False
    lsi: FittedLSI | None = None
    stored: tuple[str, int] | None = None
    total: float = 1.0

    def apply(self, source: Source, modality: str) -> Source:
        """The source with these steps done."""
        if source.features[modality].tolist() != self.features:
            source = source.select(modality, _columns(source, modality, self.features))
        if self.binary:
            source = source.binarize(modality)
        if self.lsi is not None:
            source = source.with_rep(modality, _components(source, modality, self.lsi))
        if self.stored is not None:
            source = source.with_rep(modality, _stored(source, modality, *self.stored))
        return source


@dataclass(frozen=True)
class Prepared:
    """What the training cells decided, by modality: features, components, size factors."""

    steps: Mapping[str, Steps]

    @property
    def features(self) -> dict[str, list[str]]:
        """Names of the features by modality, in order."""
        return {modality: steps.features for modality, steps in self.steps.items()}

    @property
    def lsi(self) -> FittedLSI | None:
        """Components computed here, if any."""
        return next((steps.lsi for steps in self.steps.values() if steps.lsi is not None), None)

    @property
    def library(self) -> dict[str, float]:
        """Size factor of a cell without the modality: the median total of the training cells."""
        return {modality: steps.total for modality, steps in self.steps.items()}

    @property
    def notes(self) -> tuple[str, ...]:
        """What was decided, in sentences."""
        return tuple(f"{modality}: {note}" for modality, steps in self.steps.items() for note in steps.notes)

    def apply(self, source: Source) -> Source:
        """The source with the same features in the same order, binarized, and with components for encoders.

        Raises
        ------
        InputError
            The source has a modality that the training data had not, or lacks features or stored components.
        """
        known = [modality for modality in source.modalities if modality in self.steps]
        if len(known) < len(source.modalities):
            others = [modality for modality in source.modalities if modality not in known]
            raise InputError(
                f"the data has {', '.join(others)}, which was not trained on (known: {', '.join(self.steps)}); "
                f"set data.modalities to [{', '.join(known)}]"
            )
        for modality in known:
            source = self.steps[modality].apply(source, modality)
        return source

    def state(self) -> dict[str, Any]:
        """Tensors, strings, numbers, lists and dictionaries only: safe for ``torch.load(weights_only=True)``."""
        return {
            modality: {
                "features": steps.features,
                "notes": list(steps.notes),
                "binary": steps.binary,
                "lsi": None if steps.lsi is None else steps.lsi.state(),
                "stored": None if steps.stored is None else list(steps.stored),
                "total": steps.total,
                "rates": torch.from_numpy(steps.rates),
            }
            for modality, steps in self.steps.items()
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Prepared:
        """The same preprocessing again."""
        return cls(
            {
                modality: Steps(
                    features=steps["features"],
                    notes=tuple(steps["notes"]),
                    binary=steps["binary"],
                    lsi=None if steps["lsi"] is None else FittedLSI.from_state(steps["lsi"]),
                    stored=None if steps["stored"] is None else (steps["stored"][0], steps["stored"][1]),
                    total=steps["total"],
                    rates=steps["rates"].numpy() if "rates" in steps else _even(steps["features"]),
                )
                for modality, steps in state.items()
            }
        )


def _even(features: list[str]) -> np.ndarray:
    """Equal shares, for models that were saved before shares were kept."""
    return np.full(len(features), 1 / max(1, len(features)), dtype=np.float32)


def _columns(source: Source, modality: str, features: list[str]) -> np.ndarray:
    """Columns of the features."""
    columns = source.features[modality].get_indexer(pd.Index(features))
    lacking = [name for name, column in zip(features, columns, strict=True) if column < 0]
    if lacking:
        raise InputError(
            f"{modality}: the data lacks {len(lacking):,} of the {len(features):,} features trained on "
            f"({', '.join(lacking[:5])}{', ...' if len(lacking) > 5 else ''}); expected the same features, "
            f"in any order; the data has for example {', '.join(map(str, source.features[modality][:3]))}"
        )
    return np.asarray(columns, dtype=np.int64)


def _components(source: Source, modality: str, lsi: FittedLSI) -> np.ndarray:
    """Components of every cell; zero where it is absent."""
    present = np.flatnonzero(source.has[modality])
    rep = np.zeros((source.n_cells, lsi.n_components), dtype=np.float32)
    for at, rows in blocks(partial(source.rows, modality), present):
        rep[present[at]] = lsi.transform(rows)
    return rep


def _stored(source: Source, modality: str, key: str, width: int) -> np.ndarray:
    rep = source.stored_rep(key, modality)
    found = "none" if rep is None else f"{rep.shape[1]} components"
    if rep is None or rep.shape[1] != width:
        raise InputError(
            f"{modality}: trained on the {width} components in obsm['{key}'], the data has {found} there; "
            f"compute them for it in the same way, or train without obsm['{key}'] so that remadom computes them"
        )
    return rep
