"""Checks that every component passes, for the tests of those that are registered elsewhere."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from torch import Tensor

from remadom.align import HEADS
from remadom.bridges import BRIDGES
from remadom.core.decoders import DECODERS
from remadom.core.inputs import INPUTS
from remadom.eval.metric import METRICS, measured
from remadom.graph import GraphBuilder
from remadom.registry import Registry, documented_parameters, keyword_parameters
from remadom.types import BridgeEdges, Posterior, Rows, Support, View

CELLS, FEATURES, LATENT, BATCHES, COVARIATES = 60, 6, 4, 3, 2
NAMES = {
    "batch": ("a", "b", "c"),
    "dataset": ("one", "two"),
    "modality": ("rna", "adt"),
    "time": ("0", "1", "2"),
}
"""Groups of the cells by grouping."""


def check_decoder(name: str, **params: Any) -> None:
    """Check a registered decoder.

    Its parameters are typed, documented and have defaults; its loss is finite for cells without a count, one cell and
    none, is the same by ``nll`` and by ``reconstruction_loss``, reaches every weight with a gradient, and survives
    being saved; means and samples have the shape of the values.

    Parameters
    ----------
    name
        In the registry.
    **params
        Configuration; the defaults for what is not given.

    Raises
    ------
    AssertionError
        It does not do that; the message says what.
    """
    sizes = (LATENT, FEATURES, BATCHES, COVARIATES)
    check_parameters(DECODERS, name, sizes, params)
    torch.manual_seed(0)
    decoder = DECODERS.build(name, *sizes, **params)
    rows = values_of(DECODERS[name].support, CELLS)
    decoder.start_from(rows, torch.arange(CELLS) % BATCHES)
    for block in (rows, rows.first(1), rows.first(0), Rows.from_dense(torch.zeros(2, FEATURES))):
        n = len(block)
        z, *conditions = _given(block)
        loss = decoder.nll(block, z, *conditions)
        _same_shape(loss, (n,), f"{name}: the loss of {n} cells")
        _finite(loss, f"{name}: the loss of {n} cells")
        found = decoder(z, *conditions)
        if n:
            both = (decoder.reconstruction_loss(block, found), loss.mean())
            assert torch.allclose(*both, rtol=1e-4, atol=1e-4), (
                f"{name}: reconstruction_loss is {both[0]:.6g} and the mean of nll {both[1]:.6g}"
            )
        generator = torch.Generator().manual_seed(0)
        for what, values in (("mean", decoder.mean(found)), ("sample", decoder.sample(found, generator))):
            _same_shape(values, (n, FEATURES), f"{name}: {what} for {n} cells")
            _finite(values, f"{name}: {what} for {n} cells")
    torch.autograd.backward(decoder.nll(rows, *_given(rows)).sum())
    for key, weight in decoder.named_parameters():
        assert weight.grad is not None, f"{name}: {key} is in no loss"
        _finite(weight.grad, f"{name}: the gradient of {key}")
        assert bool(weight.grad.abs().sum() > 0), f"{name}: {key} receives no gradient"
    other = DECODERS.build(name, *sizes, **params)
    other.load_state_dict(decoder.state_dict())
    assert torch.equal(decoder.eval().nll(rows, *_given(rows)), other.eval().nll(rows, *_given(rows))), (
        f"{name}: the loss differs after saving; what it depends on must be a parameter or a buffer"
    )


def check_input(name: str, **params: Any) -> None:
    """Check a registered encoder input, as :func:`check_decoder` does a decoder.

    It treats sparse and dense blocks alike, keeps their shape, and is finite; what it learned survives being saved.
    """
    check_parameters(INPUTS, name, (FEATURES,), params)
    transform, again = (INPUTS.build(name, FEATURES, **params) for _ in range(2))
    rows = values_of("counts", CELLS)
    transform.fit(rows)
    sparse = transform(rows).dense()
    for block in (rows, rows.first(1), rows.first(0), Rows.from_dense(torch.zeros(2, FEATURES))):
        out = transform(block).dense()
        _same_shape(out, (len(block), FEATURES), f"{name}: what comes of {len(block)} cells")
        _finite(out, f"{name}: what comes of {len(block)} cells")
    dense = transform(Rows.from_dense(rows.dense())).dense()
    assert torch.allclose(sparse, dense, rtol=1e-5, atol=1e-5), f"{name}: sparse and dense blocks differ"
    again.load_state_dict(transform.state_dict())
    assert torch.equal(again(rows).dense(), sparse), (
        f"{name}: what it gives differs after saving; what it learns must be in buffers"
    )


def check_head(name: str, **params: Any) -> None:
    """Check a registered alignment head, as :func:`check_decoder` does a decoder.

    Its term is a finite scalar with a gradient at the latent, also with one cell, none, and one group; what it logs is
    finite and detached.
    """
    check_parameters(HEADS, name, (), params)
    torch.manual_seed(0)
    head = HEADS.build(name, **params)
    head.connect(NAMES, LATENT)
    for n in (CELLS, 2, 1, 0):
        given = _inputs_of_a_head(n)
        loss, logs = head(**given)
        _same_shape(loss, (), f"{name}: the term of {n} cells")
        _finite(loss, f"{name}: the term of {n} cells")
        for key, value in logs.items():
            assert not value.requires_grad, f"{name}: what it logs as {key} has a gradient; detach it"
            _finite(value, f"{name}: what it logs as {key} for {n} cells")
        if n == CELLS:
            torch.autograd.backward(loss)
            gradient = given["z_bio"].grad
            assert gradient is not None, f"{name}: the term does not depend on the latent"
            _finite(gradient, f"{name}: the gradient at the latent")
            assert bool(gradient.abs().sum() > 0), f"{name}: the gradient at the latent is zero"


def check_bridge(name: str, **params: Any) -> None:
    """Check a registered bridge, as :func:`check_decoder` does a decoder.

    It finds edges between the cells of two modalities, ``rna`` and ``adt``, that share names of features and some
    cells.
    """
    check_parameters(BRIDGES, name, (), params)
    edges = BRIDGES.build(name, **params).build_from(_inputs_of_a_bridge())
    assert isinstance(edges, BridgeEdges), f"{name}: build gave {type(edges).__name__}, expected BridgeEdges"
    assert len(edges), f"{name}: found no edge"
    assert edges.n_cells == 80, f"{name}: the edges are of {edges.n_cells} cells, there are 80"


def check_metric(name: str, **params: Any) -> None:
    """Check a registered metric, as :func:`check_decoder` does a decoder.

    It gives numbers, or what stands for no number, with and without labels and batches.
    """
    check_parameters(METRICS, name, (), params)
    metric = METRICS.build(name, **params)
    rng = np.random.default_rng(0)
    labels, batches = rng.integers(0, 3, (2, 80)).astype(str)
    inputs = {
        "z_bio": rng.normal(size=(80, LATENT)),
        "modalities": np.where(rng.random(80) < 0.5, "rna", "rna+adt"),
        "obs": pd.DataFrame({"cell_type": labels}, index=[f"cell{i}" for i in range(80)]),
        "views": _views(),
        "seed": 0,
    }
    for more in ({"labels": labels, "batches": batches}, {"labels": None, "batches": None}):
        measured({name: metric}, {**inputs, **more})


def check_parameters(
    registry: Registry[Any], name: str, wiring: tuple[Any, ...], params: dict[str, Any]
) -> None:
    """Check that a component builds, and that all of its parameters are typed, documented and have a default."""
    component = registry[name]
    assert (component.__doc__ or "").strip(), f"{name} has no docstring"
    docs = documented_parameters(component)
    for key, parameter in keyword_parameters(component).items():
        assert docs.get(key), f"{name}: the parameter {key} is not in the docstring"
        assert parameter.annotation is not inspect.Parameter.empty, f"{name}: {key} has no type"
        assert parameter.default is not inspect.Parameter.empty, f"{name}: {key} has no default"
    registry.build(name, *wiring, **params)


def values_of(support: Support, n: int) -> Rows:
    """Values of some cells that a likelihood is one of; counts are sparse."""
    rng = np.random.default_rng(0)
    if support == "real":
        return Rows.from_dense(rng.normal(size=(n, FEATURES)))
    if support == "fractions":
        return Rows.from_dense(rng.uniform(0.05, 0.95, (n, FEATURES)))
    counts = rng.poisson(0.6, (n, FEATURES)) * rng.integers(1, 9, (n, FEATURES))
    return Rows.from_scipy(sp.csr_matrix(counts.astype(np.float32)))


def _given(rows: Rows) -> tuple[Tensor, ...]:
    n = len(rows)
    return _normal(n, LATENT), rows.totals(), torch.arange(n) % BATCHES, _normal(n, COVARIATES)


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _inputs_of_a_head(n: int) -> dict[str, Any]:
    """Everything that a head can read, of some cells; fewer than all are of one batch."""
    index = torch.arange(n) * (1 if n == CELLS else 3)
    batch, cells = torch.arange(CELLS) % 3, torch.arange(CELLS)
    whole = _normal(CELLS, LATENT) + batch[:, None] * torch.tensor([1.0, 0.4, 0.0, 0.0])
    z = whole[index].clone().requires_grad_()
    graph = GraphBuilder(k=5, backend="numpy").build(whole)
    edges = BridgeEdges.of(cells[batch == 0][:10], cells[batch == 1][:10], None, CELLS)
    sides = ("rna", "adt")
    return {
        "z_bio": z,
        "groups": {"batch": batch[index], "dataset": batch[index] // 2, "modality": cells[index] % 2}
        | {"time": batch[index]},
        "graph": graph.induced(index),
        "edges": edges.induced(index),
        "posteriors": {
            m: Posterior(z + 0.3 * _normal(n, LATENT, seed=i + 1), -torch.ones(n, LATENT))
            for i, m in enumerate(sides)
        },
        "time": batch[index].float(),
        "features": {m: _normal(n, 5, seed=i + 3) for i, m in enumerate(sides)},
        "epoch": 0.0,
    }


def _views() -> dict[str, View]:
    """Two modalities of eighty cells: forty have both, twenty one alone each; the features have the same names."""
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(80, 5)) * [4, 3, 2, 1, 1] + 6 * rng.integers(0, 3, size=(80, 1))
    load = 2 * rng.normal(size=(5, 30))
    names = tuple(f"g{j}" for j in range(30))
    return {
        m: View(
            m,
            cells,
            (latent[cells] @ (load + rng.normal(size=(5, 30))) + rng.normal(size=(60, 30))).astype(
                np.float32
            ),
            names,
        )
        for m, cells in {"rna": np.arange(60), "adt": np.arange(20, 80)}.items()
    }


def _inputs_of_a_bridge() -> dict[str, Any]:
    batches = torch.arange(80) % 3
    return {
        "z_bio": _normal(80, 3) + batches[:, None] * 0.3,
        "batches": batches,
        "views": _views(),
        "n_cells": 80,
        "seeds": BridgeEdges.of(torch.arange(0, 20, 2), torch.arange(60, 80, 2), None, 80),
    }


def _finite(values: Tensor, what: str) -> None:
    assert bool(values.isfinite().all()), f"{what}: found {values.detach()}"


def _same_shape(values: Tensor, shape: tuple[int, ...], what: str) -> None:
    assert tuple(values.shape) == shape, f"{what}: found shape {tuple(values.shape)}, expected {shape}"
