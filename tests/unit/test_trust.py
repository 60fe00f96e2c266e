from __future__ import annotations

import json
import math
from itertools import pairwise, permutations

import numpy as np
import pytest
import scipy.sparse as sp

from remadom.errors import InputError
from remadom.eval.consistency import Comparison, Population, compare
from remadom.eval.linked import Unit, best_path, meetings, units
from remadom.eval.mixing import mixing
from remadom.eval.trust import trust
from remadom.eval.verdicts import APART, judge
from remadom.types import View

N = 600
TYPES = 6
NAMES = tuple(f"t{i}" for i in range(TYPES))


def world(n=N, features=120, seed=0, shift=1.0):
    """Cells of two cohorts in six types, and a modality that sees the types, the cohorts and noise."""
    rng = np.random.default_rng(seed)
    cohort, kind = np.arange(n) % 2, rng.integers(TYPES, size=n)
    z = 4 * np.eye(TYPES)[kind] + rng.normal(size=(n, TYPES))
    loading = rng.normal(size=(TYPES, features))
    x = np.eye(TYPES)[kind] @ loading + shift * np.outer(cohort, rng.normal(size=features))
    return z, cohort, kind, x + rng.normal(size=x.shape)


def view(x, cells=None, name="rna"):
    cells = np.arange(len(x)) if cells is None else cells
    return {name: View(name, cells, x[cells].astype(np.float32), tuple(f"g{i}" for i in range(x.shape[1])))}


def names(cohort):
    return np.array(["A", "B", "C"], dtype=object)[cohort]


def relation(found, a="A", b="B"):
    return next(pair for pair in found["pairs"] if {pair["a"], pair["b"]} == {a, b})


def test_cohorts_that_agree_are_aligned_and_a_shift_between_them_does_not_matter():
    for shift in (0.0, 5.0):
        z, cohort, _, x = world(shift=shift)
        found = trust(z, names(cohort), view(x))
        assert found["verdict"] == "aligned"
        assert found["do_not_transfer"] == []
        evidence = relation(found)["modalities"]["rna"]
        assert min(evidence["agreement"]) > 0.9
        assert min(evidence["mixing"]) > 0.9
        assert "Cohorts A and B are aligned" in found["words"][1]
        json.dumps(found, allow_nan=False)


def test_another_composition_of_the_cohorts_does_not_matter():
    z, cohort, kind, x = world(n=2000, shift=3.0)
    rng = np.random.default_rng(0)
    keep = rng.random(2000) < np.where((kind < 3) == (cohort == 0), 1, 0.2)
    found = trust(z[keep], names(cohort[keep]), view(x[keep]))
    assert found["verdict"] == "aligned"
    assert min(relation(found)["modalities"]["rna"]["agreement"]) > 0.93


def test_features_that_one_cohort_was_not_measured_for_are_left_out():
    z, cohort, kind, x = world()
    only = 3 * np.eye(TYPES)[kind] @ np.random.default_rng(8).normal(size=(TYPES, 60))
    only[cohort == 1] = 0
    found = trust(z, names(cohort), view(np.hstack([x, only])))
    assert found["verdict"] == "aligned"


def population(share=0.1, mixing=1.0, agreement=1.0, error=0.01, kept=1.0, twin=math.nan):
    return Population(np.arange(3), share, mixing, agreement, error, kept, twin, ())


