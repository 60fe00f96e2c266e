"""The verbs behind ``remadom evaluate``: a run measured anew, or any embedding of any tool."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from remadom.config.build import assemble
from remadom.config.known import check_known
from remadom.data.annotated import obs_in
from remadom.errors import InputError, nearest
from remadom.eval.metrics import embedding_metrics
from remadom.eval.report import write_report
from remadom.eval.scib import scib_metrics_of
from remadom.results.record import Run, record
from remadom.train.callbacks import History
from remadom.train.optim import device_at_hand
from remadom.utils.checkpoint import load_checkpoint
from remadom.utils.log import collected_warnings
from remadom.utils.outputs import CONFIG, EMBEDDINGS, HISTORY, METRICS, OBS_ARRAYS, RunDir
from remadom.utils.seed import seed_everything

EMBEDDING_NAMES = ("z_bio", "z", "X")
CELL_NAMES = ("obs_names", "names")


def evaluate(run_dir: str | Path, data: Any = None, *, scib: bool = False) -> Run:
    """Measure a finished run anew, and write its measures, figures and report again.

    Parameters
    ----------
    run_dir
        Folder of the run.
    data
        File, AnnData, MuData or a mapping of AnnData, in place of the file that it was trained on.
    scib
        Add scib-metrics' own values, as ``evaluation.scib``.

    Raises
    ------
    InputError
        There is no run in the folder, or its data is no longer there.
    MissingExtra
        scib-metrics is asked for and not installed.
    """
    out = RunDir(run_dir)
    parts = load_checkpoint(out.checkpoint)
    raw = parts["metadata"]["config"]
    check_known(raw, str(out.checkpoint), training=True)
    raw = {**raw, "logging": {**raw["logging"], "run_dir": str(out.path)}}
    seed_everything(raw["optim"]["seed"])
    with collected_warnings() as warned:
        assembly = assemble(raw, where=str(out / CONFIG), data=data)
        assembly.objective.load_state_dict(parts["model"])
        assembly.objective.to(device_at_hand(assembly.config.optim.device))
        done = record(assembly, History.read(out / HISTORY), out, warned=warned)
    if scib:
        settings = assembly.config.evaluation
        theirs, _ = scib_of(out.path, max_cells=settings.max_cells, seed=assembly.config.optim.seed)
        done.metrics["evaluation"]["scib"] = theirs
        out.write_json(METRICS, done.metrics)
        write_report(out.path)
    return done


def evaluate_embedding(
    embedding: str | Path,
    data: Any,
    *,
    label_key: str = "cell_type",
    batch_key: str = "batch",
    max_cells: int = 5000,
    seed: int = 0,
    scib: bool = False,
) -> dict[str, Any]:
    """Scores of an embedding that any tool has made.

    Parameters
    ----------
    embedding
        ``.npz`` with a matrix (``z_bio``, ``z`` or ``X``, cell x latent) and the names of its cells (``obs_names``).
    data
        File or objects that tell the label and the batch of these cells; those of others are ignored.
    label_key, batch_key
        Columns of obs.
    max_cells, seed
        Most cells that are measured, and the seed by which they are drawn.
    scib
        Add scib-metrics' own values under ``scib``.

    Returns
    -------
    dict
        See :func:`~remadom.eval.metrics.embedding_metrics`.

    Raises
    ------
    InputError
        A file cannot be read, holds no embedding, or cells of it are not in the data.
    """
    z, names = _embedding_in(Path(embedding))
    obs = obs_in(data)
    for key in (label_key, batch_key):
        if key not in obs and key not in ("cell_type", "batch"):
            raise InputError(f"no column '{key}' in obs: {nearest(key, list(map(str, obs.columns)))}")
    place = obs.index.get_indexer(names)
    if (place < 0).any():
        raise InputError(
            f"{int((place < 0).sum())} of {len(names)} cells of {embedding} are not in the data (first: "
            f"'{names[place < 0][0]}'; the data has for example '{obs.index[0]}'); give the file that was embedded"
        )
    label = obs[label_key].to_numpy(object)[place] if label_key in obs else None
    batch = obs[batch_key].to_numpy(object)[place] if batch_key in obs else None
    if batch is not None and len({str(b) for b in batch}) < 2:
        batch = None
    scores: dict[str, Any] = embedding_metrics(z, label, batch, max_cells=max_cells, seed=seed)
    if scib:
        if label is None or batch is None:
            raise InputError(f"--scib needs labels and several batches in obs ('{label_key}', '{batch_key}')")
        known = np.flatnonzero([value == value and value is not None for value in label])
        drawn = np.sort(np.random.default_rng(seed).permutation(known)[:max_cells])
        scores["scib"] = scib_metrics_of(z[drawn], label[drawn], batch[drawn])
    return scores


def scib_of(
    run_dir: str | Path, *, max_cells: int = 5000, seed: int = 0
) -> tuple[dict[str, float], dict[str, Any]]:
    """Scores of a run's embedding by scib-metrics, and remadom's own, of the same cells with a label and a batch.

    Raises
    ------
    InputError
        The folder holds no finished run, or there are no two labels and batches.
    """
    folder = Path(run_dir)
    if not (folder / EMBEDDINGS).is_file():
        raise InputError(f"{folder}: found no {EMBEDDINGS}; expected the folder of a finished run")
    embedding, obs = np.load(folder / EMBEDDINGS), np.load(folder / OBS_ARRAYS)
    if list(embedding["obs_names"]) != list(obs["obs_names"]):
        raise InputError(f"{folder}: the cells of {EMBEDDINGS} and {OBS_ARRAYS} differ; they are of two runs")
    labels = obs["label"] if "label" in obs else np.zeros(len(obs["batch"]), dtype="<U1")
    known = np.flatnonzero((labels != "") & (obs["batch"] != ""))
    drawn = np.sort(np.random.default_rng(seed).permutation(known)[:max_cells])
    z, label, batch = embedding["z_bio"][drawn], labels[drawn], obs["batch"][drawn]
    if min(len(np.unique(label)), len(np.unique(batch))) < 2:
        raise InputError(f"{folder}: scib-metrics needs two labels and two batches or more")
    return scib_metrics_of(z, label, batch), embedding_metrics(z, label, batch, max_cells=len(z))


def _embedding_in(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The matrix of an ``.npz`` and the names of its cells."""
    if not path.is_file():
        raise InputError(f"{path} does not exist; expected an .npz with z_bio and obs_names")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files if name in (*EMBEDDING_NAMES, *CELL_NAMES)}
            listed = ", ".join(arrays.files)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path} cannot be read as .npz without pickle ({error})") from error
    z = next((found[name] for name in EMBEDDING_NAMES if name in found), None)
    names = next((found[name] for name in CELL_NAMES if name in found), None)
    if z is None or names is None or z.ndim != 2 or len(z) != len(names):
        raise InputError(
            f"{path} holds {listed}; expected z_bio (cell x latent) and obs_names, one name for each of its rows"
        )
    return z, names
