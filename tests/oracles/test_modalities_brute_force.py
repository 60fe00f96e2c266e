"""Scores of modalities beside definitions written out cell by cell."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from remadom.eval import modalities
from remadom.eval.lisi import lisi
from remadom.eval.modalities import foscttm, matching_score, modality_metrics
from remadom.eval.transfer import label_transfer


@pytest.fixture(params=[(90, 3, 0), (41, 1, 1), (60, 2, None)], ids=["3d", "1d", "grid"])
def pair(request):
    n_cells, n_latent, seed = request.param
    rng = np.random.default_rng(seed or 0)
    if seed is None:  # many ties
        return tuple(rng.integers(0, 3, size=(2, n_cells, n_latent)).astype(float))
    za = rng.normal(size=(n_cells, n_latent))
    return za, za + 0.7 * rng.normal(size=za.shape)


def test_foscttm_and_matching_count_the_other_cells(pair):
    za, zb = pair
    shares, matches = [], []
    for one, other in ((za, zb), (zb, za)):
        for i, cell in enumerate(one):
            own = math.dist(cell, other[i])
            far = [math.dist(cell, other[j]) for j in range(len(za)) if j != i]
            shares.append(sum(1.0 if d < own else 0.5 if d == own else 0.0 for d in far) / (len(za) - 1))
            tied = sum(d == own for d in far)
            matches.append(0 if min(far) < own else 1 / (1 + tied))
    assert foscttm(za, zb) == pytest.approx(np.mean(shares), abs=1e-12)
    assert matching_score(za, zb) == pytest.approx(np.mean(matches), abs=1e-12)


def test_blocks_of_distances_change_nothing(pair, monkeypatch):
    expected = foscttm(*pair), matching_score(*pair)
    monkeypatch.setattr(modalities, "BLOCK", 7 * len(pair[0]))
    assert (foscttm(*pair), matching_score(*pair)) == expected


def test_labels_are_voted_on_by_the_nearest():
    rng = np.random.default_rng(0)
    source, target = rng.normal(size=(80, 3)), rng.normal(size=(50, 3))
    names = rng.choice(["a", "b", "c"], size=80)
    expected = []
    for cell in target:
        near = sorted(range(80), key=lambda j: math.dist(cell, source[j]))[:10]
        votes = Counter(names[j] for j in near)
        ranks = {name: sum(r for r, j in enumerate(near) if names[j] == name) for name in votes}
        expected.append(min(votes, key=lambda name: (-votes[name], ranks[name], name)))
    assert label_transfer(source, names, target).tolist() == expected


def test_mixing_is_ilisi_of_the_union(pair):
    za, zb = pair
    every = np.arange(len(za))
    section = modality_metrics({"a": za, "b": zb}, {"a": every, "b": every})["a-b"]
    index = lisi(np.concatenate([za, zb]), np.repeat(["a", "b"], len(za)))
    assert section["modality_mixing"] == pytest.approx(np.median(index) - 1)