@pytest.mark.parametrize(
    ("odd", "n_odd", "verdict"),
    [
        ({}, 10, "aligned"),
        ({"agreement": 0.3}, 1, "partly"),  # forced
        ({"agreement": 0.45, "error": 0.2}, 1, "aligned"),  # cannot be told from chance
        ({"agreement": 0.7}, 10, "partly"),
        ({"agreement": 0.3}, 6, "not"),
        ({"agreement": 0.1, "error": 0.5}, 6, "not"),  # each uncertain, the mean is not
        ({"mixing": 0.1, "twin": 0.9}, 1, "partly"),  # left
        ({"mixing": 0.1, "twin": 0.9}, 6, "not"),
        ({"mixing": 0.1}, 5, "aligned"),  # private
        ({"mixing": 0.1}, 10, "not"),
        ({"mixing": 0.4}, 10, "partly"),
        ({"kept": 0.7}, 10, "partly"),  # the other side keeps all
    ],
)
def test_verdict_from_populations(odd, n_odd, verdict):
    fine = [population() for _ in range(10)]
    spoiled = [population(**odd) for _ in range(n_odd)] + fine[n_odd:]
    other = spoiled if odd.get("mixing") == 0.1 else fine
    for sides in ((spoiled, other), (other, spoiled)):
        assert judge(Comparison(sides, (50.0, 50.0)))[0] == verdict
    if verdict == "aligned":
        assert judge(Comparison((fine, spoiled), (50.0, 1.0)))[0] == "unknown"


def test_permuted_features_of_one_cohort_are_not_aligned_however_well_it_is_mixed():
    z, cohort, _, x = world()
    x[cohort == 1] = x[cohort == 1][:, np.random.default_rng(1).permutation(x.shape[1])]
    found = trust(z, names(cohort), view(x))
    assert found["verdict"] == "not"
    assert min(found["pairs"][0]["mixing"]) > 0.8
    assert "forced together" in found["words"][1]
    assert found["do_not_transfer"] == ["everything between A and B"]


@pytest.mark.parametrize("seed", range(3))
def test_noise_and_a_single_point_are_not_aligned(seed):
    z, cohort, _, x = world(seed=seed)
    noise = np.random.default_rng(seed).normal(size=z.shape)
    for embedding in (noise, np.zeros_like(z), np.ones_like(z) * 1e6):
        found = trust(embedding, names(cohort), view(x))
        assert found["verdict"] == "not"
        assert "the populations of neither cohort are kept" in found["words"][1]


def test_a_batch_effect_that_was_left_is_not_aligned_and_named_as_such():
    z, cohort, _, x = world()
    z[:, 0] += 30 * cohort
    found = trust(z, names(cohort), view(x))
    assert found["verdict"] == "not"
    assert "a batch effect is left" in found["words"][1]
    assert min(relation(found)["modalities"]["rna"]["left"]) > 0.9


def test_a_private_population_is_fine_apart_and_flagged_where_it_was_forced():
    z, cohort, kind, x = world()
    keep = ~((cohort == 0) & (kind == 2))
    z, cohort, kind, x = z[keep], cohort[keep], kind[keep], x[keep]
    labels = np.array(NAMES, dtype=object)[kind]
    apart = trust(z, names(cohort), view(x), labels=labels)
    assert apart["verdict"] == "aligned"
    assert apart["do_not_transfer"] == ["t2"]  # there is nothing to transfer from
    assert max(relation(apart)["modalities"]["rna"]["private"]) > 0.1
    forced = z.copy()
    moved = np.flatnonzero(kind == 2)
    to = np.random.default_rng(0).choice(np.flatnonzero((kind != 2) & (cohort == 0)), len(moved))
    forced[moved] = z[to] + 0.1 * np.random.default_rng(1).normal(size=(len(moved), TYPES))
    found = trust(forced, names(cohort), view(x), labels=labels)
    assert found["verdict"] == "partly"
    assert "t2" in found["do_not_transfer"]
    unlabeled = trust(forced, names(cohort), view(x))
    assert unlabeled["verdict"] == "partly"
    assert any("cluster of B" in name and "high in g" in name for name in unlabeled["do_not_transfer"])


