"""Mock data with a known truth, as an .h5ad or .h5mu file and a configuration that trains on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import yaml

from remadom.data.mock_model import MockData, generate
from remadom.errors import InputError

__all__ = ["MockData", "generate", "mock_config", "to_anndata", "to_mudata", "write_mock"]


def _attach_truth(data: ad.AnnData | md.MuData, mock: MockData) -> None:
    """Latent and counts before masking, in the order of the cells of ``data``."""
    at = mock.obs.index.get_indexer(data.obs_names)
    data.obsm["truth_latent"] = mock.latent[at]
    for modality in mock.modalities:
        data.obsm[f"truth_{modality}"] = mock.truth[modality][at]
    data.uns["mock"] = {
        key: np.array(value, dtype=object) if isinstance(value, list) else value
        for key, value in mock.parameters.items()
    }


def to_anndata(mock: MockData) -> ad.AnnData:
    """All cells in one AnnData: the main modality in ``X`` and ``layers["counts"]``, the others in ``obsm``.

    Rows of cells that lack a modality are empty and ``obs["has_<modality>"]`` says so. The features of
    ``obsm["X_<modality>"]`` are named in ``uns["X_<modality>_names"]``; the truth is in ``obsm["truth_*"]``.
    """
    main, *others = mock.modalities
    counts = mock.observed(main)
    data = ad.AnnData(
        X=counts,
        obs=mock.obs.assign(**{f"has_{m}": mock.has[m] for m in mock.modalities}),
        var=pd.DataFrame(index=pd.Index(mock.names[main], dtype=object)),
        layers={"counts": counts},
    )
    for modality in others:
        data.obsm[f"X_{modality}"] = mock.observed(modality)
        data.uns[f"X_{modality}_names"] = mock.names[modality]
    _attach_truth(data, mock)
    return data


def to_mudata(mock: MockData) -> md.MuData:
    """A ragged MuData: each modality holds its own cells, counts in ``X``, the columns in its ``obs``.

    The truth of all cells is in ``obsm["truth_*"]`` of the MuData, in the order of its ``obs_names``.
    """
    parts = {
        modality: ad.AnnData(
            X=mock.truth[modality][mock.has[modality]],
            obs=mock.obs[mock.has[modality]].copy(),
            var=pd.DataFrame(index=pd.Index(mock.names[modality], dtype=object)),
        )
        for modality in mock.modalities
    }
    with md.set_options(pull_on_update=False):
        data = md.MuData(parts)
        _attach_truth(data, mock)
    return data


def _anndata_keys(mock: MockData) -> dict[str, str]:
    main, *others = mock.modalities
    return {main: "layers:counts", **{m: f"obsm:X_{m}" for m in others}}


def _mudata_keys(mock: MockData) -> dict[str, str]:
    return {m: f"{m}:X" for m in mock.modalities}


_Layout = tuple[Callable[[MockData], Any], Callable[[MockData], dict[str, str]]]
_LAYOUTS: dict[str, _Layout] = {".h5ad": (to_anndata, _anndata_keys), ".h5mu": (to_mudata, _mudata_keys)}


def _layout(path: str | Path) -> _Layout:
    suffix = Path(path).suffix
    if suffix not in _LAYOUTS:
        raise InputError(f"cannot write '{path}': its suffix is '{suffix}'; end the name in .h5ad or .h5mu")
    return _LAYOUTS[suffix]


def mock_config(mock: MockData, path: str | Path) -> dict[str, Any]:
    """Configuration that trains on the data set as :func:`write_mock` lays it out at ``path``.

    Raises
    ------
    InputError
        The suffix of ``path`` is neither ``.h5ad`` nor ``.h5mu``.
    """
    _, keys = _layout(path)
    return {
        "data": {
            "path": str(path),
            "batch_key": "batch",
            "dataset_key": "dataset",
            "time_key": "time",
            "split_key": "split",
            "keys": keys(mock),
        },
        "model": {"latent_bio": 16},
        "optim": {"epochs": 30, "batch_size": 128, "lr": 0.002, "seed": 0},
        "evaluation": {"label_key": "cell_type"},
        "logging": {"run_dir": f"runs/mock_{mock.problem}"},
    }


def feature_links(mock: MockData) -> pd.DataFrame:
    """Table of each protein and the gene that follows it best in all cells, as a vendor's table names them.

    Raises
    ------
    InputError
        The mock has no RNA or no proteins.
    """
    if not {"rna", "adt"} <= set(mock.modalities):
        raise InputError(f"links tie genes to proteins; the mock has {', '.join(mock.modalities)}")
    scores = []
    for modality in ("rna", "adt"):
        logs = np.log1p(np.asarray(mock.truth[modality].todense()))
        scores.append((logs - logs.mean(0)) / np.maximum(logs.std(0), 1e-9))
    gene = (scores[0].T @ scores[1]).argmax(0)
    return pd.DataFrame({"gene": mock.names["rna"][gene], "protein": mock.names["adt"]})


def write_mock(
    path: str | Path,
    config_out: str | Path | None,
    problem: str,
    *,
    links_out: str | Path | None = None,
    **options: Any,
) -> MockData:
    """Generate a data set and write it, and its configuration, creating their folders where missing.

    Parameters
    ----------
    path
        The data: ``.h5ad`` (:func:`to_anndata`) or ``.h5mu`` (:func:`to_mudata`).
    config_out
        The configuration (YAML); ``None`` writes none.
    links_out
        A table of genes and the proteins that they stand for (CSV); ``None`` writes none.
    problem, options
        As in :func:`generate`.

    Raises
    ------
    InputError
        An argument is out of range, the suffix is unknown, or a file cannot be written there.
    """
    build, _ = _layout(path)
    mock = generate(problem, **options)
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with md.set_options(pull_on_update=False):
            build(mock).write(path)
        if config_out is not None:
            Path(config_out).parent.mkdir(parents=True, exist_ok=True)
            Path(config_out).write_text(yaml.safe_dump(mock_config(mock, path), sort_keys=False))
        if links_out is not None:
            Path(links_out).parent.mkdir(parents=True, exist_ok=True)
            feature_links(mock).to_csv(links_out, index=False)
    except OSError as error:
        raise InputError(f"cannot write the mock data set: {error}") from error
    return mock
