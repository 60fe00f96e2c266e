"""Models of earlier versions load, and say what they said; see ``tests/golden/make.py``."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from remadom import mapping
from remadom.config.reference import Reference
from remadom.config.trained import Trained
from remadom.sharing import info
from remadom.utils.checkpoint import VERSION, load_checkpoint
from remadom.utils.portable import MANIFEST, SCHEMA, read_manifest

GOLDEN = Path(__file__).parents[1] / "golden"
FOLDERS = sorted(path.parent for path in GOLDEN.glob("*/*/query.npz"))
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


def maker():
    spec = importlib.util.spec_from_file_location("golden_make", GOLDEN / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as found:
        return dict(found)


def models() -> list[Path]:
    """Every saved model and every checkpoint."""
    return [
        folder / name
        for folder in FOLDERS
        for name in ("model", "checkpoint.best.pt")
        if (folder / name).exists()
    ]


def test_there_is_a_model_of_every_layout():
    schemas = {read_manifest(path)["schema"] for path in models() if path.name == "model"}
    assert schemas == set(range(1, SCHEMA + 1)), "run tests/golden/make.py for the new layout"
    checkpoints = [load_checkpoint(path)["version"] for path in models() if path.suffix == ".pt"]
    assert VERSION in checkpoints, "run tests/golden/make.py for the new layout"
    for path in models():
        if path.name == "model":
            made = json.loads((path / MANIFEST).read_text())["remadom"]
            assert made == path.parts[-3], "the folder is named after the version that made it"


@pytest.mark.parametrize("path", models(), ids=lambda path: "/".join(path.parts[-3:]))
def test_embedding_and_imputation_are_what_they_were(path: Path):
    values, expected = arrays(path.parent / "query.npz"), arrays(path.parent / "expected.npz")
    make = maker()
    found = make.answers(Trained.load(path), make.query_of(values))
    assert set(found) == {name for name in expected if not name.startswith("reference_")}
    for name, value in found.items():
        np.testing.assert_allclose(value, expected[name], err_msg=name, **TOLERANCE)
    assert np.ptp(found["z_bio"], axis=0).min() > 0.01, "the cells are told apart"
    if path.name == "model":
        for name, value in make.reference_answers(Reference.load(path)).items():
            if value.dtype.kind == "U":
                assert value.tolist() == expected[name].tolist(), name
            else:
                np.testing.assert_allclose(value, expected[name], err_msg=name, **TOLERANCE)


@pytest.mark.parametrize("path", models(), ids=lambda path: "/".join(path.parts[-3:]))
def test_they_can_be_described_and_mapped_onto(path: Path):
    assert info(path)["parameters"] > 1000
    if path.name == "model":
        cells = maker().query_of(arrays(path.parent / "query.npz"))
        mapped = mapping.map_reference(path, cells, config={"adapter": {"method": "arches", "epochs": 1}})
        assert np.isfinite(mapped.latent.mu.numpy()).all()
        assert len(mapped.labels["cell_type"].label) == mapped.source.n_cells


def test_the_files_are_small_and_name_no_folder_of_a_machine():
    files = [path for path in GOLDEN.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    for version in GOLDEN.glob("*/"):
        if (version / "paired").exists():
            assert sum(path.stat().st_size for path in files if version in path.parents) < 150_000
    assert not [path for path in files if b"/tmp/" in path.read_bytes()]


def test_a_model_from_before_means_and_shares_were_kept_loads(tmp_path: Path):
    """What was added to a model since the first checkpoints has a default."""
    path = next(GOLDEN.glob("*/paired/checkpoint.best.pt"))
    parts = load_checkpoint(path)
    weights = {k: v for k, v in parts["model"].items() if not k.endswith(".transform.center")}
    assert len(weights) < len(parts["model"])
    metadata = dict(parts["metadata"])
    metadata["prepared"] = {
        m: {k: v for k, v in steps.items() if k != "rates"} for m, steps in metadata["prepared"].items()
    }
    old = Trained.of(path, metadata, weights, {}, {})
    now = Trained.load(path)
    for name, value in now.model.state_dict().items():
        if not name.endswith(".transform.center"):
            assert torch.equal(value, old.model.state_dict()[name])
    assert old.prepared.features == now.prepared.features
