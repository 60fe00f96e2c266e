"""A trained model with the cells that it was trained on: what new cells are mapped onto."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from remadom.adapters.cells import ReferenceCells, experts_of, label_texts
from remadom.adapters.profile_axes import measured_profiles, profile_axes, regressed
from remadom.config.trained import Trained
from remadom.errors import InputError, nearest
from remadom.utils.portable import is_portable, read_portable


@dataclass(frozen=True, eq=False)
class Reference:
    """A model and its cells."""

    trained: Trained
    cells: ReferenceCells

    @classmethod
    def load(cls, folder: str | Path, labels: Sequence[str] | None = None) -> Reference:
        """Of a saved model or of a finished run.

        Parameters
        ----------
        folder
            The folder.
        labels
            Columns of obs to take labels from, of a run; its ``evaluation.label_key`` by default. Of a saved model:
            which of the levels kept with it; all by default.

        Raises
        ------
        InputError
            There is no model, or it does not know such labels.
        """
        trained = Trained.load(folder)
        if not is_portable(folder):
            return cls(trained, cells_of(trained, labels))
        content, files = read_portable(folder)
        if content["cells"] is None:
            raise InputError(
                f"{folder} was saved without its cells, and new ones are compared with them; save it with --cells"
            )
        cells = ReferenceCells.from_state(content["cells"], files.get("cells", {}))
        found = cls(trained, cells)
        return found if labels is None else found.with_levels(labels)

    def with_levels(self, labels: Sequence[str]) -> Reference:
        """The same with these levels of labels only.

        Raises
        ------
        InputError
            There is no such level.
        """
        for level in labels:
            if level not in self.cells.labels:
                known = (
                    nearest(level, self.cells.labels) if self.cells.labels else "the reference has no labels"
                )
                raise InputError(f"labels '{level}': {known}")
        kept = {level: self.cells.labels[level] for level in labels}
        return replace(self, cells=replace(self.cells, labels=kept))


def cells_of(trained: Trained, labels: Sequence[str] | None, data: Any = None) -> ReferenceCells:
    """Cells that a model was trained on, from its data.

    Parameters
    ----------
    trained
        The model.
    labels
        Columns of obs; ``evaluation.label_key`` by default, where the data has it.
    data
        File or objects, in place of the file that was trained on.

    Raises
    ------
    InputError
        The data is no longer there, or has no such column.
    """
    try:
        source = trained.source(data)
    except InputError as error:
        raise InputError(f"the cells of the reference are needed: {error}") from None
    usual = trained.config.evaluation.label_key
    wanted = ([usual] if usual in source.obs else []) if labels is None else labels
    levels: dict[str, np.ndarray] = {}
    for level in wanted:
        if level not in source.obs:
            raise InputError(f"labels '{level}': {nearest(level, map(str, source.obs))}")
        levels[level] = label_texts(source.obs[level])
    codes, batches = source.codes(trained.config.data.batch_key, required=False)
    axes = profile_axes(trained.model, source, trained.config.optim.seed)
    measured = {m: measured_profiles(of, source, m) for m, of in axes.items()}
    profiles = {m: of for m, of in regressed(source, measured).items() if np.isfinite(of).all()}
    return ReferenceCells(
        experts=experts_of(trained.model, trained.loader(source)),
        names=source.obs_names.to_numpy(dtype=object),
        batch=np.asarray(batches, dtype=object)[codes],
        labels=levels,
        axes={m: axes[m] for m in profiles},
        profiles=profiles,
    )


def summary(metrics: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a run that go with its model: single values, not tables of cells or features."""

    def short(value: Any) -> Any:
        if isinstance(value, dict):
            kept = {key: short(entry) for key, entry in value.items() if not key.startswith("confusion")}
            return {key: entry for key, entry in kept.items() if entry is not None}
        return value if isinstance(value, (str, int, float, bool)) else None

    kept: dict[str, Any] = short({key: value for key, value in metrics.items() if key != "run"})
    run = {k: v for k, v in metrics.get("run", {}).items() if k not in ("dir", "data")}
    return {"run": run, **kept}
