"""Labels by two opinions: a linear classifier, and the nearest labeled cells."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.linear_model import LogisticRegression

from remadom.adapters import voters
from remadom.adapters.voters import NEIGHBORS, PENALTY, SHIFTED, Spaces, Voters
from remadom.eval.confidence import expected_calibration_error


def cells(n: int, seed: int, spread: float = 1.0) -> tuple[Spaces, np.ndarray]:
    """Places and types of cells of three types that overlap; in no two spaces the same."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 3, n)
    centers = np.array([[0, 0], [2.0, 0], [0, 3.0]])
    z = centers[codes] + rng.normal(0, spread, (n, 2))
    near = np.hstack([z + rng.normal(0, spread / 2, z.shape), z[:, :1]])
    linear = z + rng.normal(0, spread / 2, z.shape)
    return Spaces(z.astype(np.float32), near.astype(np.float32), linear.astype(np.float32)), codes


@pytest.mark.parametrize("n", [300, 2 * SHIFTED])
def test_the_probability_is_the_mean_of_the_two_opinions(n: int):
    """Neighbors by brute force, the classifier by scikit-learn; its penalty grows with more than ``SHIFTED`` cells."""
    known, codes = cells(n, 0)
    others, _ = cells(80, 1)
    found = Voters.fit(known, codes, 3, 0).probabilities(others)
    near = np.argsort(cdist(others.near, known.near), axis=1)[:, :NEIGHBORS]
    votes = np.stack([(codes[near] == code).mean(1) for code in range(3)], axis=1)
    unit, strength = known.linear.std(0).max(), PENALTY * min(1, SHIFTED / n)
    linear = LogisticRegression(C=strength, max_iter=1000).fit(known.linear / unit, codes)
    mean = (votes + linear.predict_proba(others.linear / unit)) / 2
    assert np.allclose(found, mean, atol=1e-3)  # the nearer neighbor decides between equals
    assert np.allclose(found.sum(1), 1)


def test_the_nearest_are_sought_in_the_embedding_and_the_profiles_at_one_scale():
    z, expected = np.array([[0.0, 0], [4, 1]]), np.array([[1.0], [3]])
    found = Spaces.of(z, expected, 2 * expected)
    assert np.allclose(found.near, [[0, 0, 1], [2, 0.5, 3]]), "the widest dimension of z has a deviation of 2"
    assert (found.linear == 2 * expected).all()
    assert (found.embedding == z).all()
    alone = Spaces.of(z, expected[:, :0], expected[:, :0])
    for space in (alone.embedding, alone.near, alone.linear):
        assert (space == z).all(), "without profiles the embedding stands for them"


def test_labels_are_right_and_the_confidence_is_honest_where_types_overlap():
    known, codes = cells(4000, 0)
    others, truth = cells(4000, 1)
    likely = Voters.fit(known, codes, 3, 0).probabilities(others)
    right = likely.argmax(1) == truth
    assert 0.8 < right.mean() < 0.95
    assert expected_calibration_error(likely.max(1), right) < 0.05


def test_the_units_do_not_matter():
    known, codes = cells(300, 0)
    others, _ = cells(80, 1)

    def scaled(of: Spaces) -> Spaces:
        return Spaces(10 * of.embedding, 1000 * of.near, 1000 * of.linear)

    found = Voters.fit(known, codes, 3, 0).probabilities(others)
    assert np.allclose(found, Voters.fit(scaled(known), codes, 3, 0).probabilities(scaled(others)), atol=1e-4)


def test_of_many_labeled_cells_some_are_drawn_and_a_rare_label_keeps_its_votes(monkeypatch):
    known, codes = cells(300, 0, spread=0.1)
    monkeypatch.setattr(voters, "MOST", 40)
    drawn = np.random.default_rng(0).permutation(len(known))[:40]
    codes[drawn] = codes[drawn] % 2
    known.near[drawn] = -100
    found = Voters.fit(known, codes, 3, 0)
    assert list(found.linear.classes_) == [0, 1]
    rare = codes == 2
    likely = found.probabilities(known[rare])
    assert np.allclose(likely[:, 2], 0.5), "all neighbors, and nothing by the classifier"


@pytest.mark.parametrize("n", [1, 2, 5])
def test_few_cells_of_one_label_give_it(n: int):
    known, _ = cells(n, 0)
    found = Voters.fit(known, np.full(n, 1), 3, 0)
    others, _ = cells(4, 1)
    assert np.allclose(found.probabilities(others), [[0, 1, 0]])
    assert found.familiar(others, np.ones(4, dtype=int)).shape == (4,)


def test_a_cell_far_from_all_labeled_ones_in_the_embedding_is_not_familiar():
    known, codes = cells(400, 0)
    found = Voters.fit(known, codes, 3, 0)
    others, truth = cells(400, 1)
    assert np.mean(found.familiar(others, truth) < 0.05) < 0.1
    far = Spaces(others.embedding + 20, others.near, others.linear)
    assert found.familiar(far, truth).max() < 0.01
