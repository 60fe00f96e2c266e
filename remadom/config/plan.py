"""The settings that depend on the data: one table, a reason a row.

A setting is taken from here only where neither the configuration file nor the command line gives it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from remadom.config.load import Raw, overlay, validate
from remadom.config.schema import RunConfig
from remadom.data.diagnosis import Diagnosis
from remadom.data.modality import modality_named
from remadom.data.settings import ATACPreprocess, RNAPreprocess
from remadom.data.source import Source

STEPS = 1500
"""Optimizer steps: more bought nothing that is beyond the spread of the seeds."""

SMALLEST, LARGEST = 128, 512
"""Cells in a batch: with fewer, types of small data sets split with some seeds; with more, a step takes longer."""

FEWEST_LINKS = 5
"""Features of the same name from which two modalities are linked by them."""

LARGE_PANEL = 100
"""Proteins from which most of a panel has no two modes to tell apart, and many Poisson modes outweigh the genes."""

COMPONENTS, CELLS_A_COMPONENT = 50, 20
"""Most principal components that the encoder of genes starts from where few cells have genes, and cells for each."""

FEW_CELLS, FEW_COUNTS = 5000, 1600
"""Cells with genes, and counts of a gene in all of them, below which an encoder that starts at random learns noise."""

PROTEINS = "adt"
"""The modality whose few features tell cell types apart by themselves."""

SWITCHES = {"enabled", "name", "schedule"}
"""Keys that say what a section is or whether it is on; one that has none of them tunes what is chosen."""

OF_ANY_DECODER = {"hidden", "out_dim", "conditional_batches"}
"""Keys of a decoder that leave its likelihood open."""


@dataclass(frozen=True)
class Facts:
    """What the choices depend on."""

    n_cells: int
    features: dict[str, int]
    has: dict[str, int]
    shared: int
    """Cells that have more than one modality."""

    batches: int = 1
    """Batches that the obs column of the configuration tells apart."""

    linked: bool = True
    """Whether cells link all modalities, directly or through others."""

    depth: Mapping[str, float] = field(default_factory=dict)
    """Median total of a cell by modality, where it is known."""

    common_names: int = 0
    """Feature names that modalities which no cell links have in common."""

    @classmethod
    def of(cls, source: Source, diagnosis: Diagnosis) -> Facts:
        """Facts of a source and of what it was found to be."""
        count = np.sum([source.has[m] for m in source.modalities], axis=0)
        return cls(
            n_cells=int((count > 0).sum()),
            features={m: len(source.features[m]) for m in source.modalities},
            has={m: int(source.has[m].sum()) for m in source.modalities},
            shared=int((count > 1).sum()),
            depth={m: values.depth[1] for m, values in diagnosis.modalities.items()},
            batches=len({cohort.batch for cohort in diagnosis.cohorts}),
            linked=diagnosis.links.connected,
            common_names=_common_names(source, diagnosis.links.parts),
        )


@dataclass(frozen=True)
class Choice:
    """One setting: its dotted key, its value and why."""

    key: str
    value: Any
    reason: str


Rule = Callable[[Facts, RunConfig], Iterator[Choice]]


def _batch_size(facts: Facts, config: RunConfig) -> Iterator[Choice]:
    size = int(np.clip(2 ** round(math.log2(max(1, facts.n_cells / 40))), SMALLEST, LARGEST))
    reason = f"about 40 steps an epoch for {facts.n_cells:,} cells, {SMALLEST} to {LARGEST}"
    yield Choice("optim.batch_size", size, reason)


def _epochs(facts: Facts, config: RunConfig) -> Iterator[Choice]:
    steps = max(1, math.ceil(facts.n_cells / config.optim.batch_size))
    epochs = int(np.clip(round(STEPS / steps), 10, 200))
    yield Choice(
        "optim.epochs", epochs, f"about {STEPS:,} steps of {config.optim.batch_size} cells, 10 to 200 epochs"
    )


def _rate(facts: Facts, config: RunConfig) -> Iterator[Choice]:
    scheduler = {"name": "cosine", "min_lr": config.optim.lr / 100}
    yield Choice("optim.scheduler", scheduler, "the learning rate falls to a hundredth by the last epoch")


def _warm_up(facts: Facts, config: RunConfig) -> Iterator[Choice]:
    epochs = max(1, config.optim.epochs // 5)
    beta = {"schedule": "linear", "start": 0.0, "end": 1.0, "epochs": float(epochs)}
    yield Choice("model.beta", beta, "the KL term is warmed up over a fifth of the training")


def _stopping(facts: Facts, config: RunConfig) -> Iterator[Choice]:
    if config.data.val_fraction or config.data.split_key:
        patience = max(5, config.optim.epochs // 5)
        stopping = {"enabled": True, "patience": patience}
        yield Choice("optim.early_stopping", stopping, "stops when the validation cells no longer gain")


def _features(facts: Facts, config: RunConfig) -> Iterator[Choice]:
    for modality, n in facts.features.items():
        section, title = config.data.preprocess.of(modality), modality_named(modality).title
        if _is_sized(config, modality):
            continue
        if isinstance(section, RNAPreprocess) and n > 5000:
            reason = f"the {title} has {n:,} genes; the most variable carry the types"
            yield Choice(f"data.preprocess.{modality}.hvg", 4000, reason)
        elif not isinstance(section, RNAPreprocess) and n > 50_000:
            what = (
                "peaks; the most open"
                if isinstance(section, ATACPreprocess)
                else "features; the most frequent"
            )
            reason = f"the {title} has {n:,} {what} carry the signal"
            yield Choice(f"data.preprocess.{modality}.n_top", 50_000, reason)


def _rank(facts: Facts, config: RunConfig) -> Iterator[Choice]:
    for modality, _, likelihood in _decoded(facts, config):
        n = facts.features[modality]
        if n > 5000 and likelihood in ("bernoulli", "poisson"):
            reason = f"{n:,} features: a full-rank output layer is most of the time"
            yield Choice(f"model.decoders.{modality}.lowrank", 32, reason)


def _inflation(facts: Facts, config: RunConfig) -> Iterator[Choice]:
    for modality, _, likelihood in _decoded(facts, config):
        if likelihood == "zinb":
            reason = "excess zeros, where there are any, are those of a gene: half of the output layer"
            yield Choice(f"model.decoders.{modality}.inflation", "gene", reason)


def _fragments(facts: Facts, config: RunConfig) -> Iterator[Choice]:
    for modality, _, likelihood in _decoded(facts, config):
        if likelihood != "bernoulli" and isinstance(config.data.preprocess.of(modality), ATACPreprocess):
            reason = f"the likelihood {likelihood} reads how many fragments there are"
            yield Choice(f"data.preprocess.{modality}.binarize", False, reason)


def _components(facts: Facts, config: RunConfig) -> Iterator[Choice]:
    for modality, n in facts.has.items():
        k = min(COMPONENTS, n // CELLS_A_COMPONENT)
        read = modality_named(modality).encoder_input == "lognorm"
        if not read or config.model.encoders.get(modality, {}) is None or not k:
            continue
        counts = _counts_of_a_gene(facts, config, modality)
        few = [f"{n:,} cells"] if n < FEW_CELLS else []
        few += [f"{counts:,.0f} counts of a gene"] if counts < FEW_COUNTS else []
        if few:
            reason = f"{', '.join(few)}: components tell cells apart, single genes would be learned by heart"
            yield Choice(f"model.encoders.{modality}.components", k, reason)


def _counts_of_a_gene(facts: Facts, config: RunConfig, modality: str) -> float:
    """Counts that a gene has in all cells, on average over those that are read; infinite where it is not known."""
    section, genes = config.data.preprocess.of(modality), facts.features[modality]
    if isinstance(section, RNAPreprocess) and section.hvg is not None:
        genes = min(genes, section.hvg)
    return facts.has[modality] * facts.depth.get(modality, math.inf) / max(1, genes)


def _panel(facts: Facts, config: RunConfig) -> Iterator[Choice]:
    for modality, section, likelihood in _decoded(facts, config):
        n = facts.features[modality]
        if n <= LARGE_PANEL or not {*section} <= OF_ANY_DECODER or likelihood != "poisson_mixture":
            continue
        reason = f"{n:,} proteins: of a large panel, few are either background or signal"
        yield Choice(f"model.decoders.{modality}.likelihood", "nb", reason)
        yield Choice(
            f"model.decoders.{modality}.library", False, "how much protein a cell has is predicted as well"
        )


def _coordinates(facts: Facts, config: RunConfig) -> Iterator[Choice]:
    if _peaks_alone(facts, config):
        reason = "peaks and no proteins: batches mix better in the latent than in what cells decode to"
        yield Choice("model.coordinates", "latent", reason)


def _peaks_alone(facts: Facts, config: RunConfig) -> bool:
    """Whether peaks are decoded, and no proteins."""
    decoded = [modality for modality, *_ in _decoded(facts, config)]
    peaks = any(isinstance(config.data.preprocess.of(modality), ATACPreprocess) for modality in decoded)
    return peaks and PROTEINS not in decoded


def _decoded(facts: Facts, config: RunConfig) -> Iterator[tuple[str, Mapping[str, Any], str]]:
    """Each modality that is decoded, with the section of its decoder and its likelihood."""
    for modality in facts.features:
        section = config.model.decoders.get(modality, {})
        if section is not None:
            yield modality, section, str(section.get("likelihood") or modality_named(modality).likelihood)


def _is_sized(config: RunConfig, modality: str) -> bool:
    """Whether the user has said how many features there are."""
    sections = [config.model.encoders.get(modality), config.model.decoders.get(modality)]
    return any(section is not None and {"in_dim", "out_dim"} & set(section) for section in sections)


def _dropout(facts: Facts, config: RunConfig) -> Iterator[Choice]:
    if len(facts.features) > 1 and facts.shared:
        yield Choice(
            "model.modality_dropout",
            0.5,
            f"{facts.shared:,} cells have several modalities: each must also embed and impute alone",
        )


def _alignment(facts: Facts, config: RunConfig) -> Iterator[Choice]:
    if facts.batches > 1:
        heads: dict[str, Any] = {"mmd": {"enabled": True, "params": {"weight": 0.5, "group_key": "batch"}}}
        reason = f"{facts.batches:,} batches: their cells are to mix ({{}} leaves them as they are)"
        # genes are not to agree with the noise of few peaks
        if facts.shared and not _peaks_alone(facts, config):
            heads["posterior"] = {"enabled": True, "params": {"weight": 0.1}}
            reason += "; modalities of a cell are to agree"
        yield Choice("alignment", heads, reason)


def _bridge(facts: Facts, config: RunConfig) -> Iterator[Choice]:
    if not facts.linked and len(facts.features) == 2 and facts.common_names >= FEWEST_LINKS:
        yield Choice(
            "bridge.provider",
            "linked_features",
            f"no cell links {' and '.join(facts.features)}, but {facts.common_names:,} of their features have one name",
        )


RULES: tuple[Rule, ...] = (
    _batch_size,
    _epochs,
    _rate,
    _warm_up,
    _stopping,
    _features,
    _rank,
    _inflation,
    _fragments,
    _components,
    _panel,
    _coordinates,
    _dropout,
    _alignment,
    _bridge,
)


def choose(facts: Facts, given: Raw) -> list[Choice]:
    """Choices for the keys that ``given`` (the raw configuration) leaves open; each rule sees those before it."""
    choices: list[Choice] = []
    for rule in RULES:
        config = validate(apply(choices, given))
        choices += [left for choice in rule(facts, config) for left in _left_open(choice, given)]
    return choices


def apply(choices: list[Choice], given: Raw) -> Raw:
    """The raw configuration on top of the choices."""
    raw: Raw = {}
    for choice in choices:
        nested: Any = choice.value
        for key in reversed(choice.key.split(".")):
            nested = {key: nested}
        raw = overlay(raw, nested)
    return overlay(raw, given)


def _common_names(source: Source, parts: Sequence[Sequence[str]]) -> int:
    """Names that features of different parts share, in any case; 0 where all is one part."""
    if len(parts) < 2:
        return 0
    names = [{str(f).casefold() for m in part for f in source.features[m]} for part in parts]
    return min(len(one & other) for one, other in combinations(names, 2))


def _left_open(choice: Choice, given: Any) -> Iterator[Choice]:
    """What the user left open of a choice: all, nothing, or the keys that a section which tunes it does not name."""
    said = given
    for key in choice.key.split("."):
        if not isinstance(said, Mapping):
            return  # a section that is null, or a number where a mapping may stand
        if key not in said:
            yield choice
            return
        said = said[key]
    if isinstance(said, Mapping) and isinstance(choice.value, Mapping) and _tunes(said):
        for key, value in choice.value.items():
            yield from _left_open(Choice(f"{choice.key}.{key}", value, choice.reason), given)


def _tunes(section: Mapping[str, Any]) -> bool:
    """Whether a section changes something of what is chosen, and leaves open what that is."""
    inside = [value for value in section.values() if isinstance(value, Mapping)]
    return bool(section) and not SWITCHES & {*section} and not any("enabled" in value for value in inside)
