"""Every configuration of configs/examples trains on mock data of its shape, made as its first lines say."""

from __future__ import annotations

import json
import re
from pathlib import Path

import anndata
import numpy as np
import pytest

from remadom import run
from remadom.align import HEADS
from remadom.bridges import BRIDGES
from remadom.config.load import overlay, read_config
from remadom.data.mock import write_mock
from remadom.utils.outputs import (
    ALIGNMENT,
    BRIDGE,
    CALIBRATION,
    COORDINATES,
    CORRECTION,
    DONORS,
    EMBEDDINGS,
    OUTPUTS,
)

EXAMPLES = Path(__file__).parents[2] / "configs" / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.yaml"))
SECTION14 = {"problem": "paired", "modalities": ["rna", "atac"], "cells": 150, "genes": 2500, "peaks": 60_000}
SMALL = {"cells": 240, "genes": 120, "peaks": 120, "proteins": 20}
QUICK = {"optim": {"epochs": 2}, "evaluation": {"figures": False}}


def mock_of(name: str) -> dict:
    """Options of the generator in the first lines of an example, but small."""
    if name == "guide_section14":
        return SECTION14
    text = (EXAMPLES / f"{name}.yaml").read_text()
    found = re.search(r"--problem (\w+)(?: --modalities ([\w,]+))? --out (\S+)", text)
    assert found, f"{name} does not say how its data are made"
    problem, modalities, path = found.groups()
    assert path == read_config(EXAMPLES / f"{name}.yaml")["data"]["path"]
    return {"problem": problem, **({"modalities": modalities.split(",")} if modalities else {}), **SMALL}


def pair_cells(path: Path) -> None:
    """Name a few pairs of cells of different batches and the same type."""
    data = anndata.read_h5ad(path)
    kind, batch = (data.obs[key].astype(str).to_numpy() for key in ("cell_type", "batch"))
    pair = np.full(data.n_obs, None, dtype=object)
    for label in np.unique(kind):
        ends = [np.flatnonzero((kind == label) & (batch == b))[:4] for b in np.unique(batch)]
        for number, cells in enumerate(zip(*ends, strict=False)):
            pair[list(cells)] = f"{label}_{number}"
    data.obs["pair"] = pair
    data.write_h5ad(path)


def test_every_head_and_every_provider_has_an_example():
    assert {f"head_{name}" for name in HEADS} | {f"bridge_{name}" for name in BRIDGES} <= set(NAMES)
    assert {
        "rna_multibatch",
        "unpaired_rna_atac",
        "temporal_hybrid",
        "guide_section14",
        "mock_mosaic",
    } <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_example_trains_as_it_is(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    raw = read_config(EXAMPLES / f"{name}.yaml")
    if "faiss" in (EXAMPLES / f"{name}.yaml").read_text():
        pytest.importorskip("faiss")
    links = raw.get("bridge", {}).get("linked_features", {}).get("table")
    write_mock(raw["data"]["path"], None, **mock_of(name), links_out=links)
    if name == "bridge_seeded":
        pair_cells(Path(raw["data"]["path"]))
    done = run.train(overlay(raw, {**QUICK, "evaluation": {"figures": name == "guide_section14"}}))
    assert (done.dir / EMBEDDINGS).exists()
    terms = set(raw.get("alignment", {})) | ({"bridge"} if "bridge" in raw else set())
    if terms:
        assert terms <= set(json.loads((done.dir / ALIGNMENT).read_text()))
    if "bridge" in raw:
        assert json.loads((done.dir / BRIDGE).read_text())["n_edges"] > 0
    if name == "guide_section14":
        sizes = done.assembly.config.model
        assert (sizes.encoders["rna"]["in_dim"], sizes.encoders["atac"]["in_dim"]) == (2000, 50)
        assert sizes.decoders["rna"]["conditional_batches"] == 2
        written = {path.name for path in done.dir.path.iterdir()}
        assert set(OUTPUTS) - {CALIBRATION, COORDINATES, CORRECTION, DONORS} <= written
        assert COORDINATES not in written  # peaks without proteins
        assert {"embedding.png", "losses.png", "bridge_edges.png"} <= {
            p.name for p in done.dir.figures.iterdir()
        }
