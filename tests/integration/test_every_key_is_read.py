"""A key that validates and does nothing is a bug: every key of the configuration is read by some run."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from test_phase1_training import mock

from remadom import run
from remadom.adapters.settings import AdapterSettings
from remadom.config.build import assemble
from remadom.config.components import DecoderSizes, EncoderSizes
from remadom.config.load import overlay
from remadom.config.model import start_from_data
from remadom.config.schema import HeadSettings, RunConfig
from remadom.core.decoders import DECODERS
from remadom.core.encoder import ENCODERS
from remadom.core.inputs import INPUTS
from remadom.mapping import map_reference
from remadom.registry import Section
from remadom.types import Rows


def leaves(model: type[Section], prefix: str = "") -> dict[str, tuple[str, str]]:
    """Dotted key of every setting, with the section class and field that hold it."""
    found = {}
    for name, field in model.model_fields.items():
        inner = field.annotation
        if inspect.isclass(inner) and issubclass(inner, Section):
            found |= leaves(inner, f"{prefix}{name}.")
        else:
            found[prefix + name] = (model.__name__, name)
    return found


def in_validation() -> bool:
    """Whether the section is being read by its own checks, which is no use of it."""
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name == "_is_asked_for":
            return True
        frame = frame.f_back
    return False


RUNS = [
    {},
    {"optim": {"scheduler": {"name": "step"}, "amp": {"enabled": True}, "early_stopping": {"enabled": True}}},
    {"optim": {"scheduler": {"name": "plateau"}}, "logging": {"tensorboard": True}},
    {
        "alignment": {"by_batch": {"kind": "mmd", "enabled": True, "params": {"weight": 0.1}}},
        "structure": {"laplacian_enabled": True, "graph_backend": "numpy"},
        "bridge": {"provider": "seeded", "seeds": "cell_type", "groups": [["batch_1", "batch_2"]]},
    },
    {
        "optim": {"scheduler": {"name": "cosine"}},
        "data": {"preprocess": {"rna": {"hvg": 20}, "atac": {"lsi": {"enabled": True, "n_components": 5}}}},
    },
]


@pytest.mark.filterwarnings("ignore:`lr_scheduler.step")
def test_every_key_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    read: set[tuple[str, str]] = set()
    plain = Section.__getattribute__

    def recording(self, name):
        if not name.startswith("_") and name in type(self).model_fields and not in_validation():
            read.add((type(self).__name__, name))
        return plain(self, name)

    for number, settings in enumerate(RUNS):
        raw = overlay(mock(tmp_path, "paired", cells=120), settings)
        raw = overlay(raw, {"optim": {"epochs": 1}, "logging": {"run_dir": str(tmp_path / str(number))}})
        raw = overlay(raw, {"evaluation": {"figures": number == 0}})
        monkeypatch.setattr(Section, "__getattribute__", recording)
        run.train(raw)
        monkeypatch.undo()
    known = leaves(RunConfig) | leaves(HeadSettings, "alignment.<head>.")
    of_mapping = leaves(AdapterSettings, "adapter.")
    unread = [key for key, holder in known.items() if holder not in read and key not in of_mapping]
    assert unread == []
    read.clear()
    query = {"adapter": {"method": "arches", "epochs": 1}, "data": {"batch_key": "cell_type"}}
    monkeypatch.setattr(Section, "__getattribute__", recording)
    map_reference(tmp_path / "0", tmp_path / "paired.h5mu", config=query)
    monkeypatch.undo()
    assert [key for key, holder in of_mapping.items() if holder not in read] == []


BLOCK = torch.poisson(torch.full((12, 6), 2.0), generator=torch.Generator().manual_seed(0))
OTHER = {
    "hidden": 7,
    "n_layers": 2,
    "dropout": 0.5,
    "dispersion": "cell",
    "inflation": "gene",
    "lowrank": 2,
    "components": 4,
}


def signature_of(component: torch.nn.Module, rows: Rows, decoder: bool) -> tuple:
    """Sizes of the parameters and what a training pass returns."""
    torch.manual_seed(1)
    component.train()
    if decoder:
        out = component.nll(rows, torch.randn(12, 3), rows.totals(), torch.arange(12) % 2)
    else:
        out = component(rows)[0]
    return [tuple(p.shape) for p in component.parameters()], out.sum().item()


@pytest.mark.parametrize(
    ("kind", "name"), [("decoder", d) for d in DECODERS] + [("encoder", e) for e in ENCODERS]
)
def test_every_parameter_of_a_component_changes_it(kind: str, name: str):
    registry = DECODERS if kind == "decoder" else ENCODERS
    rows = Rows.from_dense(BLOCK)

    def build(**params):
        torch.manual_seed(0)
        wiring = (3, 6, 2) if kind == "decoder" else (6, 3, INPUTS.build("log1p", 6))
        return signature_of(registry.build(name, *wiring, **params), rows, kind == "decoder")

    for key, field in registry.schema(name).model_fields.items():
        other = not field.default if field.annotation is bool else OTHER[key]
        assert build(**{key: other}) != build(), key


def test_components_are_found_among_the_cells_and_batches_of_a_run(tmp_path: Path):
    raw = mock(tmp_path, "paired", cells=120)
    assembly = assemble(overlay(raw, {"model": {"encoders": {"rna": {"components": 5}}}}))
    model, source = assembly.model, assembly.source
    found = model.encoder("rna").first.axes.clone()
    assert (found != 0).any(0).all()
    start = (source, assembly.split.train, assembly.groups["batch"][0], assembly.config.optim.seed)
    start_from_data(model, *start)
    assert torch.equal(model.encoder("rna").first.axes, found)
    start_from_data(model, *start[:2], np.zeros_like(start[2]), start[3])
    assert not torch.allclose(model.encoder("rna").first.axes, found, rtol=1e-2), "batches are known"
    start_from_data(model, source, start[1][:60], *start[2:])
    assert not torch.allclose(model.encoder("rna").first.axes, found, rtol=1e-2), "training cells"


def test_sizes_of_the_sections_are_checked_against_the_data():
    assert set(EncoderSizes.model_fields) == {"in_dim", "input"}
    assert set(DecoderSizes.model_fields) == {"out_dim", "conditional_batches", "likelihood"}


@pytest.mark.parametrize(
    ("settings", "columns"),
    [
        ({"data": {"covariates": {"continuous": ["time"]}}}, 1),
        ({"data": {"covariates": {"categorical": ["cell_type"]}}}, 8),
        ({"model": {"latent_tech": 3}}, 3 - 2),
    ],
)
def test_what_decoders_are_given_follows_the_configuration(tmp_path: Path, settings: dict, columns: int):
    """``latent_tech`` takes the place of the two batches."""
    raw = overlay(mock(tmp_path, "paired", cells=120), {"optim": {"epochs": 1}})
    plain, changed = (assemble(overlay(raw, more)) for more in ({}, settings))
    for modality, decoder in plain.model.decoders.items():
        assert changed.model.decoder(modality).n_conditions == decoder.n_conditions + columns
    batch, loss = next(iter(changed.training_loader())), []
    for assembly in (plain, changed):
        torch.manual_seed(0)
        loss.append(float(assembly.objective(batch, 1.0)[0].detach()))
    assert loss[0] != loss[1]
