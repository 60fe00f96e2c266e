"""The values of one modality for many cells: expected, with intervals, or drawn."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from remadom.core.vae import MosaicVAE
from remadom.types import Batch

DRAWS = 60
"""Draws from the posterior predictive from which an interval is read."""
HELD = 2**24
"""Most drawn values held at a time."""
Ends = tuple[np.ndarray, np.ndarray]
"""Lower and upper ends of intervals, cell x feature."""
AVERAGE = -1
"""The code of no batch: decoded as the average of the batches that have the modality."""


@dataclass(frozen=True, eq=False)
class Imputed:
    """Values of one modality for the cells of a batch, cell x feature, float32.

    Attributes
    ----------
    expected
        From the mean of the posterior.
    intervals
        By level, both ends of the central interval of the posterior predictive.
    drawn
        Draws of counts, as many as were asked for.
    """

    expected: np.ndarray
    intervals: Mapping[float, Ends]
    drawn: tuple[np.ndarray, ...] = ()


@torch.inference_mode()
def impute_cells(
    model: MosaicVAE,
    loader: Iterable[Batch],
    modality: str,
    *,
    totals: np.ndarray | None = None,
    as_batch: int | None = None,
    levels: Sequence[float] = (),
    n_drawn: int = 0,
    seed: int = 0,
) -> Iterator[Imputed]:
    """Impute a modality for the loader's cells, measured or not, a batch at a time.

    Parameters
    ----------
    model
        Trained.
    loader
        Cells; what they have is encoded.
    modality
        Any that has a decoder.
    totals
        One for every cell of the source: depth at which a cell is predicted, where the decoder scales with it.
    as_batch
        Code of the batch as which all cells are decoded (``AVERAGE``: none); each its own by default.
    levels
        Shares that intervals are to hold, each by the same ``DRAWS`` draws.
    n_drawn
        Draws to return.
    seed
        Of the draws.
    """
    training = model.training
    model.eval()
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    for batch in loader:
        moved = batch.to(device)
        library = None if totals is None else torch.from_numpy(totals[batch.index.numpy()]).to(device)
        labels = None if as_batch is None else torch.full((len(batch),), as_batch, device=device)
        given = {"library": library, "batch_labels": labels}
        expected = model.impute(moved, modality, **given).cpu().numpy()
        ends: dict[float, Ends] = {}
        if levels:
            ends = central(list(model.draws(moved, modality, DRAWS, generator, **given)), levels)
        more = tuple(d.cpu().numpy() for d in model.draws(moved, modality, n_drawn, generator, **given))
        yield Imputed(expected, ends, more)
    model.train(training)


def central(drawn: list[Tensor], levels: Sequence[float]) -> dict[float, Ends]:
    """By level, order statistics of the draws of each value, between which that share of the draws lies."""
    n = len(drawn)
    outside = {level: max(0, int(n * (1 - level) / 2 + 0.5) - 1) for level in levels}
    width = max(1, HELD // (n * max(1, drawn[0].shape[1])))
    ends: dict[float, list[tuple[Tensor, Tensor]]] = {level: [] for level in levels}
    for at in range(0, len(drawn[0]), width):
        block = torch.stack([d[at : at + width] for d in drawn]).sort(dim=0).values
        for level, place in outside.items():
            ends[level].append((block[place].clone(), block[n - 1 - place].clone()))
    return {
        level: (
            torch.cat([low for low, _ in found]).cpu().numpy(),
            torch.cat([up for _, up in found]).cpu().numpy(),
        )
        for level, found in ends.items()
    }
