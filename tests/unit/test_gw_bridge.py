"""The gw bridge: cells of two modalities matched with no shared cell, feature or label."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from remadom.bridges.gw import GWBridge
from remadom.errors import InputError
from remadom.types import View


def branching(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Cells on three arms of different lengths and masses, in the plane; and the arm of each."""
    arm = rng.choice(3, n, p=(0.5, 0.3, 0.2))
    along = np.array((1.0, 0.7, 0.45))[arm] * rng.beta(1.2, 1.0, n)
    angle = np.array((0.0, 2.2, 3.9))[arm]
    return np.c_[along * np.cos(angle), along * np.sin(angle)] + rng.normal(0, 0.02, (n, 2)), arm


def seen(plane: np.ndarray, n_features: int, rng: np.random.Generator) -> np.ndarray:
    """A nonlinear view of the plane in its own features, with noise."""
    hidden = np.tanh(plane @ rng.normal(0, 1.5, (2, 40)) + rng.normal(0, 0.5, 40))
    values = hidden @ rng.normal(0, 1 / 6, (40, n_features))
    return values + rng.normal(0, 0.1 * values.std(), values.shape)


def closer_than_the_match(x: np.ndarray, y: np.ndarray) -> float:
    """FOSCTTM of rows that are pairs, both directions."""
    far = ((x[:, None] - y) ** 2).sum(2)
    own = np.diag(far)
    n = len(x)
    return float(((far < own[:, None]).sum() + (far < own).sum()) / (2 * n * (n - 1)))


def view(name: str, features: np.ndarray, first: int) -> View:
    names = tuple(f"{name}{i}" for i in range(features.shape[1]))
    return View(name, np.arange(first, first + len(features)), features.astype(np.float32), names, ready=True)


@pytest.fixture(scope="module")
def tree():
    rng = np.random.default_rng(1)
    plane, arm = branching(300, rng)
    x, y = seen(plane, 20, rng), seen(plane, 15, rng)
    order = rng.permutation(300)
    return x, y[order], arm, order


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_two_nonlinear_views_of_a_branching_structure_are_matched(tree, metric):
    x, y, arm, order = tree
    space = GWBridge(metric=metric, neighbors=(15,)).align(x, y)
    back = np.argsort(order)
    assert closer_than_the_match(space.x.numpy(), space.y.numpy()[back]) < 0.12  # 0.5 by chance
    pairs = space.pairs(5)
    assert (arm[pairs.first.numpy()] == arm[order][pairs.second.numpy()]).mean() > 0.9  # 0.38 by chance


def test_the_order_of_the_cells_does_not_matter(tree):
    x, y, *_ = tree
    bridge = GWBridge(neighbors=(15,))
    shuffle = np.random.default_rng(5).permutation(len(y))
    plain, shuffled = bridge.couple(x, y), bridge.couple(x, y[shuffle])
    assert float((plain[:, shuffle] - shuffled).abs().sum()) < 0.1  # of 2; k-means groups may differ a little
    assert float(plain.sum()) == pytest.approx(1, abs=1e-3)
    torch.testing.assert_close(
        plain.sum(1), torch.full((300,), 1 / 300, dtype=torch.float64), atol=3e-5, rtol=0
    )


