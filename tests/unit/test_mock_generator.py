from __future__ import annotations

import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import anndata as ad
import mudata as md
import numpy as np
import pytest
import scipy.sparse as sp
import yaml
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.neighbors import NearestNeighbors
from typer.testing import CliRunner

from remadom.cli.app import app
from remadom.data.mock import MockData, generate, mock_config, to_anndata, to_mudata, write_mock
from remadom.data.mock_assays import ASSAYS, Regime
from remadom.data.mock_cells import AXES, PROBLEMS, TYPES, Cells, place, stream
from remadom.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"cells": 240, "genes": 40, "peaks": 60, "proteins": 8}
LAYOUTS: dict[str, Callable[[MockData], Any]] = {".h5ad": to_anndata, ".h5mu": to_mudata}


@cache
def small(problem: str, seed: int = 0) -> MockData:
    return generate(problem, seed=seed, **SMALL)


@cache
def paired(difficulty: float, seed: int = 0) -> MockData:
    return generate("paired", difficulty=difficulty, seed=seed)


def read(path: Path) -> Any:
    if path.suffix == ".h5ad":
        return ad.read_h5ad(path)
    with md.set_options(pull_on_update=False):
        return md.read_h5mu(path)


def look_up(data: Any, key: str) -> sp.csr_matrix:
    """Read ``X``, ``layers:<name>`` and ``obsm:<name>``, and the same behind ``<modality>:`` in a MuData."""
    place, *rest = key.split(":")
    if isinstance(data, md.MuData):
        return look_up(data.mod[place], ":".join(rest))
    return data.X if place == "X" else getattr(data, place)[rest[0]]


def same(a: sp.csr_matrix, b: sp.csr_matrix) -> bool:
    return all(np.array_equal(getattr(a, part), getattr(b, part)) for part in ("data", "indices", "indptr"))


# ---------------------------------------------------------------------------------- what every data set is


@pytest.mark.parametrize("problem", PROBLEMS)
def test_every_problem_is_complete(problem: str) -> None:
    mock = small(problem)
    assert list(mock.obs) == ["batch", "dataset", "time", "cell_type", "split"]
    assert not mock.obs.isna().any().any()
    assert mock.obs.index.is_unique
    assert mock.latent.shape == (240, len(AXES))
    assert np.isfinite(mock.latent).all()
    assert np.stack(list(mock.has.values())).any(0).all(), "a cell without any modality"
    for modality in mock.modalities:
        truth = mock.truth[modality]
        assert isinstance(truth, sp.csr_matrix)
        assert truth.dtype == np.float32
        assert truth.shape == (240, len(mock.names[modality]))
        assert len(set(mock.names[modality])) == truth.shape[1]
        assert truth.data.min() >= 1
        assert np.array_equal(truth.data, np.round(truth.data))


@pytest.mark.parametrize("problem", PROBLEMS)
def test_truth_equals_observed_where_present_and_the_rest_is_empty(problem: str) -> None:
    mock = small(problem)
    for modality in mock.modalities:
        truth, seen, has = mock.truth[modality], mock.observed(modality), mock.has[modality]
        assert seen.has_canonical_format
        assert same(truth[has], seen[has])
        assert seen[~has].nnz == 0
        assert truth[~has].nnz > 0 or has.all(), "the truth of masked cells is gone"


def test_split_is_80_10_10_within_every_batch_and_type() -> None:
    obs = paired(0.5).obs
    counts = obs["split"].value_counts()
    assert (counts["train"], counts["val"], counts["test"]) == (960, 120, 120)
    sizes = obs.groupby(["batch", "cell_type"], observed=True)["split"].value_counts().unstack()
    expected = sizes.sum(axis=1).to_numpy()[:, None] * [0.8, 0.1, 0.1]
    assert np.abs(sizes[["train", "val", "test"]].fillna(0).to_numpy() - expected).max() <= 2


def test_every_batch_has_every_type_and_one_type_is_rare() -> None:
    obs = paired(0.5).obs
    per_batch = obs.groupby("batch", observed=True)["cell_type"].value_counts().unstack()
    assert (per_batch > 0).all().all()
    share = obs["cell_type"].value_counts(normalize=True)
    assert set(share.index) == set(TYPES)
    assert 0 < share[TYPES[-1]] < 0.05
    assert share.drop(TYPES[-1]).min() > share[TYPES[-1]]
    assert per_batch.iloc[0].to_dict() != per_batch.iloc[1].to_dict()


