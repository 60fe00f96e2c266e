from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from remadom.errors import InputError
from remadom.eval.modalities import foscttm, matching_score, modality_metrics
from remadom.eval.transfer import label_transfer


def types(n_cells=300, n_groups=3, seed=0):
    rng = np.random.default_rng(seed)
    group = np.arange(n_cells) % n_groups
    return rng.normal(size=(n_cells, 5)) + 8 * np.eye(5)[group], np.array(["B", "NK", "T"])[group]


def test_the_same_embedding_twice_is_perfect():
    z, labels = types()
    every = np.arange(300)
    section = modality_metrics({"rna": z, "adt": z + 0}, {"rna": every, "adt": every}, labels)["rna-adt"]
    assert section["foscttm"] == 0
    assert section["matching_score"] == 1
    assert section["matching_score_chance"] == 1 / 300
    assert section["modality_mixing"] > 0.8  # below 1: the copy weighs more than any other neighbor
    assert section["label_transfer_rna_to_adt"] == section["label_transfer_adt_to_rna_balanced"] == 1
    assert section["confusion_rna_to_adt"] == {name: {name: 100} for name in ("B", "NK", "T")}
    assert (section["n_cells"], section["n_paired"]) == (600, 300)


def test_embeddings_that_know_nothing_score_at_chance():
    rng = np.random.default_rng(0)
    za, zb = rng.normal(size=(2, 500, 4))
    assert foscttm(za, zb) == pytest.approx(0.5, abs=0.03)
    assert matching_score(za, zb) < 0.02
    collapsed = np.full((500, 4), 0.3)
    assert foscttm(collapsed, collapsed) == foscttm(za, collapsed) == 0.5
    assert matching_score(collapsed, collapsed) == pytest.approx(1 / 500)
    assert np.isnan(foscttm(za[:1], zb[:1]))
    assert np.isnan(matching_score(za[:0], zb[:0]))
    assert matching_score(za[:1], zb[:1]) == 1


def test_modalities_that_are_apart_do_not_mix():
    z, labels = types()
    every = np.arange(300)
    section = modality_metrics({"rna": z, "atac": z - 100}, {"rna": every, "atac": every}, labels)["rna-atac"]
    assert section["modality_mixing"] == pytest.approx(0, abs=1e-9)
    assert section["foscttm"] > 0.3


def test_mixed_modalities_mix():
    z = np.random.default_rng(0).normal(size=(600, 4))
    cells = {"rna": np.arange(300), "adt": np.arange(300, 600)}
    assert modality_metrics({"rna": z[:300], "adt": z[300:]}, cells)["rna-adt"]["modality_mixing"] > 0.9


def test_unpaired_cells_have_no_match_but_labels():
    z, labels = types()
    cells = {"rna": np.arange(0, 200), "adt": np.arange(200, 300)}
    section = modality_metrics({m: z[at] for m, at in cells.items()}, cells, labels)["rna-adt"]
    assert section["n_paired"] == 0
    assert not {"foscttm", "matching_score", "matching_score_chance"} & set(section)
    assert section["label_transfer_rna_to_adt"] == 1
    assert sum(section["confusion_rna_to_adt"]["T"].values()) == (labels[200:] == "T").sum()
    without = modality_metrics({m: z[at] for m, at in cells.items()}, cells)["rna-adt"]
    assert set(without) == {"n_cells", "n_paired", "modality_mixing"}


def test_shared_cells_are_found_by_their_position_in_any_order():
    z, labels = types()
    rng = np.random.default_rng(1)
    noisy = z + rng.normal(size=z.shape)
    a, b = np.arange(200), np.arange(120, 300)
    first = modality_metrics({"a": z[a], "b": noisy[b]}, {"a": a, "b": b}, labels)["a-b"]
    assert first["n_paired"] == 80
    assert first["foscttm"] == pytest.approx(foscttm(z[120:200], noisy[120:200]))
    assert first["matching_score"] == pytest.approx(matching_score(z[120:200], noisy[120:200]))
    a, b = rng.permutation(a), rng.permutation(b)
    names = {"B": "x", "NK": "a", "T": "m"}
    renamed = pd.Series(labels).map(names)
    second = modality_metrics({"a": z[a], "b": noisy[b]}, {"a": a, "b": b}, renamed)["a-b"]
    for name, score in first.items():
        if name.startswith("confusion"):
            assert second[name] == {
                names[true]: {names[guess]: n for guess, n in row.items()} for true, row in score.items()
            }
        else:
            assert second[name] == pytest.approx(score), name


def test_every_pair_has_a_section_and_draws_follow_the_seed():
    z, labels = types(900)
    rng = np.random.default_rng(0)
    cells = {m: np.arange(900) for m in ("rna", "atac", "adt")}
    embeddings = {m: z + 2 * rng.normal(size=z.shape) for m in cells}
    sections = modality_metrics(embeddings, cells, labels, max_cells=200)
    assert list(sections) == ["rna-atac", "rna-adt", "atac-adt"]
    assert sections["rna-adt"]["n_cells"] == sections["rna-adt"]["n_paired"] == 200
    assert sum(sum(row.values()) for row in sections["rna-adt"]["confusion_rna_to_adt"].values()) == 200
    assert sections == modality_metrics(embeddings, cells, labels, max_cells=200)
    assert sections != modality_metrics(embeddings, cells, labels, max_cells=200, seed=1)
    json.dumps(sections, allow_nan=False)


