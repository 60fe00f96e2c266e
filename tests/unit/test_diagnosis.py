from __future__ import annotations

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from remadom.data import sampler
from remadom.data.diagnosis import Diagnosis, diagnose
from remadom.data.mock import generate, to_anndata, to_mudata
from remadom.data.mock_cells import PROBLEMS
from remadom.data.problem import Cohort, links_of
from remadom.data.source import Source

KEYS = {"batch_key": "batch", "dataset_key": "dataset", "label_key": "cell_type"}
SMALL = {"cells": 480, "genes": 30, "peaks": 30, "proteins": 6}


def of(data) -> Diagnosis:
    return diagnose(Source.open(data), **KEYS)


def study(batch: list[str], *, seed: int = 0, **counts: np.ndarray) -> dict[str, ad.AnnData]:
    """Modalities of cells c0, c1, ... of these batches; a row of NaN is a cell that lacks the modality."""
    obs = pd.DataFrame({"batch": batch}, index=[f"c{i}" for i in range(len(batch))])
    parts = {}
    for name, values in counts.items():
        has = ~np.isnan(values).any(1)
        parts[name] = ad.AnnData(sp.csr_matrix(values[has].astype(np.float32)), obs=obs[has].copy())
    return parts


def poisson(rows: int, columns: int = 5, rate: float = 4.0) -> np.ndarray:
    return np.random.default_rng(rows).poisson(rate, size=(rows, columns)).astype(float)


@pytest.mark.parametrize("layout", [to_anndata, to_mudata])
@pytest.mark.parametrize("problem", sorted(PROBLEMS))
def test_every_mock_problem_is_recognized(problem, layout):
    found = of(layout(generate(problem, **SMALL)))
    assert found.problem.kind == problem
    assert found.problem.why
    assert sum(cohort.cells for cohort in found.cohorts) == SMALL["cells"]
    assert found.links.connected == (problem != "unpaired")
    json.dumps(found.as_dict(), allow_nan=False)


def test_the_thinnest_link_and_what_nothing_links():
    gap = np.full((40, 5), np.nan)
    parts = study(
        ["a"] * 40 + ["b"] * 40 + ["c"] * 3,
        rna=np.vstack([poisson(40), gap, poisson(3)]),
        adt=np.vstack([gap, poisson(40), poisson(3)]),
    )
    found = of(parts)
    assert found.problem.kind == "bridge"
    assert found.links.thinnest.cells == 3
    assert found.links.shared == {"rna-adt": 3}
    apart = of({name: part[:40].copy() for name, part in parts.items()})
    assert apart.problem.kind == "unpaired"
    assert apart.links.parts == (("rna",), ("adt",))
    assert any("no cell links them" in words for words in apart.links.lost)


def test_the_thinnest_link_of_several():
    def cohort(batch: str, *modalities: str, cells: int) -> Cohort:
        return Cohort("study", batch, modalities, cells, 0, {})

    cohorts = [
        cohort("a", "rna", "atac", cells=100),
        cohort("b", "atac", "adt", cells=7),
        cohort("c", "adt", cells=50),
    ]
    found = links_of(cohorts, ("rna", "atac", "adt"))
    assert found.thinnest.sides == (("rna", "atac"), ("adt",))
    assert (found.thinnest.cells, found.thinnest.cohorts) == (7, ("b (ATAC + ADT)",))
    assert found.shared == {"rna-atac": 100, "rna-adt": 0, "atac-adt": 7}
    assert found.connected
    apart = links_of([*cohorts[:1], *cohorts[2:]], ("rna", "atac", "adt"))
    assert apart.parts == (("rna", "atac"), ("adt",))
    assert (apart.thinnest.cells, apart.connected) == (0, False)
    assert apart.words == "no cell links RNA + ATAC with ADT"


def test_values_are_looked_at_by_batch():
    rna = poisson(80, 6, 3.0)
    rna[40:] = np.rint(rna[40:] * 9)
    rna[5] = 0
    rna[:, 2] = 0
    rna[40:, 3] = 0
    found = of(study(["a"] * 40 + ["b"] * 40, rna=rna))
    values = found.modalities["rna"]
    assert (values.cells, values.features, values.counts) == (80, 6, True)
    assert (values.empty_cells, values.silent) == (1, 1)
    assert (values.shared, values.constant) == (4, 0)
    assert values.depth[1] == np.median(rna.sum(1))
    assert values.depth_by_batch == {"a": np.median(rna[:40].sum(1)), "b": np.median(rna[40:].sum(1))}
    assert values.density == pytest.approx((rna > 0).mean())
    assert values.missing == {"b": ["3"]}
    said = " ".join(found.checks)
    for words in (
        "1 of 80 measured cells have no count",
        "1 of 6 features are zero",
        "batches differ in depth",
        "1 features that other batches show are zero in all of b (3)",
    ):
        assert words in said