def test_labels_can_make_a_verdict_worse_and_never_better():
    z, cohort, kind, x = world()
    labels = np.array(NAMES, dtype=object)[kind]
    crossed = labels.copy()
    crossed[(cohort == 1) & (kind == 0)], crossed[(cohort == 1) & (kind == 1)] = "t1", "t0"
    found = trust(z, names(cohort), view(x), labels=crossed)
    assert found["verdict"] == "partly"
    assert {"t0", "t1"} <= set(found["do_not_transfer"])
    right = trust(z, names(cohort), view(x), labels=labels)
    assert right["verdict"] == "aligned"
    agreed = relation(right)["labels"]
    assert min(agreed["accuracy"]) > 0.95
    assert max(agreed["accuracy_permuted"]) < 0.35
    lonely = {**view(x, np.flatnonzero(cohort == 0)), **view(x, np.flatnonzero(cohort == 1), "adt")}
    assert trust(z, names(cohort), lonely, labels=labels)["verdict"] == "unknown"


def test_missing_labels_and_labels_of_one_cohort_alone_change_nothing():
    z, cohort, kind, x = world()
    labels = np.array(NAMES, dtype=object)[kind]
    for none in (None, math.nan):
        labels[cohort == 1] = none
        found = trust(z, names(cohort), view(x), labels=labels)
        assert found["verdict"] == "aligned"
        assert relation(found)["labels"] == {}


def bridged(z, cohort, x, y):
    """Cohort A has the first modality, B the second, C both."""
    return view(x, np.flatnonzero(cohort != 1)) | view(y, np.flatnonzero(cohort != 0), "adt")


def test_cohorts_that_share_nothing_are_known_only_through_a_third():
    z, _, kind, x = world(n=900, shift=0.0)
    cohort = np.arange(900) % 3
    loading = np.random.default_rng(5).normal(size=(TYPES, 30))
    y = np.eye(TYPES)[kind] @ loading + np.random.default_rng(6).normal(size=(900, 30))
    views = bridged(z, cohort, x, y)
    found = trust(z, names(cohort), views)
    assert found["verdict"] == "aligned"
    assert relation(found)["through"] == ["C"]
    both = np.flatnonzero(cohort == 2)
    rng = np.random.default_rng(0)
    for second, expected in ((z[both], "aligned"), (rng.permutation(z[both]), "not")):
        found = trust(z, names(cohort), views, unimodal={"rna": (both, z[both]), "adt": (both, second)})
        assert relation(found)["verdict"] == expected
        assert relation(found, "A", "C")["verdict"] == "aligned"
    without = {name: View(name, *_without(v, both)) for name, v in views.items()}
    found = trust(z[cohort < 2], names(cohort)[cohort < 2], _among(without, cohort))
    assert found["verdict"] == "unknown"
    assert "no measurement links them" in found["words"][1]


def _without(v, cells):
    keep = ~np.isin(v.cells, cells)
    return v.cells[keep], v.features[keep], v.names


def _among(views, cohort):
    at = np.cumsum(cohort < 2) - 1
    return {name: View(name, at[v.cells], v.features, v.names) for name, v in views.items()}


def test_modalities_of_one_cohort_that_no_cell_ties_are_two_units():
    z, _, _, x = world()
    first, second = np.arange(0, N, 2), np.arange(1, N, 2)
    found = trust(z, np.full(N, "run"), view(x, first) | view(x, second, "adt"))
    assert found["verdict"] == "unknown"
    assert (found["pairs"][0]["a"], found["pairs"][0]["b"]) == ("run (rna)", "run (adt)")
    tied = trust(z, np.full(N, "run"), view(x, np.arange(400)) | view(x, np.arange(300, N), "adt"))
    assert tied["pairs"] == []
    assert tied["words"] == ["There is one cohort: nothing to align."]
    assert tied["verdict"] == "unknown"


def test_features_that_tell_nothing_apart_say_nothing():
    z, cohort, _, x = world()
    noise = np.random.default_rng(3).normal(size=x.shape)
    found = trust(z, names(cohort), view(noise))
    assert found["verdict"] == "unknown"
    assert "cannot be told apart" in found["words"][1]


