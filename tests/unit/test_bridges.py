from __future__ import annotations

import contextlib
import inspect

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from remadom.bridges import linmap
from remadom.bridges.base import BRIDGES
from remadom.bridges.dictionary import DictionaryBridge
from remadom.bridges.filtering import agreement, filter_edges, label_agreement
from remadom.bridges.linear import correlations, overlapping, partner_rank, ridge
from remadom.bridges.linmap import LinearMapBridge
from remadom.bridges.mnn import MNNBridge
from remadom.bridges.neighbors import near, ranks_within
from remadom.bridges.penalty import BridgePenalty
from remadom.bridges.seeded import SeededBridge
from remadom.errors import InputError
from remadom.graph import GraphBuilder
from remadom.registry import documented_parameters, keyword_parameters
from remadom.solvers.mutual import mutual_pairs
from remadom.types import BridgeEdges, View

OURS = ["mnn", "seeded", "dictionary", "linmap"]
N_TYPES = 3


def pairs_of(edges: BridgeEdges) -> dict[tuple[int, int], tuple[float, float]]:
    """Weight and confidence by unordered pair."""
    ends = zip(edges.src.tolist(), edges.dst.tolist(), strict=True)
    values = zip(edges.weight.tolist(), edges.confidence.tolist(), strict=True)
    return {(min(pair), max(pair)): value for pair, value in zip(ends, values, strict=True)}


def view(name: str, cells: np.ndarray, values: np.ndarray) -> View:
    names = tuple(f"{name}{i}" for i in range(values.shape[1]))
    return View(name, cells, values.astype(np.float32), names, ready=True)


def mosaic(n: int = 240, seed: int = 0) -> tuple[dict[str, View], np.ndarray, np.ndarray]:
    """Two modalities that see the same positions: a third of the cells has both, a third only one or the other."""
    rng = np.random.default_rng(seed)
    types = rng.integers(N_TYPES, size=n)
    z = rng.normal(size=(n, 3)) + 4 * np.eye(3)[types]
    a = z @ rng.normal(size=(3, 6)) + 0.1 * rng.normal(size=(n, 6))
    b = z @ rng.normal(size=(3, 5)) + 0.1 * rng.normal(size=(n, 5))
    kind = rng.integers(3, size=n)  # 0: both, 1: only a, 2: only b
    in_a, in_b = np.flatnonzero(kind != 2), np.flatnonzero(kind != 1)
    return {"rna": view("rna", in_a, a[in_a]), "adt": view("adt", in_b, b[in_b])}, types, kind


def batches_of_types(sizes=(70, 50), shift=3.0, seed=0):
    """Batches of the same types in a latent, each shifted at a right angle to what tells the types apart."""
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(len(sizes)), sizes)
    types = rng.integers(N_TYPES, size=len(codes))
    z = 0.3 * rng.normal(size=(len(codes), 6)) + 5 * np.eye(6)[types] + shift * np.eye(6)[3 + codes % 3]
    return torch.from_numpy(z), torch.from_numpy(codes), types


def inputs(seed: int = 0) -> dict:
    """Everything that a run can give a bridge."""
    views, _, kind = mosaic(seed=seed)
    n = len(kind)
    rng = np.random.default_rng(seed)
    seeds = BridgeEdges.of(
        torch.from_numpy(np.flatnonzero(kind == 1)[:20]),
        torch.from_numpy(np.flatnonzero(kind == 2)[:20]),
        None,
        n,
    )
    return {
        "z_bio": torch.from_numpy(rng.normal(size=(n, 4))),
        "batches": torch.from_numpy(rng.integers(-1, 2, size=n)),
        "views": views,
        "seeds": seeds,
        "n_cells": n,
    }


def reordered(given: dict, order: np.ndarray) -> dict:
    """The same cells in another order: new position i holds old cell order[i]."""
    place = np.argsort(order)
    views = {}
    for name, old in given["views"].items():
        cells = place[old.cells]
        sort = np.argsort(cells)
        views[name] = View(name, cells[sort], old.features[sort], old.names, old.ready)
    seeds, at = given["seeds"], torch.from_numpy(place)
    return {
        "z_bio": given["z_bio"][order],
        "batches": given["batches"][order],
        "views": views,
        "seeds": BridgeEdges.of(at[seeds.src], at[seeds.dst], seeds.weight, seeds.n_cells),
        "n_cells": given["n_cells"],
    }


