"""The verbs: what a command does is one function here, with the same parameters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from remadom.config.build import Assembly, assemble
from remadom.config.known import check_known
from remadom.config.load import Raw, to_yaml, validate
from remadom.config.trained import Trained
from remadom.results.arrays import embedding_arrays
from remadom.results.record import Run, record
from remadom.train.callbacks import History
from remadom.train.embedding import embed_cells
from remadom.train.stopping import check_monitor, monitored
from remadom.train.trainer import Trainer
from remadom.utils.checkpoint import load_checkpoint
from remadom.utils.files import refuse_existing, write_text
from remadom.utils.log import collected_warnings
from remadom.utils.outputs import CONFIG, DIAGNOSIS, EMBEDDINGS, LAST, RunDir, write_arrays
from remadom.utils.seed import seed_everything


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
    with collected_warnings() as warned:
        assembly = assemble(config, where=where, data=data)
        if announce is not None:
            announce(assembly)
        history = _fit(assembly, out, resume)
        assembly.objective.load_state_dict(load_checkpoint(out.checkpoint)["model"])
        return record(assembly, history, out, warned=warned)


def _fit(assembly: Assembly, out: RunDir, resume: Path | None) -> History:
    """Train what was assembled; the checkpoints and logs are in the folder then."""
    settings, validating = assembly.config, len(assembly.split.val) > 0
    monitor = monitored(settings.optim, validating)
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
    out.write_json(DIAGNOSIS, assembly.described())
    validation = assembly.loader(assembly.split.val) if validating else None
    return trainer.fit(assembly.training_loader(), validation, resume=resume)


def embed(
    checkpoint: str | Path, data: Any = None, *, out: str | Path | None = None, overwrite: bool = False
) -> Path:
    """Embed cells with a trained model.

    Parameters
    ----------
    checkpoint
        A checkpoint, a run folder (its best checkpoint, else its last), or a saved model.
    data
        File, AnnData, MuData or mapping of AnnData; the data that the model was trained on by default.
    out
        The ``.npz`` to write: ``z_bio``, ``mu``, ``logvar`` (cell x latent), ``z_tech`` where the
        model has one, and ``obs_names``. By default
        ``embeddings.<name of the data>.npz`` beside the checkpoint.
    overwrite
        Replace ``out``.

    Raises
    ------
    InputError
        No such checkpoint, features of the model that the data lacks, or ``out`` exists.
    """
    path = Path(checkpoint)
    name = f"embeddings.{Path(data).stem}.npz" if isinstance(data, str | Path) else EMBEDDINGS
    beside = path / name if path.is_dir() else path.with_name(name)
    target = beside if out is None else Path(out)
    refuse_existing(target, overwrite=overwrite)
    trained = Trained.load(path)
    source = trained.source(data)
    latent = embed_cells(trained.model, trained.loader(source))
    return write_arrays(target, embedding_arrays(source.obs_names, latent))


def resumed_config(checkpoint: str | Path) -> Raw:
    """Configuration of the run that a checkpoint, or a run folder, belongs to."""
    path = last_checkpoint(checkpoint)
    config: Raw = load_checkpoint(path)["metadata"]["config"]
    check_known(config, str(path), training=True)
    return config


def last_checkpoint(path: str | Path) -> Path:
    """A checkpoint as it is; for a run folder, the last one in it."""
    path = Path(path)
    return path / LAST if path.is_dir() else path
