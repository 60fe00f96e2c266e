"""Edges and small groups reach the batches, and every cell is a seed once an epoch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from remadom.data.partners import EdgePartners, GroupPartners
from remadom.data.sampler import Sampler, interleaved
from remadom.types import BridgeEdges, SparseGraph

MANY, BATCH, K = 100_000, 512, 15


@pytest.fixture(scope="module")
def ring() -> SparseGraph:
    """A ring of many cells in random order, each tied to its 14 nearest: edges hardly ever meet by chance."""
    place = np.random.default_rng(0).permutation(MANY)
    cell_at = np.argsort(place)
    steps = np.r_[-7:0, 1:8]
    ends = np.sort(cell_at[(place[:, None] + steps) % MANY], axis=1)
    indptr = torch.arange(MANY + 1) * len(steps)
    return SparseGraph(
        indptr, torch.from_numpy(ends.ravel()), torch.ones(ends.size), torch.full((MANY,), float(len(steps)))
    )


def sampler(**how) -> Sampler:
    return Sampler(np.arange(MANY), batch_size=BATCH, shuffle=True, seed=3, **how)


def test_graph_edges_reach_the_batch_and_every_cell_is_a_seed_once(ring: SparseGraph):
    alone, with_partners = sampler(), sampler()
    with_partners.partners["graph"] = EdgePartners(ring.indptr.numpy(), ring.indices.numpy())
    seeds, shares, by_chance = [], [], []
    for number, (draw, plain) in enumerate(zip(with_partners.batches(4), alone.batches(4), strict=True)):
        np.testing.assert_array_equal(draw.seeds, plain.seeds)  # partners do not change who is a seed
        assert not np.intersect1d(draw.seeds, draw.partners).size
        assert len(np.unique(draw.partners)) == len(draw.partners) <= len(draw.seeds)
        seeds.append(draw.seeds)
        if number % 20 == 0:
            index = torch.from_numpy(np.concatenate(draw))
            shares.append(len(ring.induced(index).indices) / 2 / len(draw.seeds))
            by_chance.append(len(ring.induced(torch.from_numpy(draw.seeds)).indices) / 2 / len(draw.seeds))
    np.testing.assert_array_equal(np.sort(np.concatenate(seeds)), np.arange(MANY))
    assert max(by_chance) < 0.1
    assert min(shares) > 0.5


def test_bridge_edges_reach_the_batch():
    """One cell in five has one edge: each seed that has one sees it."""
    rng = np.random.default_rng(1)
    linked = rng.permutation(MANY)[: MANY // 5]
    half = len(linked) // 2
    edges = BridgeEdges.of(torch.from_numpy(linked[:half]), torch.from_numpy(linked[half:]), None, MANY)
    indptr = np.zeros(MANY + 1, dtype=np.int64)
    ends = np.full(MANY, -1)
    ends[linked[:half]], ends[linked[half:]] = linked[half:], linked[:half]
    indptr[1:] = np.cumsum(ends >= 0)
    draws = sampler()
    draws.partners["bridge"] = EdgePartners(indptr, ends[ends >= 0])
    for number, draw in enumerate(draws.batches(0)):
        if number % 40 == 0:
            found = edges.induced(torch.from_numpy(np.concatenate(draw)))
            assert len(found) >= (ends[draw.seeds] >= 0).sum() / 2
            assert len(found) > 0.5 * (ends[draw.seeds] >= 0).sum()


def test_strata_have_their_share_in_every_batch():
    groups = np.random.default_rng(0).choice(4, MANY, p=[0.7, 0.2, 0.09, 0.01])
    size = np.bincount(groups)
    seeds = []
    for draw in sampler(strata=groups).batches(1):
        seeds.append(draw.seeds)
        if len(draw.seeds) == BATCH:
            found = np.bincount(groups[draw.seeds], minlength=4)
            assert np.abs(found - BATCH * size / MANY).max() <= 2
    np.testing.assert_array_equal(np.sort(np.concatenate(seeds)), np.arange(MANY))


def test_strata_orders_differ_between_epochs_and_are_the_same_for_the_same_seed():
    groups = np.arange(MANY) % 3
    one, other = sampler(strata=groups), sampler(strata=groups)
    np.testing.assert_array_equal(one.order(2), other.order(2))
    assert (one.order(2) != one.order(3)).mean() > 0.9


def test_small_groups_are_topped_up():
    groups = np.zeros(MANY, dtype=np.int64)
    groups[:50], groups[50:53], groups[53:60] = 1, 2, -1
    draws = sampler()
    draws.partners["group"] = GroupPartners(groups, np.arange(MANY), at_least=10)
    for draw in draws.batches(0):
        found = np.bincount(groups[np.concatenate(draw)] + 1, minlength=4)
        assert found[2] >= 10
        assert found[3] == 3
        assert (groups[draw.partners] >= 1).all()


def test_partners_are_drawn_among_the_given_cells_only():
    groups = np.arange(100) % 2
    partners = GroupPartners(groups, np.arange(50), at_least=40)
    assert partners(np.array([1, 3]), np.random.default_rng(0)).max() < 50


def test_batches_of_a_loader_that_does_not_shuffle_have_no_partners(ring: SparseGraph):
    plain = Sampler(np.arange(1000), batch_size=100)
    plain.partners["graph"] = EdgePartners(ring.indptr.numpy(), ring.indices.numpy())
    assert all(len(draw.partners) == 0 for draw in plain.batches(0))


def test_interleaving_one_group_is_a_permutation():
    order = interleaved(np.zeros(17), np.random.default_rng(0))
    np.testing.assert_array_equal(np.sort(order), np.arange(17))
