"""Small batches of known content for the tests of the model."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch

from remadom.core.decoders import ADTMixtureDecoder, ATACDecoderBernoulli, RNADecoderZINB
from remadom.core.encoder import GaussianEncoder
from remadom.core.fusion import ProductOfExperts
from remadom.core.inputs import INPUTS
from remadom.core.technical import TechnicalPrior
from remadom.core.vae import MosaicVAE
from remadom.types import Batch, Rows

SIZES = {"rna": 12, "atac": 20, "adt": 5}
INPUT = {"rna": "lognorm", "atac": "tfidf", "adt": "clr"}
DECODER = {"rna": RNADecoderZINB, "atac": ATACDecoderBernoulli, "adt": ADTMixtureDecoder}
LATENT = 4


def make_counts(n: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "rna": rng.poisson(0.4, (n, SIZES["rna"])).astype(np.float32),
        "atac": rng.binomial(1, 0.15, (n, SIZES["atac"])).astype(np.float32),
        "adt": rng.poisson(20, (n, SIZES["adt"])).astype(np.float32),
    }


def make_batch(
    n: int = 9,
    *,
    has: dict[str, np.ndarray] | None = None,
    counts: dict[str, np.ndarray] | None = None,
    seed: int = 0,
) -> Batch:
    """A batch of ``n`` cells of two batches; ``has`` masks cells of a modality, whose rows are then empty."""
    counts = make_counts(n, seed) if counts is None else counts
    masks = {m: np.ones(n, dtype=bool) if has is None else has.get(m, np.ones(n, dtype=bool)) for m in counts}
    x = {m: Rows.of(sp.csr_matrix(v * masks[m][:, None])) for m, v in counts.items()}
    return Batch(
        x=x,
        has={m: torch.from_numpy(mask) for m, mask in masks.items()},
        library={m: rows.totals().clamp(min=1) for m, rows in x.items() if m == "rna"},
        groups={"batch": torch.arange(n) % 2, "dataset": torch.zeros(n, dtype=torch.long)},
        index=torch.arange(n),
        seed=torch.ones(n, dtype=torch.bool),
    )


def take(batch: Batch, cells: list[int]) -> Batch:
    """Some cells of a batch, in a given order."""
    at = torch.tensor(cells)
    return Batch(
        x={m: Rows.of(sp.csr_matrix(rows.dense()[at].numpy())) for m, rows in batch.x.items()},
        has={m: mask[at] for m, mask in batch.has.items()},
        library={m: value[at] for m, value in batch.library.items()},
        groups={name: codes[at] for name, codes in batch.groups.items()},
        index=batch.index[at],
        seed=batch.seed[at],
    )


def make_model(
    modalities: tuple[str, ...] = ("rna", "atac", "adt"), seed: int = 0, *, tech: int = 0, **params
) -> MosaicVAE:
    torch.manual_seed(seed)
    technical = TechnicalPrior(2, tech, modalities) if tech else None
    encoders = {
        m: GaussianEncoder(SIZES[m], LATENT + tech, INPUTS.build(INPUT[m], SIZES[m]), hidden=8)
        for m in modalities
    }
    decoders = {m: DECODER[m](LATENT, SIZES[m], 0 if tech else 2, tech, hidden=8) for m in modalities}
    return MosaicVAE(encoders, ProductOfExperts(None, modalities), decoders, technical=technical, **params)