def test_few_cells_and_few_features_say_nothing_and_do_not_fail():
    z, cohort, _, x = world(n=80)
    assert trust(z, names(cohort), view(x))["verdict"] == "unknown"
    z, cohort, _, x = world()
    for cells in ([0], [0, 1], list(range(20))):
        few = np.array(cells)
        assert trust(z[few], names(cohort[few]), view(x[few]))["verdict"] in ("unknown", "not")
    assert trust(z, names(cohort), view(np.zeros_like(x)))["verdict"] == "unknown"
    assert trust(z, names(cohort), view(x[:, :1]))["verdict"] != "aligned"
    assert trust(z[:0], [], {})["verdict"] == "unknown"


def test_one_cohort_of_three_that_fails_is_partly():
    z, _, _, x = world(n=900, shift=0.0)
    cohort = np.arange(900) % 3
    x[cohort == 2] = x[cohort == 2][:, ::-1]
    found = trust(z, names(cohort), view(x))
    assert found["verdict"] == "partly"
    assert [pair["verdict"] for pair in found["pairs"]] == ["not", "not", "aligned"]  # the worst first


def test_of_many_cohorts_each_is_compared_with_the_largest_and_linked_through_them():
    z, _, _, x = world(n=15 * 130, shift=0.0)
    cohort = np.array([f"c{i:02d}" for i in np.arange(len(z)) % 15])
    big = np.isin(cohort, ["c00", "c01", "c02", "c03"])
    keep = big | (np.random.default_rng(0).random(len(z)) < 0.9)
    x[cohort == "c14"] = x[cohort == "c14"][:, ::-1]
    found = trust(z[keep], cohort[keep], view(x[keep]), max_cells=1000)
    assert len(found["pairs"]) == 15 * 14 / 2
    assert relation(found, "c00", "c01")["modalities"]["rna"]["verdict"] == "aligned"
    linked = relation(found, "c10", "c11")
    assert linked["verdict"] == "aligned"
    assert linked["modalities"] == {}
    assert linked["through"][0] in ("c00", "c01", "c02", "c03")
    assert relation(found, "c10", "c14")["verdict"] == "not"
    assert found["verdict"] == "partly"


def test_order_of_cells_names_and_sparse_features_do_not_matter():
    z, cohort, _, x = world()
    kept = relation(trust(z, names(cohort), view(x)))["modalities"]["rna"]
    sparse = {"rna": View("rna", np.arange(N), sp.csr_matrix(x.astype(np.float32)), view(x)["rna"].names)}
    np.testing.assert_allclose(
        relation(trust(z, names(cohort), sparse))["modalities"]["rna"]["agreement"],
        kept["agreement"],
        atol=1e-3,
    )
    order = np.random.default_rng(0).permutation(N)
    moved = relation(trust(z[order] * 3 + 7, names(1 - cohort)[order], view(x[order])))["modalities"]["rna"]
    np.testing.assert_allclose(moved["agreement"][::-1], kept["agreement"], atol=0.08)


def test_the_same_seed_gives_the_same_and_a_cohort_without_a_name_is_left_out():
    z, cohort, _, x = world()
    assert trust(z, names(cohort), view(x), seed=3) == trust(z, names(cohort), view(x), seed=3)
    nameless = names(cohort)
    nameless[:50] = None
    assert sum(trust(z, nameless, view(x))["pairs"][0]["n_cells"]) == N - 50


def test_wrong_lengths_are_told():
    z, cohort, _, x = world()
    with pytest.raises(InputError, match="cohorts: found 5 values for 600 cells"):
        trust(z, cohort[:5], view(x))
    with pytest.raises(InputError, match="labels: found 5 values"):
        trust(z, cohort, view(x), labels=cohort[:5])


def test_mixing_does_not_depend_on_sizes_and_tells_a_private_population():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(3000, 3))
    for share in (0.5, 0.1):
        assert min(mixing(z, rng.random(3000) < share)) > 0.7
    second = np.arange(3000) < 1000
    z[:500, 0] += 50
    both = mixing(z, second)
    assert both[0] > 0.75
    assert both[1] == pytest.approx(0.45, abs=0.08)


