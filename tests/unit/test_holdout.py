from __future__ import annotations

import numpy as np
import pytest

from remadom.config.load import validate
from remadom.data.holdout import held_out
from remadom.data.mock import generate, to_anndata, to_mudata
from remadom.data.settings import Holdout
from remadom.data.source import Source
from remadom.errors import InputError


@pytest.fixture(scope="module")
def mock():
    return generate("paired", cells=120, genes=20, peaks=20, proteins=4, batches=2, modalities=["rna", "adt"])


@pytest.fixture
def source(mock):
    data = to_anndata(mock)
    data.obs["flag"] = np.where(np.arange(120) < 7, "True", "False")
    return Source.open(data)


def hide(source, **settings):
    return held_out(source, {"adt": Holdout(**settings)}, key="heldout_truth", batch_key="batch", seed=0)[
        "adt"
    ]


def test_a_column_hides_the_cells_that_it_flags(source):
    found = hide(source, key="flag")
    assert np.flatnonzero(found.cells).tolist() == list(range(7))
    assert found.words == "flagged by flag"


def test_a_batch_hides_its_cells(source):
    name = source.obs["batch"].iloc[0]
    assert np.array_equal(hide(source, batches=[name]).cells, (source.obs["batch"] == name).to_numpy())


def test_a_fraction_is_drawn_by_the_seed(source):
    one, again = hide(source, fraction=0.25), hide(source, fraction=0.25)
    assert one.cells.sum() == 30
    assert np.array_equal(one.cells, again.cells)
    assert "25%" in one.words


def test_a_file_lists_names(source, tmp_path):
    path = tmp_path / "cells.txt"
    path.write_text("\n".join(source.obs_names[[3, 9]]) + "\n\n")
    assert np.flatnonzero(hide(source, file=str(path)).cells).tolist() == [3, 9]


def test_several_ways_are_joined(source):
    name = source.obs["batch"].iloc[-1]
    found = hide(source, key="flag", batches=[name])
    assert found.cells.sum() == 7 + (source.obs["batch"] == name).sum()
    assert found.words == f"flagged by flag or of {name}"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"key": "flags"}, "no column 'flags' in obs.*flag"),
        ({"batches": ["batch_9"]}, "no batch 'batch_9': did you mean 'batch_"),
        ({"file": "/nowhere/cells.txt"}, "cannot be read as text"),
        ({"batches": ["batch_1", "batch_2"]}, "would hide all 120 cells that have adt"),
        ({"fraction": 0.004}, "fraction: 120 cells have adt and another modality .* 0.4% of them is none"),
    ],
)
def test_what_cannot_be_hidden_is_told(source, settings, message):
    with pytest.raises(InputError, match=message):
        hide(source, **settings)


def test_unknown_cells_and_modalities_are_told(source, tmp_path):
    path = tmp_path / "cells.txt"
    path.write_text("cell_000001\nnobody\n")
    with pytest.raises(InputError, match="1 of 2 names .* are no cells of the data .*'nobody'"):
        hide(source, file=str(path))
    with pytest.raises(InputError, match="evaluation.holdout: atc"):
        held_out(source, {"atc": Holdout(fraction=0.5)}, key="x", batch_key="batch", seed=0)
    with pytest.raises(InputError, match="evaluation.holdout.adt.fraction"):
        validate({"evaluation": {"holdout": {"adt": {"fraction": 1.5}}}})


@pytest.mark.parametrize("layout", [to_anndata, to_mudata])
def test_the_truth_is_revealed_to_the_scorer_alone(layout):
    mock = generate("unpaired", cells=96, genes=20, peaks=20, modalities=["rna", "atac"])
    source = Source.open(layout(mock))
    known = source.revealed("truth_")
    at = mock.obs.index.get_indexer(source.obs_names)
    for modality in ("rna", "atac"):
        assert known.has[modality].all()
        assert 0 < source.has[modality].sum() < 96
        true = known.rows(modality, np.arange(96)).toarray()
        assert np.array_equal(true, mock.truth[modality][at].toarray())
        assert np.array_equal(source.has[modality], mock.has[modality][at])


def test_a_truth_of_other_columns_is_refused(mock):
    data = to_anndata(mock)
    data.obsm["truth_adt"] = data.obsm["truth_adt"][:, :2]
    with pytest.raises(InputError, match=r"obsm\['truth_adt'\] has 2 columns, adt has 4 features"):
        Source.open(data).revealed("truth_")
