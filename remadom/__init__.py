"""remadom: one shared embedding from single-cell RNA, ATAC and protein measurements."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "ADTMixtureDecoder": "remadom.core.decoders.adt",
    "ATACDecoderBernoulli": "remadom.core.decoders.atac",
    "GraphBuilder": "remadom.graph",
    "GraphRegularizer": "remadom.graph",
    "MNNBridge": "remadom.bridges",
    "MosaicVAE": "remadom.core.vae",
    "OtSolver": "remadom.solvers.ot",
    "ProductOfExperts": "remadom.core.fusion",
    "RNADecoderZINB": "remadom.core.decoders.rna",
    "Trainer": "remadom.train.trainer",
    "dataloader": "remadom.data.loader",
    "load_checkpoint": "remadom.utils.checkpoint",
    "preprocess_adt": "remadom.data.preprocess",
    "preprocess_atac": "remadom.data.preprocess",
    "preprocess_atac_tfidf_lsi": "remadom.data.preprocess",
    "preprocess_rna": "remadom.data.preprocess",
    "save_checkpoint": "remadom.utils.checkpoint",
    "validate_dims": "remadom.data.validate",
}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that ``import remadom`` costs nothing."""
    if name not in _HOME:
        raise AttributeError(f"module 'remadom' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