@pytest.mark.parametrize("name", OURS)
def test_builds_from_nothing_refuses_unknown_keys_and_documents_every_parameter(name):
    bridge = BRIDGES.build(name)
    with pytest.raises(InputError, match="unknown key 'no_such_key'"):
        BRIDGES.build(name, no_such_key=1)
    docs = documented_parameters(BRIDGES[name])
    for key, parameter in keyword_parameters(BRIDGES[name]).items():
        assert docs.get(key), key
        assert parameter.default is not inspect.Parameter.empty
        with pytest.raises(ValidationError):
            BRIDGES.schema(name).model_validate({key: object()})
    edges = bridge.build_from(inputs())
    assert len(edges)
    assert edges.n_cells == 240
    assert ((edges.weight > 0) & (edges.weight <= 1)).all()
    assert ((edges.confidence >= 0) & (edges.confidence <= 1)).all()
    assert (edges.src != edges.dst).all()


@pytest.mark.parametrize("name", OURS)
def test_the_order_of_cells_does_not_matter(name):
    given, order = inputs(), np.random.default_rng(3).permutation(240)
    one, two = (BRIDGES.build(name).build_from(some) for some in (given, reordered(given, order)))
    back = torch.from_numpy(order)
    two = BridgeEdges.of(back[two.src], back[two.dst], two.weight, two.n_cells, two.confidence)
    one, two = pairs_of(one), pairs_of(two)
    assert one.keys() == two.keys()
    for pair in one:
        assert one[pair] == pytest.approx(two[pair], abs=1e-5)


@pytest.mark.parametrize("name", OURS)
def test_inputs_are_left_as_they_were_and_edges_are_the_same_again(name):
    given = inputs()
    before = [given["z_bio"].clone(), given["views"]["rna"].features.copy()]
    one, two = BRIDGES.build(name).build_from(given), BRIDGES.build(name).build_from(given)
    assert torch.equal(one.src, two.src)
    assert torch.equal(one.weight, two.weight)
    assert torch.equal(given["z_bio"], before[0])
    np.testing.assert_array_equal(given["views"]["rna"].features, before[1])


# mutual nearest neighbors


def test_mutual_pairs_equal_brute_force():
    rng = np.random.default_rng(0)
    a, b, k = rng.normal(size=(30, 3)), rng.normal(size=(20, 3)), 4
    i, j, weight = mutual_pairs(a, b, k, "euclidean", "numpy")
    distance = ((a[:, None] - b[None]) ** 2).sum(2)
    of_a, of_b = distance.argsort(1).argsort(1), distance.argsort(0).argsort(0)
    both = (of_a < k) & (of_b < k)
    np.testing.assert_array_equal(np.stack([i, j]), np.nonzero(both))
    np.testing.assert_allclose(weight, np.sqrt((1 - of_a[both] / k) * (1 - of_b[both] / k)))


def test_mnn_links_the_same_types_of_two_batches():
    z, codes, types = batches_of_types()
    edges = MNNBridge(k=10).build(z, codes)
    assert (codes[edges.src] != codes[edges.dst]).all()
    assert (types[edges.src] == types[edges.dst]).all()
    assert edges.diagnostics()["coverage"] > 0.5
    unit = torch.nn.functional.normalize(z, dim=1)
    by_cosine, by_unit = MNNBridge(k=5, metric="cosine").build(z, codes), MNNBridge(k=5).build(unit, codes)
    assert pairs_of(by_cosine).keys() == pairs_of(by_unit).keys()


def test_a_type_of_one_batch_alone_is_linked_by_edges_of_low_confidence():
    z, codes, types = batches_of_types((120, 120))
    private = torch.from_numpy((types == 0) & (codes.numpy() == 1))
    keep = ~((codes == 0) & torch.from_numpy(types == 0))
    z, codes, private = z[keep], codes[keep], private[keep]
    edges = MNNBridge(k=10).build(z, codes)
    wrong = private[edges.dst]
    if wrong.any():
        assert edges.confidence[wrong].mean() < edges.confidence[~wrong].mean()
    assert wrong.double().mean() < 0.15


