"""What a run folder says of its run: everything that a report is made of."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from remadom.errors import InputError
from remadom.eval.report.page import Figure
from remadom.utils.outputs import (
    ALIGNMENT,
    BRIDGE,
    CONFIG,
    DIAGNOSIS,
    HISTORY,
    METRICS,
    VERSIONS,
    WARNINGS,
    RunDir,
)

FIGURES = "figures.json"


@dataclass(frozen=True)
class Shown:
    """A figure of a run, and the part of the report that it belongs to: a modality, ``training``, ..."""

    figure: Figure
    section: str


@dataclass(frozen=True)
class RunFolder:
    """Contents of the files of a run; what a run has not is empty.

    Attributes
    ----------
    path
        The folder.
    metrics
        ``metrics.final.json``.
    config
        ``config.resolved.yaml``, as it was written.
    diagnosis, alignment, bridge, versions
        The files of these names.
    history
        One entry an epoch.
    warnings
        What was logged; ``None`` where nothing kept the log.
    figures
        In the order of ``figures/figures.json``.
    """

    path: Path
    metrics: Mapping[str, Any]
    config: str = ""
    diagnosis: Mapping[str, Any] = field(default_factory=dict)
    alignment: Mapping[str, Any] = field(default_factory=dict)
    bridge: Mapping[str, Any] = field(default_factory=dict)
    history: Sequence[Mapping[str, Any]] = ()
    warnings: Sequence[str] | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    figures: Sequence[Shown] = ()

    @property
    def evaluation(self) -> Mapping[str, Any]:
        """What was measured of the embedding and of imputed values."""
        found: Mapping[str, Any] = self.metrics.get("evaluation") or {}
        return found

    @property
    def run(self) -> Mapping[str, Any]:
        """How training went."""
        found: Mapping[str, Any] = self.metrics.get("run") or {}
        return found

    @property
    def title(self) -> str:
        """Name of the data."""
        return Path(self.run.get("data") or "data").name


def read_run(path: str | Path) -> RunFolder:
    """Read the files of a finished run.

    Raises
    ------
    InputError
        There is no finished run, or a file of it cannot be read.
    """
    folder = RunDir(path)
    if not folder.finished:
        raise InputError(f"{folder.path} has no {METRICS}; expected the folder of a finished run")
    listed = _read(folder.figures / FIGURES, [])
    return RunFolder(
        path=folder.path,
        metrics=_read(folder / METRICS, {}),
        config=(folder / CONFIG).read_text(encoding="utf-8") if (folder / CONFIG).exists() else "",
        diagnosis=_read(folder / DIAGNOSIS, {}),
        alignment=_read(folder / ALIGNMENT, {}),
        bridge=_read(folder / BRIDGE, {}),
        history=_read(folder / HISTORY, {}).get("history", []),
        warnings=_read(folder / WARNINGS, None),
        versions=_read(folder / VERSIONS, {}),
        figures=[
            Shown(
                Figure(entry["title"], folder.figures / entry["file"], entry.get("caption", "")),
                entry.get("section", ""),
            )
            for entry in listed
        ],
    )


def _read(path: Path, otherwise: Any) -> Any:
    if not path.exists():
        return otherwise
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not JSON ({error}); restore it, or run again with --overwrite") from None