def test_latent_is_a_tree_with_a_continuum() -> None:
    mock = paired(0.5)
    kind = mock.obs["cell_type"].astype(str).to_numpy()
    center = np.stack([mock.latent[kind == name].mean(0) for name in TYPES])
    distance = np.linalg.norm(center[:, None] - center[None], axis=-1)
    major = np.array([name[0] for name in TYPES])
    siblings = (major[:, None] == major) & ~np.eye(len(TYPES), dtype=bool)
    assert distance[siblings].max() < distance[major[:, None] != major].min()

    progress, time = mock.latent[:, AXES.index("progress")], mock.obs["time"].to_numpy()
    assert set(time) == {0.0, 0.25, 0.5, 0.75, 1.0}
    differentiates = np.isin(kind, ["A1", "A2", "B1", "B2"])
    assert np.corrcoef(progress[differentiates], time[differentiates])[0, 1] > 0.7
    assert abs(np.corrcoef(progress[~differentiates], time[~differentiates])[0, 1]) < 0.15


# ------------------------------------------------------------------------------------------ masks by problem


def presence(mock: MockData) -> dict[str, dict[str, float]]:
    """Share of the cells with each modality, by batch."""
    batch = mock.obs["batch"].to_numpy()
    return {b: {m: float(mock.has[m][batch == b].mean()) for m in mock.modalities} for b in np.unique(batch)}


def test_paired_measures_everything() -> None:
    mock = small("paired")
    assert mock.modalities == ("rna", "atac", "adt")
    assert len(presence(mock)) == 2
    assert all(has.all() for has in mock.has.values())
    assert mock.observed("atac") is mock.truth["atac"], "nothing is masked: no copy"


def test_unpaired_has_one_modality_a_batch() -> None:
    assert presence(small("unpaired")) == {
        "batch_1": {"rna": 1.0, "atac": 0.0, "adt": 0.0},
        "batch_2": {"rna": 0.0, "atac": 1.0, "adt": 0.0},
        "batch_3": {"rna": 0.0, "atac": 0.0, "adt": 1.0},
    }
    three = generate("unpaired", modalities=["rna", "atac", "adt"], batches=5, **SMALL)
    assert np.array_equal(np.stack(list(three.has.values())).sum(0), np.ones(240))
    assert len(presence(three)) == 5


def test_bridge_has_one_multiomic_cohort() -> None:
    assert presence(small("bridge")) == {
        "batch_1": {"rna": 1.0, "atac": 0.0, "adt": 0.0},
        "batch_2": {"rna": 0.0, "atac": 1.0, "adt": 0.0},
        "batch_3": {"rna": 0.0, "atac": 0.0, "adt": 1.0},
        "batch_4": {"rna": 1.0, "atac": 1.0, "adt": 1.0},
    }
    with_adt = generate("bridge", modalities=["adt", "rna"], **SMALL)
    assert with_adt.modalities == ("rna", "adt")
    assert presence(with_adt)["batch_2"] == {"rna": 0.0, "adt": 1.0}


def test_mosaic_cohorts_differ_and_entries_go_missing() -> None:
    whole = generate("mosaic", missing_rate=0.0, **SMALL)
    patterns = [tuple(m for m, share in row.items() if share) for row in presence(whole).values()]
    assert patterns == [("rna", "atac", "adt"), ("rna", "atac"), ("rna", "adt"), ("atac", "adt")]
    assert {share for row in presence(whole).values() for share in row.values()} == {0.0, 1.0}

    holed = generate("mosaic", cells=4000, genes=20, peaks=20, proteins=4, missing_rate=0.4)
    # all three gone: p^3, then one of them is spared
    expected = 1 - 0.4 + 0.4**3 / 3
    assert np.allclose(list(presence(holed)["batch_1"].values()), expected, atol=0.06)
    assert np.stack(list(holed.has.values())).any(0).all()
    singles = generate("mosaic", batches=7, missing_rate=0.0, **SMALL)
    assert [sum(row.values()) for row in presence(singles).values()] == [3, 2, 2, 2, 1, 1, 1]


@pytest.mark.parametrize(("modalities", "target"), [(None, "adt"), (["rna", "atac"], "atac")])
def test_prediction_hides_the_target_from_the_test_cells(modalities: list[str] | None, target: str) -> None:
    mock = generate("prediction", modalities=modalities, **SMALL)
    test = (mock.obs["split"] == "test").to_numpy()
    assert test.any()
    assert np.array_equal(mock.has[target], ~test)
    assert all(has.all() for modality, has in mock.has.items() if modality != target)
    assert mock.truth[target][test].nnz > 0


