"""Axes of measured profiles: principal components of comparable values, also where features are lacking."""

from __future__ import annotations

import numpy as np
import pytest

from remadom.adapters import profile_axes
from remadom.adapters.profile_axes import COMPONENTS, ProfileAxes
from remadom.core.coordinates import CENTERED

TYPES = np.random.default_rng(99).lognormal(0, 1.0, (4, 60))


def counts(n: int, seed: int, depth: float = 40.0) -> tuple[np.ndarray, np.ndarray]:
    """Counts of cells of four types, and the types."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 4, n)
    return rng.poisson(depth * TYPES[kind] * rng.lognormal(0, 0.5, (n, 1))).astype(np.float32), kind


def by_hand(values: np.ndarray, total: float) -> np.ndarray:
    logs = np.log1p(total * values / values.sum(1, keepdims=True))
    return logs - logs.mean(1, keepdims=True)


def test_components_are_those_of_the_singular_value_decomposition():
    values, _ = counts(300, 0)
    axes = ProfileAxes.fit(values, "counts", 1e4, 0)
    profiles = by_hand(values.astype(np.float64), 1e4)
    u, s, _ = np.linalg.svd(profiles - profiles.mean(0), full_matrices=False)
    expected = (u * s)[:, :COMPONENTS] / (s[0] / np.sqrt(299))
    found = axes.of(values)
    assert found.shape == (300, COMPONENTS)
    assert found[:, 0].std() == pytest.approx(1, rel=0.01)
    for k in range(3):
        assert abs(np.corrcoef(found[:, k], expected[:, k])[0, 1]) > 0.9999
        assert found[:, k].std() == pytest.approx(expected[:, k].std(), rel=1e-3)


def test_the_features_that_vary_most_are_read(monkeypatch: pytest.MonkeyPatch):
    values, _ = counts(200, 0)
    monkeypatch.setattr(profile_axes, "FEATURES", 10)
    axes = ProfileAxes.fit(values, "counts", 1e4, 0)
    assert axes.kept.tolist() == sorted(np.argsort(-by_hand(values, 1e4).var(0))[:10])
    changed = values.copy()
    changed[:, axes.kept[0]] += 5
    assert not np.allclose(axes.of(changed), axes.of(values), atol=1e-3)


@pytest.mark.parametrize("support", [*CENTERED, "real"])
def test_missing_features_count_as_the_mean(support):
    """With 60 % of them gone, cells lie near to where all of them would put them; read as zeros, they do not."""
    (training, _), (values, kind) = counts(600, 1), counts(200, 2)
    axes = ProfileAxes.fit(training, support, 1e4, 0)
    present = np.random.default_rng(3).random(60) < 0.4
    share = float(training[:, present].sum() / training.sum())
    full, left = axes.of(values), values * present
    masked, as_zeros = axes.lacking(present, share).of(left), axes.of(left)
    error = [float(np.linalg.norm(found - full, axis=1).mean()) for found in (masked, as_zeros)]
    print(f"{support}: distance to the full components {error[0]:.2f} masked, {error[1]:.2f} as zeros")
    assert error[0] < (0.75 if support in CENTERED else 0.85) * error[1]
    means = [np.stack([found[kind == k].mean(0) for k in range(4)]) for found in (masked, full)]
    assert np.linalg.norm(means[0].mean(0) - means[1].mean(0)) < 0.3
    np.testing.assert_array_equal(axes.lacking(np.ones(60, dtype=bool), 1.0).of(values), full)
    assert np.allclose(axes.lacking(present, share).of(np.where(present, values, 77)), masked), (
        "are not looked at"
    )


def test_cells_that_are_at_the_mean_lie_at_zero_whatever_is_lacking():
    """An exact case: all cells have one composition but for noise of the depth, which profiles do not see."""
    values, _ = counts(400, 0)
    axes = ProfileAxes.fit(values, "counts", 1e4, 0)
    logs = axes.mean - axes.mean.min()
    total = float(np.expm1(logs).sum())
    axes = ProfileAxes("counts", total, axes.mean, axes.kept, axes.axes)
    typical = np.expm1(logs)[None]  # its profile is the mean profile
    assert np.abs(axes.of(typical)).max() < 1e-3
    present = np.arange(60) % 3 != 0
    share = float(typical[:, present].sum() / total)
    assert np.abs(axes.lacking(present, share).of(typical * present)).max() < 1e-3


@pytest.mark.parametrize("values", [np.ones((50, 8), dtype=np.float32), np.ones((1, 8)), np.zeros((0, 8))])
def test_cells_that_do_not_differ_have_no_axes(values: np.ndarray):
    assert ProfileAxes.fit(values, "counts", 1e4, 0) is None
