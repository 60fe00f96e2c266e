"""What a run leaves: one table of names, one writer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from remadom.errors import InputError
from remadom.utils.files import atomic, write_text

CONFIG = "config.resolved.yaml"
METRICS = "metrics.final.json"
EMBEDDINGS = "embeddings.npz"
OBS_ARRAYS = "obs_arrays.npz"
ALIGNMENT = "alignment_metrics.json"
BRIDGE = "bridge_metrics.json"
DIAGNOSIS = "diagnosis.json"
CALIBRATION = "calibration.npz"
DONORS = "donors.npz"
CORRECTION = "correction.npz"
COORDINATES = "coordinates.npz"
WARNINGS = "warnings.json"
VERSIONS = "versions.json"
REPORT = "report.html"
LAST, LAST_TOO = "checkpoint.last.pt", "last.pt"
BEST, BEST_TOO = "checkpoint.best.pt", "best.pt"
LOG = "train_log.csv"
HISTORY = "train_history.json"
MAPPING = "mapping.json"
JOINT = "joint_embeddings.npz"
LABELS = "labels.csv"
MATCHES = "features.csv"
OUTPUTS = (
    CONFIG,
    METRICS,
    EMBEDDINGS,
    OBS_ARRAYS,
    ALIGNMENT,
    BRIDGE,
    DIAGNOSIS,
    CALIBRATION,
    DONORS,
    CORRECTION,
    COORDINATES,
    WARNINGS,
    VERSIONS,
    REPORT,
    LAST,
    LAST_TOO,
    BEST,
    BEST_TOO,
    LOG,
    HISTORY,
)


class RunDir:
    """Folder of a run's outputs; every file is complete or not there.

    Parameters
    ----------
    path
        The folder; it need not exist.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def figures(self) -> Path:
        """Folder of the figures."""
        return self.path / "figures"

    @property
    def checkpoint(self) -> Path:
        """The best checkpoint where one was monitored, else the last."""
        return self / BEST if (self / BEST).exists() else self / LAST

    @property
    def finished(self) -> bool:
        """Whether a run has ended here."""
        return (self.path / METRICS).exists()

    @property
    def begun(self) -> bool:
        """Whether a run has written here."""
        return (self.path / CONFIG).exists()

    def check(self, *, overwrite: bool, resume: bool) -> None:
        """See that a run may begin here; nothing is written.

        Raises
        ------
        InputError
            It holds a finished run and neither ``overwrite`` nor ``resume`` was asked for, or it is a file.
        """
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path} is a file, expected a folder; choose another logging.run_dir")
        if self.finished and not (overwrite or resume):
            raise InputError(
                f"{self.path} holds a finished run; choose another logging.run_dir, or give --overwrite"
            )

    def begin(self, *, resume: bool) -> None:
        """Make the folder; what an earlier run left is removed unless it is continued."""
        self.path.mkdir(parents=True, exist_ok=True)
        if not resume:
            shutil.rmtree(self.figures, ignore_errors=True)
        self.figures.mkdir(exist_ok=True)
        for name in (METRICS, REPORT) if resume else OUTPUTS:
            (self / name).unlink(missing_ok=True)
        if not resume:
            shutil.rmtree(self / "tensorboard", ignore_errors=True)

    @classmethod
    def unused(cls, path: str | Path) -> RunDir:
        """``path``, or ``path-2``, ``path-3`` and so on: the first in which no run has begun."""
        path, number = Path(path), 2
        chosen = cls(path)
        while chosen.begun:
            chosen = cls(path.with_name(f"{path.name}-{number}"))
            number += 1
        return chosen

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """Arrays of one of the files; none where it is missing."""
        if not (self / name).exists():
            return {}
        with np.load(self / name, allow_pickle=False) as found:
            return dict(found)

    def json(self, name: str) -> dict[str, Any]:
        """Content of one of the files; empty where it is missing."""
        content: dict[str, Any] = json.loads((self / name).read_text()) if (self / name).exists() else {}
        return content

    def write_json(self, name: str, value: Mapping[str, Any] | Sequence[Any]) -> Path:
        """Write JSON with the keys in the order given."""
        write_text(self / name, json.dumps(value, indent=2) + "\n")
        return self / name


def write_arrays(path: str | Path, arrays: Mapping[str, np.ndarray]) -> Path:
    """Write arrays of numbers and text to an ``.npz`` that loads without pickle."""
    with atomic(path) as file:
        np.savez_compressed(file, allow_pickle=False, **{key: plain(value) for key, value in arrays.items()})
    return Path(path)


def plain(values: Any) -> np.ndarray:
    """The values as an array of numbers, booleans or fixed-width text; a missing text is empty."""
    array = np.asarray(values)
    if array.dtype.kind in "biufU":
        return array
    return np.array(["" if value is None or value != value else str(value) for value in array], dtype=np.str_)