def test_hierarchical_nests_batches_in_studies() -> None:
    mock = small("hierarchical")
    nested = mock.obs.groupby("dataset", observed=True)["batch"].unique()
    assert {study: list(batches) for study, batches in nested.items()} == {
        f"study_{s}": [f"study_{s}_batch_{b}" for b in (1, 2)] for s in (1, 2, 3)
    }
    lacking = {batch for batch, row in presence(mock).items() if row["adt"] == 0}
    assert lacking == {"study_3_batch_1", "study_3_batch_2"}
    assert all(mock.has["rna"])
    assert all(mock.has["atac"])


def test_study_shift_exceeds_batch_shift() -> None:
    assay = ASSAYS["rna"](500, np.array([0, 0, 1, 1, 2, 2]), Regime(0.5), seed=3)
    within = np.std(assay.shift[0] - assay.shift[1])
    between = np.std(assay.shift[0] - assay.shift[2])
    assert between > 1.5 * within > 0


# ---------------------------------------------------------------------------------------------- count models


def counts_of(modality: str, n_cells: int = 4000, n_features: int = 60) -> tuple[np.ndarray, Any]:
    """Draws around a constant mean: the count model alone."""
    assay = ASSAYS[modality](n_features, np.array([0]), Regime(0.5), seed=0)
    streams = {use: np.random.default_rng(i) for i, use in enumerate(("rate", "count", "loss"))}
    return assay.draw(np.full((n_cells, n_features), 2.0, dtype=np.float32), streams), assay


def test_rna_is_negative_binomial_with_dropout() -> None:
    counts, assay = counts_of("rna")
    kept = 1 - assay.lost
    mean, second = 2 * kept, kept * (2 + 4 * (1 + 1 / assay.theta))
    assert np.allclose(counts.mean(0), mean, rtol=0.12)
    assert np.allclose(counts.var(0), second - mean**2, rtol=0.3)
    assert (counts.var(0) > 1.2 * counts.mean(0)).all()


def test_atac_is_bernoulli_and_adt_is_poisson() -> None:
    peaks, _ = counts_of("atac")
    assert set(np.unique(peaks)) == {0.0, 1.0}
    assert np.allclose(peaks.mean(0), 1 - np.exp(-2), atol=0.03)
    proteins, _ = counts_of("adt")
    assert np.allclose(proteins.mean(0), 2, rtol=0.08)
    assert np.allclose(proteins.var(0), 2, rtol=0.2)


def test_genes_vary_more_than_poisson_within_a_type_and_batch() -> None:
    mock = paired(0.5)
    some = ((mock.obs["cell_type"] == "A1") & (mock.obs["batch"] == "batch_1")).to_numpy()
    counts = mock.truth["rna"][some].toarray()
    mean, variance = counts.mean(0), counts.var(0)
    expressed = mean > 1
    assert expressed.sum() > 30
    assert np.mean(variance[expressed] > mean[expressed]) > 0.95


def test_proteins_have_a_foreground_in_some_types_only() -> None:
    assay: Any = ASSAYS["adt"](40, np.array([0, 0]), Regime(0.5), seed=0)
    share_on = assay.on.mean(0)
    assert np.mean((share_on > 0) & (share_on < 1)) > 0.5
    half = np.full(len(TYPES), 0.5, dtype=np.float32)
    kind = np.arange(len(TYPES))
    signal = [assay.expected(Cells(kind, np.full(len(TYPES), b), half, place(kind, half))) for b in (0, 1)]
    background = assay.background * np.exp(assay.shift)
    for b in (0, 1):
        assert np.allclose(signal[b][~assay.on], np.broadcast_to(background[b], assay.on.shape)[~assay.on])
        assert (signal[b] > background[b])[assay.on].all()


def test_library_sizes_vary_by_cell_and_by_batch() -> None:
    log_total = np.log(np.asarray(paired(0.5).truth["rna"].sum(1)).ravel())
    assert 0.25 < np.std(log_total) < 0.8
    assay = ASSAYS["rna"](50, np.zeros(20, dtype=int), Regime(0.5), seed=0)
    assert 0.1 < np.std(np.log(assay.batch_depth)) < 0.5


