"""Every mock problem, from the file that the generator writes to the outputs of a run."""

from __future__ import annotations

import json
from pathlib import Path

import mudata
import numpy as np
import pytest
import torch
import yaml

from remadom import run
from remadom.config.load import overlay, read_config
from remadom.data.mock import write_mock
from remadom.data.mock_cells import PROBLEMS
from remadom.errors import InputError
from remadom.eval.report import headline
from remadom.utils.outputs import (
    ALIGNMENT,
    BEST,
    BEST_TOO,
    CALIBRATION,
    CONFIG,
    COORDINATES,
    DIAGNOSIS,
    DONORS,
    EMBEDDINGS,
    LAST,
    LAST_TOO,
    METRICS,
    OBS_ARRAYS,
    REPORT,
    VERSIONS,
    WARNINGS,
)

SIZES = {"cells": 160, "genes": 40, "peaks": 50, "proteins": 6}
QUICK = {"optim": {"epochs": 2, "batch_size": 32}, "evaluation": {"max_cells": 100}}


def mock(tmp_path: Path, problem: str, suffix: str = ".h5mu", **options) -> dict:
    """Raw configuration that the generator wrote for a small mock of a problem."""
    data, config = tmp_path / f"{problem}{suffix}", tmp_path / f"{problem}.yaml"
    write_mock(data, config, problem, **{**SIZES, **options})
    return overlay(read_config(config), {**QUICK, "logging": {"run_dir": str(tmp_path / "run")}})


@pytest.mark.parametrize("suffix", [".h5ad", ".h5mu"])
@pytest.mark.parametrize("problem", sorted(PROBLEMS))
def test_every_problem_trains_from_its_own_config(tmp_path: Path, problem: str, suffix: str):
    raw = mock(tmp_path, problem, suffix)
    done = run.train(overlay(raw, {"evaluation": {"figures": False}}))
    embeddings = np.load(done.dir / EMBEDDINGS)
    assert embeddings["z_bio"].shape == (SIZES["cells"], 16)
    assert np.isfinite(embeddings["logvar"]).all()
    assert done.history.epochs == 2
    losses = [row["train"]["elbo.loss"] for row in done.history.history]
    assert losses[1] < losses[0]


def test_outputs_are_all_there_in_both_spellings(tmp_path: Path):
    done = run.train(mock(tmp_path, "mosaic"))
    names = {p.name for p in done.dir.path.iterdir()}
    assert names == {
            CONFIG, METRICS, EMBEDDINGS, OBS_ARRAYS, REPORT, LAST, LAST_TOO, BEST, BEST_TOO, CALIBRATION,
            COORDINATES,
            ALIGNMENT, DIAGNOSIS, DONORS, VERSIONS, WARNINGS, "train_log.csv", "train_history.json", "figures",
        }  # fmt: skip
    assert (done.dir / LAST).samefile(done.dir / LAST_TOO)
    assert (done.dir / BEST).samefile(done.dir / BEST_TOO)
    assert {"losses.png", "embedding.png", "mosaic.png", "figures.json"} <= {
        p.name for p in done.dir.figures.iterdir()
    }
    metrics = json.loads((done.dir / METRICS).read_text())
    assert set(metrics) == {"run", "train", "val", "alignment", "bridge", "evaluation"}
    assert metrics["run"]["modalities"]["adt"]["features"] == SIZES["proteins"]
    arrays = np.load(done.dir / OBS_ARRAYS, allow_pickle=False)
    assert set(arrays) >= {
        "obs_names",
        "batch",
        "dataset",
        "time",
        "label",
        "split",
        "has_rna",
        "has_atac",
        "has_adt",
    }
    assert set(arrays["split"]) == {"train", "val", "test"}
    parts = torch.load(done.dir / BEST, weights_only=True)
    assert parts["metadata"]["config"]["model"]["encoders"]["rna"]["in_dim"] == SIZES["genes"]


