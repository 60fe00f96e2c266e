"""Labels that some cells of a run have, given to the others, by command and by function."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import mudata as md
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from remadom import labeling, run
from remadom.adapters import profile_axes
from remadom.adapters.cells import NOTHING, label_texts
from remadom.adapters.labels import UNKNOWN
from remadom.cli.app import app
from remadom.config.load import overlay, read_config
from remadom.config.trained import Trained
from remadom.core.decoders.counts import NBDecoder
from remadom.data.mock import write_mock
from remadom.errors import InputError
from remadom.results import profiles
from remadom.results.labeled import label_cells
from remadom.results.profiles import profiles_of

SIZES = {"cells": 600, "genes": 80, "peaks": 60, "proteins": 10, "difficulty": 0.05, "seed": 0}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Trained:
    """A run on a mosaic of three modalities, of which all cells have a label."""
    folder = tmp_path_factory.mktemp("labels")
    write_mock(folder / "mosaic.h5mu", folder / "mosaic.yaml", "mosaic", **SIZES)
    quick = {
        "optim": {"epochs": 50, "batch_size": 64},
        "evaluation": {"figures": False, "holdout": {}},
        "logging": {"run_dir": str(folder / "run")},
    }
    run.train(overlay(read_config(folder / "mosaic.yaml"), quick))
    return Trained.load(folder / "run")


@pytest.fixture(scope="module")
def source(trained: Trained):
    return trained.source()


def batches(trained: Trained, source) -> np.ndarray:
    codes, names = source.codes(trained.config.data.batch_key, required=True)
    return np.asarray(names, dtype=object)[codes]


def widths_of(source) -> dict[str, int]:
    """Components by modality, in the order of the decoders."""
    return {m: min(20, len(source.features[m])) for m in source.modalities if m != "atac"}


def command(*words: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def some_labels(trained: Trained, folder: Path, unlabeled: str, **more: str) -> Path:
    """The file of the run, in which the cells of a batch have no label."""
    with md.set_options(pull_on_update=False):
        data = md.read_h5mu(trained.config.data.path)
        for part in data.mod.values():
            labels = part.obs["cell_type"].astype(object)
            labels[part.obs["batch"].astype(str) == unlabeled] = np.nan
            part.obs["cell_type"] = labels.replace(more)
        data.write(folder / "some.h5mu")
    return folder / "some.h5mu"


def test_every_batch_is_labeled_by_the_others(trained: Trained, source):
    truth, batch = label_texts(source.obs["cell_type"]), batches(trained, source)
    for name in np.unique(batch):
        told = np.where(batch == name, NOTHING, truth).astype(object)
        found = label_cells(trained, source, told)
        asked = told == NOTHING
        right = found.nearest[asked] == truth[asked]
        print(name, f"{right.mean():.3f}, confidence {found.confidence[asked].mean():.3f}")
        assert right.mean() > 0.6
        assert found.confidence[asked].mean() < right.mean() + 0.05
        assert found.check["labeled"] == (~asked).sum()
        assert found.check["how"] == "cells by those of other batches"


def test_both_opinions_are_worth_something(trained: Trained, source):
    """Beside the ten nearest cells in the embedding, over all batches."""
    from remadom.eval.transfer import label_transfer
    from remadom.train.embedding import embed_cells

    truth, batch = label_texts(source.obs["cell_type"]), batches(trained, source)
    z = embed_cells(trained.model, trained.loader(source)).z_bio.numpy()
    found = label_cells(trained, source, truth)
    nearest = np.empty(len(truth), dtype=object)
    for name in np.unique(batch):
        mine = batch == name
        nearest[mine] = label_transfer(z[~mine], truth[~mine], z[mine])
    ours, theirs = (found.nearest == truth).mean(), (nearest == truth).mean()
    print(f"{ours:.3f}, the nearest in the embedding {theirs:.3f}")
    assert ours > theirs - 0.01
    assert found.check["accuracy"] == pytest.approx(ours)
    assert found.check["calibration_error"] < 0.1


def test_a_cell_is_not_labeled_by_itself(trained: Trained, source):
    """Were its own label read, cells with wrong labels would get these."""
    truth = label_texts(source.obs["cell_type"])
    before = label_cells(trained, source, truth)
    wrong = truth.copy()
    changed = np.arange(0, len(truth), 40)
    names = np.unique(truth)
    wrong[changed] = names[(np.searchsorted(names, truth[changed].astype(str)) + 1) % len(names)]
    after = label_cells(trained, source, wrong)
    assert (after.nearest[changed] == before.nearest[changed]).mean() > 0.85
    assert (after.nearest[changed] == wrong[changed]).mean() < 0.2


def test_within_one_batch_cells_are_labeled_by_others_of_it(trained: Trained, source):
    truth, batch = label_texts(source.obs["cell_type"]), batches(trained, source)
    told = np.where(batch == batch[0], truth, NOTHING).astype(object)
    found = label_cells(trained, source, told)
    assert found.check["how"] == "cells by others of the same batch"
    assert found.check["labeled"] == (batch == batch[0]).sum()
    assert found.check["accuracy"] > 0.6


def test_a_type_of_one_batch_is_new_to_the_others(trained: Trained, source):
    truth, batch = label_texts(source.obs["cell_type"]), batches(trained, source)
    told = truth.copy()
    kind = pd.Series(truth).value_counts().index[0]
    told[(truth == kind) & (batch == batch[0])] = "new"
    found = label_cells(trained, source, told)
    assert found.check["novel_types"] == ["new"]
    assert found.check["novel_cells"] == (told == "new").sum()
    old = told != "new"
    assert found.check["accuracy"] == pytest.approx((found.nearest[old] == told[old]).mean())
    assert set(found.label[found.familiar < 0.05]) == {UNKNOWN}
    assert (found.label[found.familiar >= 0.05] == found.nearest[found.familiar >= 0.05]).all()


def test_the_order_of_cells_does_not_matter(trained: Trained, source):
    with md.set_options(pull_on_update=False):
        data = md.read_h5mu(trained.config.data.path)
        turned = trained.source(md.MuData({m: part[::-1].copy() for m, part in data.mod.items()}))
    assert not (turned.obs_names == source.obs_names).all()
    found = []
    for cells in (source, turned):
        truth, batch = label_texts(cells.obs["cell_type"]), batches(trained, cells)
        told = np.where(batch == "batch_1", NOTHING, truth).astype(object)
        labeled = label_cells(trained, cells, told)
        found.append(pd.Series(labeled.nearest, index=cells.obs_names)[told == NOTHING])
    assert (found[0] == found[1][found[0].index]).mean() > 0.97


def test_profiles_hold_what_was_measured_or_expected(trained: Trained, source):
    found = profiles_of(trained, source).expected
    assert found.shape[0] == source.n_cells
    assert np.isfinite(found).all()
    widths = widths_of(source)
    assert found.shape[1] == sum(widths.values()), "open peaks have no profiles"
    for modality, start in zip(widths, np.cumsum([0, *widths.values()])[:-1], strict=True):
        measured = source.has[modality]
        assert found[measured, start].std() == pytest.approx(1, rel=0.2)
        lacking = found[~measured, start]
        assert lacking.std() > 0.2, "what is expected differs between cells"


def test_donors_stand_beside_the_decoder_in_what_is_expected(trained: Trained, source, monkeypatch):
    load = profiles.load_donors  # what they weigh is found on held-out cells, and may be nothing
    monkeypatch.setattr(profiles, "load_donors", lambda *which: replace(load(*which), weight=0.5))
    with_donors = profiles_of(trained, source).expected
    monkeypatch.setattr(profiles, "load_donors", lambda *_: None)
    without = profiles_of(trained, source).expected
    start = 0
    for modality, width in widths_of(source).items():
        apart = np.abs(with_donors - without)[:, start : start + width].max(1)
        assert (apart[source.has[modality]] == 0).all()
        assert np.median(apart[~source.has[modality]]) > 0.01
        start += width


def test_regressed_profiles_are_those_of_ridge_regression(trained: Trained, source):
    """Normal equations in float64, by which modalities a cell has; as measured where it was."""
    found, widths = profiles_of(trained, source), widths_of(source)
    starts = dict(zip(widths, np.cumsum([0, *widths.values()]).tolist(), strict=False))
    part = {m: slice(start, start + widths[m]) for m, start in starts.items()}
    other = dict(zip(widths, reversed(widths), strict=True))
    assert set(widths) == {"rna", "adt"}
    for modality in widths:
        has, there = source.has[modality], source.has[other[modality]]
        own = found.expected[:, part[modality]]
        x = found.expected[:, part[other[modality]]].astype(np.float64)
        paired = has & there
        assert paired.sum() >= profile_axes.PAIRED
        mean, target = x[paired].mean(0), own[paired].astype(np.float64)
        a = x[paired] - mean
        weights = np.linalg.solve(a.T @ a + 10 * np.eye(a.shape[1]), a.T @ (target - target.mean(0)))
        cells = ~has & there
        assert cells.any()
        expected = (x[cells] - mean) @ weights + target.mean(0)
        assert np.allclose(found.regressed[cells, part[modality]], expected, atol=1e-3)
        nothing = has | ~there  # neither lacks it nor has the other
        assert (found.regressed[nothing, part[modality]] == own[nothing]).all()


def test_where_few_cells_are_paired_nothing_is_regressed(trained: Trained, source, monkeypatch):
    monkeypatch.setattr(profile_axes, "PAIRED", source.n_cells + 1)
    found = profiles_of(trained, source)
    assert (found.regressed == found.expected).all()


def test_profiles_of_proteins_are_at_their_own_total(trained: Trained, source, monkeypatch):
    """The median of the measured cells; genes have the usual one."""
    seen = set()
    compared = profile_axes.comparable

    def noted(values, support, total):
        seen.add(total)
        return compared(values, support, total)

    monkeypatch.setattr(profile_axes, "comparable", noted)
    profiles_of(trained, source)
    counts = source.rows("adt", np.flatnonzero(source.has["adt"])).toarray().sum(1)
    assert seen == {1e4, float(np.median(counts))}


def test_modalities_whose_zeros_are_not_measured_have_no_profiles(trained: Trained, source, monkeypatch):
    decoder = trained.model.decoder("rna")
    assert isinstance(decoder, NBDecoder)
    before = profiles_of(trained, source)
    monkeypatch.setattr(decoder, "scores_zeros", False, raising=False)
    after = profiles_of(trained, source)
    assert after.expected.shape[1] == after.regressed.shape[1] == before.expected.shape[1] - 20
    for modality in trained.model.decoders:
        monkeypatch.setattr(trained.model.decoder(modality), "scores_zeros", False, raising=False)
    assert profiles_of(trained, source).expected.shape == (source.n_cells, 0)
    truth = label_texts(source.obs["cell_type"])
    assert label_cells(trained, source, truth).check["accuracy"] > 0.6, "the embedding stands for them"


def test_the_command_writes_a_table_and_a_summary(trained: Trained, tmp_path: Path):
    folder = trained.path.parent
    whole = label_texts(trained.source().obs["cell_type"])
    name = str(np.unique(batches(trained, trained.source()))[0])
    kind = pd.Series(whole).value_counts().index[0]
    data = some_labels(trained, tmp_path, name, **{kind: "=2+2"})
    code, said = command("label", folder, data, "--out", tmp_path / "out" / "labels.csv")
    assert code == 0, said
    table = pd.read_csv(tmp_path / "out" / "labels.csv", index_col="obs_name", keep_default_na=False)
    assert list(table) == ["batch", "own_label", "label", "nearest", "confidence", "familiar"]
    asked = table["own_label"] == ""
    assert (table.index[asked] == table.index[table["batch"] == name]).all()
    truth = pd.Series(whole, index=trained.source().obs_names).replace({kind: "'=2+2"})
    assert (table["nearest"][asked] == truth[table.index][asked]).mean() > 0.7
    assert table["confidence"].between(0, 1).all()
    about = json.loads((tmp_path / "out" / "labels.json").read_text())
    assert list(about) == ["model", "column", "cells", "batches", "check"]
    assert sum(about["cells"].values()) == asked.sum() == about["batches"][name]["cells"]
    assert set(about["batches"]) == {name}
    assert about["check"]["labeled"] == (~asked).sum()
    assert f"{name}: {asked.sum()} cells" in said
    assert "other batches" in said
    assert str(tmp_path / "out" / "labels.csv") in said


def test_cells_of_another_batch_are_for_mapref(trained: Trained, tmp_path: Path):
    with md.set_options(pull_on_update=False):
        data = md.read_h5mu(trained.config.data.path)
        for part in data.mod.values():
            part.obs["batch"] = part.obs["batch"].astype(str).replace({"batch_2": "batch_9"})
        data.write(tmp_path / "other.h5mu")
    with pytest.raises(InputError, match="batch 'batch_9' was not trained on.*mapref"):
        labeling.label(trained.path.parent, tmp_path / "labels.csv", data=tmp_path / "other.h5mu")


def test_a_second_table_needs_overwrite(trained: Trained, tmp_path: Path):
    out = tmp_path / "labels.csv"
    out.write_text("mine")
    code, said = command("label", trained.path.parent, "--out", out)
    assert code != 0
    assert "--overwrite" in said
    assert out.read_text() == "mine"
    labeling.label(trained.path.parent, out, "cell_type", overwrite=True)
    assert "own_label" in out.read_text()
    out.unlink()
    with pytest.raises(InputError, match=r"labels\.json exists.*--overwrite"):
        labeling.label(trained.path.parent, out, "cell_type")


def test_what_cannot_work_is_said_before_anything_is_written(trained: Trained, source, tmp_path: Path):
    with pytest.raises(InputError, match="no column 'cell_typ'.*cell_type"):
        labeling.label(trained.path.parent, tmp_path / "labels.csv", "cell_typ")
    with pytest.raises(InputError, match=r"is no \.csv"):
        labeling.label(trained.path.parent, tmp_path / "labels")
    told = np.full(source.n_cells, NOTHING, dtype=object)
    with pytest.raises(InputError, match="found none, expected two or more"):
        label_cells(trained, source, told)
    told[:5] = "B"
    with pytest.raises(InputError, match="found 'B' alone"):
        label_cells(trained, source, told)
    with pytest.raises(InputError, match="found 600 of 600 cells"):
        label_cells(trained, source, source.obs_names.to_numpy(dtype=object))
    assert not list(tmp_path.iterdir())
