"""Donors as they are kept with a run, and read from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from remadom.config.trained import Trained
from remadom.core.vae import MosaicVAE
from remadom.data.stored import canonical
from remadom.eval.scales import scale_of
from remadom.results.donors import Donors
from remadom.results.places import Places
from remadom.utils.outputs import DONORS, RunDir
from remadom.utils.portable import is_portable, read_portable


def arrays_of(donors: Mapping[str, Donors]) -> dict[str, np.ndarray]:
    """Arrays of ``donors.npz``, from which :func:`donors_from` makes the same donors."""
    arrays: dict[str, np.ndarray] = {}
    for modality, found in donors.items():
        values = found.values
        for m, places in found.places.items():
            arrays[f"{modality}/hidden/{m}"] = places.hidden.astype(np.float16)
            arrays[f"{modality}/components/{m}"] = places.components
            arrays[f"{modality}/axes/{m}"] = found.axes[m]
        arrays |= {
            f"{modality}/data": values.data,
            f"{modality}/indices": values.indices.astype(np.int32),
            f"{modality}/indptr": values.indptr.astype(np.int64),
            f"{modality}/shape": np.array(values.shape, dtype=np.int64),
            f"{modality}/total": np.array(np.nan if found.total is None else found.total),
            f"{modality}/weight": np.array(found.weight),
        }
        if found.totals is not None:
            arrays[f"{modality}/totals"] = found.totals
    return arrays


def donors_from(arrays: Mapping[str, np.ndarray], model: MosaicVAE) -> dict[str, Donors]:
    """Donors by modality, from their arrays."""
    found = {}
    for modality in dict.fromkeys(name.split("/")[0] for name in arrays):
        part = {
            name.removeprefix(f"{modality}/"): v
            for name, v in arrays.items()
            if name.startswith(f"{modality}/")
        }
        total = float(part["total"])
        axes = {name.removeprefix("axes/"): v for name, v in part.items() if name.startswith("axes/")}
        found[modality] = Donors(
            places={m: Places(part[f"hidden/{m}"].astype(np.float32), part[f"components/{m}"]) for m in axes},
            axes=axes,
            values=canonical(_matrix(part), "donors"),
            scale=scale_of(model.decoder(modality).support),
            total=None if np.isnan(total) else total,
            weight=float(part["weight"]),
            totals=part.get("totals"),
        )
    return found


def _matrix(part: Mapping[str, np.ndarray]) -> sp.csr_matrix:
    """The stored parts as a matrix, unchecked."""
    matrix = sp.csr_matrix(tuple(part["shape"].tolist()), dtype=np.float32)
    matrix.data, matrix.indices, matrix.indptr = part["data"], part["indices"], part["indptr"]
    return matrix


def load_donors(trained: Trained, modality: str) -> Donors | None:
    """Donors of a modality that were kept with a model, if any."""
    folder = Path(trained.path).parent
    if is_portable(folder):
        _, files = read_portable(folder)
        arrays = {name: tensor.numpy() for name, tensor in files.get("donors", {}).items()}
    else:
        arrays = RunDir(folder).arrays(DONORS)
    arrays = {name: values for name, values in arrays.items() if name.startswith(f"{modality}/")}
    return donors_from(arrays, trained.model).get(modality)
