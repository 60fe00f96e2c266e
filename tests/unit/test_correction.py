"""Correction of batches by soft clusters: removes what it should, and leaves alone what is a batch's own."""

from __future__ import annotations

import numpy as np
import torch

from remadom.core.correction import BatchCorrection
from remadom.train.correction import fit_correction

RNG = np.random.default_rng(0)
N, D = 600, 6
CENTERS = RNG.normal(size=(4, D)) * 6


def cells(shift: np.ndarray, types: tuple[int, ...] = (0, 1, 2, 3)) -> tuple[np.ndarray, np.ndarray]:
    """Cells of one batch: each type about its center, moved by the shift of the type."""
    kind = RNG.choice(types, N)
    return CENTERS[kind] + shift[kind] + RNG.normal(size=(N, D)), kind


def apart(z: np.ndarray, kind: np.ndarray, batch: np.ndarray) -> np.ndarray:
    """Distance of the batches' means by type, of types that both have."""
    shared = [k for k in range(4) if all((kind[batch == b] == k).any() for b in (0, 1))]
    means = [[z[(batch == b) & (kind == k)].mean(0) for b in (0, 1)] for k in shared]
    return np.array([np.linalg.norm(one - other) for one, other in means])


def corrected(z: np.ndarray, batch: np.ndarray) -> np.ndarray:
    found = fit_correction(z, batch, 2, seed=1)
    assert found is not None
    return found(torch.from_numpy(z).float(), torch.from_numpy(batch)).numpy()


def test_most_of_a_shift_that_each_type_has_of_its_own_is_removed():
    one, kind = cells(np.zeros((4, D)))
    other, more = cells(RNG.normal(size=(4, D)))
    z, kind, batch = np.concatenate([one, other]), np.concatenate([kind, more]), np.repeat([0, 1], N)
    before, after = apart(z, kind, batch), apart(corrected(z, batch), kind, batch)
    assert before.min() > 1
    assert (after < 0.5 * before).all()


def test_a_type_that_one_batch_has_alone_stays_where_it_is():
    one, kind = cells(np.zeros((4, D)))
    other, more = cells(np.zeros((4, D)), types=(0, 1, 2))
    z, kind, batch = np.concatenate([one, other]), np.concatenate([kind, more]), np.repeat([0, 1], N)
    alone = kind == 3
    assert np.abs(corrected(z, batch)[alone] - z[alone]).max() < 0.3
    distance = np.linalg.norm(corrected(z, batch)[alone].mean(0) - CENTERS[:3], axis=1)
    assert distance.min() > 5


def test_batches_without_a_shift_hardly_move():
    one, _ = cells(np.zeros((4, D)))
    other, _ = cells(np.zeros((4, D)))
    z, batch = np.concatenate([one, other]), np.repeat([0, 1], N)
    assert (
        np.linalg.norm(corrected(z, batch) - z, axis=1).mean() < 0.35
    )  # cells lie about 2.4 from their center


def test_a_cell_of_an_unknown_batch_stays_and_the_order_does_not_matter():
    one, _ = cells(np.zeros((4, D)))
    other, _ = cells(np.ones((4, D)))
    z, batch = np.concatenate([one, other]).astype(np.float32), np.repeat([0, 1], N)
    found = fit_correction(z, batch, 2, seed=1)
    assert found is not None
    unknown = found(torch.from_numpy(z), torch.full((2 * N,), -1))
    assert torch.equal(unknown, torch.from_numpy(z))
    assert torch.equal(found(torch.from_numpy(z), torch.full((2 * N,), 7)), unknown)
    order = RNG.permutation(2 * N)
    mixed = found(torch.from_numpy(z[order]), torch.from_numpy(batch[order]))
    torch.testing.assert_close(mixed, found(torch.from_numpy(z), torch.from_numpy(batch))[order])


def test_one_cluster_takes_out_the_offset_exactly():
    offset = torch.tensor([[[1.0, 2.0], [-3.0, 0.5]]])
    one = BatchCorrection(torch.zeros(1, 2), torch.ones(2), torch.ones(1), offset)
    z, batch = torch.randn(10, 2), torch.tensor([0, 1] * 5)
    torch.testing.assert_close(one(z, batch), z - offset[0, batch])


def test_there_is_nothing_to_correct_in_one_batch_or_few_cells():
    z = RNG.normal(size=(500, D))
    assert fit_correction(z, np.zeros(500, dtype=np.int64), 1, seed=0) is None
    assert fit_correction(z[:150], np.repeat([0, 1], 75), 2, seed=0) is None