def test_a_cell_measures_its_own_profile_and_the_ambient_of_its_batch() -> None:
    regime = Regime(0.5)
    assay: Any = ASSAYS["rna"](50, np.array([0]), regime, seed=0)
    kind = np.repeat(np.arange(len(TYPES)), 1000)
    half = np.full(len(kind), 0.5, dtype=np.float32)
    cells = Cells(kind, np.zeros_like(kind), half, place(kind, half))
    own, soup = assay.expected(cells), assay.ambient_profiles(cells)[0]
    assert np.allclose(soup, own.mean(0, dtype=np.float64), rtol=1e-5)

    counts = assay.measure(cells).toarray() / (1 - assay.lost)
    by_kind = [counts[kind == k].mean(0) for k in range(len(TYPES))]
    seen = np.stack([profile / profile.sum() * soup.sum() for profile in by_kind])
    pure = own[::1000]
    share = np.sum((seen - pure) * (soup - pure)) / np.sum((soup - pure) ** 2)
    assert share == pytest.approx(regime.ambient, abs=0.06)


# ------------------------------------------------------------------------------------ determinism and memory


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not() -> None:
    first, again, other = small("mosaic"), generate("mosaic", **SMALL), small("mosaic", seed=1)
    assert first.latent.tobytes() == again.latent.tobytes()
    assert first.obs.equals(again.obs)
    for modality in first.modalities:
        assert same(first.truth[modality], again.truth[modality])
        assert np.array_equal(first.has[modality], again.has[modality])
        assert not same(first.truth[modality], other.truth[modality])
        assert not np.array_equal(first.has[modality], other.has[modality])


@pytest.mark.parametrize("block", [1, 7, 64, 100_000])
def test_the_block_size_changes_nothing(block: int) -> None:
    blocked = generate("paired", block=block, **SMALL)
    for modality, truth in small("paired").truth.items():
        assert same(truth, blocked.truth[modality])


def test_one_modality_does_not_move_another() -> None:
    alone = generate("paired", modalities=["adt"], **SMALL)
    assert same(alone.truth["adt"], small("paired").truth["adt"])


def test_every_purpose_has_a_stream_of_its_own() -> None:
    purposes = [("cells",), ("rna", "count"), ("rna", "rate"), ("atac", "count")]
    first = [stream(seed, *purpose).random() for seed in (0, 1) for purpose in purposes]
    assert len(set(first)) == len(first)
    assert stream(1, "cells").random() == first[4]


def test_memory_stays_far_under_a_dense_matrix() -> None:
    tracemalloc.start()
    try:
        mock = generate("unpaired", cells=1500, genes=20, peaks=20_000, proteins=5, seed=0)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert mock.truth["atac"].shape == (1500, 20_000)
    assert peak < 0.5 * 1500 * 20_000 * 4


# ------------------------------------------------------------------------------------------------ difficulty


def embed_rna(counts: sp.csr_matrix) -> np.ndarray:
    x = counts.toarray()
    return PCA(15, random_state=0).fit_transform(np.log1p(1e3 * x / np.maximum(x.sum(1, keepdims=True), 1)))


def embed_atac(counts: sp.csr_matrix) -> np.ndarray:
    x = counts.toarray()
    tf = x / np.maximum(x.sum(1, keepdims=True), 1)
    idf = np.log1p(len(x) / (1 + x.sum(0)))
    return TruncatedSVD(16, random_state=0).fit_transform(np.log1p(1e4 * tf * idf))[:, 1:]


def embed_adt(counts: sp.csr_matrix) -> np.ndarray:
    x = np.log1p(counts.toarray())
    return x - x.mean(1, keepdims=True)


BASELINES = {"rna": embed_rna, "atac": embed_atac, "adt": embed_adt}


def purity(embedding: np.ndarray, labels: np.ndarray, k: int = 15) -> float:
    near = NearestNeighbors(n_neighbors=k).fit(embedding).kneighbors(return_distance=False)
    return float(np.mean(labels[near] == labels[:, None]))


@cache
def embeddings(difficulty: float, seed: int) -> dict[str, np.ndarray]:
    mock = paired(difficulty, seed)
    scaled = {}
    for modality, counts in mock.truth.items():
        z = BASELINES[modality](counts)
        scaled[modality] = z / np.sqrt((z - z.mean(0)).var(0).sum())
    return scaled


def labels(seed: int, column: str = "cell_type") -> np.ndarray:
    return paired(0.5, seed).obs[column].astype(str).to_numpy()