def test_a_feature_is_missing_only_where_cells_should_have_shown_it():
    """A rare feature is absent from a small or a shallow batch by chance, a common one is not."""
    common, rare = np.ones((60, 1)), np.zeros((60, 1))
    rare[:4] = 1
    deep = np.hstack([9 * common, common, rare, poisson(60, 3, 9.0) + 1])
    lacking = deep.copy()
    lacking[:, 1:3] = 0
    shallow = np.zeros_like(deep)
    shallow[:, 0] = 1
    found = of(study(["a"] * 60 + ["b"] * 60 + ["c"] * 60, rna=np.vstack([deep, lacking, shallow])))
    assert found.modalities["rna"].missing == {"b": ["1"]}
    assert found.modalities["rna"].constant == 0
    same = of(study(["a"] * 60, rna=deep)).modalities["rna"]
    assert (same.constant, same.missing) == (2, {})


def test_what_is_no_count_is_told():
    found = of(study(["a"] * 40, rna=poisson(40) + 0.5))
    assert not found.modalities["rna"].counts
    assert any("no counts" in words and "data.keys.rna" in words for words in found.checks)


def test_confounded_modalities_labels_and_tiny_cohorts_are_told():
    gap = np.full((40, 5), np.nan)
    parts = study(
        ["a"] * 40 + ["b"] * 40 + ["c"] * 4,
        rna=np.vstack([poisson(40), poisson(40), poisson(4)]),
        adt=np.vstack([gap, poisson(40), gap[:4]]),
    )
    for part in parts.values():
        part.obs["cell_type"] = np.where(part.obs["batch"] == "a", "T", "B")
        part.obs.loc[part.obs["batch"] == "c", "cell_type"] = None
    said = " ".join(of(parts).checks)
    assert "ADT was measured in one batch alone (b)" in said
    assert "2 of 2 labels occur in one batch alone (B, T)" in said
    assert "1 of 3 batches have no label (c)" in said
    assert "1 cohorts have fewer than 30 cells" in said


def test_batches_that_share_no_label_no_modality_or_a_name_are_told():
    gap, batch = np.full((80, 5), np.nan), ["a"] * 40 + ["b"] * 40 + ["c"] * 40 + ["d"] * 40
    parts = study(batch, rna=np.vstack([poisson(80), gap]), adt=np.vstack([gap, poisson(80)]))
    for part in parts.values():
        part.obs["cell_type"] = np.where(part.obs["batch"].isin(["a", "c"]), "T", "B")
    said = " ".join(of(parts).checks)
    assert "RNA and ADT have no batch in common" in said
    assert "4 pairs of batches share no label (a and b, a and d, b and c and 1 more)" in said
    twice = study(["1"] * 40 + ["2"] * 40 + ["1"] * 40, rna=poisson(120))
    twice["rna"].obs["dataset"] = ["x"] * 80 + ["y"] * 40
    assert "1 batches have the same name in several data sets (1)" in " ".join(of(twice).checks)
    nameless = study(["a"] * 120, rna=poisson(120))
    nameless["rna"].obs.columns = ["donor_id"]
    nameless["rna"].obs["donor_id"] = ["p", "q"] * 60
    assert "data.batch_key (perhaps donor_id)" in " ".join(of(nameless).checks)


def test_a_type_is_lost_to_a_modality_only_if_its_cells_are_labeled():
    gap = np.full((40, 5), np.nan)
    parts = study(["a"] * 40 + ["b"] * 40, rna=poisson(80), adt=np.vstack([gap, poisson(40)]))
    for part in parts.values():
        part.obs["cell_type"] = np.where(part.obs["batch"] == "a", "T", "B")
    assert of(parts).links.lost == ("ADT of T: no labeled cell of that type has ADT",)
    for part in parts.values():
        part.obs.loc[part.obs["batch"] == "b", "cell_type"] = None
    assert of(parts).links.lost == ()


def test_large_data_is_read_in_blocks(monkeypatch):
    parts = study(["a"] * 40 + ["b"] * 41, rna=poisson(81, 6), adt=poisson(81, 4))
    whole = of(parts).as_dict()
    monkeypatch.setattr(sampler, "CELLS_AT_ONCE", 7)
    assert of(parts).as_dict() == whole


def test_a_good_data_set_has_nothing_to_check():
    parts = study(["a"] * 40 + ["b"] * 40, rna=poisson(80, 6, 6.0), adt=poisson(80, 5, 9.0))
    assert of(parts).checks == ()
