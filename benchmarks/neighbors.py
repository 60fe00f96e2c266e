"""Nearest neighbors: AnnIndex with each back end beside faiss, hnswlib and scikit-learn, in one run.

    python benchmarks/neighbors.py [--cells 20000 100000] [--dims 16] [--k 15] [--threads 1]

Prints wall seconds (building and searching; the better of two runs, in turn) and the recall against exact
search in float64 for 2,000 of the cells. Cells: 20 Gaussian clusters, or with ``--spread`` one Gaussian, the
hardest case for inverted lists. The peers' settings are those that FIELD.md measured: inverted lists with
nprobe 16, HNSW with 32 links, hnswlib with M = 16 and ef = 100.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import faiss
import hnswlib
import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors

from remadom.solvers.ann import AnnIndex

PROBED = 2000
Neighbors = Callable[[np.ndarray, int], np.ndarray]


def others(found: np.ndarray) -> np.ndarray:
    """Neighbors without the cell itself."""
    other = found != np.arange(len(found))[:, None]
    other[other.all(1), -1] = False
    return found[other].reshape(len(found), -1)


def ours(backend: str) -> Neighbors:
    return lambda x, k: AnnIndex(x, backend=backend).self_neighbors(k)[0].numpy()


def faiss_flat(x: np.ndarray, k: int) -> np.ndarray:
    index = faiss.IndexFlatL2(x.shape[1])
    index.add(x)
    return others(index.search(x, k + 1)[1])


def faiss_lists(x: np.ndarray, k: int) -> np.ndarray:
    index = faiss.IndexIVFFlat(faiss.IndexFlatL2(x.shape[1]), x.shape[1], int(len(x) ** 0.5))
    index.train(x)
    index.add(x)
    index.nprobe = 16
    return others(index.search(x, k + 1)[1])


def faiss_hnsw(x: np.ndarray, k: int) -> np.ndarray:
    index = faiss.IndexHNSWFlat(x.shape[1], 32)
    index.hnsw.efSearch = 64
    index.add(x)
    return others(index.search(x, k + 1)[1])


def hnswlib_default(x: np.ndarray, k: int) -> np.ndarray:
    index = hnswlib.Index("l2", x.shape[1])
    index.init_index(len(x), M=16, ef_construction=200)
    index.add_items(x)
    index.set_ef(100)
    return others(index.knn_query(x, k + 1)[0].astype(np.int64))


def scikit_learn(x: np.ndarray, k: int) -> np.ndarray:
    return others(NearestNeighbors(n_neighbors=k + 1).fit(x).kneighbors(x, return_distance=False))


METHODS: dict[str, Neighbors] = {
    "AnnIndex faiss": ours("faiss"),
    "AnnIndex hnsw": ours("hnsw"),
    "AnnIndex numpy": ours("numpy"),
    "faiss flat": faiss_flat,
    "faiss IVF, nprobe 16": faiss_lists,
    "faiss HNSW32": faiss_hnsw,
    "hnswlib M 16": hnswlib_default,
    "scikit-learn": scikit_learn,
}


def points(n_cells: int, n_dims: int, spread: bool) -> np.ndarray:
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(20, n_dims)) * (0.0 if spread else 3.0)
    return (centers[rng.integers(20, size=n_cells)] + rng.normal(size=(n_cells, n_dims))).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, nargs="+", default=[20_000, 100_000])
    parser.add_argument("--dims", type=int, default=16)
    parser.add_argument("--k", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--spread", action="store_true")
    parser.add_argument("--skip", nargs="*", default=[], help="methods to leave out")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    faiss.omp_set_num_threads(options.threads)
    for n_cells in options.cells:
        x = points(n_cells, options.dims, options.spread)
        probed = np.linspace(0, n_cells - 1, PROBED).astype(int)
        exact, _ = AnnIndex(x, backend="numpy").search(x[probed], options.k + 1)
        truth = np.array(
            [row[row != cell][: options.k] for row, cell in zip(exact.numpy(), probed, strict=True)]
        )
        chosen = {name: method for name, method in METHODS.items() if name not in options.skip}
        seconds = dict.fromkeys(chosen, np.inf)
        recall = {}
        for _ in range(options.rounds):
            for name, method in chosen.items():
                start = time.perf_counter()
                found = method(x, options.k)
                seconds[name] = min(seconds[name], time.perf_counter() - start)
                hits = (found[probed][:, :, None] == truth[:, None]).any(1)
                recall[name] = hits.mean()
        print(f"\n{n_cells} cells x {options.dims}, k = {options.k}, {options.threads} thread(s)")
        for name in chosen:
            print(f"  {name:22s} {seconds[name]:8.2f} s   recall {recall[name]:.5f}", flush=True)


if __name__ == "__main__":
    main()
