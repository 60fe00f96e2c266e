"""What every head and every bridge must do, read from the registries: each of their parameters changes something."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch

from remadom.align import HEADS
from remadom.bridges import BRIDGES
from remadom.errors import InputError
from remadom.graph import GraphBuilder
from remadom.registry import documented_parameters, keyword_parameters
from remadom.types import BridgeEdges, Posterior, View

N, LATENT = 60, 4
SAME_ANSWER = {"ann_backend", "backend"}
"""Back ends give one answer (see the tests of the index and of the solver)."""
NAMES = {
    "batch": ("a", "b", "c"),
    "dataset": ("one", "two"),
    "modality": ("rna", "adt"),
    "time": ("0", "1", "2"),
}
OTHER = {
    "weight": 0.7, "group_key": "dataset", "pairs": "rest", "reference": "b", "max_pairs": 1, "bandwidths": (3.0,),
    "epsilon": 0.5, "reach": 0.05, "mass": 0.3, "bridge": True, "contrast": 0.2, "temperature": 0.9, "hidden": 5,
    "steps": 7, "lr": 0.1, "growth": 0.05, "order": 0.9, "source": "rna", "hops": 2, "stay": 0.9, "max_cells": 10,
    "k": 3, "metric": "cosine", "decay": 0.2, "max_per_cell": 1, "atom_links": 0, "neighbors": 3, "axes": 3,
    "strength": 5.0, "max_atoms": 12, "fit": "procrustes", "strengths": (10.0,), "anchors": 8, "ridge": 5.0,
    "edges_per_cell": 1, "seed": 3, "modalities": ("adt", "rna"), "smooth": 0, "components": 2, "rounds": 0,
}  # fmt: skip
WITH = {
    ("mmd", "reference"): {"pairs": "reference"}, ("sinkhorn", "reference"): {"pairs": "reference"},
    ("ot", "reference"): {"pairs": "reference"}, ("gw", "reference"): {"pairs": "reference", "group_key": "batch"},
    ("gw", "pairs"): {"group_key": "batch"}, ("gw", "max_pairs"): {"group_key": "batch"},
    ("ot", "mass"): {"reach": None},
    ("mnn", "reference"): {"pairs": "star"},
}  # fmt: skip
"""What else a parameter needs to matter."""
INSTEAD = {
    ("mnn", "pairs"): "star", ("mnn", "reference"): 2, ("linmap", "metric"): "euclidean",
    ("gw bridge", "metric"): "euclidean", ("gw bridge", "neighbors"): (4,), ("gw bridge", "max_cells"): 20,
    ("linked_features", "neighbors"): 4,
}  # fmt: skip


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def inputs() -> dict:
    """Everything that a head can read, of sixty cells in three batches whose modes differ."""
    batch, cells = torch.arange(N) % 3, torch.arange(N)
    z = torch.randn(N, LATENT, generator=generator()) + batch[:, None] * torch.tensor([1.0, 0.4, 0.0, 0.0])
    z.requires_grad_()
    features = {m: torch.randn(N, 5, generator=generator(i + 1)) for i, m in enumerate(("rna", "adt"))}
    edges = BridgeEdges.of(cells[batch == 0][:10], cells[batch == 1][:10], None, N)
    posteriors = {
        m: Posterior(z + 0.3 * torch.randn(N, LATENT, generator=generator(i + 5)), -torch.rand(N, LATENT))
        for i, m in enumerate(("rna", "adt"))
    }
    return {
        "z_bio": z,
        "groups": {"batch": batch, "dataset": batch // 2, "modality": cells % 2, "time": batch},
        "graph": GraphBuilder(k=5, backend="numpy").build(z.detach()),
        "edges": edges,
        "posteriors": posteriors,
        "time": batch.float(),
        "features": features,
        "epoch": 0.0,
    }


def connected(name: str, **params):
    torch.manual_seed(0)
    head = HEADS.build(name, **params)
    head.connect(NAMES, LATENT)
    return head


def answer(name: str, **params) -> tuple[float, ...]:
    """Weight and values of a few calls of a head."""
    head, given = connected(name, **params), inputs()
    torch.manual_seed(1)
    return (head.weight.final, *(head(**given)[0].item() for _ in range(4)))


@pytest.mark.parametrize(("name", "key"), [(n, k) for n in HEADS for k in HEADS.schema(n).model_fields])
def test_every_parameter_of_a_head_changes_it(name: str, key: str):
    if key in SAME_ANSWER:
        return
    base = WITH.get((name, key), {})
    assert answer(name, **{**base, key: OTHER[key]}) != answer(name, **base), key


def views() -> dict[str, View]:
    """Two modalities of eighty latent points: forty cells have both, twenty one alone each; features are linked."""
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(80, 5)) * [4, 3, 2, 1, 1] + 6 * rng.integers(0, 3, size=(80, 1))
    sides = {"rna": np.arange(60), "adt": np.arange(20, 80)}
    found = {}
    for i, (name, cells) in enumerate(sides.items()):
        load = np.random.default_rng(i + 1).normal(size=(5, 30)) + 2 * np.random.default_rng(9).normal(
            size=(5, 30)
        )
        values = latent[cells] @ load + np.random.default_rng(i + 3).normal(size=(60, 30))
        found[name] = View(name, cells, values.astype(np.float32), tuple(f"g{j}" for j in range(30)))
    return found


def edges_of(name: str, **params) -> BridgeEdges:
    rng = np.random.default_rng(4)
    batches = torch.arange(80) % 3
    z = torch.from_numpy(rng.normal(size=(80, 3)).astype(np.float32)) + batches[:, None] * 0.3
    given = {
        "z_bio": z, "batches": batches, "views": views(), "n_cells": 80,
        "seeds": BridgeEdges.of(torch.arange(0, 20, 2), torch.arange(60, 80, 2), None, 80),
    }  # fmt: skip
    return BRIDGES.build(name, **params).build_from(given)


@pytest.mark.parametrize(("name", "key"), [(n, k) for n in BRIDGES for k in BRIDGES.schema(n).model_fields])
def test_every_parameter_of_a_bridge_changes_its_edges(name: str, key: str):
    if key in SAME_ANSWER | {"table", "also"} or (name, key) in {("gw", "seed")}:
        return  # a file, another view: test_linked_features; a draw above max_cells: test_gw_bridge
    base = WITH.get((name, key), {}) if name != "gw" else {}
    value = INSTEAD.get(("gw bridge" if name == "gw" else name, key), OTHER[key])
    one, other = edges_of(name, **base), edges_of(name, **{**base, key: value})
    same = len(one) == len(other) and all(
        torch.equal(getattr(one, part), getattr(other, part))
        for part in ("src", "dst", "weight", "confidence")
    )
    assert not same, key


@pytest.mark.parametrize("name", HEADS)
def test_a_head_reads_what_its_signature_names_and_gives_a_finite_value_and_gradient(name: str):
    head, given = connected(name), inputs()
    loss, logs = head(**given)
    assert loss.ndim == 0
    assert loss.isfinite()
    assert all(not value.requires_grad and value.isfinite() for value in logs.values())
    loss.backward()
    assert given["z_bio"].grad.isfinite().all()
    assert given["z_bio"].grad.abs().sum() > 0


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("n", [0, 1, 2])
def test_a_head_survives_few_cells_and_one_group(name: str, n: int):
    head, whole = connected(name), inputs()
    index = torch.arange(n) * 3  # all of batch 0
    z = whole["z_bio"].detach()[index].requires_grad_()
    given = {
        "z_bio": z,
        "groups": {key: torch.zeros(n, dtype=torch.long) for key in whole["groups"]},
        "graph": whole["graph"].induced(index),
        "edges": whole["edges"].induced(index),
        "posteriors": {m: Posterior(z + 0.1, p.logvar[index]) for m, p in whole["posteriors"].items()},
        "time": whole["time"][index],
        "features": {m: values[index] for m, values in whole["features"].items()},
        "epoch": 0.0,
    }
    loss, _ = head(**given)
    assert loss.isfinite()
    loss.backward()
    assert z.grad is None or z.grad.isfinite().all()


@pytest.mark.parametrize("registry", [HEADS, BRIDGES], ids=["heads", "bridges"])
def test_every_component_builds_from_nothing_is_documented_and_refuses_unknown_keys(registry):
    for name in registry:
        registry.build(name)
        docs = documented_parameters(registry[name])
        for key, parameter in keyword_parameters(registry[name]).items():
            assert docs.get(key), f"{name}: {key} has no documentation"
            assert parameter.annotation is not inspect.Parameter.empty
            assert parameter.default is not inspect.Parameter.empty
        with pytest.raises(InputError, match="unknown key 'no_such_key'"):
            registry.build(name, no_such_key=1)
