"""What every registered component must do, read from the registries."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from pydantic import ValidationError

from remadom.core.decoders import DECODERS
from remadom.core.encoder import ENCODERS
from remadom.core.inputs import INPUTS
from remadom.errors import InputError
from remadom.registry import documented_parameters, keyword_parameters
from remadom.schedule import SCHEDULES
from remadom.types import Rows

REGISTRIES = {"encoder": ENCODERS, "decoder": DECODERS, "input": INPUTS, "schedule": SCHEDULES}
COMPONENTS = [(kind, name) for kind, registry in REGISTRIES.items() for name in registry]
CELLS, FEATURES, LATENT = 7, 6, 3


def block(n: int = CELLS, seed: int = 0, support: str = "counts") -> Rows:
    """Cells with values of a support: counts, or these shifted by their column or as fractions; zeros stay."""
    rng = np.random.default_rng(seed)
    counts = rng.poisson(0.3, (n, FEATURES)) * rng.integers(1, 9, (n, FEATURES))
    if support == "real":
        counts = counts * np.array([-1.5, 0.25, 1.0, -0.1, 2.0, 0.5])
    if support == "fractions":
        counts = np.minimum(counts / 4, 1)
    return Rows.from_scipy(sp.csr_matrix(counts.astype(np.float32)))


def support_of(kind: str, name: str) -> str:
    return DECODERS[name].support if kind == "decoder" else "counts"


def build(kind: str, name: str, n_batches: int = 3, **params):
    torch.manual_seed(0)
    if kind == "encoder":
        return ENCODERS.build(name, FEATURES, LATENT, INPUTS.build("log1p", FEATURES), **params)
    if kind == "decoder":
        return DECODERS.build(name, LATENT, FEATURES, n_batches, **params)
    return REGISTRIES[kind].build(name, *([FEATURES] if kind == "input" else []), **params)


@pytest.mark.parametrize(("kind", "name"), COMPONENTS)
def test_builds_from_nothing_and_refuses_unknown_keys(kind, name):
    build(kind, name)
    with pytest.raises(InputError, match="unknown key 'no_such_key'"):
        build(kind, name, no_such_key=1)


@pytest.mark.parametrize(("kind", "name"), COMPONENTS)
def test_every_parameter_is_documented_typed_and_defaulted(kind, name):
    component = REGISTRIES[kind][name]
    docs = documented_parameters(component)
    for key, parameter in keyword_parameters(component).items():
        assert docs.get(key), f"{name}: {key} has no documentation"
        assert parameter.annotation is not inspect.Parameter.empty
        assert parameter.default is not inspect.Parameter.empty
    assert (component.__doc__ or "").strip()


@pytest.mark.parametrize(("kind", "name"), COMPONENTS)
def test_wrong_types_are_refused(kind, name):
    schema = REGISTRIES[kind].schema(name)
    for key in schema.model_fields:
        with pytest.raises(ValidationError):
            schema.model_validate({key: object()})


def value(kind: str, component, rows: Rows, labels: torch.Tensor | None = None) -> torch.Tensor:
    """One number per cell, from a component's forward pass."""
    if kind == "encoder":
        return torch.cat(component(rows), 1).sum(1)
    z = torch.randn(len(rows), LATENT, generator=torch.Generator().manual_seed(1))
    return component.nll(rows, z, rows.totals(), labels)


def variants() -> list[tuple[str, str, dict]]:
    """Every module with its default and each alternative of its enumerated parameters."""
    out = []
    for kind in ("encoder", "decoder"):
        for name in REGISTRIES[kind]:
            out.append((kind, name, {}))
            for key, field in REGISTRIES[kind].schema(name).model_fields.items():
                choices = getattr(field.annotation, "__args__", ())
                out += [(kind, name, {key: c}) for c in choices if isinstance(c, str) and c != field.default]
                if field.annotation is bool:
                    out.append((kind, name, {key: not field.default}))
                if field.default is None:
                    out.append((kind, name, {key: 2}))
    return out


