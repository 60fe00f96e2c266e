"""What z_tech and z_bio know of the batch: mock data with batch effects, without and with a technical latent space.

    OMP_NUM_THREADS=1 python benchmarks/latent_tech.py [--cells 1500] [--batches 3] [--seeds 2] [--dims 0 4 8]

Balanced accuracy of a logistic regression and of the 15 nearest neighbors, five-fold: of the batch (chance: 1 over
their number; the first line says how well the true biology of the cells tells it, as batches differ in composition),
and of the cell type. `untold` is z_tech of the same cells when the model is not told their batch: what the counts
alone say of it. `kl_tech` is in nats per cell. Every run has the same heads, those that remadom chooses.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from dataclasses import replace

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from remadom import run
from remadom.config.build import Assembly
from remadom.config.load import overlay
from remadom.data.mock import MockData, generate, mock_config, to_mudata

FOLDS = StratifiedKFold(5, shuffle=True, random_state=0)


def told(z: np.ndarray, labels: np.ndarray) -> str:
    """Balanced accuracy of both classifiers."""
    scores = [
        cross_val_score(
            make_pipeline(StandardScaler(), model), z, labels, cv=FOLDS, scoring="balanced_accuracy"
        ).mean()
        for model in (LogisticRegression(max_iter=2000), KNeighborsClassifier(15))
    ]
    return "  ".join(f"{score:.3f}" for score in scores)


@torch.inference_mode()
def untold(assembly: Assembly) -> np.ndarray:
    """``z_tech`` of every cell from its counts alone."""
    model, parts = assembly.model.eval(), []
    for batch in assembly.loader(np.arange(assembly.source.n_cells)):
        nothing = {**batch.groups, "batch": torch.full_like(batch.groups["batch"], -1)}
        z_tech = model.embed(replace(batch, groups=nothing)).z_tech
        assert z_tech is not None
        parts.append(z_tech.numpy())
    return np.concatenate(parts)


def row(mock: MockData, dim: int, seed: int, epochs: int) -> None:
    """Train once and print what each space tells."""
    settings = {
        "data": {"path": None},
        "model": {"latent_tech": dim, "latent_bio": 10},
        "optim": {"epochs": epochs, "seed": seed},
        "evaluation": {"figures": False},
        "logging": {"run_dir": tempfile.mkdtemp()},
    }
    began = time.perf_counter()
    done = run.train(overlay(mock_config(mock, "mock.h5mu"), settings), data=to_mudata(mock), overwrite=True)
    seconds = time.perf_counter() - began
    arrays = np.load(done.dir / "embeddings.npz")
    obs = mock.obs.loc[arrays["obs_names"]]
    batch, kind = (obs[key].to_numpy().astype(str) for key in ("batch", "cell_type"))
    last = done.history.history[-1]["val"]
    tail = f"elbo {last['elbo.loss']:7.1f}   {seconds:4.0f} s"
    name = f"latent_tech {dim}, seed {seed}"
    print(f"{name:24s} z_bio    {told(arrays['z_bio'], batch)}     {told(arrays['z_bio'], kind)}     {tail}")
    if dim:
        spaces = {"z_tech": arrays["z_tech"], "untold": untold(done.assembly)}
        for space, z in spaces.items():
            tail = f"kl_tech {last['elbo.kl_tech']:.2f}" if space == "z_tech" else ""
            print(f"{'':24s} {space:8s} {told(z, batch)}     {told(z, kind)}     {tail}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cells", type=int, default=1500)
    parser.add_argument("--batches", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--dims", type=int, nargs="+", default=[0, 4, 8])
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    mock = generate(
        "paired",
        cells=args.cells,
        genes=200,
        proteins=20,
        modalities=["rna", "adt"],
        batches=args.batches,
    )
    batch, kind = (mock.obs[key].to_numpy().astype(str) for key in ("batch", "cell_type"))
    print(f"{'':24s} {'space':8s} {'batch: lr, knn':16s} {'type: lr, knn':16s}")
    print(f"{'truth':24s} {'latent':8s} {told(mock.latent, batch)}     {told(mock.latent, kind)}", flush=True)
    for seed in range(args.seeds):
        for dim in args.dims:
            row(mock, dim, seed, args.epochs)


if __name__ == "__main__":
    main()