def test_cells_without_a_label_neither_vote_nor_count():
    z, labels = types()
    some = labels.astype(object)
    some[:150] = None
    some[150] = np.nan
    every = np.arange(300)
    section = modality_metrics({"a": z, "b": z}, {"a": every, "b": every}, some)["a-b"]
    assert sum(sum(row.values()) for row in section["confusion_a_to_b"].values()) == 149
    nothing = modality_metrics({"a": z, "b": z}, {"a": every, "b": every}, [None] * 300)["a-b"]
    assert "label_transfer_a_to_b" not in nothing


def test_labels_that_the_source_lacks_arrive_wrong():
    z, labels = types()
    a, b = np.flatnonzero(labels != "T"), np.arange(300)
    section = modality_metrics({"a": z[a], "b": z}, {"a": a, "b": b}, labels)["a-b"]
    assert (
        section["label_transfer_a_to_b"] == section["label_transfer_a_to_b_balanced"] == pytest.approx(2 / 3)
    )
    assert section["label_transfer_b_to_a"] == 1
    assert "T" not in section["confusion_a_to_b"]["T"]


def test_balanced_is_the_mean_over_true_labels():
    source, names = np.array([[0.0], [10.0]]), ["a", "b"]
    target, truth = np.array([[0.0], [0.1], [0.2], [0.3]]), ["a", "a", "a", "b"]
    section = modality_metrics(
        {"s": source, "t": target}, {"s": np.arange(2), "t": np.arange(2, 6)}, names + truth, neighbors=1
    )["s-t"]
    assert section["label_transfer_s_to_t"] == 0.75
    assert section["label_transfer_s_to_t_balanced"] == 0.5
    assert section["confusion_s_to_t"] == {"a": {"a": 3}, "b": {"a": 1}}


def test_ties_of_votes_go_to_the_nearer():
    source = np.array([[1.0], [2.0], [3.0], [4.0]])
    target = np.zeros((1, 1))
    assert label_transfer(source, ["b", "a", "a", "b"], target, neighbors=3) == ["a"]  # more votes
    assert label_transfer(source, ["b", "a", "b", "a"], target) == ["b"]  # ranks 1 and 3 against 2 and 4
    assert label_transfer(source, ["b", "a", "a", "b"], target) == ["a"]  # as near: the alphabet
    assert label_transfer(source, ["a", "b", "c", "c"], target, neighbors=2) == ["a"]
    assert label_transfer(source, [1, 1, 2, 2], target[:0]).shape == (0,)


@settings(max_examples=30, deadline=None)
@given(
    z=arrays(np.float64, st.tuples(st.integers(0, 14), st.just(2)), elements=st.integers(-1, 1).map(float)),
    data=st.data(),
)
def test_duplicates_and_tiny_data_give_scores_in_range_without_warnings(z, data):
    cut = data.draw(st.integers(0, len(z)))
    labels = data.draw(st.lists(st.sampled_from(["a", "b", None]), min_size=14, max_size=14))
    cells = {"x": np.arange(cut), "y": np.arange(len(z) - cut)}
    section = modality_metrics({"x": z[:cut], "y": z[cut:]}, cells, labels)["x-y"]
    for name, score in section.items():
        if not name.startswith(("n_", "confusion")):
            assert 0 <= score <= 1 + 1e-9, name
    json.dumps(section, allow_nan=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"b": np.zeros((3, 4))}, "found 2 and 4 dimensions"),
        ({"b": np.zeros((4, 2))}, "b: found an embedding of 4 cells and 3 different positions"),
        ({"b": np.array([[0.0, np.nan]] * 3)}, "3 of 3 cells have NaN"),
    ],
)
def test_wrong_embeddings_say_what_is_wrong(change, message):
    embeddings = {"a": np.zeros((3, 2)), "b": np.zeros((3, 2))} | change
    with pytest.raises(InputError, match=message):
        modality_metrics(embeddings, {"a": np.arange(3), "b": np.arange(3)})


def test_other_wrong_input_says_what_is_wrong():
    z = np.zeros((3, 2))
    with pytest.raises(InputError, match="found 2, and a cell at position 2"):
        modality_metrics({"a": z}, {"a": np.arange(3)}, ["x", "y"])
    with pytest.raises(InputError, match="2 different positions"):
        modality_metrics({"a": z}, {"a": np.array([0, 1, 1])})
    with pytest.raises(InputError, match="the same cells in both"):
        foscttm(z, z[:2])
    with pytest.raises(InputError, match="found no source cell"):
        label_transfer(z[:0], [], z)
    with pytest.raises(InputError, match="source labels: 1 of 3 cells have no value"):
        label_transfer(z, ["a", None, "b"], z)
