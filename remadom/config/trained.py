"""A trained model with all that it takes to use it on cells: what a checkpoint holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from remadom.config.build import build_model, library_of, open_source
from remadom.config.load import validate
from remadom.config.schema import RunConfig
from remadom.core.vae import MosaicVAE
from remadom.data.loader import Codes, Loader
from remadom.data.prepared import Prepared
from remadom.data.source import Source
from remadom.utils.checkpoint import load_checkpoint
from remadom.utils.outputs import RunDir

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
    model, prepared
        The model and the preprocessing before it.
    groups
        Names of the codes of each grouping (``batch``, ``dataset``).
    """

    path: Path
    raw: dict[str, Any]
    config: RunConfig
    model: MosaicVAE
    prepared: Prepared
    groups: dict[str, tuple[str, ...]]

    @classmethod
    def load(cls, checkpoint: str | Path) -> Trained:
        """Read a checkpoint; of a run folder the best one, else the last.

        Raises
        ------
        InputError
            There is no checkpoint, or it cannot be read.
        """
        path = Path(checkpoint)
        if path.is_dir():
            path = RunDir(path).checkpoint
        parts = load_checkpoint(path)
        metadata = parts["metadata"]
        config = validate(metadata["config"], str(path))
        model = build_model(config)
        own = "model."  # an objective's weights: those of heads are not needed
        model.load_state_dict(
            {k.removeprefix(own): v for k, v in parts["model"].items() if k.startswith(own)}
        )
        model.eval()
        groups = {name: tuple(names) for name, names in metadata["groups"].items()}
        prepared = Prepared.from_state(metadata["prepared"])
        return cls(path, metadata["config"], config, model, prepared, groups)

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

    def loader(self, source: Source, cells: np.ndarray | None = None) -> Loader:
        """Batches of some cells (all by default), their batches coded as in training (``UNKNOWN``: a new one)."""
        return Loader(
            source,
            np.arange(source.n_cells) if cells is None else cells,
            batch_size=self.config.optim.batch_size,
            groups={"batch": self.batches_of(source)},
            library=library_of(self.model, self.prepared),
        )

    def batches_of(self, source: Source) -> Codes:
        """Code of the batch of each cell by the names that the model was trained on, and these names."""
        names = self.groups["batch"]
        codes, found = source.codes(self.config.data.batch_key, required=False)
        known = {name: code for code, name in enumerate(names)}
        return np.array([known.get(name, UNKNOWN) for name in found], dtype=np.int64)[codes], names
