"""``remadom bridge`` as a user types it: files, measures, figure, and what it says when it cannot."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.image import imread
from typer.testing import CliRunner, Result

from remadom.cli.app import app
from remadom.eval import layout
from remadom.eval.bridging import DRAWN, Side, bridge_metrics, draw_bridge_edges, drawn_cells, drawn_edges
from remadom.types import BridgeEdges

TYPES, GENES = ("A", "B", "C"), 60


def remadom(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def arrays(folder: str) -> dict[str, np.ndarray]:
    with np.load(Path(folder) / "edges.npz") as file:
        return dict(file)


def cells(n: int, prefix: str, rng: np.random.Generator, rates: np.ndarray, depth: float) -> ad.AnnData:
    """Counts of genes that differ between three types, in two batches."""
    types = rng.integers(0, 3, n)
    counts = rng.poisson(depth * rates[types]).astype(np.float32)
    obs = pd.DataFrame(
        {
            "cell_type": [TYPES[t] for t in types],
            "batch": [f"{prefix}{i % 2}" for i in range(n)],
            "study": prefix,
        },
        index=[f"{prefix}_{i}" for i in range(n)],
    )
    obs.loc[obs.index[0], "cell_type"] = None
    return ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"Gene{j}" for j in range(GENES)]))


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """RNA of some cells, gene activities of others; no cell is shared."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(layout, "UMAP_CELLS", (10**9, 10**9))  # it takes seconds to compile
    rng = np.random.default_rng(0)
    rates = rng.gamma(1.0, 1.0, (3, GENES))
    rna, activity = cells(150, "r", rng, rates, 3), cells(130, "g", rng, rates, 1)
    activity.var_names = [name.upper() for name in activity.var_names]
    activity.obsm["X_scores"] = rng.normal(size=(130, 4))
    with md.set_options(pull_on_update=False):
        md.MuData({"rna": rna, "gene_activity": activity}).write("cells.h5mu")
    return tmp_path / "cells.h5mu"


@pytest.mark.parametrize(
    "how", [["--modalities", "rna,gene_activity"], ["--modalities", "rna", "gene_activity"], []]
)
def test_linked_features_of_a_file(data: Path, how: list[str]):
    result = remadom("bridge", data, "--provider", "linked_features", "--out", "edges", *how, "neighbors=10")
    assert result.exit_code == 0, result.output
    assert "edges between equal labels" in result.output
    metrics = json.loads(Path("edges/bridge_metrics.json").read_text())
    assert metrics["parameters"] == {"neighbors": 10}
    assert metrics["modalities"] == {"rna": [150, 60], "gene_activity": [130, 60]}
    assert metrics["label_agreement"] > 0.9 > 0.5 > metrics["label_agreement_chance"]
    assert metrics["coverage_by_modality"]["rna"] > 0.5
    assert set(metrics["coverage_by_group"]["batch"]) == {"r0", "r1", "g0", "g1"}
    edges = arrays("edges")
    assert len(edges["src"]) == metrics["n_edges"] == len(edges["weight"]) == len(edges["confidence"])
    assert all(name.startswith("r_") for name in edges["src"])
    assert all(name.startswith("g_") for name in edges["dst"])
    image = imread("edges/bridge_edges.png")
    assert image.shape[1] > 1000
    assert len(np.unique(image.reshape(-1, image.shape[2]), axis=0)) > 50
    again = remadom("bridge", data, "--provider", "linked_features", "--out", "edges")
    assert again.exit_code == 2
    assert "--overwrite" in again.output


def test_the_other_ways_of_finding_edges(data: Path):
    assert remadom("bridge", data, "--provider", "gw", "--out", "gw", "anchors=20").exit_code == 0
    mnn = remadom("bridge", data, "--provider", "mnn", "--out", "mnn", "k=5", "max_edges=40")
    assert mnn.exit_code == 0, mnn.output
    edges = arrays("mnn")
    assert len(edges["src"]) == 40
    assert all(name.startswith("r_") for name in [*edges["src"], *edges["dst"]]), (
        "batches of the first modality"
    )
    with open("pairs.csv", "w", newline="") as file:
        csv.writer(file).writerows([["a", "b"], ["r_3", "g_4"], ["r_5", "g_6"]])
    seeded = remadom("bridge", data, "--provider", "seeded", "--out", "seeded", "seeds=pairs.csv", "hops=0")
    assert seeded.exit_code == 0, seeded.output
    edges = arrays("seeded")
    assert edges["src"].tolist() == ["r_3", "r_5"]
    assert edges["dst"].tolist() == ["g_4", "g_6"]


def test_a_matrix_within_a_modality_and_what_to_read_it_as(data: Path):
    words = ["--provider", "gw", "--modalities", "rna,gene_activity:obsm:X_scores", "--out", "edges"]
    result = remadom("bridge", data, *words, "--read-as", "rna=clr", "--label-key", "none", "anchors=20")
    assert result.exit_code == 0, result.output
    metrics = json.loads(Path("edges/bridge_metrics.json").read_text())
    assert metrics["modalities"]["gene_activity:obsm:X_scores"] == [130, 4]
    assert "label_agreement" not in metrics