def test_agreement_of_a_population_is_its_squared_distance_to_the_prediction():
    """Without noise: predicted a half of the way from the mean, it is 1 - 0.5^2."""
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=float)
    kind, second = np.tile(np.repeat(np.arange(4), 50), 2), np.arange(400) >= 200
    x = corners[kind] * np.where(second, 0.5, 1)[:, None] + 1e-4 * np.random.default_rng(0).normal(
        size=(400, 3)
    )
    z = corners[kind] * 10 + np.random.default_rng(1).normal(size=(400, 3))
    modality = View("rna", np.arange(400), x, ("a", "b", "c"))
    found = compare(z, second, modality, np.arange(400), apart=APART, seed=0)
    share = [sum(p.share * p.agreement for p in side) for side in found.sides]
    assert share[0] == pytest.approx(0.75, abs=0.02)
    assert share[1] == pytest.approx(0.0, abs=0.05)  # from twice as far: (1 - 0.5)^2 / 0.5^2 = 1


def test_units_and_paths():
    has = {"rna": np.array([1] * 50 + [0] * 50, bool), "adt": np.array([0] * 30 + [1] * 70, bool)}
    (tied,) = units(np.zeros(100, int), ["x"], has)
    assert tied.name == "x"
    assert len(tied.cells) == 100
    assert [u.name for u in units(np.r_[np.zeros(50, int), np.ones(50, int)], ["x", "y"], has)] == ["x", "y"]
    assert best_path({(0, 1): 2, (1, 2): 1}, {}, 0, 2) == (1, [0, 1, 2])
    assert best_path({(0, 1): 2, (1, 2): 2, (0, 3): 1, (2, 3): 2}, {}, 2, 0) == (2, [2, 1, 0])
    assert best_path({(0, 1): 2, (1, 2): 2}, {1: 0}, 0, 2) == (0, [0, 1, 2])
    assert best_path({(0, 1): 2}, {}, 0, 2) is None


def test_best_path_is_that_of_all_paths():
    rng = np.random.default_rng(0)
    for _ in range(60):
        ends = [(i, j) for i in range(5) for j in range(i + 1, 5) if rng.random() < 0.5]
        edges = {pair: int(rng.integers(3)) for pair in ends}
        through = {i: int(rng.integers(3)) for i in range(5) if rng.random() < 0.4}
        best = None
        for length in range(4):
            for middle in permutations([1, 2, 3], length):
                path = [0, *middle, 4]
                steps = [edges.get((min(s), max(s))) for s in pairwise(path)]
                if None not in steps:
                    least = min([*steps, *(through.get(i, 2) for i in middle)])
                    best = least if best is None else max(best, least)
        found = best_path(edges, through, 0, 4)
        assert (None if found is None else found[0]) == best


def test_meeting_of_modalities_is_the_fraction_closer_than_the_true_match():
    cells = np.arange(30)
    z = np.random.default_rng(0).normal(size=(30, 4))
    other = z + np.random.default_rng(1).normal(size=z.shape)
    unit = Unit("x", cells, {"rna": cells, "adt": cells})
    found = meetings(unit, {"rna": (cells, z), "adt": (cells[::-1], other[::-1])}, 0)["rna-adt"]
    brute = []
    for a, b in ((z, other), (other, z)):
        distance = np.linalg.norm(a[:, None] - b[None], axis=2)
        brute.append([(distance[i] < distance[i, i]).sum() / 29 for i in range(30)])
    assert found["foscttm"] == pytest.approx(np.mean(brute))
    assert meetings(unit, {"rna": (cells, z), "adt": (cells[:5], z[:5])}, 0) == {}
    same = {"rna": (cells, np.ones((30, 2))), "adt": (cells, np.ones((30, 2)))}
    assert meetings(unit, same, 0)["rna-adt"]["foscttm"] == pytest.approx(0.5)
