"""The optional packages that propose nearest neighbors: faiss and hnswlib."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch

from remadom.errors import MissingExtra

EXACT_BELOW = 20_000
"""Distinct points below which every back end searches exactly."""


class Engine(NamedTuple):
    """A back end that proposes candidates.

    ``find(queries, how_many, effort)`` returns positions, -1 where it found too few. ``efforts`` are worth trying,
    in this order; ``otherwise`` is the effort at which it reads all points, 0 where it cannot.
    """

    find: Callable[[np.ndarray, int, int], np.ndarray]
    efforts: tuple[int, ...]
    otherwise: int


def ladder(least: int, most: int) -> tuple[int, ...]:
    """Efforts from ``least`` to ``most``, each half as large again as the one before."""
    efforts = []
    while least <= most:
        efforts.append(least)
        least += least // 2
    return tuple(efforts)


def load_faiss() -> Any:
    """The optional package faiss."""
    try:
        import faiss
    except ImportError as error:
        raise MissingExtra("faiss-cpu", "ann", "the nearest-neighbor back end 'faiss'") from error
    return faiss


def load_hnswlib() -> Any:
    """The optional package hnswlib."""
    try:
        import hnswlib
    except ImportError as error:
        raise MissingExtra("hnswlib", "ann", "the nearest-neighbor back end 'hnsw'") from error
    return hnswlib


@contextmanager
def torch_threads(faiss: Any) -> Iterator[None]:
    """Let faiss use as many threads as torch does."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(torch.get_num_threads())
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def faiss_engine(faiss: Any, points: np.ndarray) -> Engine:
    """Flat below ``EXACT_BELOW``, else sqrt(n) inverted lists; the effort is the number of lists that are read.

    Reading a quarter of the lists costs more than comparing with all points by matrix products, so that is the
    end of the ladder.
    """
    n, d = points.shape
    if n < EXACT_BELOW:
        efforts: tuple[int, ...] = ()
        n_lists = 1
    else:
        n_lists = math.isqrt(n)
        efforts = ladder(8, n_lists // 4)
        lists = faiss.IndexIVFFlat(faiss.IndexFlatL2(d), d, n_lists)
        lists.cp.seed = 1
        with torch_threads(faiss):
            lists.train(points)
            lists.add(points)

    def find(queries: np.ndarray, how_many: int, effort: int) -> np.ndarray:
        found: np.ndarray
        with torch_threads(faiss):
            if effort == n_lists:
                found = faiss.knn(queries, points, how_many)[1]
            else:
                lists.nprobe = effort
                found = lists.search(queries, how_many)[1]
        return found

    return Engine(find, efforts, n_lists)


def hnsw_engine(hnswlib: Any, points: np.ndarray) -> Engine:
    """A navigable small-world graph; the effort is the length of its candidate list.

    It is built by one thread, because the order of insertion decides the graph.
    """
    n, d = points.shape
    index = hnswlib.Index(space="l2", dim=d)
    index.init_index(max_elements=n, ef_construction=200, M=16, random_seed=1)
    index.add_items(points, num_threads=1)

    def find(queries: np.ndarray, how_many: int, effort: int) -> np.ndarray:
        index.set_ef(max(effort, how_many))
        labels, _ = index.knn_query(queries, k=how_many, num_threads=torch.get_num_threads())
        return np.asarray(labels, dtype=np.int64)

    return Engine(find, ladder(64, 4096), 0)
