"""The verb behind ``remadom export``: a copy of the data with what a run found, for scanpy and muon to go on from."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd

from remadom.config.trained import Trained
from remadom.data.files import DataFile, kind_of
from remadom.data.writer import remove
from remadom.errors import InputError, nearest
from remadom.train.imputation import impute_cells
from remadom.utils.files import refuse_existing
from remadom.utils.outputs import EMBEDDINGS, RunDir

EMBEDDED = "X_remadom"
IMPUTED = "remadom_"


def export(
    run_dir: str | Path,
    out: str | Path,
    data: str | Path | None = None,
    *,
    impute: Sequence[str] = (),
    overwrite: bool = False,
) -> Path:
    """Write a copy of the data with the embedding of a run in ``obsm["X_remadom"]``.

    In a MuData the embedding is in the MuData and in each of its modalities. Expected values of a modality are
    ``obsm["remadom_<modality>"]`` (float32, dense), the names of their columns ``uns["remadom_<modality>_names"]``.
    Cells that were not embedded have NaN.

    Parameters
    ----------
    run_dir
        Folder of a finished run.
    out
        File to write, of the kind of the data: ``.h5ad``, ``.h5mu`` or ``.zarr``.
    data
        File to copy, with the same cells; by default the one that was trained on.
    impute
        Modalities whose expected values are wanted too.
    overwrite
        Replace ``out``.

    Raises
    ------
    InputError
        No finished run, no such modality, a file that cannot be copied, or ``out`` exists.
    """
    out, folder = Path(out), RunDir(run_dir)
    refuse_existing(out, overwrite=overwrite)
    if not (folder / EMBEDDINGS).exists():
        raise InputError(f"{folder.path} has no {EMBEDDINGS}; expected the folder of a finished run")
    trained = Trained.load(folder.path)
    path = Path(data or trained.config.data.path or "")
    if not path.name:
        raise InputError(
            "the run was trained on data in memory, so there is no file to copy; name one with --data"
        )
    whole = _read(path)
    for modality in impute:
        if modality not in trained.model.decoders:
            raise InputError(
                f"the model has no decoder of '{modality}': {nearest(modality, trained.model.decoders)}"
            )
    suffix = ".h5mu" if isinstance(whole, md.MuData) else ".h5ad"
    if out.suffix not in (suffix, ".zarr"):
        raise InputError(
            f"{out}: {path.name} is copied as {suffix} or .zarr, found the suffix '{out.suffix}'; change it"
        )
    with np.load(folder / EMBEDDINGS, allow_pickle=False) as arrays:
        found = {EMBEDDED: arrays["z_bio"]}
        names = pd.Index(arrays["obs_names"])
    columns = {}
    if impute:
        source = trained.source(None if data is None else path)
        for modality in impute:
            blocks = impute_cells(trained.model, trained.loader(source), modality)
            values = np.concatenate([block.expected for block in blocks])
            found[f"{IMPUTED}{modality}"] = values[source.obs_names.get_indexer(names)]
            columns[f"{IMPUTED}{modality}_names"] = np.asarray(
                trained.prepared.features[modality], dtype=object
            )
    parts = [whole, *whole.mod.values()] if isinstance(whole, md.MuData) else [whole]
    if not names.isin(whole.obs_names).any():
        raise InputError(f"{path} has none of the cells of the run; give the file that was trained on")
    for part in parts:
        place = names.get_indexer(part.obs_names)
        for key, values in found.items() if part is whole else [(EMBEDDED, found[EMBEDDED])]:
            part.obsm[key] = np.where((place >= 0)[:, None], values[place], np.nan).astype(np.float32)
    whole.uns.update(columns)
    _write(whole, out)
    return out


def _read(path: Path) -> ad.AnnData | md.MuData:
    with DataFile(path).reading() as root:  # says what is wrong with a file that is no data
        kind = kind_of(root, path)
    with md.set_options(pull_on_update=False):
        if path.suffix == ".zarr":
            return md.read_zarr(path) if kind == "MuData" else ad.read_zarr(path)
        return md.read_h5mu(path) if kind == "MuData" else ad.read_h5ad(path)


def _write(data: ad.AnnData | md.MuData, path: Path) -> None:
    """Write under another name, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        with md.set_options(pull_on_update=False), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "zarr v3 autosharding", UserWarning)
            if path.suffix == ".zarr":
                data.write_zarr(part)
            else:
                data.write(part)
        remove(path)
        os.replace(part, path)
    finally:
        remove(part)
