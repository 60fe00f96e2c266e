"""Rows: the same block sparse and dense; batches with modalities that some cells lack."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from batches import make_batch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from remadom.types import Batch, Rows

counts = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=7),
    elements=st.sampled_from([0.0, 0.0, 0.0, 1.0, 2.0, 9.0]),
)


def both(x: np.ndarray) -> tuple[Rows, Rows]:
    return Rows.from_scipy(sp.csr_matrix(x)), Rows.from_dense(x)


@settings(deadline=None, max_examples=50)
@given(counts)
def test_sparse_and_dense_rows_are_the_same_block(x: np.ndarray):
    cells, features = torch.rand(x.shape[0]), torch.rand(x.shape[1])
    for rows in both(x):
        np.testing.assert_array_equal(rows.dense(), x)
        np.testing.assert_allclose(rows.totals(), x.sum(1))
        np.testing.assert_allclose(rows.feature_means(), x.mean(0), rtol=1e-6)
        logs = rows.map(torch.log1p)
        np.testing.assert_allclose(logs.dense(), np.log1p(x), rtol=1e-6)
        np.testing.assert_allclose(logs.totals(), np.log1p(x).sum(1), rtol=1e-5)
        scaled = rows.scale(cells=cells, features=features).dense()
        np.testing.assert_allclose(scaled, x * cells.numpy()[:, None] * features.numpy(), rtol=1e-6)
        assert len(rows) == x.shape[0]


@settings(deadline=None, max_examples=50)
@given(counts)
def test_linear_and_its_gradient_equal_the_dense_product(x: np.ndarray):
    weight = torch.randn(x.shape[1], 3, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(x.shape[0], 3, dtype=torch.float64)
    (expected,) = torch.autograd.grad((torch.from_numpy(x).double() @ weight * upstream).sum(), weight)
    for rows in both(x):
        out = rows.map(lambda v: v.double()).linear(weight)
        torch.testing.assert_close(out, torch.from_numpy(x).double() @ weight)
        (found,) = torch.autograd.grad((out * upstream).sum(), weight)
        torch.testing.assert_close(found, expected)


def test_a_block_that_is_there_is_not_moved():
    for rows in both(np.eye(3, dtype=np.float32)):
        assert rows.to("cpu") is rows
        moved = rows.to("meta")
        assert moved.values.device.type == "meta"
        assert len(moved) == 3


def test_density_chooses_the_storage():
    thin, thick = sp.random(50, 50, 0.05, format="csr"), sp.random(50, 50, 0.6, format="csr")
    assert Rows.of(thin).is_sparse
    assert not Rows.of(thick).is_sparse
    assert not Rows.of(np.ones((2, 2))).is_sparse


def batch_with_gaps() -> tuple[Batch, np.ndarray]:
    x = np.array([[1, 0, 2], [0, 0, 0], [0, 3, 0], [0, 0, 0]], dtype=np.float32)
    has = torch.tensor([True, False, True, True])  # the last cell was measured and is all zero
    batch = Batch(
        x={"rna": Rows.from_scipy(sp.csr_matrix(x)), "adt": Rows.from_dense(x)},
        has={"rna": has, "adt": torch.ones(4, dtype=torch.bool)},
        library={},
        groups={"batch": torch.tensor([0, 0, 1, 1])},
        index=torch.arange(4),
        seed=torch.ones(4, dtype=torch.bool),
    )
    return batch, x


def test_rows_of_present_cells_keep_a_measured_zero_cell():
    batch, x = batch_with_gaps()
    rows = batch.decoder_rows("rna")
    np.testing.assert_array_equal(rows.dense(), x[[0, 2, 3]])
    np.testing.assert_array_equal(rows.totals(), x[[0, 2, 3]].sum(1))
    assert batch.encoder_rows("rna") is rows, "made once"
    assert batch.decoder_rows("adt") is batch.x["adt"], "no copy where every cell has the modality"
    weight = torch.randn(3, 2, requires_grad=True)
    rows.linear(weight).sum().backward()
    torch.testing.assert_close(weight.grad, torch.from_numpy(x.sum(0)).unsqueeze(1).expand(3, 2))


def test_a_representation_is_what_the_encoder_reads():
    batch, _ = batch_with_gaps()
    rep = torch.arange(8.0).view(4, 2)
    batch = Batch(**{**vars(batch), "rep": {"rna": Rows.from_dense(rep)}})
    torch.testing.assert_close(batch.encoder_rows("rna").dense(), rep[[0, 2, 3]])
    assert batch.decoder_rows("rna").n_features == 3


def test_values_are_frozen_and_move_together():
    batch, x = batch_with_gaps()
    with pytest.raises(AttributeError):
        batch.index = torch.zeros(4)  # type: ignore[misc]
    moved = batch.to("cpu")
    assert moved.modalities == ("rna", "adt")
    np.testing.assert_array_equal(moved.x["rna"].dense(), x)
    assert moved.at.keys() == {"rna"}


def test_a_batch_is_freed_as_soon_as_nobody_holds_it():
    batch = make_batch()
    assert batch.scored is batch
    held = weakref.ref(batch.x["rna"])
    gc.disable()
    try:
        del batch
        assert held() is None
    finally:
        gc.enable()