@pytest.mark.parametrize("seed", [0, 1])
def test_the_default_is_neither_trivial_nor_hopeless(seed: int) -> None:
    kinds, batch = labels(seed), labels(seed, "batch")
    chance = float(sum(np.mean(kinds == k) ** 2 for k in TYPES))
    assert chance < 0.2
    alone = {m: purity(z, kinds) for m, z in embeddings(0.5, seed).items()}
    for modality, value in alone.items():
        assert 0.45 < value < 0.97, (modality, alone)
    for one, two in (("rna", "atac"), ("rna", "adt"), ("atac", "adt")):
        both = np.hstack([embeddings(0.5, seed)[one], embeddings(0.5, seed)[two]])
        assert purity(both, kinds) > min(alone[one], alone[two]) + 0.03
    assert purity(embeddings(0.5, seed)["rna"], batch) > 0.7, "the batch shift does not show"


def test_difficulty_orders_the_problems() -> None:
    for modality in BASELINES:
        values = [purity(embeddings(d, 0)[modality], labels(0)) for d in (0.0, 0.5, 0.75, 1.0)]
        assert all(np.diff(values) < -0.04), (modality, values)
        assert values[0] > 0.75
        assert values[-1] < 0.35
    batch = [purity(embeddings(d, 0)["rna"], labels(0, "batch")) for d in (0.0, 0.5, 1.0)]
    assert batch[0] < 0.6 < batch[1] < batch[2]


def test_each_modality_is_best_at_something() -> None:
    kinds = labels(0)

    def sibling_purity(modality: str, major: str) -> float:
        some = np.char.startswith(kinds.astype(str), major)
        return purity(embeddings(0.25, 0)[modality][some], kinds[some])

    assert sibling_purity("rna", "B") > sibling_purity("adt", "B") + 0.1
    assert sibling_purity("atac", "C") > sibling_purity("rna", "C") + 0.1
    assert sibling_purity("adt", "A") > sibling_purity("atac", "A") + 0.1


# --------------------------------------------------------------------------------------- files and the config


@pytest.mark.parametrize("suffix", LAYOUTS)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_files_round_trip_and_the_config_names_what_they_hold(
    tmp_path: Path, problem: str, suffix: str
) -> None:
    out, config_out = tmp_path / "new" / f"mock{suffix}", tmp_path / "conf" / "mock.yaml"
    mock = write_mock(out, config_out, problem, **SMALL)
    config = yaml.safe_load(config_out.read_text())
    assert config == mock_config(mock, out)
    assert config["data"]["path"] == str(out)
    assert config["logging"]["run_dir"] == f"runs/mock_{problem}"
    assert {section: set(keys) for section, keys in config.items()} == {
        "data": {"path", "batch_key", "dataset_key", "time_key", "split_key", "keys"},
        "model": {"latent_bio"},
        "optim": {"epochs", "batch_size", "lr", "seed"},
        "evaluation": {"label_key"},
        "logging": {"run_dir"},
    }

    data = read(out)
    assert list(config["data"]["keys"]) == list(mock.modalities)
    at = mock.obs.index.get_indexer(data.obs_names)
    assert sorted(at) == list(range(240))
    assert np.array_equal(data.obsm["truth_latent"], mock.latent[at])
    assert data.uns["mock"]["problem"] == problem
    assert list(data.uns["mock"]["modalities"]) == list(mock.modalities)
    for modality, key in config["data"]["keys"].items():
        assert same(sp.csr_matrix(data.obsm[f"truth_{modality}"]), mock.truth[modality][at])
        part = data if suffix == ".h5ad" else data.mod[modality]
        rows = mock.obs.index.get_indexer(part.obs_names)
        assert same(look_up(data, key), mock.observed(modality)[rows])
        for column in ("batch_key", "dataset_key", "time_key", "split_key"):
            assert config["data"][column] in part.obs
        for column in mock.obs:
            assert list(part.obs[column]) == list(mock.obs[column].iloc[rows])


def test_anndata_layout() -> None:
    mock = small("mosaic")
    data = to_anndata(mock)
    assert same(data.X, data.layers["counts"])
    assert list(data.var_names) == list(mock.names["rna"])
    for modality in mock.modalities:
        assert data.obs[f"has_{modality}"].dtype == bool
        assert np.array_equal(data.obs[f"has_{modality}"], mock.has[modality])
    for modality in ("atac", "adt"):
        assert list(data.uns[f"X_{modality}_names"]) == list(mock.names[modality])
    assert mock.names["atac"][0] == "chr1-1000-1500"