def test_more_batches_in_pairs_or_as_a_star_and_cells_without_a_batch_left_out():
    z, codes, _ = batches_of_types((30, 60, 40))
    codes[:5] = -1

    def met(**params):
        edges = MNNBridge(k=5, **params).build(z, codes)
        assert (codes[edges.src] >= 0).all()
        assert (codes[edges.dst] >= 0).all()
        return {
            tuple(sorted(p)) for p in zip(codes[edges.src].tolist(), codes[edges.dst].tolist(), strict=True)
        }

    assert met() == {(0, 1), (0, 2), (1, 2)}
    assert met(pairs="star") == {(0, 1), (1, 2)}
    assert met(pairs="star", reference=2) == {(0, 2), (1, 2)}
    with pytest.raises(InputError, match=r"unknown batch '7'.*valid: 0, 1, 2"):
        met(pairs="star", reference=7)
    named = MNNBridge(k=5, pairs="star", reference="lane 3").build(z, codes, ["lane 1", "lane 2", "lane 3"])
    star = MNNBridge(k=5, pairs="star", reference=2).build(z, codes)
    assert torch.equal(named.src, star.src)
    with pytest.raises(InputError, match=r"unknown batch 'lane 4'.*did you mean 'lane"):
        MNNBridge(k=5, pairs="star", reference="lane 4").build(z, codes, ["lane 1", "lane 2", "lane 3"])


def test_mnn_needs_two_batches():
    with pytest.raises(InputError, match=r"found 1 batches.*data.batch_key"):
        MNNBridge().build(torch.zeros(4, 2), torch.tensor([0, 0, 0, -1]))


@given(st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_mnn_of_tiny_batches_with_copies(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 14))
    z = torch.from_numpy(rng.integers(0, 2, size=(n, 2)).astype(float))
    codes = torch.from_numpy(np.r_[0, 1, rng.integers(0, 3, size=n - 2)])
    edges = MNNBridge(k=3, ann_backend="numpy").build(z, codes)
    assert (codes[edges.src] < codes[edges.dst]).all()
    assert len(pairs_of(edges)) == len(edges)
    assert edges.confidence.isfinite().all()


# known pairs


def line(n_a: int = 9, n_b: int = 9) -> dict[str, View]:
    """Two modalities of different cells, each on a line with unequal gaps: neighbors are known by heart."""
    x = np.cumsum(1 + 0.1 * np.arange(n_a))[:, None]
    y = np.cumsum(1 + 0.1 * np.arange(n_b))[:, None]
    return {"a": view("a", np.arange(n_a), x), "b": view("b", np.arange(n_a, n_a + n_b), y)}


def test_a_seed_grows_into_the_neighbors_of_both_ends_hop_by_hop():
    views, seed = line(), BridgeEdges.of(torch.tensor([4]), torch.tensor([13]), None, 18)
    none = SeededBridge(hops=0).build(views, seed, 18)
    assert pairs_of(none) == {(4, 13): (1.0, 1.0)}
    one = pairs_of(SeededBridge(k=2, hops=1, decay=0.25).build(views, seed, 18))
    assert one[4, 13] == (1.0, 1.0)
    # each cell of a line lists both sides; the pair is supported by the only seed there is
    assert {i for i, _ in one} == {j - 9 for _, j in one}
    assert set(one) >= {(i, j) for i in (3, 4, 5) for j in (12, 13, 14)}
    assert all(abs(i - 4) <= 2 and abs(j - 13) <= 2 for i, j in one)
    assert all(w == pytest.approx(0.25 * c) and c < 1 for p, (w, c) in one.items() if p != (4, 13))
    two = pairs_of(SeededBridge(k=2, hops=2, decay=0.25).build(views, seed, 18))
    assert two.items() >= one.items()
    assert {i for i, _ in two} > {i for i, _ in one}
    assert all(two[p][0] == pytest.approx(0.25**2 * two[p][1]) for p in two.keys() - one.keys())


