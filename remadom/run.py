"""The verbs: what a command does is one function here, with the same parameters."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from remadom.config.build import Assembly, assemble, build_model, open_source
from remadom.config.load import Raw, to_yaml, validate
from remadom.data.loader import Loader
from remadom.data.prepared import Prepared
from remadom.errors import InputError
from remadom.results import (
    alignment,
    bridging,
    draw,
    embedding_arrays,
    measure,
    obs_arrays,
    write_report,
)
from remadom.train.callbacks import History
from remadom.train.embedding import embed_cells
from remadom.train.stopping import check_monitor, monitored
from remadom.train.trainer import Trainer
from remadom.utils.checkpoint import load_checkpoint
from remadom.utils.files import write_text
from remadom.utils.outputs import (
    ALIGNMENT,
    BRIDGE,
    CONFIG,
    EMBEDDINGS,
    LAST,
    METRICS,
    OBS_ARRAYS,
    RunDir,
    write_arrays,
)
from remadom.utils.seed import seed_everything

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """A finished run: where its outputs are, how training went, and what was measured."""

    dir: RunDir
    assembly: Assembly
    history: History
    metrics: dict[str, Any]


def train(
    config: Raw,
    *,
    where: str = "",
    data: Any = None,
    resume: str | Path | None = None,
    overwrite: bool = False,
    announce: Callable[[Assembly], None] | None = None,
) -> Run:
    """Train a model, embed every cell, measure, and write the outputs of the run.

    Parameters
    ----------
    config
        Configuration as nested sections: only what is to differ from the defaults and from the plan.
    where
        File that it came from, for messages.
    data
        AnnData, MuData or a mapping of AnnData, in place of ``data.path``.
    resume
        Checkpoint of an unfinished run to continue, or its folder.
    overwrite
        Replace a finished run in the same folder.
    announce
        Called with what was assembled before training begins.

    Raises
    ------
    InputError
        Anything about configuration, data or run folder that cannot work; nothing has been written then.
    TrainingDiverged
        The loss became NaN or infinite.
    """
    resume = None if resume is None else last_checkpoint(resume)
    asked = validate(config, where)
    out = RunDir(asked.logging.run_dir)
    out.check(overwrite=overwrite, resume=resume is not None)
    seed_everything(asked.optim.seed)
    assembly = assemble(config, where=where, data=data)
    if announce is not None:
        announce(assembly)
    settings = assembly.config
    monitor = monitored(settings.optim, len(assembly.split.val) > 0)
    if monitor is not None:
        check_monitor(monitor, assembly.objective.names)
    trainer = Trainer(
        assembly.objective,
        settings.optim,
        run_dir=out.path,
        logging=settings.logging,
        metadata=assembly.metadata(),
        cell_names=list(assembly.source.obs_names),
    )
    out.begin(resume=resume is not None)
    write_text(out / CONFIG, to_yaml(settings))
    validation = assembly.loader(assembly.split.val) if len(assembly.split.val) else None
    history = trainer.fit(assembly.training_loader(), validation, resume=resume)
    assembly.objective.load_state_dict(load_checkpoint(out.checkpoint)["model"])
    latent = embed_cells(assembly.model, assembly.loader(np.arange(assembly.source.n_cells)))
    write_arrays(out / EMBEDDINGS, embedding_arrays(assembly.source.obs_names, latent))
    write_arrays(out / OBS_ARRAYS, obs_arrays(assembly))
    metrics = measure(assembly, latent, history)
    aligned = alignment(assembly, history) if assembly.objective.terms else None
    bridged = bridging(assembly)
    for name, found in ((ALIGNMENT, aligned), (BRIDGE, bridged)):
        if found is not None:
            out.write_json(name, found)
    figures = draw(assembly, latent, history, out) if settings.evaluation.figures else []
    write_report(assembly, history, metrics, figures, out, aligned=aligned, bridged=bridged)
    out.write_json(METRICS, metrics)
    return Run(out, assembly, history, metrics)


def embed(
    checkpoint: str | Path, data: Any = None, *, out: str | Path | None = None, overwrite: bool = False
) -> Path:
    """Embed cells with a trained model.

    Parameters
    ----------
    checkpoint
        A checkpoint, or a run folder (its best checkpoint, else its last).
    data
        File, AnnData, MuData or mapping of AnnData; the data that the model was trained on by default.
    out
        The ``.npz`` to write: ``z_bio``, ``mu``, ``logvar`` (cell x latent) and ``obs_names``. By default
        ``embeddings.<name of the data>.npz`` beside the checkpoint.
    overwrite
        Replace ``out``.

    Raises
    ------
    InputError
        No such checkpoint, features of the model that the data lacks, or ``out`` exists.
    """
    path = Path(checkpoint)
    if path.is_dir():
        path = RunDir(path).checkpoint
    name = f"embeddings.{Path(data).stem}.npz" if isinstance(data, str | Path) else EMBEDDINGS
    target = path.with_name(name) if out is None else Path(out)
    if target.exists() and not overwrite:
        raise InputError(f"{target} exists; choose another --out, or give --overwrite")
    parts = load_checkpoint(path)
    metadata = parts["metadata"]
    raw = metadata["config"]
    if data is not None:  # its layout need not be that of the training data
        raw = {**raw, "data": {**raw["data"], "keys": {}, "modalities": None}}
    config = validate(raw, str(path))
    prepared = Prepared.from_state(metadata["prepared"])
    source = open_source(config, data, among=list(prepared.steps))
    model = build_model(config)
    own = "model."  # an objective's weights: those of heads are not needed
    model.load_state_dict({k.removeprefix(own): v for k, v in parts["model"].items() if k.startswith(own)})
    source = prepared.apply(source)
    loader = Loader(source, np.arange(source.n_cells), batch_size=config.optim.batch_size)
    return write_arrays(target, embedding_arrays(source.obs_names, embed_cells(model, loader)))


def resumed_config(checkpoint: str | Path) -> Raw:
    """Configuration of the run that a checkpoint, or a run folder, belongs to."""
    config: Raw = load_checkpoint(last_checkpoint(checkpoint))["metadata"]["config"]
    return config


def last_checkpoint(path: str | Path) -> Path:
    """A checkpoint as it is; for a run folder, the last one in it."""
    path = Path(path)
    return path / LAST if path.is_dir() else path