@pytest.mark.parametrize(("kind", "name", "params"), variants())
def test_values_and_gradients_are_finite_and_reach_every_parameter(kind, name, params):
    component, rows = build(kind, name, **params), block(support=support_of(kind, name))
    value(kind, component, rows, torch.arange(CELLS) % 3).sum().backward()
    for key, p in component.named_parameters():
        assert p.grad is not None, key
        assert p.grad.isfinite().all(), key
        assert p.grad.abs().sum() > 0, f"{key} receives no gradient"


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
@pytest.mark.parametrize("n", [1, 2])
def test_one_cell_one_group_and_empty_rows_survive(kind, n):
    for name in REGISTRIES[kind]:
        component = build(kind, name, n_batches=1)
        empty = Rows.from_scipy(sp.csr_matrix((n, FEATURES), dtype=np.float32))
        for rows in (block(n, support=support_of(kind, name)), empty):
            out = value(kind, component, rows, torch.zeros(n, dtype=torch.long))
            out.sum().backward()
            assert out.shape == (n,)
            assert out.isfinite().all()


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_no_cells_at_all_survive(kind):
    nobody = Rows.from_scipy(sp.csr_matrix((0, FEATURES), dtype=np.float32))
    for name in REGISTRIES[kind]:
        out = value(kind, build(kind, name), nobody)
        assert out.shape == (0,)


@pytest.mark.parametrize(("kind", "name", "params"), variants())
def test_state_round_trips(kind, name, params):
    one, other = build(kind, name, **params).eval(), build(kind, name, **params).eval()
    with torch.no_grad():
        for tensor in one.state_dict().values():
            tensor.add_(0.25)
    other.load_state_dict(one.state_dict())
    rows = block(support=support_of(kind, name))
    torch.testing.assert_close(value(kind, one, rows), value(kind, other, rows), rtol=0, atol=0)


@pytest.mark.parametrize("name", list(INPUTS))
def test_inputs_treat_sparse_and_dense_alike_and_keep_their_statistics(name):
    transform, rows = build("input", name), block(30)
    dense = Rows.from_dense(rows.dense())
    transform.fit(rows)
    state = {key: tensor.clone() for key, tensor in transform.state_dict().items()}
    transform.fit(dense)
    for key, tensor in transform.state_dict().items():
        torch.testing.assert_close(tensor, state[key])
    torch.testing.assert_close(transform(rows).dense(), transform(dense).dense())
    assert transform(rows).dense().isfinite().all()
    again = build("input", name)
    again.load_state_dict(transform.state_dict())
    torch.testing.assert_close(again(rows).dense(), transform(rows).dense())


@pytest.mark.parametrize("name", list(DECODERS))
def test_reconstruction_loss_of_the_forward_pass_is_the_mean_nll(name):
    decoder, rows = build("decoder", name), block(support=DECODERS[name].support)
    z, labels = torch.randn(CELLS, LATENT), torch.arange(CELLS) % 3
    params = decoder(z, rows.totals(), labels)
    expected = decoder.nll(rows, z, rows.totals(), labels).mean()
    torch.testing.assert_close(decoder.reconstruction_loss(rows, params), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        decoder.reconstruction_loss(rows.dense(), params), expected, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("name", list(DECODERS))
def test_a_batch_that_was_never_measured_is_the_average_of_those_that_were(name):
    decoder = build("decoder", name).eval()
    z = torch.randn(4, LATENT)
    decoder.batch.see(torch.tensor([0, 2, 2]))
    unknown = decoder.natural(z, None, torch.full((4,), -1), None)
    for labels in (torch.full((4,), 1), None):
        for a, b in zip(decoder.natural(z, None, labels, None), unknown, strict=True):
            torch.testing.assert_close(a, b)
    seen = decoder.natural(z, None, torch.full((4,), 2), None)
    assert not torch.allclose(seen[0], unknown[0])


@pytest.mark.parametrize("name", list(DECODERS))
def test_covariates_shift_each_feature_and_their_absence_is_the_average_cell(name):
    torch.manual_seed(0)
    decoder = DECODERS.build(name, LATENT, FEATURES, 3, 2).eval()
    z, labels, rows = (
        torch.randn(CELLS, LATENT),
        torch.arange(CELLS) % 3,
        block(support=support_of("decoder", name)),
    )
    given = torch.randn(CELLS, 2)
    absent, zero = (decoder.nll(rows, z, rows.totals(), labels, c) for c in (None, torch.zeros(CELLS, 2)))
    torch.testing.assert_close(absent, zero)
    assert not torch.allclose(decoder.nll(rows, z, rows.totals(), labels, given), zero)
    # with a hidden layer that does not look at them, each is still an offset of its own for every feature
    with torch.no_grad():
        decoder.first.weight[:, -2:] = 0
    one = torch.tensor([1.0, 0.0]).expand(CELLS, -1)
    before = decoder.natural(z, None, labels, None)[0]
    shift = decoder.natural(z, None, labels, one)[0] - before
    assert (shift.abs() > 1e-6).all()
    torch.testing.assert_close(decoder.hidden(z, labels, one)[:, -2:], one)
