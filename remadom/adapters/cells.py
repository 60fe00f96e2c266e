"""The cells of a reference: where they lie, and what is known of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from remadom.adapters.profile_axes import ProfileAxes
from remadom.core.fusion import ABSENT
from remadom.core.vae import MosaicVAE
from remadom.errors import InputError
from remadom.types import Batch, Posterior

NOTHING = ""
"""Label of a cell that has none."""

PROFILE_PARTS = ("profile", "mean", "kept", "axes")
"""Tensors of the profiles of a modality."""


def label_texts(column: pd.Series) -> np.ndarray:
    """Labels of a column of obs as text, ``NOTHING`` where a cell has ``None``, NaN or an empty text."""
    texts: np.ndarray = np.where(column.isna(), NOTHING, column.astype(str)).astype(object)
    return texts


@dataclass(frozen=True, eq=False)
class ReferenceCells:
    """Cells that new ones are compared with.

    Attributes
    ----------
    experts
        Mean and log variance of each cell by modality, cell x latent; infinite where a cell lacks the modality.
    names
        Name of each cell.
    batch
        Batch of each cell.
    labels
        Label of each cell by level, such as ``cell_type``; ``NOTHING`` where a cell has none.
    axes
        Axes of the profiles of those modalities of which all cells have some.
    profiles
        Components of each cell along these, cell x component; where a cell lacks the modality, what regression makes
        of the others.
    """

    experts: Mapping[str, tuple[np.ndarray, np.ndarray]]
    names: np.ndarray
    batch: np.ndarray
    labels: Mapping[str, np.ndarray]
    axes: Mapping[str, ProfileAxes] = field(default_factory=dict)
    profiles: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)

    def seen_by(self, model: MosaicVAE, modalities: Sequence[str]) -> np.ndarray:
        """Cell x latent as other cells with these modalities are embedded: from these alone.

        What else a reference cell has moves it to where no such cell comes. A cell with none of them is embedded from
        all it has.
        """
        every = {m: Posterior(*map(torch.from_numpy, expert)) for m, expert in self.experts.items()}
        device = next(model.parameters()).device
        has = {m: torch.isfinite(expert.logvar[:, 0]) for m, expert in every.items()}
        alike = (
            torch.stack([has[m] for m in every if m in modalities]).any(0)
            if {*every} & {*modalities}
            else None
        )
        experts = {}
        for m, (mu, logvar) in every.items():
            if m not in modalities and alike is not None:
                mu = torch.where(alike.unsqueeze(1), 0.0, mu)
                logvar = torch.where(alike.unsqueeze(1), ABSENT, logvar)
            experts[m] = Posterior(mu.to(device), logvar.to(device))
        with torch.no_grad():
            z: np.ndarray = model.product(experts).mu.cpu().numpy()
        return z

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Plain values and tensors, from which :meth:`from_state` makes the same cells."""
        batch, codes = np.unique(self.batch, return_inverse=True)
        tensors = {
            "batch": torch.from_numpy(codes.astype(np.int32)),
            **_texts(self.names),
        }
        for modality, (mu, logvar) in self.experts.items():
            tensors[f"mu.{modality}"], tensors[f"logvar.{modality}"] = map(torch.from_numpy, (mu, logvar))
        for modality, axes in self.axes.items():
            arrays = (self.profiles[modality], axes.mean, axes.kept, axes.axes)
            for part, values in zip(PROFILE_PARTS, arrays, strict=True):
                tensors[f"{part}.{modality}"] = torch.from_numpy(values)
        levels: dict[str, list[str]] = {}
        for level, values in self.labels.items():
            names, codes = np.unique(values, return_inverse=True)
            levels[level] = names.tolist()
            tensors[f"label.{level}"] = torch.from_numpy(codes.astype(np.int32))
        plain = {"batch": batch.tolist(), "labels": levels, "modalities": list(self.experts)}
        comparable = {m: {"support": axes.support, "total": axes.total} for m, axes in self.axes.items()}
        return {**plain, "profiles": comparable}, tensors

    @classmethod
    def from_state(cls, plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> ReferenceCells:
        """The cells again; those that were saved before there were profiles have none.

        Raises
        ------
        InputError
            The parts do not fit together.
        """
        try:
            names = _texts_again(tensors)
            batch = _decoded(tensors["batch"], plain["batch"])
            labels = {level: _decoded(tensors[f"label.{level}"], of) for level, of in plain["labels"].items()}
            experts = {
                m: (tensors[f"mu.{m}"].numpy(), tensors[f"logvar.{m}"].numpy()) for m in plain["modalities"]
            }
            profiles, axes = {}, {}
            for m, comparable in plain.get("profiles", {}).items():
                profiles[m], *arrays = (tensors[f"{part}.{m}"].numpy() for part in PROFILE_PARTS)
                axes[m] = ProfileAxes(comparable["support"], comparable["total"], *arrays)
        except (KeyError, IndexError, UnicodeDecodeError) as error:
            raise InputError(f"the cells of the reference are damaged ({error}); take another copy") from None
        parts = [names, batch, *labels.values(), *chain.from_iterable(experts.values()), *profiles.values()]
        sizes = {len(part) for part in parts}
        if len(sizes) > 1:
            raise InputError(
                f"the cells of the reference are damaged (parts of {sizes} cells); take another copy"
            )
        return cls(experts, names, batch, labels, axes, profiles)


@torch.inference_mode()
def experts_of(model: MosaicVAE, loader: Iterable[Batch]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Posterior of each cell by modality, as :class:`ReferenceCells` holds it."""
    model.eval()
    device = next(model.parameters()).device
    parts = [model.encode(batch.to(device)) for batch in loader]
    return {
        m: (
            torch.cat([part[m].mu for part in parts]).cpu().numpy(),
            torch.cat([part[m].logvar for part in parts]).cpu().numpy(),
        )
        for m in model.encoders
    }


def _texts(names: np.ndarray) -> dict[str, Tensor]:
    """Texts as UTF-8 bytes, and where each ends."""
    encoded = [str(name).encode() for name in names]
    ends = np.cumsum([len(part) for part in encoded], dtype=np.int64)
    content = np.frombuffer(b"".join(encoded), dtype=np.uint8).copy()
    return {"names": torch.from_numpy(content), "names.end": torch.from_numpy(ends)}


def _texts_again(tensors: Mapping[str, Tensor]) -> np.ndarray:
    content, ends = tensors["names"].numpy().tobytes(), tensors["names.end"].tolist()
    starts = [0, *ends][:-1]
    if ends and (ends[-1] != len(content) or any(a > b for a, b in zip(starts, ends, strict=True))):
        raise InputError("the names of the reference's cells are damaged; take another copy")
    return np.array([content[a:b].decode() for a, b in zip(starts, ends, strict=True)], dtype=object)


def _decoded(codes: Tensor, names: Sequence[str]) -> np.ndarray:
    at = codes.numpy()
    if len(at) and at.min() < 0:
        raise IndexError("a code below 0")
    texts: np.ndarray = np.array(names, dtype=object)[at]
    return texts
