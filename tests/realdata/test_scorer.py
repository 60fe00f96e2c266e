"""The metrics beside the scorer that measured the peers, on embeddings of real cells and on random ones."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import h5py
import numpy as np
import pytest
from anndata.io import read_elem

from remadom.eval.lisi import clisi, ilisi
from remadom.eval.metrics import embedding_metrics
from remadom.eval.modalities import modality_metrics

SHARED = Path(__file__).parents[3] / "shared"
needs_scorer = pytest.mark.skipif(not SHARED.is_dir(), reason=f"the scorer is not at {SHARED}")
SAME = ("asw_label", "knn_purity", "asw_batch")


@pytest.fixture(scope="module")
def scorer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("quality", SHARED / "bench" / "quality.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def principal(counts: np.ndarray, n: int) -> np.ndarray:
    values = np.log1p(counts / counts.sum(1, keepdims=True).clip(1) * np.median(counts.sum(1)))
    left, size, _ = np.linalg.svd(values - values.mean(0), full_matrices=False)
    return left[:, :n] * size[:n]


def snare() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    with h5py.File(SHARED / "data" / "snareseq_mouse_cortex.h5mu") as file:
        rna = read_elem(file["mod/rna"])
    rna = rna[rna.obs["cell_type"].notna().to_numpy()]
    rna = rna[np.sort(np.random.default_rng(0).permutation(rna.n_obs)[:2000])]
    labels, batch = (rna.obs[key].astype(str).to_numpy() for key in ("cell_type", "batch"))
    return principal(rna.X.toarray(), 20), labels, batch


def random_cells(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels, batch = rng.integers(6, size=1200), rng.integers(3, size=1200)
    z = rng.normal(size=(1200, 12)) + rng.normal(size=(6, 12))[labels] + 0.5 * rng.normal(size=(3, 12))[batch]
    return z, labels, batch


@needs_scorer
@pytest.mark.parametrize("name", ["snare", 0, 1])
def test_embeddings_score_as_by_the_scorer(scorer: ModuleType, name: str | int) -> None:
    z, labels, batch = snare() if isinstance(name, str) else random_cells(name)
    expected = scorer.embedding_metrics(z, labels, batch, kmeans=False)
    found = embedding_metrics(z, labels, batch)
    for name in SAME:
        assert found[name] == pytest.approx(expected[name], abs=1e-4), name
    assert found["graph_connectivity"] == pytest.approx(expected["graph_conn"], abs=1e-3)
    # its perplexity is 89 / 3, that of the published code and of scib-metrics 30
    for name, score, of in (("ilisi", ilisi, batch), ("clisi", clisi, labels)):
        assert score(z, of, perplexity=89 / 3) == pytest.approx(expected[name], abs=1e-4)
        assert found[name] == pytest.approx(expected[name], abs=5e-3)
    for name, tolerance in {"nmi": 0.02, "ari": 0.02, "bio": 0.01, "batch": 2e-3, "total": 0.01}.items():
        assert found[name] == pytest.approx(expected[name], abs=tolerance), name  # Leiden takes chance's way


@needs_scorer
def test_modalities_score_as_by_the_scorer(scorer: ModuleType) -> None:
    za, labels, _ = random_cells(2)
    zb = za + np.random.default_rng(0).normal(size=za.shape)
    expected = scorer.cross_metrics(za, zb, labels, labels)
    every = np.arange(len(za))
    found = modality_metrics({"a": za, "b": zb}, {"a": every, "b": every}, labels)["a-b"]
    same = {
        "foscttm": "foscttm",
        "matching_score": "match1",
        "label_transfer_a_to_b": "lt_ab",
        "label_transfer_a_to_b_balanced": "lt_ab_bal",
        "label_transfer_b_to_a": "lt_ba",
        "label_transfer_b_to_a_balanced": "lt_ba_bal",
    }
    assert {ours: found[ours] for ours in same} == pytest.approx(
        {ours: expected[its] for ours, its in same.items()}, abs=1e-9
    )
    assert found["modality_mixing"] == pytest.approx(expected["modality_ilisi"], abs=5e-3)
