"""The arrays that a run leaves: its embedding, and what is known of the cells."""

from __future__ import annotations

from typing import Any

import numpy as np

from remadom.config.build import Assembly
from remadom.types import Latent


def embedding_arrays(names: Any, latent: Latent) -> dict[str, np.ndarray]:
    """Arrays of ``embeddings.npz``."""
    arrays = {key: getattr(latent, key).numpy() for key in ("z_bio", "mu", "logvar")}
    if latent.z_tech is not None:
        arrays["z_tech"] = latent.z_tech.numpy()
    return {**arrays, "obs_names": np.asarray(names, dtype=np.str_)}


def obs_arrays(assembly: Assembly) -> dict[str, np.ndarray]:
    """Arrays of ``obs_arrays.npz``: groups, time, labels, the split and the presence of each modality."""
    source = assembly.source
    split = np.full(source.n_cells, "none", dtype="<U5")
    for name in ("train", "val", "test"):
        split[getattr(assembly.split, name)] = name
    arrays: dict[str, Any] = {"obs_names": np.asarray(source.obs_names, dtype=np.str_), "split": split}
    arrays |= {name: names_of(assembly, name) for name in assembly.groups}
    arrays |= {f"has_{m}": source.has[m] for m in source.modalities}
    if assembly.time is not None:
        arrays["time"] = assembly.time
    labels = labels_of(assembly)
    if labels is not None:
        arrays["label"] = labels
    return arrays


def labels_of(assembly: Assembly) -> np.ndarray | None:
    """Label of each cell, where the data has labels."""
    source, key = assembly.source, assembly.config.evaluation.label_key
    return source.obs[key].to_numpy() if key in source.obs else None


def names_of(assembly: Assembly, group: str) -> np.ndarray:
    """Name of the group of each cell."""
    codes, names = assembly.groups[group]
    return np.asarray(names)[codes]


def patterns_of(assembly: Assembly) -> np.ndarray:
    """Which modalities each cell has, such as ``rna+adt``."""
    codes, names = assembly.source.patterns()
    patterns: np.ndarray = np.asarray(names)[codes]
    return patterns


def batches_of(assembly: Assembly) -> np.ndarray | None:
    """Batch of each cell, where there are several."""
    return names_of(assembly, "batch") if len(assembly.groups["batch"][1]) > 1 else None
