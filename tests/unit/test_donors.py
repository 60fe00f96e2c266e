"""Donors: measured values of like cells, found by brute force, weighed in closed form, kept with the run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp

from remadom.eval.intervals import shifted
from remadom.eval.scales import COUNTS, REAL
from remadom.results import places as places_module
from remadom.results.donors import Donors, at_depth
from remadom.results.places import NEIGHBORS, Places
from remadom.solvers.ann import AnnIndex

RNG = np.random.default_rng(0)


def places(n: int, *, lacking: int = 0) -> Places:
    hidden, components = (
        RNG.normal(size=(n, 7)).astype(np.float32),
        RNG.normal(size=(n, 3)).astype(np.float32),
    )
    hidden[:lacking], components[:lacking] = np.nan, np.nan
    return Places(hidden, components)


def donors(
    n: int = 200, features: int = 5, *, scale=COUNTS, total: float | None = None, **kept: Places
) -> Donors:
    values = scale.to(RNG.poisson(3.0, (n, features)).astype(np.float32))
    kept = kept or {"rna": places(n)}
    return Donors(kept, {m: np.ones((9, 3), np.float32) for m in kept}, sp.csr_matrix(values), scale, total)


def nearest_means(of: Donors, cells: dict[str, Places]) -> np.ndarray:
    """The definition, written out: two lists of neighbors in spaces scaled to one variance."""
    values, means = of.values.toarray(), []
    for kind in ("hidden", "components"):
        theirs = [getattr(of.places[m], kind) for m in cells]
        scales = [np.sqrt(part.var(0).sum()) for part in theirs]
        a = np.concatenate([p / s for p, s in zip(theirs, scales, strict=True)], axis=1)
        b = np.concatenate([getattr(cells[m], kind) / s for m, s in zip(cells, scales, strict=True)], axis=1)
        distance = ((b[:, None].astype(float) - a[None]) ** 2).sum(2)
        means.append(values[np.argsort(distance, axis=1)[:, :NEIGHBORS]].mean(1))
    return np.mean(means, axis=0)


def test_values_are_the_mean_over_the_nearest_donors_of_both_kinds():
    of, cells = donors(), {"rna": places(20)}
    np.testing.assert_allclose(of.expected(cells, None), np.expm1(nearest_means(of, cells)), rtol=1e-4)


def test_cells_in_blocks_get_what_they_get_at_once_and_donors_are_indexed_once(
    monkeypatch: pytest.MonkeyPatch,
):
    built: list[int] = []

    class Counted(AnnIndex):
        def __init__(self, points: np.ndarray) -> None:
            built.append(len(points))
            super().__init__(points)

    monkeypatch.setattr(places_module, "AnnIndex", Counted)
    of, cells = donors(), places(20)
    at_once = of.expected({"rna": cells}, None)
    blocks = [of.expected({"rna": cells.among(np.arange(i, i + 5))}, None) for i in range(0, 20, 5)]
    np.testing.assert_allclose(np.concatenate(blocks), at_once, rtol=1e-6)
    assert built == [200, 200]  # by hidden layers and by components


def test_a_cell_is_compared_by_all_modalities_that_it_has():
    of = donors(rna=places(200), atac=places(200))
    cells = {"rna": places(10), "atac": places(10, lacking=4)}
    found = of.expected(cells, None)
    alone = {"rna": cells["rna"].among(np.arange(4))}
    both = {m: p.among(np.arange(4, 10)) for m, p in cells.items()}
    np.testing.assert_allclose(found[:4], np.expm1(nearest_means(of, alone)), rtol=1e-4)
    np.testing.assert_allclose(found[4:], np.expm1(nearest_means(of, both)), rtol=1e-4)


def test_a_cell_that_no_donor_is_like_gets_nothing_and_the_decoder_speaks():
    of = donors(rna=places(200, lacking=200 - NEIGHBORS + 1))
    given = of.expected({"rna": places(3)}, None)
    assert np.isnan(given).all()
    decoded = np.full((3, 5), 2.0)
    np.testing.assert_array_equal(of.mixed(decoded, given), decoded)


def test_counts_come_at_the_depth_of_the_cell():
    of, cells = donors(total=100.0), {"rna": places(4)}
    usual = of.expected(cells, np.full(4, 100.0))
    np.testing.assert_allclose(of.expected(cells, np.full(4, 300.0)), 3 * usual, rtol=1e-5)


def test_a_cell_has_the_depth_of_its_donors():
    of, cells = donors(total=100.0), {"rna": places(20)}
    assert np.isnan(of.depths(cells)).all()
    totals = RNG.integers(10, 1000, 200).astype(np.float32)
    told = replace(of, totals=totals)
    logs = replace(of, values=sp.csr_matrix(np.log(totals)[:, None]))
    np.testing.assert_allclose(told.depths(cells), np.exp(nearest_means(logs, cells))[:, 0], rtol=1e-4)
    np.testing.assert_allclose(told.expected(cells, None), of.expected(cells, None), rtol=1e-6)
    assert np.isnan(told.depths({"rna": places(3, lacking=3)})).all()


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_weight_is_the_share_of_the_donors_in_the_truth(share: float):
    decoded, given = RNG.normal(size=(50, 5)), RNG.normal(size=(50, 5))
    truth = (1 - share) * decoded + share * given
    truth[0, 0] = np.nan
    of = donors(scale=REAL).weighed(decoded, given, truth)
    assert of.weight == pytest.approx(share, abs=1e-6)
    known = np.isfinite(truth)
    np.testing.assert_allclose(of.mixed(decoded, given)[known], truth[known], atol=1e-6)


def test_the_weight_stays_between_none_and_all():
    decoded, given = np.zeros((9, 2)), np.ones((9, 2))
    assert donors(scale=REAL).weighed(decoded, given, np.full((9, 2), 5.0)).weight == 1
    assert donors(scale=REAL).weighed(decoded, given, np.full((9, 2), -5.0)).weight == 0
    assert donors(scale=REAL).weighed(decoded, decoded, given).weight == 0  # they say the same


def test_counts_are_compared_at_the_true_depth():
    truth = RNG.poisson(4.0, (6, 5)).astype(float)
    np.testing.assert_allclose(at_depth(truth * 7, truth, COUNTS), truth)
    np.testing.assert_array_equal(at_depth(truth * 7, truth, REAL), truth * 7)


def test_intervals_move_with_what_is_expected():
    before, after = np.full((1, 2), 3.0), np.array([[7.0, 0.0]])
    low, high = shifted((np.array([[1.0, 1.0]]), np.array([[7.0, 7.0]])), before, after, COUNTS)
    np.testing.assert_allclose(low, [[3.0, 0.0]])  # log(1 + x) moves by log 2; no count is below 0
    np.testing.assert_allclose(high, [[15.0, 1.0]])
