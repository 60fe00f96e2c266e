"""Correspondences between modalities that share no cell, on real data whose pairing is hidden.

    python benchmarks/bridge_realdata.py                  # ../shared/data, beside ../shared/bench/quality.py
    python benchmarks/bridge_realdata.py snare --seeds 0

``snare``: RNA and gene activities of 10,309 mouse cortex cells. Every cell has two names, one a modality, and the
rows of the second modality are permuted by the seed; the pairing is used by the scores alone. ``midas``: RNA of 400
cells of one donor, proteins of 400 cells of another, linked by name and then also by a table of antibody names.
FOSCTTM: share of cells nearer than the true partner (0 best, 0.5 chance); transfer: accuracy of cell types from the
10 nearest cells of the other side, and its mean over the types. The baseline is a correlation of the same linked
features (singular vectors of the cross-covariance of standardized features, 30 components), as they are and
scaled to length 1.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from remadom.bridges.canonical import dense, leading_vectors, standardized, unit
from remadom.bridges.linked_features import LinkedFeaturesBridge
from remadom.data.views import views_in

ROOT = Path(__file__).resolve().parents[2] / "shared"
ANTIBODIES = (
    "CD3D:cd3.1 CD3D:cd3.2 FCGR3A:cd16 NCAM1:cd56.1 NCAM1:cd56.2 IL7R:cd127 IL2RA:cd25 MS4A1:cd20 CD8A:cd8 "
    "HLA-DRA:hla.dr ITGAX:cd11c ITGAM:cd11b.1 ITGAM:cd11b.2 FCGR1A:cd64 IL3RA:cd123 KLRB1:cd161 B3GAT1:cd57 "
    "CR1:cd35 CR2:cd21 ITGB3:cd61 ITGA2B:cd41 GP1BA:cd42b SELP:cd62p DPP4:cd26.1 IGHM:igm IGHD:igd KLRK1:cd314 "
    "IL2RB:cd122 CLEC4C:cd303 NRP1:cd304 THBD:cd141 CXCR5:cd185 CCR6:cd196 CLEC9A:cd370 TNFRSF13C:cd268"
)


def baseline(a, b, bridge):
    at_a, at_b = bridge.links(a, b)
    linked = [standardized(dense(view.features[:, at])) for view, at in ((a, at_a), (b, at_b))]
    left, _, right = leading_vectors(*linked, 30)
    return {"CCA": (left, right), "CCA, length 1": (unit(left), unit(right))}


def timed(function, *arguments):
    start = time.perf_counter()
    result = function(*arguments)
    return result, time.perf_counter() - start


def table(title, rows):
    print(f"\n{title}")
    print(f"{'':34}{'seed':>5}{'FOSCTTM':>9}{'a to b':>9}{'types':>7}{'b to a':>9}{'types':>7}{'seconds':>9}")
    for name, seed, foscttm, there, back, seconds in rows:
        rank = "" if foscttm is None else f"{foscttm:.4f}"
        print(
            f"{name:34}{seed:>5}{rank:>9}{there[0]:>9.3f}{there[1]:>7.3f}{back[0]:>9.3f}{back[1]:>7.3f}{seconds:>9.1f}",
            flush=True,
        )


def snare(quality, seeds):
    views, obs = views_in(ROOT / "data/snareseq_mouse_cortex.h5mu")
    labels, n = obs["cell_type"].astype(str).to_numpy(), len(obs)
    for seed in seeds:
        order = np.random.default_rng(seed).permutation(n)
        back = np.argsort(order)
        a = views["rna"]
        b, peaks = (
            replace(views[name], cells=np.arange(n, 2 * n), features=views[name].features[order])
            for name in ("gene_activity", "atac")
        )
        alone, more = LinkedFeaturesBridge(), LinkedFeaturesBridge(also={"gene_activity": "atac"})
        found, seconds = timed(baseline, a, b, alone)
        results = {name: (coordinates, seconds) for name, coordinates in found.items()}
        results["linked_features"] = timed(alone.coordinates, a, b)
        results["linked_features, also peaks"] = timed(more.coordinates, a, b, {b.name: peaks})
        rows = []
        for name, ((za, zb), seconds) in results.items():
            zb = zb[back]
            rows.append(
                (
                    name,
                    seed,
                    quality.foscttm(za, zb),
                    quality.label_transfer(za, labels, zb, labels),
                    quality.label_transfer(zb, labels, za, labels),
                    seconds,
                )
            )
        table("snareseq_mouse_cortex: a = rna, b = gene_activity, pairing hidden", rows)
        edges = alone.build({"rna": a, "gene_activity": b}, 2 * n)
        same = labels[edges.src.numpy()] == labels[order[edges.dst.numpy() - n]]
        sure = edges.confidence.numpy()
        quarters = np.quantile(sure, [0, 0.25, 0.5, 0.75, 1])
        shares = [f"{same[(sure >= low) & (sure <= high)].mean():.3f}" for low, high in pairwise(quarters)]
        print(
            f"{len(edges):,} edges; equal labels {same.mean():.3f}, by quarter of confidence {' '.join(shares)}"
        )
    totals = [np.asarray(np.expm1(views[m].features).getnnz(1), float) for m in ("rna", "gene_activity")]
    ranks = [np.argsort(np.argsort(total))[:, None] / n for total in totals]
    print(f"for comparison, FOSCTTM of the number of features seen alone: {quality.foscttm(*ranks):.4f}")


def midas(quality, seeds):
    views, obs = views_in(ROOT / "data/midas_pbmc_mosaic.h5mu", ["rna", "adt"])
    labels, batch = obs["cell_type"].astype(str).to_numpy(), obs["batch"].astype(str).to_numpy()

    def only(view, name):
        rows = np.flatnonzero(batch[view.cells] == name)
        return replace(view, cells=view.cells[rows], features=view.features[rows])

    a, b = only(views["rna"], "p1_0"), only(views["adt"], "p2_0")
    la, lb = labels[a.cells], labels[b.cells]
    rows = []
    with tempfile.NamedTemporaryFile("w", suffix=".csv", newline="") as file:
        csv.writer(file).writerows(pair.split(":") for pair in ANTIBODIES.split())
        file.flush()
        for words, path in (("by name", None), ("by name and table", file.name)):
            bridge = LinkedFeaturesBridge(table=path)
            found, seconds = timed(baseline, a, b, bridge)
            results = {name: (coordinates, seconds) for name, coordinates in found.items()}
            results["linked_features"] = timed(bridge.coordinates, a, b)
            for name, ((za, zb), seconds) in results.items():
                there, back = quality.label_transfer(za, la, zb, lb), quality.label_transfer(zb, lb, za, la)
                rows.append((f"{name}, {words}", "", None, there, back, seconds))
    table("midas_pbmc_mosaic: a = rna of p1_0, b = adt of p2_0", rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sets", nargs="*", default=["snare", "midas"], help="snare, midas (default: both)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    if not (ROOT / "bench/quality.py").exists():
        raise SystemExit(f"{ROOT}: no data and no scorer here; nothing to measure")
    sys.path.insert(0, str(ROOT / "bench"))
    import quality

    for name in options.sets:
        {"snare": snare, "midas": midas}[name](quality, options.seeds)


if __name__ == "__main__":
    main()