def test_mutual_support_is_the_formula_of_the_documentation():
    views, seeds = (
        line(),
        BridgeEdges.of(torch.tensor([2, 5]), torch.tensor([11, 16]), torch.tensor([1.0, 0.5]), 18),
    )
    bridge = SeededBridge(k=3, decay=1.0, max_per_cell=100)
    graph = bridge._graph(views, 1, np.arange(9)).toarray()
    other = bridge._graph(views, 2, np.arange(9, 18)).toarray()
    known = np.zeros((9, 9))
    known[2, 2], known[5, 7] = 1.0, 0.5
    support = graph @ known @ other.T / np.sqrt(np.outer(graph @ known.sum(1), known.sum(0) @ other.T))
    grown = pairs_of(bridge.build(views, seeds, 18))
    for (i, j), (weight, confidence) in grown.items():
        if known[i, j - 9] == 0:
            assert weight == pytest.approx(support[i, j - 9], rel=1e-5)
            assert confidence == pytest.approx(weight)
    assert len(grown) == int((support > 0).sum()) + sum(support[known > 0] == 0)


def test_grown_edges_are_no_more_than_asked_for_and_stay_on_their_sides():
    views, _, kind = mosaic()
    given = inputs()
    edges = SeededBridge(max_per_cell=3, hops=2).build(views, given["seeds"], 240)
    assert set(kind[edges.src]) == {1}
    assert set(kind[edges.dst]) == {2}
    known = set(zip(given["seeds"].src.tolist(), given["seeds"].dst.tolist(), strict=True))
    grown = [pair for pair in zip(edges.src.tolist(), edges.dst.tolist(), strict=True) if pair not in known]
    assert len(edges) == len(grown) + 20
    assert np.bincount(np.array(grown).ravel()).max() <= 2 * 3
    assert len(edges) > 60


def test_a_seed_of_cells_without_a_view_is_kept_and_no_seed_is_an_error():
    views = line()
    seeds = BridgeEdges.of(torch.tensor([18, 4]), torch.tensor([4, 19]), None, 20)
    assert len(SeededBridge().build(views, seeds, 20)) == 2
    with pytest.raises(InputError, match="found no known pair"):
        SeededBridge().build(views, BridgeEdges.none(18), 18)


# dictionary and linear map


@pytest.mark.parametrize(
    "bridge", [DictionaryBridge(atom_links=0), LinearMapBridge(), LinearMapBridge(fit="procrustes")]
)
def test_cells_of_one_modality_meet_their_type_in_the_other(bridge):
    views, types, kind = mosaic()
    edges = bridge.build(views, 240)
    assert set(kind[edges.src]) == {2}  # adt comes before rna
    assert set(kind[edges.dst]) == {1}
    found = label_agreement(edges, types)
    assert found["label_agreement"] > 0.95
    assert found["label_agreement_chance"] < 0.5
    covered = len(np.unique(np.r_[edges.src, edges.dst])) / (kind > 0).sum()
    assert covered > 0.6


@pytest.mark.parametrize("bridge", [DictionaryBridge(), LinearMapBridge()])
def test_the_order_of_modalities_does_not_matter(bridge):
    views = mosaic()[0]
    one, two = bridge.build(views, 240), bridge.build(dict(reversed(views.items())), 240)
    assert pairs_of(one).keys() == pairs_of(two).keys()


def test_atoms_are_linked_to_the_cells_that_are_near_in_the_modality_they_share():
    views, _, kind = mosaic()
    edges = DictionaryBridge(atom_links=2).build(views, 240)
    to_atoms = kind[edges.dst] == 0
    assert np.bincount(edges.src[to_atoms])[kind > 0].tolist() == [2] * int((kind > 0).sum())
    rna, cell = views["rna"], int(np.flatnonzero(kind == 1)[0])
    atoms = np.flatnonzero(kind == 0)
    place = np.searchsorted(rna.cells, atoms)
    distance = np.linalg.norm(rna.features[place] - rna.features[np.searchsorted(rna.cells, cell)], axis=1)
    chosen = edges.dst[torch.from_numpy(to_atoms) & (edges.src == cell)]
    assert chosen.tolist() == atoms[np.argsort(distance)[:2]].tolist()


def test_a_modality_that_all_cells_have_is_bridged_through_the_atoms_alone():
    views, _, kind = mosaic()
    some = np.flatnonzero(kind != 2)
    nested = {
        "rna": views["rna"],
        "adt": view("adt", some[::2], np.random.default_rng(0).normal(size=(len(some[::2]), 4))),
    }
    edges = DictionaryBridge().build(nested, 240)
    assert set(edges.src.tolist()) == set(some[1::2].tolist())
    with pytest.raises(InputError, match="atom_links above 0"):
        DictionaryBridge(atom_links=0).build(nested, 240)
    with pytest.raises(InputError, match="cells of their own on both sides"):
        LinearMapBridge().build(nested, 240)