def test_edges_are_the_strongest_pairs_of_the_coupling(tree):
    x, y, *_ = tree
    x, y = x[:120], y[:150]
    bridge = GWBridge(neighbors=(15,), edges_per_cell=3)
    plan = bridge.couple(x, y)
    edges = bridge.build({"b": view("b", y, 120), "a": view("a", x, 0)}, 270)
    assert (edges.n_cells, edges.diagnostics()["coverage"]) == (270, 1.0)
    wanted = torch.zeros_like(plan, dtype=torch.bool)
    wanted.scatter_(1, plan.topk(3, 1).indices, True)
    wanted.scatter_(0, plan.topk(3, 0).indices, True)
    src, dst = wanted.nonzero().T
    assert torch.equal(edges.src, src)
    assert torch.equal(edges.dst, dst + 120)
    relative = plan / (plan.amax(1, keepdim=True) * plan.amax(0)).sqrt()
    torch.testing.assert_close(edges.weight, relative[src, dst].clamp(max=1).float(), atol=1e-4, rtol=1e-3)
    rows, columns = plan / plan.sum(1, keepdim=True), plan / plan.sum(0)
    known = (
        1 - torch.special.entr(rows).sum(1) / np.log(150),
        1 - torch.special.entr(columns).sum(0) / np.log(120),
    )
    wanted_confidence = (known[0][src] * known[1][dst]).sqrt().float()
    torch.testing.assert_close(edges.confidence, wanted_confidence, atol=2e-3, rtol=1e-2)


def test_above_the_cap_the_rest_is_placed_like_the_drawn(tree):
    x, y, arm, order = tree
    bridge = GWBridge(neighbors=(15,), max_cells=150)
    edges = bridge.build({"a": view("a", x, 0), "b": view("b", y, 300)}, 600)
    assert edges.diagnostics()["coverage"] == 1.0
    assert (arm[edges.src.numpy()] == arm[order][edges.dst.numpy() - 300]).mean() > 0.85
    rows = bridge.couple(x, y).sum(1) * 300
    assert float(rows.min()) > 0.5
    assert float(rows.max()) < 2


def test_reach_lets_proportions_differ():
    rng = np.random.default_rng(0)
    centers = rng.normal(0, 1.5, (4, 4))

    def sampled(shares: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
        kind = rng.choice(4, 300, p=shares)
        return centers[kind] + rng.normal(0, 0.3, (300, 4)), kind

    (x, of_x), (y, of_y) = sampled((0.45, 0.3, 0.15, 0.1)), sampled((0.25, 0.2, 0.3, 0.25))
    turned = y @ np.linalg.qr(rng.normal(size=(6, 4)))[0].T
    same = torch.from_numpy(of_x[:, None] == of_y)

    def kept(reach: float | None) -> float:
        plan = GWBridge(neighbors=(15,), metric="euclidean", reach=reach).couple(x, turned)
        return float((plan * same).sum() / plan.sum())

    assert kept(0.3) > 0.85
    assert kept(None) < 0.75  # 0.7 is the most that equal masses allow


def test_parts_of_a_whole_are_taken_in_ratios(tree):
    x, y, *_ = tree
    depth = np.random.default_rng(2).uniform(1, 1000, (300, 1))
    bridge = GWBridge(neighbors=(15,))
    torch.testing.assert_close(
        bridge.couple(x, np.exp(y) * depth), bridge.couple(x, np.exp(y)), atol=1e-9, rtol=1e-3
    )


def test_clusters_that_no_neighbor_links_are_matched():
    rng = np.random.default_rng(3)
    kind = np.repeat([0, 1, 2], (60, 40, 25))
    centers = np.array([[0.0, 0], [40, 0], [15, 60]])
    plane = centers[kind] + rng.normal(0, 0.5, (125, 2))
    turn = np.array([[0.0, 1], [-1, 0]])
    edges = GWBridge(neighbors=(5,), metric="euclidean").align(plane, plane @ turn).pairs(3)
    assert (kind[edges.first.numpy()] == kind[edges.second.numpy()]).mean() > 0.97


def test_three_cells_are_enough_and_less_are_refused():
    x = np.array([[0.0, 1], [2, 0], [5, 5]])
    assert GWBridge().couple(x, x).shape == (3, 3)
    with pytest.raises(InputError, match="3 or more"):
        GWBridge().align(x[:2], x)
    with pytest.raises(InputError, match="finite"):
        GWBridge().align(np.full((4, 2), np.nan), x)
    with pytest.raises(InputError, match="same features"):
        GWBridge().align(np.ones((4, 2)), x)
    with pytest.raises(InputError, match="expected two"):
        GWBridge().build({"a": view("a", x, 0)}, 3)
