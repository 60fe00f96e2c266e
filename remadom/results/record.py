"""Write what came of a trained run: embedding, measures, figures, report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from remadom.config.build import Assembly
from remadom.eval.report import write_report
from remadom.results.arrays import embedding_arrays, obs_arrays
from remadom.results.drawing import draw
from remadom.results.finishing import finish
from remadom.results.kept_donors import arrays_of
from remadom.results.measures import measure, versions
from remadom.train.callbacks import History
from remadom.train.embedding import embed_cells
from remadom.utils.outputs import (
    ALIGNMENT,
    BRIDGE,
    CALIBRATION,
    DONORS,
    EMBEDDINGS,
    METRICS,
    OBS_ARRAYS,
    VERSIONS,
    WARNINGS,
    RunDir,
    write_arrays,
)


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run: where its outputs are, how training went, and what was measured."""

    dir: RunDir
    assembly: Assembly
    history: History
    metrics: dict[str, Any]


def record(assembly: Assembly, history: History, out: RunDir, *, warned: Sequence[str] = ()) -> Run:
    """Write the outputs of a run whose best weights are loaded.

    Parameters
    ----------
    assembly
        As trained.
    history
        Of its training.
    out
        Folder of the run.
    warned
        What was warned of on the way, a sentence each.
    """
    for name, arrays in finish(assembly).items():
        write_arrays(out / name, arrays)
    latent = embed_cells(assembly.model, assembly.loader(np.arange(assembly.source.n_cells)))
    write_arrays(out / EMBEDDINGS, embedding_arrays(assembly.source.obs_names, latent))
    write_arrays(out / OBS_ARRAYS, obs_arrays(assembly))
    measured = measure(assembly, latent, history)
    for name, found in ((ALIGNMENT, measured.alignment), (BRIDGE, measured.bridge)):
        if found is not None:
            out.write_json(name, found)
    widths = [v.widths.arrays(m) for m, v in measured.predicted.items() if v.widths is not None]
    if widths:
        write_arrays(out / CALIBRATION, {name: array for arrays in widths for name, array in arrays.items()})
    donors = {m: values.donors for m, values in measured.predicted.items() if values.donors is not None}
    if donors:
        write_arrays(out / DONORS, arrays_of(donors))
    if assembly.config.evaluation.figures:
        draw(assembly, latent, history, measured, out)
    out.write_json(WARNINGS, [*assembly.notes, *dict.fromkeys(warned)])
    out.write_json(VERSIONS, versions())
    out.write_json(METRICS, measured.metrics)
    write_report(out.path)
    return Run(out, assembly, history, measured.metrics)
