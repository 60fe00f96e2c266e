"""Labels by two opinions: a linear classifier in the embedding, and the nearest profiles."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.linear_model import LogisticRegression

from remadom.adapters import voters
from remadom.adapters.voters import NEIGHBORS, PENALTY, Voters
from remadom.eval.confidence import expected_calibration_error


def cells(n: int, seed: int, spread: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places, profiles and types of cells of three types that overlap."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 3, n)
    centers = np.array([[0, 0], [2.0, 0], [0, 3.0]])
    z = centers[codes] + rng.normal(0, spread, (n, 2))
    profiles = np.hstack([z + rng.normal(0, spread / 2, z.shape), z[:, :1]])
    return z.astype(np.float32), profiles.astype(np.float32), codes


def test_the_probability_is_the_mean_of_the_two_opinions():
    """Neighbors by brute force, the classifier by scikit-learn."""
    z, profiles, codes = cells(300, 0)
    others, theirs, _ = cells(80, 1)
    found = Voters.fit(z, profiles, codes, 3, 0).probabilities(others, theirs)
    near = np.argsort(cdist(theirs, profiles), axis=1)[:, :NEIGHBORS]
    votes = np.stack([(codes[near] == code).mean(1) for code in range(3)], axis=1)
    unit = z.std(0).max()
    linear = LogisticRegression(C=PENALTY, max_iter=1000).fit(z / unit, codes).predict_proba(others / unit)
    assert np.allclose(found, (votes + linear) / 2, atol=1e-3)  # the nearer neighbor decides between equals
    assert np.allclose(found.sum(1), 1)


def test_labels_are_right_and_the_confidence_is_honest_where_types_overlap():
    z, profiles, codes = cells(4000, 0)
    others, theirs, truth = cells(4000, 1)
    likely = Voters.fit(z, profiles, codes, 3, 0).probabilities(others, theirs)
    right = likely.argmax(1) == truth
    assert 0.8 < right.mean() < 0.95
    assert expected_calibration_error(likely.max(1), right) < 0.05


def test_the_units_of_the_embedding_do_not_matter():
    z, profiles, codes = cells(300, 0)
    others, theirs, _ = cells(80, 1)
    found = Voters.fit(z, profiles, codes, 3, 0).probabilities(others, theirs)
    scaled = Voters.fit(1000 * z, profiles, codes, 3, 0).probabilities(1000 * others, theirs)
    assert np.allclose(found, scaled, atol=1e-4)


def test_of_many_labeled_cells_some_are_drawn_and_a_rare_label_keeps_its_votes(monkeypatch):
    z, profiles, codes = cells(300, 0, spread=0.1)
    monkeypatch.setattr(voters, "MOST", 40)
    drawn = np.random.default_rng(0).permutation(len(z))[:40]
    codes[drawn], profiles[drawn] = codes[drawn] % 2, -100
    found = Voters.fit(z, profiles, codes, 3, 0)
    assert list(found.linear.classes_) == [0, 1]
    rare = codes == 2
    likely = found.probabilities(z[rare], profiles[rare])
    assert np.allclose(likely[:, 2], 0.5), "all neighbors, and nothing by the classifier"


@pytest.mark.parametrize("n", [1, 2, 5])
def test_few_cells_of_one_label_give_it(n: int):
    z, profiles, _ = cells(n, 0)
    found = Voters.fit(z, profiles, np.full(n, 1), 3, 0)
    others, theirs, _ = cells(4, 1)
    assert np.allclose(found.probabilities(others, theirs), [[0, 1, 0]])
    assert found.familiar(others, np.ones(4, dtype=int)).shape == (4,)


def test_a_cell_far_from_all_labeled_ones_is_not_familiar():
    z, profiles, codes = cells(400, 0)
    found = Voters.fit(z, profiles, codes, 3, 0)
    others, _, truth = cells(400, 1)
    assert np.mean(found.familiar(others, truth) < 0.05) < 0.1
    assert found.familiar(others + 20, truth).max() < 0.01
