"""A trained model with all that it takes to use it on cells: what a checkpoint holds."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from remadom.config.build import open_source
from remadom.config.known import check_known
from remadom.config.load import validate
from remadom.config.model import build_model, library_of
from remadom.config.schema import RunConfig
from remadom.core.coordinates import DecodedCoordinates
from remadom.core.correction import BatchCorrection
from remadom.core.vae import MosaicVAE
from remadom.data.covariates import Covariates
from remadom.data.loader import Codes, Loader
from remadom.data.prepared import Prepared
from remadom.data.source import Source
from remadom.errors import InputError
from remadom.train.optim import device_at_hand
from remadom.utils.checkpoint import load_checkpoint
from remadom.utils.outputs import CALIBRATION, COORDINATES, CORRECTION, METRICS, RunDir
from remadom.utils.portable import MANIFEST, is_portable, read_portable

logger = logging.getLogger(__name__)

OWN = "model."
"""Start of the names of the model's weights among those of an objective."""

PARTS = ("remadom", "config", "prepared", "covariates", "groups", "calibration", "cells", "metrics")
"""What the manifest of a saved model holds beside the weights."""

UNKNOWN = -1
"""Code of a batch that the model was not trained on."""


@dataclass(frozen=True, eq=False)
class Trained:
    """A model as it was trained.

    Attributes
    ----------
    path
        The checkpoint.
    raw
        The resolved configuration as it was saved.
    config
        The same, validated; its data section has no layout where other data is opened.
    model, prepared, covariates
        The model, the preprocessing before it and what its decoders are given beside the batch.
    groups
        Names of the codes of each grouping (``batch``, ``dataset``).
    calibration
        How much wider than the model's the intervals of each feature are, by modality (see
        :mod:`remadom.eval.intervals`), where that was measured.
    metrics
        What was measured after training; empty where the run did not end.
    shares
        Share of the counts in the features that the cells have, for modalities of which they lack some.
    """

    path: Path
    raw: dict[str, Any]
    config: RunConfig
    model: MosaicVAE
    prepared: Prepared
    covariates: Covariates
    groups: dict[str, tuple[str, ...]]
    calibration: Mapping[str, np.ndarray]
    metrics: Mapping[str, Any]
    shares: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def load(cls, checkpoint: str | Path) -> Trained:
        """Read a checkpoint (of a run folder the best one, else the last) or a folder of a saved model.

        Raises
        ------
        InputError
            There is no checkpoint, or it cannot be read.
        """
        path = Path(checkpoint)
        if is_portable(path):
            metadata, files = read_portable(path)
            check_parts(metadata, path / MANIFEST)
            widths = {m: values.numpy() for m, values in metadata["calibration"].items()}
            found = cls.of(path / MANIFEST, metadata, files.get("model", {}), widths, metadata["metrics"])
            return found.finished(metadata.get("correction", {}), metadata.get("coordinates", {}))
        if path.is_dir():
            path = RunDir(path).checkpoint
        parts = load_checkpoint(path)
        run = RunDir(path.parent)
        found = cls.of(path, parts["metadata"], parts["model"], run.arrays(CALIBRATION), run.json(METRICS))
        decoded = found.raw["model"].get("coordinates") == "decoded" and len(found.model.decoders) > 0
        if decoded and not (run / COORDINATES).exists():
            logger.warning(
                "%s has no %s beside it: z_bio is the posterior mean, as while training (a run is moved as a whole; "
                "`remadom save` makes a folder of a model)",
                path,
                COORDINATES,
            )
        return found.finished(tensors(run.arrays(CORRECTION)), tensors(run.arrays(COORDINATES)))

    @classmethod
    def of(
        cls,
        path: Path,
        metadata: Mapping[str, Any],
        weights: Mapping[str, Tensor],
        calibration: Mapping[str, np.ndarray],
        metrics: Mapping[str, Any],
    ) -> Trained:
        """The model of these weights (those of an objective; heads' are not needed).

        Raises
        ------
        InputError
            The weights are not those of the configured model, the first of them named.
        """
        check_known(metadata["config"], str(path))
        config = validate(metadata["config"], str(path))
        covariates = Covariates.from_state(metadata.get("covariates", {}))  # an older checkpoint has none
        model = build_model(config, len(metadata["groups"]["batch"]), covariates.width)
        load_weights(model, {k.removeprefix(OWN): v for k, v in weights.items() if k.startswith(OWN)}, path)
        model.eval()
        groups = {name: tuple(names) for name, names in metadata["groups"].items()}
        prepared = Prepared.from_state(metadata["prepared"])
        return cls(
            path, metadata["config"], config, model, prepared, covariates, groups, calibration, metrics
        )

    def finished(self, correction: Mapping[str, Tensor], coordinates: Mapping[str, Tensor]) -> Trained:
        """The same with what its embedding goes through last, given the arrays; nothing where there are none.

        Older models have no such arrays. The model moves to the device that ``optim.device`` means on this machine.
        """
        self.model.correction = BatchCorrection(**correction) if correction else None
        self.model.coordinates = DecodedCoordinates.from_arrays(coordinates) if coordinates else None
        self.model.to(device_at_hand(self.config.optim.device))
        return self

    def source(self, data: Any = None) -> Source:
        """Cells, prepared as those that were trained on; by default these.

        Raises
        ------
        InputError
            The data cannot be read, or lacks features that the model was trained on.
        """
        config = self.config
        if data is not None:  # its layout need not be that of the training data
            raw = {**self.raw, "data": {**self.raw["data"], "keys": {}, "modalities": None}}
            config = validate(raw, str(self.path))
        return self.prepared.apply(open_source(config, data, among=list(self.prepared.steps)))

    def loader(self, source: Source, cells: np.ndarray | None = None, *, shuffle: bool = False) -> Loader:
        """Batches of some cells (all by default), their batches coded as in training (``UNKNOWN``: a new one)."""
        return Loader(
            source,
            np.arange(source.n_cells) if cells is None else cells,
            batch_size=self.config.optim.batch_size,
            shuffle=shuffle,
            seed=self.config.optim.seed,
            groups={"batch": self.batches_of(source)},
            library=library_of(self.model, self.prepared),
            covariates=self.covariates.encode(source),
            shares=self.shares,
        )

    def batches_of(self, source: Source) -> Codes:
        """Code of the batch of each cell by the names that the model was trained on, and these names."""
        names = self.groups["batch"]
        codes, found = source.codes(self.config.data.batch_key, required=False)
        known = {name: code for code, name in enumerate(names)}
        return np.array([known.get(name, UNKNOWN) for name in found], dtype=np.int64)[codes], names


def tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """The same numbers as torch holds them."""
    return {name: torch.from_numpy(value) for name, value in arrays.items()}


def check_parts(content: Mapping[str, Any], where: Path) -> None:
    """See that the manifest of a saved model has all of its parts.

    Raises
    ------
    InputError
        It lacks some; they are named.
    """
    lacking = [name for name in PARTS if name not in content]
    if lacking:
        raise InputError(f"{where} lacks {', '.join(lacking)}; it is damaged: take another copy")


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], where: Path) -> None:
    """Put weights into a model when every name, shape and dtype is the model's own.

    The means of encoder inputs, which older models did not keep, stay at 0 where they are missing.

    Raises
    ------
    InputError
        They are not; the first three are named and the model is left as it was.
    """
    kept = model.state_dict()
    weights = {**{k: v for k, v in kept.items() if k.endswith(".transform.center")}, **weights}
    expected = {name: (tuple(value.shape), value.dtype) for name, value in kept.items()}
    found = {name: (tuple(value.shape), value.dtype) for name, value in weights.items()}
    wrong = [
        f"{name}: found {_words(found.get(name))}, expected {_words(expected.get(name))}"
        for name in sorted({*expected, *found})
        if expected.get(name) != found.get(name)
    ]
    if wrong:
        more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise InputError(
            f"{where}: the weights are not those of the configured model: {'; '.join(wrong[:3])}{more}"
        )
    model.load_state_dict(dict(weights))


def _words(entry: tuple[tuple[int, ...], Any] | None) -> str:
    return "none" if entry is None else f"{list(entry[0])} {str(entry[1]).removeprefix('torch.')}"
