"""Labels that some cells of a run have, given to the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from remadom.adapters.cells import NOTHING
from remadom.adapters.labels import UNKNOWN
from remadom.adapters.voters import Spaces, Voters
from remadom.config.trained import Trained
from remadom.data.source import Source
from remadom.errors import InputError
from remadom.eval.confidence import label_scores
from remadom.results.mapped import guarded
from remadom.results.profiles import profiles_of
from remadom.train.embedding import embed_cells
from remadom.utils.seed import derive

FOLDS = 5
"""Most parts into which labeled cells are divided, each labeled by the others."""
FEWEST = 20
"""Labeled cells that a batch needs for a part of its own."""
UNFAMILIAR = 0.05
"""Chance below which a cell is called ``UNKNOWN``: the share of the labeled cells that would be, too."""


@dataclass(frozen=True, eq=False)
class Labeled:
    """Labels of the cells of a run; a cell that has one gets that which the others give it.

    Attributes
    ----------
    told
        The cells' own labels, ``NOTHING`` where they have none.
    batch
        Batch of each cell.
    nearest
        Label given to each cell.
    confidence
        Probability that it is right.
    familiar
        Chance that a labeled cell lies as far from the others as this cell does from them, in the embedding.
    check
        How the labels that cells got compare with those that they have.
    """

    told: np.ndarray
    batch: np.ndarray
    nearest: np.ndarray
    confidence: np.ndarray
    familiar: np.ndarray
    check: dict[str, Any]

    @property
    def label(self) -> np.ndarray:
        """``nearest``, or ``UNKNOWN`` for a cell that is like no labeled cell."""
        return np.where(self.familiar < UNFAMILIAR, UNKNOWN, self.nearest)

    def table(self, names: pd.Index) -> pd.DataFrame:
        """One row a cell, given the names of the cells."""
        columns = {"obs_name": names.to_numpy(dtype=object), "batch": self.batch, "own_label": self.told}
        columns |= {"label": self.label, "nearest": self.nearest}
        columns |= {"confidence": self.confidence, "familiar": self.familiar}
        return pd.DataFrame({name: pd.Series(values).map(guarded) for name, values in columns.items()})

    def summary(self) -> dict[str, Any]:
        """Labels of the cells that had none, over all and by batch, and the check."""
        asked, batches = self.told == NOTHING, {}
        for batch in np.unique(self.batch[asked].astype(str)):
            cells = asked & (self.batch == batch)
            batches[batch] = {
                "cells": int(cells.sum()),
                "confidence": float(self.confidence[cells].mean()),
                "unknown": float((self.label[cells] == UNKNOWN).mean()),
            }
        names, counts = np.unique(self.label[asked].astype(str), return_counts=True)
        cells = dict(zip(names.tolist(), counts.tolist(), strict=True))
        return {"cells": cells, "batches": batches, "check": self.check}


def label_cells(trained: Trained, source: Source, told: np.ndarray) -> Labeled:
    """Give labels to the cells that have none, and see how well that goes on those that have one.

    The label of a cell is that which :class:`~remadom.adapters.voters.Voters` find likeliest. Labeled cells are labeled
    by others: those of some batches by those of the other batches, as cells without labels are most often of batches of
    their own; in a single batch those of one part by the others.

    Parameters
    ----------
    trained
        The run.
    source
        Its cells, prepared for the model.
    told
        Label of each cell, ``NOTHING`` where it has none (see :func:`~remadom.adapters.cells.label_texts`).

    Raises
    ------
    InputError
        There are fewer than two labels, hardly two cells share one, or a batch was not trained on.
    """
    labeled, asked = np.flatnonzero(told != NOTHING), np.flatnonzero(told == NOTHING)
    names, codes = np.unique(told[labeled], return_inverse=True)
    if len(names) < 2:
        found = f"'{names[0]}' alone" if len(names) else "none"
        raise InputError(f"labels: found {found}, expected two or more; choose another --column")
    if len(names) > len(labeled) / 2:
        raise InputError(
            f"labels: found {len(names):,} of {len(labeled):,} cells, expected such that many cells share; choose "
            "another --column"
        )
    of_batch, batches = source.codes(trained.config.data.batch_key, required=False)
    new = [name for name in batches if name not in trained.groups["batch"]]
    if new:
        raise InputError(
            f"batch {', '.join(map(repr, new[:3]))} was not trained on, so its cells are not where they belong; train "
            "with it, or map it with `remadom mapref`"
        )
    z = embed_cells(trained.model, trained.loader(source)).z_bio.numpy()
    profiles = profiles_of(trained, source)
    spaces = Spaces.of(z, profiles.expected, profiles.regressed)
    seed = derive(trained.config.optim.seed, "labels")
    parts, words = _parts(of_batch[labeled], seed)
    confidence, familiar = np.zeros(len(told)), np.ones(len(told))
    given = np.zeros(len(told), dtype=int)
    for by, to in [(~part, labeled[part]) for part in parts] + [(np.ones(len(labeled), bool), asked)]:
        if not by.any() or not len(to):
            continue
        voters = Voters.fit(spaces[labeled[by]], codes[by], len(names), seed)
        likely = voters.probabilities(spaces[to])
        given[to], confidence[to] = likely.argmax(1), likely.max(1)
        familiar[to] = voters.familiar(spaces[to], given[to])
    several = sum(np.isin(names, told[labeled[part]]).astype(int) for part in parts) > 1
    check = label_scores(
        names[given[labeled]],
        confidence[labeled],
        familiar[labeled] < UNFAMILIAR,
        familiar[labeled],
        told[labeled],
        names[several].tolist(),
    )
    batch = np.asarray(batches, dtype=object)[of_batch]
    return Labeled(told, batch, names[given], confidence, familiar, {"how": words, **check})


def _parts(batch: np.ndarray, seed: int) -> tuple[list[np.ndarray], str]:
    """Which labeled cells are in each part, and in words how they were divided."""
    codes, of, counts = np.unique(batch, return_inverse=True, return_counts=True)
    if (counts >= FEWEST).sum() < 2:
        part_of = np.random.default_rng(seed).permutation(len(batch)) % min(FOLDS, len(batch))
        words = "cells by others of the same batch"
    else:
        place, sizes = np.zeros(len(codes), dtype=int), np.zeros(min(FOLDS, len(codes)), dtype=int)
        for code in np.argsort(-counts, kind="stable"):
            place[code] = sizes.argmin()
            sizes[place[code]] += counts[code]
        part_of, words = place[of], "cells by those of other batches"
    return [part_of == part for part in range(part_of.max() + 1)], words
