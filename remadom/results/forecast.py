"""How long a run will take and how much memory: some of its real work is done and timed, the rest goes by size."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from itertools import combinations, islice

import numpy as np
import torch
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from remadom.config.build import Assembly
from remadom.eval.baselines import MOST_FITTED
from remadom.eval.halves import FEATURES as COMPARED_FEATURES
from remadom.eval.trust import most_compared
from remadom.results.donors import MOST
from remadom.results.imputation import FEATURES, asked, without
from remadom.results.intervals import DRAWN, FEWEST, LEVELS
from remadom.results.problems import CELLS
from remadom.train.coordinates import SAMPLE
from remadom.train.embedding import embed_cells
from remadom.train.imputation import DRAWS, impute_cells
from remadom.train.optim import adamw, choose_device, choose_precision
from remadom.utils.machine import free_mb, pace, peak_mb
from remadom.utils.seed import derive, private_noise, seed_noise

WARM, TIMED = 3, 15
"""Steps before the clock runs, and steps that it measures."""
PREDICTED = 64
"""Cells that are predicted to time it."""
LATER = 1
"""Epoch that the steps are taken from: graphs and edges of the latent exist from it on."""

MEASURES = (0.2, 0.0012)
"""Seconds of the scores of the embedding: at least, and a scored cell; as all that follow, where :func:`pace` is 1."""
COMPARED = 2.5e-7
"""Seconds of comparing two batches in a modality that both have, for each of their cells and features compared."""
FIGURES = (9.0, 0.0003)
"""Seconds of the figures: at least, and a drawn cell; seven more where UMAP was never compiled before."""
COORDINATES = 5e-8
"""Seconds of finding the coordinates of the embedding, for each cell and feature that these are found from."""
DONORS = 1.3e-4
"""Seconds of finding the donors of a modality, for each cell."""
SCORES, BASELINES = 1.4e-6, 2e-7
"""Seconds of scoring a predicted value beside its baselines, and of these for each value that they are fitted on."""
HELD, FITTED, SCORED = 40, 16, 100
"""Bytes held of a predicted value, beside that of each that baselines are fitted on, and while it is scored."""
WHOLE = 20
"""Bytes held of a value that is predicted before features are chosen: as decoded, as donors give it, and its truth."""
BYTES = 8
"""Bytes of a value that is not zero: a float32 and its column."""
DRAWING_MB = 170
"""Memory of the libraries that draw."""


@dataclass(frozen=True)
class Forecast:
    """What a run will take on this machine, from what was assembled on.

    Attributes
    ----------
    seconds
        All of it; less where early stopping ends the training.
    training, measuring, drawing
        Its parts, seconds: training with validation; embedding, scores and held-out predictions; figures.
    peak_mb, free_mb
        Most memory of the process, and what is free now beside what the process has, MB; ``None`` if unknown.
    matrices_mb
        The part of it that the data takes in memory, or would take where ``data.backed`` leaves it in the file.
    step_seconds, steps
        A step of training, and the number of them.
    took
        Seconds of the forecast itself.
    """

    seconds: float
    training: float
    measuring: float
    drawing: float
    peak_mb: float
    free_mb: float | None
    matrices_mb: float
    step_seconds: float
    steps: int
    took: float


def forecast(assembly: Assembly) -> Forecast:
    """Say what it takes to train, measure and draw what was assembled, which is left as it was.

    Some steps of training, an embedding and a prediction are done and timed; scores and figures are known by size.

    Parameters
    ----------
    assembly
        What will be trained.
    """
    started, before = time.perf_counter(), peak_mb()
    config, split = assembly.config, assembly.split
    epochs, figures = config.optim.epochs, config.evaluation.figures
    with _unchanged(assembly):
        step, refresh = _stepping(assembly)
        embedding = _embedding(assembly)
        scores = _scored(assembly)
        predicting = _predicting(assembly, scores)
    steps = -(-len(split.train) // config.optim.batch_size)
    shown = min(assembly.source.n_cells, config.evaluation.max_cells)
    every = config.structure.refresh if config.bridge.provider is None else config.bridge.refresh
    speed, values = pace(), assembly.diagnosis.modalities.values()
    training = epochs * (steps * step + 2 * embedding * len(split.val)) + refresh * -(-epochs // every)
    measuring = 3 * embedding * assembly.source.n_cells + predicting
    measuring += speed * (MEASURES[0] + MEASURES[1] * shown + _comparing(assembly))
    measuring += speed * (_finishing(assembly) + sum(of.seconds for of in scores.values()))
    drawing = speed * (FIGURES[0] + FIGURES[1] * shown) if figures else 0.0
    scoring = max((of.mb for of in scores.values()), default=0.0)  # takes what training has given back
    return Forecast(
        seconds=training + measuring + drawing,
        training=training,
        measuring=measuring,
        drawing=drawing,
        peak_mb=max(peak_mb(), before + scoring) + (DRAWING_MB if figures else 0),
        free_mb=free_mb(),
        matrices_mb=sum(BYTES * v.density * v.cells * v.features for v in values) / 2**20,
        step_seconds=step,
        steps=epochs * steps,
        took=time.perf_counter() - started,
    )


def _comparing(assembly: Assembly) -> float:
    """Seconds of comparing the batches by their own features, to say whether they are aligned."""
    source, (codes, names) = assembly.source, assembly.groups["batch"]
    most = most_compared(math.comb(len(names), 2), assembly.config.evaluation.max_cells)
    seconds = 0.0
    for modality in source.modalities:
        cells = np.minimum(np.bincount(codes[source.has[modality]], minlength=len(names)), most)
        together = sum(a + b for a, b in combinations(cells, 2) if a and b)
        seconds += COMPARED * together * min(len(source.features[modality]), COMPARED_FEATURES)
    return seconds


def _finishing(assembly: Assembly) -> float:
    """Seconds of what follows training: coordinates of the embedding, donors of imputed values."""
    decoded = assembly.model.decoders if assembly.config.model.coordinates == "decoded" else ()
    features = sum(len(assembly.source.features[m]) for m in decoded)
    cells = min(assembly.source.n_cells, SAMPLE)
    donors = DONORS * sum(min(MOST, int(has.sum())) for has in assembly.source.has.values())
    return COORDINATES * cells * features + donors


@contextmanager
def _unchanged(assembly: Assembly) -> Iterator[None]:
    """Leave weights, edges and random numbers as they were: a checkpoint holds all that training changes."""
    objective = assembly.objective
    before, training = deepcopy(objective.state_dict()), objective.training
    try:
        with private_noise(choose_device(assembly.config.optim.device)):
            yield
    finally:
        objective.zero_grad(set_to_none=True)
        objective.load_state_dict(before)
        objective.train(training)


def _stepping(assembly: Assembly) -> tuple[float, float]:
    """Seconds of a step, and of rebuilding the graph and the edges."""
    objective, optim = assembly.objective, assembly.config.optim
    device = choose_device(optim.device)
    half = choose_precision(optim.amp, device)
    loader = assembly.training_loader()
    loader.set_epoch(LATER)
    objective.to(device).train()
    optimizer = adamw(objective.parameters(), optim, device)
    parameters = list(objective.parameters())
    started = time.perf_counter()
    objective.begin_epoch(LATER, len(loader))
    refresh = time.perf_counter() - started
    times, with_terms = [time.perf_counter()], []
    for number, batch in enumerate(islice(loader, WARM + TIMED)):
        seed_noise(device, derive(optim.seed, "forecast", number))
        with torch.autocast(device.type, dtype=half, enabled=half is not None):
            loss, _ = objective(batch.to(device), LATER + number / len(loader))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
        clip_grads_with_norm_(parameters, optim.grad_clip or float("inf"), norm)
        optimizer.step()
        with_terms.append(bool(objective.gradients()))
        loss.item()  # waits for the device
        times.append(time.perf_counter())
    each = np.diff(times)
    warm, every = np.arange(len(each)) >= min(WARM, len(each) - 1), optim.terms_every
    full = np.array(with_terms, dtype=bool)
    parts = [np.median(each[warm & kind]) for kind in (full, ~full) if (warm & kind).any()]
    return float(np.average(parts, weights=[1, every - 1] if len(parts) > 1 else None)), refresh


def _embedding(assembly: Assembly) -> float:
    """Seconds of embedding a cell."""
    cells = assembly.split.train[: 4 * assembly.config.optim.batch_size]
    started = time.perf_counter()
    embed_cells(assembly.model, assembly.loader(cells))
    return (time.perf_counter() - started) / len(cells)


@dataclass(frozen=True)
class _Scored:
    """What a run will be scored on in one modality.

    Cells, how many of them with intervals, values, values that baselines are fitted on, the values that are
    reconstructed where all cells have all modalities, and the values of all features, chosen or not.
    """

    cells: np.ndarray
    with_intervals: int
    values: int
    fitted: int
    reconstructed: int
    whole: int

    @property
    def seconds(self) -> float:
        return SCORES * (self.values + self.reconstructed) + BASELINES * self.fitted

    @property
    def mb(self) -> float:
        most = max(self.values, self.reconstructed)
        chosen = max(HELD * self.values + FITTED * self.fitted, SCORED * most)
        return (chosen + WHOLE * self.whole) / 2**20


def _scored(assembly: Assembly) -> dict[str, _Scored]:
    """What will be predicted after training, by modality."""
    found, paired = {}, assembly.diagnosis.problem.kind == "paired"
    unseen = min(CELLS, len(assembly.split.val) + len(assembly.split.test)) if paired else 0
    for modality in assembly.model.decoders:
        decoder = assembly.model.decoder(modality)
        cells, checked, _ = asked(assembly, modality)
        size, train = len(assembly.source.features[modality]), assembly.split.train
        most, features = max(2 * FEWEST, DRAWN // size), min(FEATURES, size)
        fitted = min(MOST_FITTED, int(assembly.source.has[modality][train].sum()))
        if len(cells):
            drawn = min(most, len(cells)) + min(most, len(checked))
            if int(decoder.batch.seen.sum()) > 1:  # the calibrating ones a second time, as of another batch
                drawn += min(most, len(checked) if len(checked) >= FEWEST else len(cells) // 2)
            found[modality] = _Scored(
                cells,
                drawn,
                len(cells) * features,
                fitted * features,
                unseen * features,
                (len(cells) + len(checked)) * size,
            )
    return found


def _predicting(assembly: Assembly, scored: Mapping[str, _Scored]) -> float:
    """Seconds of predicting these values, with intervals for some."""
    seconds, totals = 0.0, np.ones(assembly.source.n_cells, dtype=np.float32)
    for modality, of in scored.items():
        some = of.cells[: min(PREDICTED, of.with_intervals)]
        loader = assembly.loader(some, without(assembly.source, modality, some))
        times = []
        for _ in range(2):  # the first time memory is fetched
            started = time.perf_counter()
            for _ in impute_cells(assembly.model, loader, modality, totals=totals, levels=LEVELS):
                pass
            times.append(time.perf_counter() - started)
        seconds += min(times) / len(some) * (of.with_intervals + len(of.cells) / DRAWS)
    return seconds
