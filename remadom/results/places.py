"""Where cells lie by the modalities that they have: how donors are found for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.decomposition import TruncatedSVD

from remadom.config.build import Assembly
from remadom.core.vae import MosaicVAE
from remadom.solvers.ann import AnnIndex
from remadom.types import Batch
from remadom.utils.seed import derive

NEIGHBORS = 30
"""Cells near a cell that give it their values, in either space."""
COMPONENTS = 30


@dataclass(frozen=True, eq=False)
class Places:
    """Where cells lie by one modality, in two ways.

    Attributes
    ----------
    hidden
        Cell x hidden: last hidden layer of the encoder. It is learned, so of what matters it tells more than principal
        components, and it is wider than the latent.
    components
        Cell x component: principal components of what the encoder reads. They are not learned, so cells of like batches
        lie together, and their values are of like depth and background.
    """

    hidden: np.ndarray
    components: np.ndarray

    @property
    def known(self) -> np.ndarray:
        """Which cells have the modality."""
        known: np.ndarray = np.isfinite(self.hidden[:, 0])
        return known

    def among(self, cells: np.ndarray) -> Places:
        """Some of the cells."""
        return Places(self.hidden[cells], self.components[cells])


class Space:
    """Donors in the spaces of some modalities, each of which is scaled to one variance."""

    def __init__(self, donors: Sequence[np.ndarray]) -> None:
        self.scales = [1 / max(float(np.sqrt(part.var(0).sum())), 1e-6) for part in donors]
        self.n_donors, self.index = len(donors[0]), AnnIndex(self._scaled(donors))

    def nearest(self, cells: Sequence[np.ndarray]) -> sp.csr_matrix:
        """Cell x donor: the same weight for each of a cell's nearest donors."""
        chosen = self.index.search(self._scaled(cells), NEIGHBORS)[0].numpy().ravel()
        pointers = np.arange(0, len(chosen) + 1, NEIGHBORS)
        weights = np.full(len(chosen), 1 / NEIGHBORS, np.float32)
        return sp.csr_matrix((weights, chosen, pointers), shape=(len(cells[0]), self.n_donors))

    def _scaled(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate([part * scale for part, scale in zip(parts, self.scales, strict=True)], axis=1)


def axes_of(assembly: Assembly, modality: str, cells: np.ndarray) -> np.ndarray:
    """Principal axes, feature x component, of what the encoder of a modality reads of these cells."""
    encoder = assembly.model.encoder(modality)
    device = next(encoder.parameters()).device
    with torch.inference_mode():
        read = [
            encoder.transform(batch.encoder_rows(modality).to(device)) for batch in assembly.loader(cells)
        ]
    blocks = [rows.scipy() for rows in read]
    matrix = sp.vstack(blocks, format="csr")
    k = min(COMPONENTS, *(size - 1 for size in matrix.shape))
    if k < 1:
        return np.ones((matrix.shape[1], 1), np.float32)
    found = TruncatedSVD(k, random_state=derive(assembly.config.optim.seed, "axes") % 2**32).fit(matrix)
    axes: np.ndarray = np.ascontiguousarray(found.components_.T, dtype=np.float32)
    return axes


@torch.inference_mode()
def places_of(model: MosaicVAE, loader: Iterable[Batch], axes: Mapping[str, np.ndarray]) -> dict[str, Places]:
    """Where cells lie by each modality that has axes; NaN where a cell lacks it."""
    model.eval()
    device = next(model.parameters()).device
    parts: dict[str, list[Places]] = {m: [] for m in axes}
    for batch in loader:
        moved = batch.to(device)
        for m, found in parts.items():
            encoder = model.encoder(m)
            hidden = np.full((len(batch), encoder.head.in_features), np.nan, dtype=np.float32)
            components = np.full((len(batch), axes[m].shape[1]), np.nan, dtype=np.float32)
            if m in batch.has:
                at = batch.has[m].numpy()
                hidden[at] = model.hidden(moved, m).cpu().numpy()
                onto = torch.from_numpy(axes[m]).to(device)
                read = encoder.transform(moved.encoder_rows(m)).linear(onto)
                scored = model.decoder(m).scored if m in model.decoders else None
                if scored is not None and len(onto) == model.decoder(m).out_dim:
                    # the mean stands for what is lacking
                    lacking = torch.ones(len(onto), dtype=torch.bool, device=device)
                    lacking[scored] = False
                    read = read + encoder.transform.center[lacking] @ onto[lacking]
                components[at] = read.cpu().numpy()
            found.append(Places(hidden, components))
    return {
        m: Places(np.concatenate([p.hidden for p in found]), np.concatenate([p.components for p in found]))
        for m, found in parts.items()
    }
