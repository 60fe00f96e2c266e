from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remadom.data.source import Source
from remadom.data.split import Split, cell_positions, split_cells
from remadom.errors import InputError


def source_with(patterns: np.ndarray, **columns: object) -> Source:
    """Cells with RNA and ATAC as the two columns of ``patterns`` say."""
    n = len(patterns)
    obs = pd.DataFrame(
        {"has_rna": patterns[:, 0], "has_atac": patterns[:, 1], **columns}, index=[f"c{i}" for i in range(n)]
    )
    return Source.open(ad.AnnData(np.ones((n, 3), np.float32), obs=obs, obsm={"X_atac": np.ones((n, 4))}))


def both(n: int, **columns: object) -> Source:
    return source_with(np.ones((n, 2), dtype=bool), **columns)


def parts(split: Split) -> list[list[int]]:
    return [part.tolist() for part in (split.train, split.val, split.test)]


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=3, max_size=3),
    fraction=st.floats(0.0, 0.99),
    seed=st.integers(0, 5),
)
def test_a_fraction_is_spread_over_the_presence_patterns(
    sizes: list[int], fraction: float, seed: int
) -> None:
    patterns = np.repeat(np.array([[True, True], [True, False], [False, True]]), sizes, axis=0)
    order = np.random.default_rng(seed).permutation(len(patterns))
    patterns = patterns[order]
    split = split_cells(source_with(patterns), val_fraction=fraction, seed=seed)
    assert len(split.test) == 0
    assert np.array_equal(np.sort(np.concatenate([split.train, split.val])), np.arange(len(patterns)))
    assert (np.diff(split.train) > 0).all()
    assert (np.diff(split.val) > 0).all()
    for pattern in np.unique(patterns, axis=0):
        mine = np.flatnonzero((patterns == pattern).all(axis=1))
        drawn = np.isin(mine, split.val).sum()
        assert drawn < len(mine)
        assert abs(drawn - fraction * len(mine)) <= 1 + 1e-9


def test_the_number_drawn_is_the_fraction() -> None:
    assert len(split_cells(both(1000), val_fraction=0.1).val) == 100
    assert len(split_cells(both(1000), val_fraction=0.0).val) == 0


def test_the_draw_depends_on_the_seed_alone() -> None:
    source = both(200)
    first, again, other = (split_cells(source, seed=seed) for seed in (3, 3, 4))
    assert parts(first) == parts(again)
    assert parts(first) != parts(other)


def test_words_of_a_column() -> None:
    words = ["train", "Training", " val", "VALID", "validation", "test", "TEST", "train"]
    split = split_cells(both(8, part=pd.Categorical(words)), split_key="part", val_fraction=0.9)
    assert parts(split) == [[0, 1, 7], [2, 3, 4], [5, 6]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "holdout", "dev"], "'dev', 'holdout'"),
        (["train", None, "val"], "no value for 1 of 3 cells"),
        (["val", "test", "val"], "no cell to train on"),
    ],
)
def test_a_column_that_cannot_be_used(words: list[str | None], message: str) -> None:
    with pytest.raises(InputError, match=message):
        split_cells(both(3, part=words), split_key="part")


def test_a_column_that_does_not_exist_is_named_with_its_neighbours() -> None:
    with pytest.raises(InputError, match=r"'parts'.*part"):
        split_cells(both(3, part=["train"] * 3), split_key="parts")


@pytest.mark.parametrize("key", [None, "part"])
def test_a_cell_that_is_left_with_nothing_is_in_no_part(key: str | None) -> None:
    fourth = np.arange(10) == 4
    source = both(10, part=["train"] * 10).hide("rna", fourth).hide("atac", fourth)
    split = split_cells(source, split_key=key)
    assert 4 not in np.concatenate([split.train, split.val, split.test])
    assert len(split.train) + len(split.val) == 9


def test_positions_of_cells() -> None:
    assert cell_positions(None, 3).tolist() == [0, 1, 2]
    assert cell_positions(np.array([True, False, True]), 3).tolist() == [0, 2]
    assert cell_positions(np.array([2, 0], dtype=np.int32), 3).tolist() == [2, 0]
    assert cell_positions(np.array([]), 3).dtype == np.int64


@pytest.mark.parametrize(
    "cells", [np.array([True, False]), np.array([0, 3]), np.array([-1]), np.array([0.5]), np.array([[0]])]
)
def test_positions_that_no_cell_has(cells: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"^cells: "):
        cell_positions(cells, 3)
