"""The verbs behind ``remadom save`` and ``remadom checkpoint info``: a model that can be given away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import remadom
from remadom.adapters.cells import NOTHING
from remadom.config.reference import cells_of, summary
from remadom.config.trained import OWN, Trained, check_parts, tensors
from remadom.errors import InputError
from remadom.utils.checkpoint import load_checkpoint
from remadom.utils.outputs import COORDINATES, CORRECTION, DONORS, METRICS, RunDir
from remadom.utils.portable import MANIFEST, is_portable, read_manifest, write_portable


def save(
    run_dir: str | Path,
    out: str | Path,
    *,
    labels: Sequence[str] | None = None,
    cells: bool = True,
    data: Any = None,
    overwrite: bool = False,
) -> Path:
    """Write a run's model as a folder of safetensors and JSON, which every command takes in place of a run.

    The folder holds the configuration, the features and batches by name, the preprocessing, the weights, the
    calibration of intervals, a summary of the run's metrics, and with ``cells`` the posteriors, name, batch and
    labels of its cells, which mapping new cells with labels needs. Paths of this machine are left out.

    Parameters
    ----------
    run_dir
        Folder of a finished run.
    out
        Folder to write.
    labels
        Columns of obs whose labels are kept; the run's ``evaluation.label_key`` by default.
    cells
        Keep the cells.
    data
        File or objects with them, in place of the file that was trained on.
    overwrite
        Replace a model in ``out``.

    Raises
    ------
    InputError
        No finished run, an unknown column, or ``out`` is in use.
    """
    run, out = RunDir(run_dir), Path(out)
    if not run.finished:
        raise InputError(f"{run.path} holds no finished run; train it to its end before it is saved")
    if out.exists() and (not is_portable(out) or not overwrite) and (out.is_file() or any(out.iterdir())):
        what = "give --overwrite" if is_portable(out) else "it holds other files"
        raise InputError(f"{out} exists; choose another folder ({what})")
    trained = Trained.load(run.path)
    parts = load_checkpoint(trained.path)
    metadata: dict[str, Any] = parts["metadata"]
    config = _without_folders(metadata["config"])
    config["data"] = {**config["data"], "path": None}
    config["logging"] = {k: v for k, v in config["logging"].items() if k != "run_dir"}
    plain: dict[str, Any] | None = None
    places: dict[str, torch.Tensor] = {}
    if cells:
        plain, places = cells_of(trained, labels, data).state()
    content = {
        "remadom": remadom.__version__,
        **metadata,
        "config": config,
        "calibration": tensors(trained.calibration),
        "correction": tensors(run.arrays(CORRECTION)),
        "coordinates": tensors(run.arrays(COORDINATES)),
        "cells": plain,
        "metrics": summary(run.json(METRICS)),
    }
    files: dict[str, dict[str, torch.Tensor]] = {}
    if cells:
        files = {"cells": places, "donors": tensors(run.arrays(DONORS))}
    weights = {name: value for name, value in parts["model"].items() if name.startswith(OWN)}
    return write_portable(out, content, {"model": weights, **files})


def load(folder: str | Path) -> Trained:
    """A saved model, or that of a run: its ``model``, ``config``, ``prepared`` features and ``groups``."""
    return Trained.load(folder)


def info(path: str | Path) -> dict[str, Any]:
    """What is in a checkpoint, a run folder or a saved model; no tensor of a saved model is read.

    Returns
    -------
    dict
        ``kind, path, layout, remadom, bytes, parameters, modalities, groups, labels, cells, epoch, step, metrics``,
        what there is of these.

    Raises
    ------
    InputError
        There is no such file, or it cannot be read.
    """
    path = Path(path)
    if is_portable(path):
        manifest = read_manifest(path)
        check_parts(manifest, path / MANIFEST)
        kept = manifest["cells"]
        files = [path / MANIFEST, *(path / f"{name}.safetensors" for name in manifest["tensors"])]
        found: dict[str, Any] = {
            "kind": "saved model",
            "path": str(path),
            "layout": manifest["schema"],
            "remadom": manifest["remadom"],
            "bytes": sum(file.stat().st_size for file in files if file.exists()),
            "parameters": sum(
                _numbers(shape)
                for name, (_, shape) in manifest["tensors"]["model"].items()
                if name.startswith(OWN)
            ),
            "cells": 0 if kept is None else manifest["tensors"]["cells"]["batch"][1][0],
            "labels": {}
            if kept is None
            else {level: len({*names} - {NOTHING}) for level, names in kept["labels"].items()},
            "metrics": manifest["metrics"],
        }
        return found | _described(manifest)
    path = RunDir(path).checkpoint if path.is_dir() else path
    parts = load_checkpoint(path)
    found = {
        "kind": "checkpoint",
        "path": str(path),
        "layout": parts["version"],
        "bytes": path.stat().st_size,
        "parameters": sum(value.numel() for name, value in parts["model"].items() if name.startswith(OWN)),
        "epoch": parts.get("epoch"),
        "step": parts.get("step"),
    }
    return found | _described(parts["metadata"])


def _described(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What the metadata of a model say of its data."""
    return {
        "modalities": {
            modality: {
                "features": len(steps["features"]),
                "likelihood": (metadata["config"]["model"]["decoders"].get(modality) or {}).get("likelihood"),
            }
            for modality, steps in metadata["prepared"].items()
        },
        "groups": {name: len(names) for name, names in metadata["groups"].items()},
        "latent": metadata["config"]["model"]["latent_bio"],
    }


def _without_folders(value: Any) -> Any:
    """The value with the last part alone of every absolute path."""
    if isinstance(value, Mapping):
        return {key: _without_folders(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_without_folders(entry) for entry in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _numbers(shape: Sequence[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