@pytest.mark.parametrize(("bridge", "least"), [(DictionaryBridge(k=12), 12), (LinearMapBridge(), 20)])
def test_too_few_shared_cells_are_refused(bridge, least):
    rng = np.random.default_rng(0)
    cells = np.arange(60)
    views = {
        "a": view("a", cells[:30], rng.normal(size=(30, 3))),
        "b": view("b", cells[19:], rng.normal(size=(41, 3))),
    }
    with pytest.raises(InputError, match=rf"share.*{least}|{least} shared.*'gw'"):
        bridge.build(views, 60)


def test_a_map_between_modalities_that_share_nothing_makes_no_edges_or_edges_of_no_confidence(monkeypatch):
    rng = np.random.default_rng(0)
    views = {
        "a": view("a", np.arange(200), rng.normal(size=(200, 4))),
        "b": view("b", np.arange(100, 300), rng.normal(size=(200, 4))),
    }
    for fit in ("ridge", "procrustes"):
        for seed in range(3):
            shuffled = view(
                "b", views["b"].cells, np.random.default_rng(seed).permutation(views["b"].features)
            )
            with contextlib.suppress(InputError):
                edges = LinearMapBridge(fit=fit).build({"a": views["a"], "b": shuffled}, 300)
                assert float(edges.confidence.max()) < 0.2
    monkeypatch.setattr(linmap, "held_out_rank", lambda *_: 0.0)
    with pytest.raises(InputError, match="no map does better than chance"):
        LinearMapBridge().build(views, 300)
    monkeypatch.undo()
    true = LinearMapBridge().build(mosaic()[0], 240)
    assert float(true.confidence.min()) > 0.9


def test_every_two_views_that_share_cells_are_bridged():
    rng = np.random.default_rng(1)
    z = rng.normal(size=(120, 2))
    parts = {"a": np.arange(0, 70), "b": np.arange(40, 120), "c": np.r_[0:20, 100:120]}
    views = {name: view(name, cells, z[cells] @ rng.normal(size=(2, 3))) for name, cells in parts.items()}
    assert [(s.a.name, s.b.name, len(s.paired)) for s in overlapping(views)] == [
        ("a", "b", 30),
        ("a", "c", 20),
        ("b", "c", 20),
    ]
    edges = LinearMapBridge().build(views, 120)
    ends = set(edges.src.tolist()) | set(edges.dst.tolist())
    assert ends & set(range(20, 40))
    assert ends & set(range(70, 100))


def test_constant_and_copied_cells_do_not_break_a_bridge():
    views, _, _ = mosaic()
    for old in views.values():
        old.features[:, 0] = 1.0
        old.features[: len(old) // 2] = old.features[0]
    for bridge in (DictionaryBridge(), LinearMapBridge(), LinearMapBridge(fit="procrustes")):
        edges = bridge.build(views, 240)
        assert edges.confidence.isfinite().all()


def test_ridge_predictions_are_those_of_leaving_each_cell_out():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(15, 3)), rng.normal(size=(15, 2))
    x, y = x - x.mean(0), y - y.mean(0)
    slopes, held = ridge(x, y, 1e-12)
    np.testing.assert_allclose(slopes, np.linalg.lstsq(x, y, rcond=None)[0], rtol=1e-6)
    for i in range(15):
        rest = np.arange(15) != i
        design = np.c_[np.ones(14), x[rest]]
        fit = np.linalg.lstsq(design, y[rest], rcond=None)[0]
        np.testing.assert_allclose(held[i], np.r_[1, x[i]] @ fit, rtol=1e-5, atol=1e-8)
    assert np.abs(ridge(x, y, 1e6)[0]).max() < 1e-5
    np.testing.assert_allclose(correlations(y, y), 1)
    np.testing.assert_allclose(correlations(-y, y), 0)


def test_partner_rank_is_one_for_partners_zero_by_chance():
    rng = np.random.default_rng(0)
    u, v = rng.normal(size=(400, 3)), rng.normal(size=(400, 3))
    for metric in ("euclidean", "cosine"):
        assert partner_rank(u, u, metric) == pytest.approx(1, abs=1e-9)
        assert abs(partner_rank(u, v, metric)) < 0.1
        assert partner_rank(u, np.zeros_like(u), metric) == pytest.approx(0, abs=0.6)
    assert partner_rank(np.zeros((9, 2)), np.zeros((9, 2)), "euclidean") == pytest.approx(0)


