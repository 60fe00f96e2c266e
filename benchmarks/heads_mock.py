"""What each head and each bridge does on mock data of known truth, and what it costs.

For each of five seeds the same model is trained on the same mock twice: with the term at a weight of 0, so that it
is measured and does nothing, and at its weight. Printed, as means over the seeds: the term's own value on the final
embedding, how well the cell types are kept (ARI of k-means, silhouette) and the batches mix (iLISI), off and on,
and the time of a training step. ``python benchmarks/heads_mock.py [--seeds 5] [--epochs 30] [--only mmd ot ...]``.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from remadom.config.build import assemble
from remadom.config.load import overlay, read_config
from remadom.data.mock import write_mock
from remadom.data.sampler import Draw
from remadom.eval.metrics import embedding_metrics
from remadom.train.embedding import embed_cells
from remadom.train.trainer import Trainer

WITH_GRAPH = {"structure": {"laplacian_enabled": True, "laplacian_lambda": 0.0}}
CASES: dict[str, tuple[str, str, dict]] = {
    "mmd": ("hierarchical", "mmd", {}),
    "mmd, levels": ("hierarchical", "mmd", {"group_key": ["dataset", "batch"]}),
    "sinkhorn": ("hierarchical", "sinkhorn", {}),
    "ot": ("hierarchical", "ot", {}),
    "adversarial": ("hierarchical", "adversarial", {}),
    "posterior": ("paired", "posterior", {}),
    "gw": ("unpaired", "gw", {}),
    "temporal": ("paired", "temporal", {}),
    "crossgraph": ("bridge", "crossgraph", {}),
    "laplacian": ("paired", "laplacian", {}),
    **{
        f"bridge: {name}": ("bridge", "bridge", {"provider": name})
        for name in ("mnn", "dictionary", "linmap")
    },
    "bridge: seeded": ("bridge", "bridge", {"provider": "seeded", "seeds": "pair"}),
    "bridge: gw": ("unpaired", "bridge", {"provider": "gw"}),
    "bridge: linked_features": ("unpaired", "bridge", {"provider": "linked_features"}),
}
"""Mock problem, kind of term and its settings."""


def section(kind: str, params: dict, on: bool) -> dict:
    """Configuration of a term, pulling or only watching."""
    if kind == "laplacian":
        return {"structure": {"laplacian_enabled": True, "laplacian_lambda": 0.001 if on else 0.0}}
    if kind == "bridge":
        return {"bridge": {**params, **({} if on else {"weight": 0.0})}}
    head = {"alignment": {kind: {"enabled": True, "params": {**params, **({} if on else {"weight": 0.0})}}}}
    return overlay(head, {"bridge": {"provider": "mnn", "weight": 0.0}}) if kind == "crossgraph" else head


def measure(raw: dict, name: str) -> dict[str, float]:
    """Train once and measure."""
    assembly = assemble(raw)
    trainer = Trainer(assembly.objective, assembly.config.optim)
    begun = time.perf_counter()
    history = trainer.fit(assembly.training_loader())
    steps = history.history[-1]["step"]
    seconds = time.perf_counter() - begun
    cells = np.arange(assembly.source.n_cells)
    train = np.sort(assembly.split.train)[:2000]
    assembly.objective.eval()
    own = assembly.objective.probe(assembly.loader(train).batch(Draw(train, train[:0])))[name]["loss"]
    z = embed_cells(assembly.model, assembly.loader(cells)).z_bio.numpy()
    labels = assembly.source.obs["cell_type"].to_numpy()
    codes, names = assembly.groups["batch"]
    scores = embedding_metrics(z, labels=labels, batch=np.asarray(names)[codes], max_cells=2000, seed=0)
    clusters = KMeans(len(np.unique(labels)), n_init=10, random_state=0).fit_predict(z)
    return {
        "own": own,
        "ari": adjusted_rand_score(labels, clusters),
        "asw": scores["asw_label"],
        "ilisi": scores.get("ilisi", float("nan")),
        "ms": 1e3 * seconds / steps,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--cells", type=int, default=1200)
    parser.add_argument("--only", nargs="*", choices=CASES, metavar="CASE")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("remadom").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    print(
        f"{asked.seeds} seeds, {asked.epochs} epochs, {asked.cells} cells; means (standard deviation of own)"
    )
    print(
        f"{'term':24} {'problem':13} {'own off':>16} {'own on':>16} {'ARI off on':>12} {'ASW off on':>12} "
        f"{'iLISI off on':>13} {'ms/step off on':>15}"
    )
    for case in asked.only or CASES:
        problem, kind, params = CASES[case]
        found: dict[bool, list[dict[str, float]]] = {False: [], True: []}
        for seed in range(asked.seeds):
            with tempfile.TemporaryDirectory() as folder:
                data, config = Path(folder) / "mock.h5ad", Path(folder) / "mock.yaml"
                assays = ["rna", "adt"] if problem == "unpaired" else ["rna", "atac", "adt"]
                links = Path(folder) / "links.csv"
                write_mock(
                    data, config, problem, cells=asked.cells, seed=seed, modalities=assays, links_out=links
                )
                if params.get("provider") == "linked_features":
                    params = {**params, "linked_features": {"table": str(links)}}
                if params.get("seeds"):
                    name_pairs(data)
                base = overlay(
                    read_config(config), {"optim": {"epochs": asked.epochs, "seed": seed}, "alignment": {}}
                )
                for on in (False, True):
                    found[on].append(measure(overlay(base, section(kind, params, on)), kind))
        mean = {on: {key: np.mean([r[key] for r in runs]) for key in runs[0]} for on, runs in found.items()}
        sd = {on: np.std([r["own"] for r in runs]) for on, runs in found.items()}
        pairs = [f"{mean[False][key]:.3f} {mean[True][key]:.3f}" for key in ("ari", "asw", "ilisi")]
        print(
            f"{case:24} {problem:13} {mean[False]['own']:8.4f} ({sd[False]:.4f}) "
            f"{mean[True]['own']:7.4f} ({sd[True]:.4f}) "
            f"{pairs[0]:>12} {pairs[1]:>12} {pairs[2]:>13} {mean[False]['ms']:7.1f} {mean[True]['ms']:7.1f}",
            flush=True,
        )


def name_pairs(path: Path) -> None:
    """Give some cells of different batches and the same type a common name: the known pairs."""
    import anndata

    data = anndata.read_h5ad(path)
    rng = np.random.default_rng(0)
    pair = np.full(data.n_obs, None, dtype=object)
    batches = data.obs["batch"].astype(str).to_numpy()
    first, *others = np.unique(batches)
    number = 0
    for kind in np.unique(data.obs["cell_type"].astype(str)):
        same = data.obs["cell_type"].astype(str).to_numpy() == kind
        left = rng.permutation(np.flatnonzero(same & (batches == first)))
        for other in others:
            right = rng.permutation(np.flatnonzero(same & (batches == other)))
            for a, b in list(zip(left, right, strict=False))[:3]:
                if pair[a] is None and pair[b] is None:
                    pair[a] = pair[b] = f"pair_{number}"
                    number += 1
    data.obs["pair"] = pair
    data.write_h5ad(path)


if __name__ == "__main__":
    main()
