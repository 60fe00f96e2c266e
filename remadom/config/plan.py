"""The settings that depend on the data: one table, a reason a row.

A setting is taken from here only where neither the configuration file nor the command line gives it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from remadom.config.load import Raw, overlay
from remadom.data.source import Source

STEPS = 4000
"""Optimizer steps after which the fits that we have looked at no longer changed much."""


@dataclass(frozen=True)
class Facts:
    """What the choices depend on."""

    n_cells: int
    features: dict[str, int]
    has: dict[str, int]
    shared: int
    """Cells that have more than one modality."""

    @classmethod
    def of(cls, source: Source) -> Facts:
        """Facts of a source."""
        count = np.sum([source.has[m] for m in source.modalities], axis=0)
        return cls(
            n_cells=int((count > 0).sum()),
            features={m: len(source.features[m]) for m in source.modalities},
            has={m: int(source.has[m].sum()) for m in source.modalities},
            shared=int((count > 1).sum()),
        )


@dataclass(frozen=True)
class Choice:
    """One setting: its dotted key, its value and why."""

    key: str
    value: Any
    reason: str


def batch_size(n_cells: int) -> int:
    """About forty steps an epoch, between 64 and 512 cells."""
    return int(2 ** np.clip(round(math.log2(max(1, n_cells / 40))), 6, 9))


def _batch_size(facts: Facts) -> Iterator[Choice]:
    size = batch_size(facts.n_cells)
    yield Choice("optim.batch_size", size, f"about 40 steps an epoch for {facts.n_cells:,} cells, 64 to 512")


def _epochs(facts: Facts) -> Iterator[Choice]:
    per_epoch = max(1, math.ceil(facts.n_cells / batch_size(facts.n_cells)))
    epochs = int(np.clip(round(STEPS / per_epoch), 10, 200))
    yield Choice("optim.epochs", epochs, f"about {STEPS:,} steps, 10 to 200 epochs")
    yield Choice("optim.scheduler.name", "cosine", "falls to the lowest rate at the last epoch")
    yield Choice("optim.scheduler.min_lr", 1e-5, "lowest rate of the cosine")
    warm = max(1, epochs // 5)
    beta = {"schedule": "linear", "start": 0.0, "end": 1.0, "epochs": float(warm)}
    yield Choice("model.beta", beta, "the KL term is warmed up over a fifth of the training")


def _genes(facts: Facts) -> Iterator[Choice]:
    n = facts.features.get("rna", 0)
    if n > 5000:
        yield Choice(
            "data.preprocess.rna.hvg", 4000, f"the RNA has {n:,} genes; the most variable carry the types"
        )


def _peaks(facts: Facts) -> Iterator[Choice]:
    n = facts.features.get("atac", 0)
    if n > 50_000:
        yield Choice("data.preprocess.atac.n_top", 50_000, f"{n:,} peaks; the most open carry the signal")
    if n > 5000:
        yield Choice(
            "model.decoders.atac.lowrank", 32, f"{n:,} peaks: a full-rank output layer is most of the time"
        )


def _dropout(facts: Facts) -> Iterator[Choice]:
    if len(facts.features) > 1 and facts.shared:
        yield Choice(
            "model.modality_dropout",
            0.5,
            f"{facts.shared:,} cells have several modalities: each must also embed and impute alone",
        )


RULES: tuple[Callable[[Facts], Iterator[Choice]], ...] = (_batch_size, _epochs, _genes, _peaks, _dropout)


def choose(facts: Facts, given: Raw) -> list[Choice]:
    """Choices for the keys that ``given`` (the raw configuration) leaves open."""
    return [choice for rule in RULES for choice in rule(facts) if not _is_given(given, choice.key)]


def apply(choices: list[Choice], given: Raw) -> Raw:
    """The raw configuration on top of the choices."""
    raw: Raw = {}
    for choice in choices:
        nested: Any = choice.value
        for key in reversed(choice.key.split(".")):
            nested = {key: nested}
        raw = overlay(raw, nested)
    return overlay(raw, given)


def _is_given(given: Any, dotted: str) -> bool:
    for key in dotted.split("."):
        if not isinstance(given, dict):
            return True  # a section that is null, or a number where a mapping may stand
        if key not in given:
            return False
        given = given[key]
    return True


def pattern_table(source: Source) -> list[tuple[str, str, int]]:
    """Rows of (batch-independent) presence patterns: modalities that the cells have, those they lack, cells."""
    rows = []
    names = source.modalities
    for size in range(len(names), -1, -1):
        for subset in combinations(names, size):
            inside = np.ones(source.n_cells, dtype=bool)
            for name in names:
                inside &= source.has[name] == (name in subset)
            if inside.any():
                lacks = [name for name in names if name not in subset]
                rows.append((" + ".join(subset) or "none", ", ".join(lacks) or "-", int(inside.sum())))
    return rows