def test_the_resolved_config_trains_the_same_model(tmp_path: Path):
    raw = overlay(mock(tmp_path, "mosaic"), {"evaluation": {"figures": False}})
    first = run.train(raw)
    resolved = read_config(first.dir / CONFIG)
    resolved["logging"]["run_dir"] = str(tmp_path / "again")
    second = run.train(resolved)
    assert second.assembly.choices == []
    for key in ("z_bio", "logvar"):
        np.testing.assert_array_equal(
            np.load(first.dir / EMBEDDINGS)[key], np.load(second.dir / EMBEDDINGS)[key]
        )


def test_memory_and_disk_and_the_two_formats_train_the_same_model(tmp_path: Path):
    raw = overlay(mock(tmp_path, "paired", ".h5ad"), {"evaluation": {"figures": False}})
    in_memory = run.train(raw)
    backed = run.train(
        overlay(raw, {"data": {"backed": True}, "logging": {"run_dir": str(tmp_path / "backed")}})
    )
    (tmp_path / "other").mkdir()
    other = overlay(mock(tmp_path / "other", "paired", ".h5mu"), {"evaluation": {"figures": False}})
    ragged = run.train(other)
    for done in (backed, ragged):
        np.testing.assert_array_equal(
            np.load(done.dir / EMBEDDINGS)["z_bio"], np.load(in_memory.dir / EMBEDDINGS)["z_bio"]
        )


def test_embedding_a_file_again_gives_the_same_and_new_cells_need_no_batch(tmp_path: Path):
    raw = overlay(mock(tmp_path, "mosaic"), {"evaluation": {"figures": False}})
    done = run.train(raw)
    expected = np.load(done.dir / EMBEDDINGS)
    again = np.load(run.embed(done.dir.path, out=tmp_path / "again.npz"))
    np.testing.assert_allclose(again["z_bio"], expected["z_bio"], atol=1e-6)
    assert again["obs_names"].tolist() == expected["obs_names"].tolist()
    write_mock(tmp_path / "new.h5ad", None, "paired", seed=1, modalities=["rna"], **SIZES)
    new = np.load(run.embed(done.dir / LAST, tmp_path / "new.h5ad", out=tmp_path / "new.npz"))
    assert new["z_bio"].shape == (SIZES["cells"], 16)
    with pytest.raises(InputError, match="exists"):
        run.embed(done.dir.path, out=tmp_path / "again.npz")


def test_a_finished_run_is_not_overwritten_silently(tmp_path: Path):
    raw = overlay(mock(tmp_path, "paired"), {"evaluation": {"figures": False}})
    run.train(raw)
    before = (tmp_path / "run" / LAST).stat().st_mtime_ns
    with pytest.raises(InputError, match="holds a finished run.*--overwrite"):
        run.train(raw)
    assert (tmp_path / "run" / LAST).stat().st_mtime_ns == before
    run.train(raw, overwrite=True)
    assert (tmp_path / "run" / LAST).stat().st_mtime_ns > before


@pytest.mark.parametrize("modalities", [["rna"], ["atac"], ["adt"], ["atac", "adt"]], ids="+".join)
def test_any_modality_alone_goes_through_every_command(tmp_path: Path, modalities: list[str]):
    raw = mock(tmp_path, "paired", modalities=modalities)
    done = run.train(raw)
    assert list(done.metrics["run"]["modalities"]) == modalities
    assert np.load(run.embed(done.dir.path, out=tmp_path / "e.npz"))["z_bio"].shape == (SIZES["cells"], 16)


def test_held_out_values_stay_out_of_training_and_are_scored(tmp_path: Path):
    raw = mock(tmp_path, "paired", ".h5mu", cells=300)
    with mudata.set_options(pull_on_update=False):
        data, changed = (mudata.read_h5mu(raw["data"]["path"]) for _ in range(2))
    flagged = np.zeros(300, dtype=bool)
    flagged[::5] = True
    for copy in (data, changed):
        copy["adt"].obs["heldout_truth"] = flagged
    done = run.train(overlay(raw, {"evaluation": {"figures": False}, "optim": {"epochs": 5}}), data=data)
    source, measured = done.assembly.source, done.assembly.measured
    names = data["adt"].obs_names[flagged]
    at = source.obs_names.get_indexer(names)
    assert not source.has["adt"][at].any()
    assert source.rows("adt", at).nnz == 0
    assert measured.rows("adt", at).nnz > 0
    assert source.has["rna"][at].all()
    score = done.metrics["evaluation"]["imputation"]["adt"]
    assert score["rmse"] < score["baselines"]["mean"]["rmse"] * 1.5
    changed["adt"].X = changed["adt"].X.multiply(np.where(flagged, 7.0, 1.0)[:, None]).tocsr()
    other = overlay(raw, {"evaluation": {"figures": False}, "optim": {"epochs": 5}})
    other["logging"] = {"run_dir": str(tmp_path / "other")}
    again = run.train(other, data=changed)
    np.testing.assert_array_equal(np.load(again.dir / EMBEDDINGS)["mu"], np.load(done.dir / EMBEDDINGS)["mu"])


