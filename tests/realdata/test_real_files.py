"""Real files, where they are: trained without a word of configuration, for a few epochs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from remadom import run
from remadom.errors import InputError
from remadom.linking import bridge
from remadom.utils.outputs import EMBEDDINGS

DATA = Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"the real data sets are not at {DATA}")
QUICK = {"optim": {"epochs": 3}, "evaluation": {"figures": False, "max_cells": 1500}}


def train(name: str, tmp_path: Path, **sections: dict) -> run.Run:
    raw = {
        "data": {"path": str(DATA / name)},
        "logging": {"run_dir": str(tmp_path / "run")},
        **QUICK,
        **sections,
    }
    return run.train(raw)


@needs_data
def test_cite_seq_with_held_out_proteins(tmp_path: Path):
    done = train("pbmc10k5k_cite_totalvi.h5mu", tmp_path)
    source = done.assembly.source
    assert {m: int(source.has[m].sum()) for m in source.modalities} == {"rna": 10849, "adt": 6855}
    assert {m: len(source.features[m]) for m in source.modalities} == {"rna": 4000, "adt": 14}
    held_out = done.assembly.measured.has["adt"] & ~source.has["adt"]
    assert held_out.sum() == 200
    assert np.load(done.dir / EMBEDDINGS)["z_bio"].shape == (10849, 16)
    scores = done.metrics["evaluation"]
    assert scores["integration"]["knn_purity"] > 2 * scores["integration"]["knn_purity_chance"]
    assert scores["imputation"]["adt"]["rmse"] < scores["imputation"]["adt"]["baselines"]["mean"]["rmse"]


@needs_data
def test_mosaic_of_cohorts(tmp_path: Path):
    done = train("midas_pbmc_mosaic.h5mu", tmp_path, optim={"epochs": 40})
    assert done.metrics["evaluation"]["integration"]["knn_purity"] > 0.8


@needs_data
def test_features_that_are_no_counts_are_refused_in_words(tmp_path: Path):
    with pytest.raises(InputError, match=r"rna \(rna:X\): negative values"):
        train("align_snare_cellline_features.h5mu", tmp_path)


@needs_data
def test_shapes_alone_match_the_cell_lines_better_than_published(tmp_path: Path):
    """SCOT's FOSCTTM is 0.1496; benchmarks/align_snare.py measures ten seeds beside it."""
    linked = bridge(DATA / "align_snare_cellline_features.h5mu", "gw", tmp_path / "gw")
    assert linked.metrics["label_agreement"] > 0.88
    assert linked.metrics["coverage"] == 1.0


@needs_data
def test_two_runs_of_different_assays_mix(tmp_path: Path):
    done = train("pbmc10k5k_cite_totalvi.h5mu", tmp_path, optim={"epochs": 6})
    assert done.metrics["evaluation"]["integration"]["ilisi"] > 0.25
