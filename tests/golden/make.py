"""Make the golden files of this version: tiny models, and what they say of a few cells.

A model that was saved once must load, and give the same numbers, in every later version. So a folder here is never
changed and never made again, only added: one for each version that writes another layout (of a saved model or of a
checkpoint) or another kind of model. ``tests/unit/test_golden.py`` reads all of them::

    python tests/golden/make.py            # writes tests/golden/<version>, which must not exist

Each folder has, for each model of ``MODELS``, a folder with ``model`` (as ``remadom save`` writes it), of one of them
``checkpoint.best.pt`` of the same run, ``query.npz`` (values of the cells, by modality, NaN where a cell lacks it, and
their columns of obs) and ``expected.npz`` (embedding of the query, values imputed for it, and embedding of the
reference's own cells).
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd

import remadom
from remadom import run, sharing
from remadom.config.load import overlay
from remadom.config.reference import Reference
from remadom.config.trained import Trained
from remadom.data.mock import generate, to_mudata
from remadom.train.embedding import embed_cells

HERE = Path(__file__).parent
SIZES = {"cells": 64, "genes": 20, "peaks": 20, "proteins": 4}
N_QUERY = 8
TINY: dict[str, Any] = {
    "data": {"path": "data.h5mu", "batch_key": "batch"},
    "logging": {"run_dir": "run"},
    "model": {
        "latent_bio": 3,
    },
    "optim": {"epochs": 3, "batch_size": 30, "lr": 0.01},
    "evaluation": {"figures": False, "layout": "pca", "label_key": "cell_type"},
}
MODALITIES = {"paired": ["rna", "atac"], "mosaic": ["rna", "atac", "adt"]}
MODELS: dict[str, dict[str, Any]] = {
    "paired": {
        "data": {
            "preprocess": {"atac": {"lsi": {"enabled": True, "n_components": 3}}},
            "covariates": {"continuous": ["age"], "categorical": ["sex"]},
        }
    },
    "mosaic": {
        "model": {
            "latent_tech": 2,
            "decoders": {"rna": {"likelihood": "nb"}},
            "fusion_temps": {"atac": 2.0},
        },
        "alignment": {"mmd": {"enabled": True, "params": {"weight": 0.1}}},
    },
}
"""What is trained, by problem of the mock data."""


def query_of(values: dict[str, np.ndarray]) -> dict[str, ad.AnnData]:
    """Cells of ``query.npz`` by modality."""
    names = np.array([f"query_{i}" for i in range(len(values["batch"]))])
    obs = pd.DataFrame({key: values[key] for key in ("batch", "age", "sex")}, index=names)
    parts = {}
    for name in values:
        if name.startswith("values_"):
            modality = name.removeprefix("values_")
            has = ~np.isnan(values[name][:, 0])
            parts[modality] = ad.AnnData(
                values[name][has],
                obs=obs[has],
                var=pd.DataFrame(index=values[f"features_{modality}"].astype(object)),
            )
    return parts


def answers(trained: Trained, query: dict[str, ad.AnnData]) -> dict[str, np.ndarray]:
    """Embedding and imputed values of the cells of a query, by name."""
    source = trained.source(query)
    order = np.argsort(source.obs_names)
    loader = trained.loader(source)
    latent = embed_cells(trained.model, loader)
    found = {"z_bio": latent.z_bio.numpy()[order], "logvar": latent.logvar.numpy()[order]}
    for modality in trained.model.decoders:
        parts = [trained.model.impute(batch, modality).detach().numpy() for batch in loader]
        found[f"imputed_{modality}"] = np.concatenate(parts)[order]
    return found


def reference_answers(reference: Reference) -> dict[str, np.ndarray]:
    """Embedding of the reference's own cells, from what is kept of them."""
    cells = reference.cells
    return {
        f"reference_{m}": cells.seen_by(reference.trained.model, (m,))
        for m in reference.trained.model.encoders
    } | {
        "reference_names": cells.names.astype(str),
        "reference_labels": cells.labels["cell_type"].astype(str),
    }


def make(folder: Path) -> None:
    """Write the files of every model of ``MODELS`` into a new folder."""
    for problem, settings in MODELS.items():
        own = folder / problem
        own.mkdir(parents=True)
        values = _query_values(problem)
        with tempfile.TemporaryDirectory() as scratch:
            narrow = {
                part: {m: {"hidden": 6} for m in MODALITIES[problem]} for part in ("encoders", "decoders")
            }
            raw = overlay(overlay(TINY, {"model": narrow}), settings)
            with contextlib.chdir(scratch):  # so that no path of this machine is in the checkpoint
                _training_data(problem).write("data.h5mu")
                run.train(raw)
                sharing.save("run", own / "model")
                if problem == "paired":
                    shutil.copyfile("run/checkpoint.best.pt", own / "checkpoint.best.pt")
        reference = Reference.load(own / "model")
        np.savez_compressed(own / "query.npz", **values)
        found = answers(reference.trained, query_of(values)) | reference_answers(reference)
        np.savez_compressed(own / "expected.npz", **found)


def _training_data(problem: str) -> md.MuData:
    data = to_mudata(generate(problem, seed=3, modalities=MODALITIES[problem], **SIZES))
    rng = np.random.default_rng(4)
    known = pd.DataFrame(
        {"age": rng.normal(50, 10, SIZES["cells"]), "sex": rng.choice(["f", "m"], SIZES["cells"])},
        index=data.obs_names,
    )
    for part in data.mod.values():
        part.obs = part.obs.join(known)
    return data


def _query_values(problem: str) -> dict[str, np.ndarray]:
    mock = generate(problem, seed=5, modalities=MODALITIES[problem], **SIZES)
    chosen = np.linspace(0, SIZES["cells"] - 1, N_QUERY).astype(int)
    values: dict[str, np.ndarray] = {
        "batch": mock.obs["batch"].to_numpy()[chosen].astype(str),
        "age": np.linspace(20, 90, N_QUERY),
        "sex": np.array(["f", "m"] * (N_QUERY // 2)),
    }
    for modality in mock.modalities:
        counts = np.asarray(mock.truth[modality].todense())[chosen].astype(np.float32)
        counts[~mock.has[modality][chosen]] = np.nan
        values |= {
            f"values_{modality}": counts,
            f"features_{modality}": np.array(mock.names[modality], dtype=str),
        }
    return values


if __name__ == "__main__":
    where = HERE / remadom.__version__
    if where.exists():
        sys.exit(f"{where} exists: golden files are added, never changed")
    with md.set_options(pull_on_update=False):
        make(where)
    size = sum(path.stat().st_size for path in where.rglob("*") if path.is_file())
    print(f"{where}: {size / 1e3:.0f} kB")