def test_lsi_encodes_and_peaks_are_decoded(tmp_path: Path):
    raw = overlay(
        mock(tmp_path, "paired"),
        {
            "data": {"preprocess": {"atac": {"lsi": {"enabled": True, "n_components": 8}}}},
            "evaluation": {"figures": False},
        },
    )
    done = run.train(raw)
    model = done.assembly.config.model
    assert (model.encoders["atac"]["in_dim"], model.encoders["atac"]["input"]) == (8, "identity")
    assert model.decoders["atac"]["out_dim"] == SIZES["peaks"]
    encoder_only = overlay(
        raw, {"model": {"decoders": {"atac": None}}, "logging": {"run_dir": str(tmp_path / "e")}}
    )
    assert list(run.train(encoder_only).assembly.model.decoders) == ["rna", "adt"]


def test_the_batch_is_removed_by_the_decoders(tmp_path: Path):
    """Without conditioning the latent space must carry the batch; with it, it need not."""
    raw = mock(tmp_path, "paired", modalities=["rna"], cells=600, genes=100, difficulty=0.7)
    raw = overlay(raw, {"optim": {"epochs": 40, "batch_size": 64}, "evaluation": {"figures": False}})
    raw["alignment"] = {}  # no head does their work, nor what is read of the genes
    raw = overlay(raw, {"model": {"encoders": {"rna": {"components": 0}}}})
    conditioned = run.train(raw).metrics["evaluation"]["integration"]
    blind = overlay(raw, {"model": {"decoders": {"rna": {"conditional_batches": 1}}}})
    blind["logging"] = {"run_dir": str(tmp_path / "blind")}
    ignored = run.train(blind).metrics["evaluation"]["integration"]
    assert conditioned["ilisi"] > ignored["ilisi"] + 0.1
    assert conditioned["knn_purity"] > ignored["knn_purity"] - 0.03, "the types are kept"


def test_yaml_of_the_generator_is_what_the_schema_takes(tmp_path: Path):
    write_mock(tmp_path / "m.h5ad", tmp_path / "m.yaml", "bridge", **SIZES)
    assert set(yaml.safe_load((tmp_path / "m.yaml").read_text())) <= {
        "data",
        "model",
        "optim",
        "evaluation",
        "logging",
    }


def test_a_count_likelihood_scales_with_the_library_of_its_own_modality(tmp_path: Path):
    raw = mock(tmp_path, "paired", modalities=["adt"])
    raw = overlay(
        raw, {"model": {"decoders": {"adt": {"likelihood": "zinb"}}}, "evaluation": {"figures": False}}
    )
    assembly = run.train(raw).assembly
    batch = next(iter(assembly.loader(assembly.split.train[:8])))
    torch.testing.assert_close(batch.library["adt"], batch.x["adt"].totals())
    means = assembly.model.decode(assembly.model.embed(batch).z_bio, batch)["adt"].mu
    torch.testing.assert_close(means.sum(1), batch.library["adt"], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("ilisi", "words"), [(0.02, "lie apart"), (0.2, "mix in part"), (0.6, "batches mix:")]
)
def test_the_headline_does_not_call_batches_mixed_that_are_not(ilisi: float, words: str):
    (line,) = headline({"evaluation": {"integration": {"ilisi": ilisi}, "imputation": {}}})
    assert words in line