BAD = {
    "unknown provider": (["--provider", "mn"], "unknown bridge provider 'mn': did you mean 'mnn'"),
    "unknown parameter": (["--provider", "mnn", "kk=3"], "bridge.mnn: unknown key 'kk': did you mean 'k'"),
    "wrong value": (["--provider", "mnn", "max_edges=many"], "bridge.max_edges.*found 'many'"),
    "unknown modality": (
        ["--provider", "gw", "--modalities", "rna,atac"],
        "no modality 'atac': valid: gene_activity",
    ),
    "one modality": (["--provider", "gw", "--modalities", "rna"], "'gw' links two modalities, found rna"),
    "no batches": (["--provider", "mnn", "--batch-key", "donor"], "no column 'donor' in obs"),
    "one batch": (["--provider", "mnn", "--batch-key", "study"], "found 1 batches with cells"),
    "no known pairs": (["--provider", "seeded"], "bridge.seeds is missing"),
    "no shared cells": (["--provider", "dictionary"], "share 10 cells"),
    "no links": (
        ["--provider", "linked_features", "--modalities", "rna,gene_activity:obsm:X_scores"],
        "found 0 links.*table",
    ),
    "no table": (["--provider", "linked_features", "table=links.csv"], "no such file: links.csv"),
    "unknown kind": (["--provider", "gw", "--read-as", "rna=raw"], "unknown kind 'raw'"),
    "half a kind": (["--provider", "gw", "--read-as", "rna"], "expected NAME=KIND"),
    "two files": (["--provider", "gw", "other.h5mu"], "expected one data file"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_work_is_told_with_exit_code_2_and_leaves_nothing(data: Path, name: str):
    words, message = BAD[name]
    result = remadom("bridge", data, "--out", "edges", *words)
    assert result.exit_code == 2, (result.output, result.exception)
    told = " ".join(result.stderr.split())
    assert pd.Series([told]).str.contains(message)[0], told
    assert not Path("edges").exists()


def test_the_command_is_defined_without_the_libraries_behind_it():
    code = "import sys, remadom.cli.bridge; assert not {'torch', 'anndata', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def edges_of(*pairs: tuple[int, int], weight: list[float] | None = None) -> BridgeEdges:
    src, dst = torch.tensor(pairs).T
    return BridgeEdges.of(src, dst, None if weight is None else torch.tensor(weight), 6)


def test_measures_of_known_edges():
    edges = edges_of((0, 3), (0, 4), (1, 4), (2, 2), weight=[1, 1, 2, 4])
    labels = ["x", "y", None, "x", "y", "y"]
    found = bridge_metrics(
        edges,
        modalities={"a": np.arange(3), "b": np.arange(3, 6)},
        groups={"batch": ["one", "one", "two", "two", None, "two"]},
        labels=labels,
    )
    assert found["n_edges"] == 4
    assert found["degree_median"] == 2
    assert found["same_cell"] == 0.25
    assert found["coverage_by_modality"] == {"a": 1.0, "b": pytest.approx(2 / 3)}
    assert found["coverage_by_group"] == {"batch": {"one": 1.0, "two": pytest.approx(2 / 3)}}
    assert found["n_labeled_edges"] == 3
    assert found["label_agreement"] == pytest.approx(2 / 3)
    assert found["label_agreement_weighted"] == pytest.approx(3 / 4)
    assert found["label_agreement_by_label"] == {"x": 0.5, "y": 1.0}
    json.dumps(found)
    bare = bridge_metrics(edges, labels=[None] * 6)
    assert "label_agreement" not in bare
    assert bridge_metrics(BridgeEdges.none(6), labels=labels)["degree_median"] == 0


def test_a_figure_has_the_drawn_edges_and_their_cells(tmp_path: Path):
    many = BridgeEdges.of(torch.zeros(500).long(), torch.arange(500), None, 500)
    some = drawn_edges(many)
    assert len(some) == DRAWN
    assert set(some.dst.tolist()) <= set(drawn_cells(np.arange(500), some))
    xy = np.random.default_rng(0).normal(size=(6, 2))
    sides = {"a": Side(np.arange(3), xy[:3]), "b $x$": Side(np.arange(3, 6), xy[3:])}
    labels = ["x", "y", None, "x", "y", "y"]
    draw_bridge_edges(
        sides, edges_of((0, 3), (4, 0), (2, 5)), tmp_path / "two.svg", labels=labels, title="3 edges"
    )
    text = (tmp_path / "two.svg").read_text()
    for words in ("a", "b $x$", "x", "y", "no value", "ends differ", "3 edges"):
        assert f"<!-- {words} -->" in text
    draw_bridge_edges({"z": Side(np.arange(6), xy)}, edges_of((0, 3)), tmp_path / "one.png")
    assert imread(tmp_path / "one.png").size
