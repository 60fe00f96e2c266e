"""Couplings of the temporal head against the published transport maps of MEF reprogramming (Schiebinger et al. 2019).

Reads ``../shared/data/wot_reprogramming_1000.h5ad``: 1,000 cells of days 10, 10.5 and 11, and the maps that
Waddington-OT computed for them. The shared latent is trained with the temporal head pulling and with it watching only
(weight 0); the couplings of the head between successive days are then compared with the published ones: correlation of
the entries and of their ranks, and the total variation distance of the transitions between cell types. Beside them the
same couplings on 30 principal components, and the coupling that knows nothing. Prints one line for each.
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from pathlib import Path

import anndata
import numpy as np
import torch
from scipy.stats import spearmanr

from remadom.align import HEADS
from remadom.config.build import assemble
from remadom.data.views import views_of
from remadom.train.embedding import embed_cells
from remadom.train.trainer import Trainer

FILE = Path(__file__).parents[2] / "shared" / "data" / "wot_reprogramming_1000.h5ad"
MAPS = {(10.0, 10.5): "wot_tmap_10_105", (10.5, 11.0): "wot_tmap_105_11"}


def transitions(plan: np.ndarray, earlier: np.ndarray, later: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """Share of the descendants of each type that are of each type, by the mass of the plan."""
    mass = np.array([[plan[np.ix_(earlier == a, later == b)].sum() for b in kinds] for a in kinds])
    return mass / np.maximum(mass.sum(1, keepdims=True), 1e-300)


def compare(name: str, points: torch.Tensor, data: anndata.AnnData, head, seconds: float) -> None:
    """Print how the couplings of the head on some coordinates agree with the published maps."""
    time_of = data.obs["time"].astype(float).to_numpy()
    kinds = data.obs["cell_type"].astype(str).to_numpy()
    correlation, ranks, errors = [], [], []
    for (t0, t1), key in MAPS.items():
        earlier, later = np.flatnonzero(time_of == t0), np.flatnonzero(time_of == t1)
        published = np.asarray(data.uns[key], dtype=float)
        if points is None:
            plan = np.full(published.shape, 1 / published.size)
        else:
            plan = head.couple(points[earlier], points[later]).numpy()
        correlation.append(np.corrcoef(plan.ravel(), published.ravel())[0, 1] if plan.std() > 0 else 0.0)
        ranks.append(spearmanr(plan.ravel(), published.ravel())[0] if plan.std() > 0 else 0.0)
        common = [
            k for k in np.unique(kinds) if (kinds[earlier] == k).sum() >= 5 and (kinds[later] == k).sum() >= 5
        ]
        one, other = (
            transitions(p, kinds[earlier], kinds[later], np.array(common)) for p in (plan, published)
        )
        errors.append(0.5 * np.abs(one - other).sum(1).mean())
    print(
        f"{name:34} correlation {correlation[0]:.3f} {correlation[1]:.3f}   rank {ranks[0]:.3f} {ranks[1]:.3f}   "
        f"type transitions, total variation {errors[0]:.3f} {errors[1]:.3f}   {seconds:.0f} s",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=60)
    asked = parser.parse_args()
    if not FILE.exists():
        print(f"skipped: {FILE} is not there")
        return
    warnings.simplefilter("ignore")
    logging.getLogger("remadom").setLevel(logging.ERROR)
    data = anndata.read_h5ad(FILE)
    compare("independent coupling", None, data, None, 0.0)
    for seed in range(asked.seeds):
        for weight, source in ((0.0, "latent"), (0.3, "latent"), (0.3, "rna")):
            head = {"temporal": {"enabled": True, "params": {"weight": weight, "source": source}}}
            raw = {
                "data": {"path": str(FILE)},
                "alignment": head,
                "optim": {"epochs": asked.epochs, "seed": seed},
            }
            assembly = assemble(raw)
            begun = time.perf_counter()
            Trainer(assembly.objective, assembly.config.optim).fit(assembly.training_loader())
            seconds = time.perf_counter() - begun
            cells = np.arange(assembly.source.n_cells)
            if seed == 0 and weight == 0:
                scores = views_of(assembly.source)["rna"].scores
                compare(
                    "30 principal components", torch.from_numpy(scores), data, HEADS.build("temporal"), 0.0
                )
            z = embed_cells(assembly.model, assembly.loader(cells)).z_bio
            trained = assembly.objective.terms["temporal"].module
            compare(f"seed {seed}, weight {weight}, solved on {source}", z, data, trained, seconds)


if __name__ == "__main__":
    main()