# edges: penalty, filter, diagnostics, restriction


def random_edges(n_cells: int = 30, n_edges: int = 60, seed: int = 0) -> BridgeEdges:
    rng = np.random.default_rng(seed)
    keys = rng.choice(n_cells * n_cells, n_edges, replace=False)
    src, dst, weight = (
        torch.from_numpy(keys // n_cells),
        torch.from_numpy(keys % n_cells),
        torch.from_numpy(rng.random(n_edges)),
    )
    return BridgeEdges.of(src, dst, weight, n_cells, torch.from_numpy(rng.random(n_edges)))


def test_penalty_is_the_weighted_mean_of_squared_distances_over_that_of_all_cells():
    edges, z = (
        random_edges(n_edges=12),
        torch.randn(30, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
    )
    z.requires_grad_()
    loss, logs = BridgePenalty()(z, edges)
    assert torch.autograd.gradcheck(lambda z: BridgePenalty()(z, edges)[0], (z,))
    loss, z = loss.detach(), z.detach()
    weight = (edges.weight * edges.confidence).double()
    squared = torch.stack([(z[i] - z[j]).square().sum() for i, j in zip(edges.src, edges.dst, strict=True)])
    apart = torch.cdist(z, z).square().mean()  # of two cells drawn at random
    share = len(torch.cat([edges.src, edges.dst]).unique()) / 30
    assert 0.3 < share < 0.8
    mean = float((weight * squared).sum() / weight.sum() / apart)
    assert float(loss) == pytest.approx(share * mean, rel=1e-6)
    assert float(BridgePenalty()(100 * z, edges)[0]) == pytest.approx(float(loss), rel=1e-6)
    assert float(logs["n_edges"]) == 12
    scaled = BridgeEdges(edges.src, edges.dst, 7 * edges.weight, edges.confidence, 30)
    assert float(BridgePenalty()(z, scaled)[0]) == pytest.approx(float(loss), rel=1e-6)


@pytest.mark.parametrize("confidence", [None, torch.zeros(2)])
def test_edges_that_weigh_nothing_cost_nothing_and_have_a_gradient_of_zero(confidence):
    edges = (
        BridgeEdges.none(3)
        if confidence is None
        else BridgeEdges.of(torch.tensor([0, 1]), torch.tensor([1, 2]), None, 3, confidence)
    )
    z = torch.ones(3, 2, requires_grad=True)
    loss, logs = BridgePenalty()(z.bfloat16(), edges)
    loss.backward()
    assert loss.item() == 0
    assert loss.dtype == torch.float32
    assert torch.equal(z.grad, torch.zeros(3, 2))
    assert logs["n_edges"] == len(edges)


def test_agreement_equals_its_definition():
    rng = np.random.default_rng(0)
    near_src, near_dst = (near(rng.normal(size=(n, 2)), 3, "euclidean", "numpy") for n in (12, 9))
    keys = rng.choice(12 * 9, 25, replace=False)
    src, dst = keys // 9, keys % 9
    got = agreement(src, dst, near_src, near_dst)
    a, b = near_src.toarray(), near_dst.toarray()
    for e in range(25):
        ways = []
        for own, other, x, y in ((src, dst, a, b), (dst, src, b, a)):
            around = [f for f in range(25) if x[own[e], own[f]]]
            meets = [f for f in around if other[f] == other[e] or y[other[e], other[f]]]
            ways.append(len(meets) / len(around) if around else 0.0)
        assert got[e] == pytest.approx(sum(ways) / 2)
    assert len(agreement(src[:0], dst[:0], near_src, near_dst)) == 0


def test_filter_by_agreement_drops_the_edges_that_lead_elsewhere():
    z, codes, types = batches_of_types((80, 80), shift=40.0)
    right = MNNBridge(k=6).build(z, codes)
    rng = np.random.default_rng(0)
    n_wrong = len(right) // 5
    wrong = BridgeEdges.of(rng.integers(80, size=n_wrong), 80 + rng.integers(80, size=n_wrong), None, 160)
    both = BridgeEdges.of(torch.cat([right.src, wrong.src]), torch.cat([right.dst, wrong.dst]), None, 160)
    graph = GraphBuilder(k=10).build(z)
    before = label_agreement(both, types)["label_agreement"]
    kept = filter_edges(both, graph=graph, min_agreement=0.05)
    after = label_agreement(kept, types)["label_agreement"]
    assert len(kept) > 0.7 * len(right)
    assert 1 - after < 0.5 * (1 - before)


def test_filter_keeps_allowed_groups_and_the_strongest():
    edges = random_edges()
    groups = torch.arange(30) % 3
    kept = filter_edges(edges, groups=groups, allowed=[(2, 0)])
    linked = {tuple(sorted(p)) for p in zip((kept.src % 3).tolist(), (kept.dst % 3).tolist(), strict=True)}
    assert linked == {(0, 2)}
    assert len(kept) == sum(
        {int(i) % 3, int(j) % 3} == {0, 2} for i, j in zip(edges.src, edges.dst, strict=True)
    )
    groups[:] = -1
    with pytest.raises(InputError, match="none of 60 edges is left"):
        filter_edges(edges, groups=groups, allowed=[(0, 1)])
    strongest = filter_edges(edges, max_edges=10)
    strength = edges.weight * edges.confidence
    assert len(strongest) == 10
    assert (strongest.weight * strongest.confidence).min() == strength.sort(descending=True).values[9]
    assert torch.equal(filter_edges(edges).weight, edges.weight)
    assert torch.equal(filter_edges(edges, normalize=True).weight, edges.normalized().weight)
    for params, message in (
        ({"min_agreement": 0.5}, "expected a graph"),
        ({"allowed": [(0, 1)]}, "expected the group"),
    ):
        with pytest.raises(InputError, match=message):
            filter_edges(edges, **params)


def test_label_agreement_leaves_out_missing_labels_and_states_chance():
    edges = BridgeEdges.of(torch.arange(4), torch.arange(4, 8), None, 8)
    found = label_agreement(edges, ["x", "x", "y", None, "x", "y", "y", "x"])
    assert found["label_agreement"] == pytest.approx(2 / 3)
    assert found["label_agreement_chance"] == pytest.approx(2 / 3 * 1 / 3 + 1 / 3 * 2 / 3)
    assert found["n_labeled_edges"] == 3
    assert np.isnan(label_agreement(edges, [None] * 8)["label_agreement"])


def test_edges_induced_normalized_and_counted_as_dense_matrices_say():
    edges = random_edges()
    dense = sp.coo_matrix((edges.weight, (edges.src, edges.dst)), shape=(30, 30)).toarray()
    index = np.random.default_rng(1).permutation(30)[:13]
    some = edges.induced(torch.from_numpy(index))
    np.testing.assert_array_equal(
        sp.coo_matrix((some.weight, (some.src, some.dst)), shape=(13, 13)).toarray(),
        dense[np.ix_(index, index)],
    )
    degree = dense.sum(1) + dense.sum(0)
    normal = edges.normalized()
    np.testing.assert_allclose(
        normal.weight.numpy(),
        edges.weight.numpy() / np.sqrt(degree[edges.src] * degree[edges.dst]),
        rtol=1e-5,
    )
    counts = (dense > 0).sum(1) + (dense > 0).sum(0)
    told = edges.diagnostics()
    assert told["n_edges"] == 60
    assert told["n_cells_covered"] == (counts > 0).sum()
    assert told["coverage"] == pytest.approx((counts > 0).mean())
    assert told["degree_max"] == counts.max()
    assert told["degree_mean"] == pytest.approx(counts[counts > 0].mean())
    assert told["weight_mean"] == pytest.approx(dense.sum() / 60, rel=1e-5)
    empty = BridgeEdges.none(3)
    assert empty.diagnostics()["coverage"] == 0
    assert len(empty.normalized().induced(torch.tensor([1]))) == 0


def test_ranks_within_groups():
    groups, values = np.array([1, 0, 1, 1, 0]), np.array([0.5, 2.0, 0.9, 0.5, 3.0])
    assert ranks_within(groups, values).tolist() == [1, 1, 0, 2, 0]
    assert ranks_within(groups[:0], values[:0]).tolist() == []
