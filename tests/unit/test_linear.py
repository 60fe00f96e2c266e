"""First layers of encoders: what they read, where they start, and how fast they learn."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from remadom.core.encoder import GaussianEncoder
from remadom.core.inputs import INPUTS
from remadom.core.linear import PACE, ComponentLinear, SparseLinear
from remadom.solvers.axes import batch_shrinkage, principal_axes
from remadom.types import Rows

CELLS, FEATURES, HIDDEN, COMPONENTS = 60, 20, 8, 4


def values(n_cells: int = CELLS, n_features: int = FEATURES) -> np.ndarray:
    """Counts of three types, of which the features tell by 2, 1 and 0.5."""
    rng = np.random.default_rng(0)
    types = np.random.default_rng(1).normal(0, 1, (3, n_features)) * np.array([[2.0], [1.0], [0.5]])
    return rng.poisson(np.exp(0.4 * rng.normal(0, 1, (n_cells, 3)) @ types)).astype(np.float32)


def started(x: np.ndarray, components: int = COMPONENTS, seed: int = 0) -> ComponentLinear:
    torch.manual_seed(0)
    layer = ComponentLinear(x.shape[1], HIDDEN, components)
    layer.start_from(Rows.of(sp.csr_matrix(x)), np.zeros(len(x), int), seed)
    return layer


@pytest.mark.parametrize("sparse", [True, False])
def test_scores_are_those_of_a_singular_value_decomposition(sparse: bool):
    x = values()
    rows = Rows.of(sp.csr_matrix(x)) if sparse else Rows.from_dense(torch.from_numpy(x))
    layer = ComponentLinear(FEATURES, HIDDEN, COMPONENTS)
    layer.start_from(rows, np.zeros(CELLS, int), 0)
    u, s, _ = np.linalg.svd(x.astype(np.float64) - x.mean(0), full_matrices=False)
    expected = (u * s)[:, :COMPONENTS] / (s[0] / np.sqrt(CELLS - 1))
    found = (rows.linear(layer.axes) - layer.middle).numpy()
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-4)
    assert found[:, 0].std(ddof=1) == pytest.approx(1, abs=1e-4), "the first has a deviation of 1"
    with torch.no_grad():
        torch.testing.assert_close(layer(rows), torch.from_numpy(found) @ layer.onto, rtol=1e-4, atol=1e-5)


def test_axes_read_less_of_what_sets_batches_apart():
    x, batch = values(), np.arange(CELLS) % 2
    x[batch == 1, 3] += 20
    layer = ComponentLinear(FEATURES, HIDDEN, COMPONENTS)
    layer.start_from(Rows.of(sp.csr_matrix(x)), batch, 0)
    axes, mean = principal_axes(sp.csr_matrix(x), COMPONENTS, 0)
    expected = axes @ batch_shrinkage((x - mean) @ axes, batch, 0)
    np.testing.assert_allclose(layer.axes.numpy(), expected, atol=1e-4)
    alike = started(x)
    assert layer.axes[3].norm() < 0.7 * alike.axes[3].norm()


@pytest.mark.parametrize("components", [0, COMPONENTS])
def test_the_whole_is_what_each_feature_is_multiplied_with(components: int):
    x = values()
    layer = started(x, components) if components else SparseLinear(FEATURES, HIDDEN)
    with torch.no_grad():
        layer.weight += 0.1 * torch.randn_like(layer.weight)
        apart = layer(Rows.from_dense(torch.from_numpy(x))) - layer(Rows.from_dense(torch.zeros(1, FEATURES)))
        torch.testing.assert_close(apart, torch.from_numpy(x) @ layer.whole(), rtol=1e-4, atol=1e-4)
        there = torch.arange(FEATURES) < 5
        before = layer.whole().clone()
        layer.grow(there, 3.0)
        torch.testing.assert_close(layer.whole()[there], 3 * before[there])
        torch.testing.assert_close(layer.whole()[~there], before[~there])


def test_single_features_are_learned_at_a_fraction_of_the_rate():
    """A step of Adam is one learning rate in every weight; what a feature says moves by ``PACE`` of it."""
    x = values()
    rows, moved = Rows.from_dense(torch.from_numpy(x)), {}
    for name, layer in {"random": SparseLinear(FEATURES, HIDDEN), "components": started(x)}.items():
        before = layer.whole().detach().clone()
        axes = layer.axes.clone() if isinstance(layer, ComponentLinear) else None
        if isinstance(layer, ComponentLinear):
            layer.onto.requires_grad_(False)
        optimizer = torch.optim.Adam([p for p in layer.parameters() if p.requires_grad], lr=0.01)
        (layer(rows) * torch.randn(CELLS, HIDDEN)).sum().backward()
        optimizer.step()
        moved[name] = (layer.whole().detach() - before).abs().max().item()
        if axes is not None:
            assert torch.equal(layer.axes, axes), "axes stay as they are"
    assert moved["random"] == pytest.approx(0.01, rel=1e-3)
    assert moved["components"] == pytest.approx(PACE * 0.01, rel=1e-3)


@pytest.mark.parametrize(
    "x",
    [
        np.zeros((6, 5), np.float32),
        np.ones((6, 5), np.float32),
        values(1),
        values(3),
        values(12, 1),
        values(12, 2),
    ],
    ids=["no counts", "all alike", "one cell", "three cells", "one feature", "two features"],
)
def test_few_cells_and_cells_that_are_all_alike_have_fewer_axes(x: np.ndarray):
    layer = started(x, 5)
    found = (layer.axes != 0).any(0).sum()
    assert found <= min(5, *(size - 1 for size in x.shape))
    assert found > 0 or len(x) == 1 or x.shape[1] == 1 or np.ptp(x, axis=0).max() == 0
    with torch.no_grad():
        assert layer(Rows.from_dense(torch.from_numpy(x))).isfinite().all()


def test_axes_depend_on_the_cells_alone():
    x = values()
    first, again, other, turned = started(x), started(x), started(x, seed=5), started(x[::-1].copy())
    assert torch.equal(first.axes, again.axes)
    for layer in (other, turned):
        torch.testing.assert_close(layer.axes.abs(), first.axes.abs(), rtol=1e-3, atol=1e-4)


def test_an_encoder_reads_components_of_what_its_input_gives():
    x, torch_rows = values(), Rows.of(sp.csr_matrix(values()))
    encoder = GaussianEncoder(FEATURES, 3, INPUTS.build("lognorm", FEATURES), components=COMPONENTS)
    encoder.start_from(torch_rows, np.zeros(CELLS, int), 0)
    assert isinstance(encoder.first, ComponentLinear)
    logs = np.log1p(x * float(encoder.transform.target) / np.maximum(x.sum(1, keepdims=True), 1))
    np.testing.assert_allclose(
        encoder.first.middle.numpy(), logs.mean(0) @ encoder.first.axes.numpy(), rtol=1e-4, atol=1e-5
    )
    again = GaussianEncoder(FEATURES, 3, INPUTS.build("lognorm", FEATURES), components=COMPONENTS)
    again.load_state_dict(encoder.state_dict())
    assert torch.equal(encoder.eval()(torch_rows).mu, again.eval()(torch_rows).mu)


def test_there_are_no_more_components_than_features():
    encoder = GaussianEncoder(FEATURES, 3, INPUTS.build("lognorm", FEATURES), components=1000)
    assert encoder.first.axes.shape == (FEATURES, FEATURES)
    assert not isinstance(
        GaussianEncoder(FEATURES, 3, INPUTS.build("lognorm", FEATURES)).first, ComponentLinear
    )