def test_anndata_without_rna_keeps_the_first_modality_in_x() -> None:
    mock = generate("paired", modalities=["adt", "atac"], **SMALL)
    data = to_anndata(mock)
    assert same(data.X, mock.truth["atac"])
    assert mock_config(mock, "x.h5ad")["data"]["keys"] == {"atac": "layers:counts", "adt": "obsm:X_adt"}
    assert "has_rna" not in data.obs


def test_mudata_is_ragged() -> None:
    mock = small("mosaic")
    data = to_mudata(mock)
    assert data.n_obs == 240
    for modality, part in data.mod.items():
        assert list(part.obs_names) == list(mock.obs.index[mock.has[modality]])
        assert 0 < part.n_obs < 240
        assert list(part.var_names) == list(mock.names[modality])


# --------------------------------------------------------------------------------------- errors, command line

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "problem": ({"problem": "mosiac"}, "did you mean 'mosaic'"),
    "modality": ({"modalities": ["rna", "atak"]}, "did you mean 'atac'"),
    "too few modalities": ({"problem": "bridge", "modalities": ["rna"]}, "at least 2 modalities, got rna"),
    "no modalities": ({"modalities": []}, "at least 1 modalities, got none"),
    "too few cells": ({"cells": 31}, "in 2 batches is 31; give at least 32"),
    "too few batches": ({"problem": "bridge", "batches": 2}, "is 2; give at least 4"),
    "too few genes": ({"genes": 5}, "features of rna is 5; give at least 20"),
    "difficulty": ({"difficulty": 1.5}, "difficulty is 1.5"),
    "difficulty nan": ({"difficulty": float("nan")}, "difficulty is nan"),
    "missing rate": ({"problem": "mosaic", "missing_rate": 1.0}, "missing_rate is 1"),
    "missing rate of paired": ({"missing_rate": 0.1}, "is for the problem 'mosaic', not 'paired'"),
    "seed": ({"seed": -1}, "seed is -1; give at least 0"),
    "block": ({"block": 0}, "block is 0; give at least 1"),
}


@pytest.mark.parametrize("options", BAD.values(), ids=list(BAD))
def test_bad_arguments_are_told(options: tuple[dict[str, Any], str]) -> None:
    arguments, message = options
    with pytest.raises(InputError, match=message):
        generate(**{"problem": "paired", **SMALL, **arguments})


def test_bad_paths_are_told_before_anything_is_generated(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"end the name in \.h5ad or \.h5mu"):
        write_mock(tmp_path / "x.csv", None, "no such problem")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        write_mock(tmp_path / "file" / "x.h5ad", None, "paired", **SMALL)


SIZES = [word for name, size in SMALL.items() for word in (f"--{name}", str(size))]


def test_command_passes_every_option_on(tmp_path: Path) -> None:
    out, config_out = tmp_path / "m.h5ad", tmp_path / "m.yaml"
    options = ["--modalities", "rna,adt", "--batches", "2", "--missing-rate", "0.5", "--difficulty", "0.2"]
    options += ["--seed", "4"]
    files = ["--out", str(out), "--config-out", str(config_out)]
    result = CliRunner().invoke(app, ["mock", "--problem", "mosaic", *files, *SIZES, *options])
    assert result.exit_code == 0, result.output
    assert result.output.splitlines() == [f"wrote {out}: 240 cells, rna, adt", f"wrote {config_out}"]
    expected = generate(
        "mosaic", modalities=["rna", "adt"], batches=2, missing_rate=0.5, difficulty=0.2, seed=4, **SMALL
    )
    data = ad.read_h5ad(out)
    assert same(data.obsm["X_adt"], expected.observed("adt"))
    assert np.array_equal(data.obs["has_rna"], expected.has["rna"])
    assert yaml.safe_load(config_out.read_text()) == mock_config(expected, out)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--problem", "pared", "--out", "x.h5ad"],
        ["--problem", "paired", "--out", "x.txt"],
        ["--problem", "paired", "--out", "x.h5ad", "--cells", "many"],
        ["--problem", "paired"],
    ],
)
def test_command_returns_2_and_writes_nothing(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["mock", *arguments])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert not list(tmp_path.iterdir())


def test_script_is_the_same_command() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "make_mock_multimodal.py", "--problem", "x", "--out", "x.h5ad"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: unknown problem 'x'")
    assert done.stderr.count("\n") == 1
