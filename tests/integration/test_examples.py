"""Every configuration of configs/examples trains on mock data of its shape, from the folder that it names."""

from __future__ import annotations

from pathlib import Path

import pytest

from remadom import run
from remadom.config.load import overlay, read_config
from remadom.data.mock import write_mock
from remadom.utils.outputs import EMBEDDINGS

EXAMPLES = Path(__file__).parents[2] / "configs" / "examples"
MOCKS = {
    "guide_section14": {
        "problem": "paired", "modalities": ["rna", "atac"], "cells": 150, "genes": 2500, "peaks": 60_000,
    },
    "mock_mosaic": {"problem": "mosaic", "cells": 240},
}  # fmt: skip
"""Mock data for each example."""


def test_every_example_has_its_data():
    assert {path.stem for path in EXAMPLES.glob("*.yaml")} == set(MOCKS)


@pytest.mark.parametrize("name", MOCKS)
def test_example_trains_as_it_is(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    raw = read_config(EXAMPLES / f"{name}.yaml")
    write_mock(raw["data"]["path"], None, **MOCKS[name])
    done = run.train(overlay(raw, {"optim": {"epochs": 2}, "evaluation": {"figures": False}}))
    assert (done.dir / EMBEDDINGS).exists()
    if name == "guide_section14":
        sizes = done.assembly.config.model
        assert (sizes.encoders["rna"]["in_dim"], sizes.encoders["atac"]["in_dim"]) == (2000, 50)
        assert sizes.decoders["rna"]["conditional_batches"] == 2
