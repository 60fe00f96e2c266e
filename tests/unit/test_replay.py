"""Passes that are recorded once and replayed: what the model gives, for whatever cells come."""

from __future__ import annotations

from dataclasses import fields
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from batches import make_batch, make_counts, make_model
from torch import nn

from remadom.align import HEADS, AlignmentHead
from remadom.config.build import assemble
from remadom.core import vae
from remadom.core.residual import BatchResidual
from remadom.core.vae import MosaicVAE
from remadom.data.mock import generate, to_mudata
from remadom.train import objective as objectives
from remadom.train import replay as replays
from remadom.train.optim import choose_replay
from remadom.train.replay import Replay
from remadom.train.settings import OptimSettings
from remadom.train.trainer import Trainer
from remadom.types import Batch, Rows


def emulated(passes: tuple[nn.Module, ...], samples: tuple[Any, ...], allow_unused_input: bool) -> Any:
    """As ``torch.cuda.make_graphed_callables``, on a CPU: results always stand in the same tensors."""
    return tuple(_recorded(one, args) for one, args in zip(passes, samples, strict=True))


def _recorded(one: nn.Module, sample: tuple[torch.Tensor, ...]) -> Any:
    parameters = list(one.parameters())
    flatten, unflatten = torch.utils._pytree.tree_flatten, torch.utils._pytree.tree_unflatten
    kept, spec = flatten(one(*sample))
    kept = [value.detach().clone() for value in kept]

    class Recorded(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *given: torch.Tensor) -> tuple[torch.Tensor, ...]:
            with torch.enable_grad():
                ctx.args = [value.detach().requires_grad_() for value in given[: len(sample)]]
                ctx.found, _ = flatten(one(*ctx.args))
            for place, value in zip(kept, ctx.found, strict=True):
                place.copy_(value.detach())
            return tuple(place.detach() for place in kept)

        @staticmethod
        def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
            pairs = [(f, g) for f, g in zip(ctx.found, grads, strict=True) if f.requires_grad]
            inputs = [*ctx.args, *parameters]
            found, slopes = zip(*pairs, strict=True)
            return torch.autograd.grad(found, inputs, slopes, allow_unused=True)

    return lambda *args: unflatten(list(Recorded.apply(*args, *parameters)), spec)


@pytest.fixture(autouse=True)
def same_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws are the same for any number of cells."""
    monkeypatch.setattr(vae, "drawn", lambda mu, logvar, generator=None: mu + 0.7 * (0.5 * logvar).exp())


def without_dropout(model: MosaicVAE) -> MosaicVAE:
    """The same model: dropout draws for cells that others do not have room for."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def ragged(n: int, seed: int, n_seeds: int | None = None) -> Batch:
    """Cells of which some lack a modality, some have one alone; those after the seeds are partners."""
    rng = np.random.default_rng(seed)
    has = {"rna": rng.random(n) < 0.7, "adt": rng.random(n) < 0.6}
    has["atac"] = ~(has["rna"] | has["adt"]) | (rng.random(n) < 0.3)
    batch = make_batch(n, has=has, counts=make_counts(n, seed))
    if n_seeds is None:
        return batch
    return again(batch, seed=torch.arange(n) < n_seeds)


def again(batch: Batch, **changes: Any) -> Batch:
    """The batch with other contents, of which what follows is found anew."""
    kept = {f.name: getattr(batch, f.name) for f in fields(Batch) if f.name not in ("at", "n_seeds")}
    return Batch(**{**kept, **changes})


def make_heads() -> dict[str, AlignmentHead]:
    heads = {"mmd": HEADS.build("mmd"), "posterior": HEADS.build("posterior")}
    for head in heads.values():
        head.connect({"batch": ("a", "b")}, 4)
    return heads


def step(
    passes: Any, model: MosaicVAE, batch: Batch, heads: dict[str, AlignmentHead]
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Terms and gradient of one step, in which the experts count too, also those of cells that no head compares."""
    model.zero_grad()
    torch.manual_seed(1)
    experts, latent = passes.infer(batch)
    terms = passes.means(latent, batch)
    given = {"z_bio": model.product(experts).mu, "groups": batch.groups, "posteriors": experts}
    for name, head in heads.items():
        compute = passes.head(name, head) if isinstance(passes, Replay) else head
        value, logs = compute(**{key: given[key] for key in head.inputs()})
        terms |= {name: value, **{f"{name}.{key}": scalar for key, scalar in logs.items()}}
    known = [torch.where(p.logvar.isfinite(), p.mu * p.logvar.clamp(max=1), 0.0) for p in experts.values()]
    learned = [value for value in terms.values() if value.requires_grad]
    (sum(learned) + sum(value.sum() for value in known) + latent.mu[-3:].square().sum()).backward()
    parameters = [p for name, p in sorted(model.named_parameters()) if p.grad is not None]
    # what keeps the step's own graph alive ties the parameters to its stream, and recording fails
    return {n: t.detach() for n, t in terms.items()}, torch.cat([p.grad.flatten() for p in parameters])


def assert_same_step(replay: Replay, model: MosaicVAE, batch: Batch) -> None:
    heads = replay.heads or make_heads()
    terms, gradient = step(model, model, batch, heads)
    found, replayed = step(replay, model, batch, heads)
    assert found.keys() == terms.keys()
    for name, value in terms.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5, msg=name)
    torch.testing.assert_close(replayed, gradient, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tech", [0, 2])
def test_replayed_passes_give_what_the_model_gives(tech: int) -> None:
    model = without_dropout(make_model(tech=tech)).train()
    replay = Replay(model, make_heads(), record=emulated)
    for seed, n in enumerate((20, 20, 26, 17)):  # the same seeds, with other partners each time
        assert_same_step(replay, model, ragged(n, seed, n_seeds=16))
    assert len(replay._place) == 30


def test_cells_that_lack_a_modality_may_have_no_numbers_in_its_representation() -> None:
    model = without_dropout(make_model()).train()
    batch = ragged(16, 0)
    rep = batch.x["rna"].dense().clone()
    rep[~batch.has["rna"]] = torch.nan
    batch = again(batch, rep={"rna": Rows.from_dense(rep)})
    assert_same_step(Replay(model, record=emulated), model, batch)


def test_other_batches_go_to_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls = without_dropout(make_model()).train(), []

    def counted(passes: Any, samples: Any, allow_unused_input: bool) -> Any:
        def one(f: Any) -> Any:
            return lambda *args: calls.append(0) or f(*args)

        return tuple(one(f) for f in emulated(passes, samples, allow_unused_input))

    replay = Replay(model, record=counted)
    assert_same_step(replay, model, ragged(16, 0))
    assert len(calls) == 2
    assert_same_step(replay, model, ragged(9, 1))  # the last of an epoch
    assert_same_step(replay, model, ragged(25, 2, n_seeds=16))  # more than there is room for
    assert len(calls) == 2
    assert_same_step(replay, model, ragged(16, 3))
    assert len(calls) == 4
    monkeypatch.setattr(replays, "MOST_VALUES", 100)
    assert_same_step(Replay(model, record=counted), model, ragged(16, 4))
    assert len(calls) == 4


def test_what_was_given_before_stays_as_it_was() -> None:
    model = make_model().train()
    replay = Replay(model, record=emulated)
    before = replay.means(replay.infer(ragged(16, 0))[1], ragged(16, 0))
    kept = {name: value.clone() for name, value in before.items()}
    after = replay.means(replay.infer(ragged(16, 1))[1], ragged(16, 1))
    for name, value in before.items():
        torch.testing.assert_close(value, kept[name])
    assert not torch.allclose(after["recon.rna"], before["recon.rna"])


def test_recording_leaves_the_noise_as_it_was() -> None:
    model = make_model(modality_dropout=0.5).train()
    torch.manual_seed(3)
    expected = torch.rand(5)
    torch.manual_seed(3)
    Replay(model, record=emulated)._begin(ragged(16, 0), 24)
    torch.testing.assert_close(torch.rand(5), expected)


class Chooses(nn.ReLU):
    """A part of others, which could look at values."""


def test_models_that_may_look_at_values_are_not_recorded() -> None:
    assert Replay.takes(make_model())
    extended, foreign = make_model(), make_model()
    extended.encoders["rna"].residual = BatchResidual(8, 2, 1, 2)
    foreign.encoders["rna"].rest[1] = Chooses()
    assert not Replay.takes(extended)
    assert not Replay.takes(foreign)


@pytest.mark.parametrize(
    ("device", "half", "settings", "expected"),
    [
        ("cuda", None, {}, True),
        ("cpu", None, {}, False),
        ("cuda", torch.bfloat16, {}, False),
        ("cuda", None, {"cuda_graphs": False}, False),
        ("cuda", None, {"detect_anomaly": True}, False),
    ],
)
def test_steps_are_replayed_where_they_can_be(
    device: str, half: torch.dtype | None, settings: dict[str, bool], expected: bool
) -> None:
    assert choose_replay(OptimSettings(**settings), torch.device(device), half) is expected


def test_a_run_with_replayed_passes_is_the_same_run(monkeypatch: pytest.MonkeyPatch) -> None:
    data = to_mudata(generate("mosaic", cells=300, genes=30, peaks=24, proteins=6, seed=0))
    losses, recorded = [], []

    def record(*args: Any, **kwargs: Any) -> Any:
        recorded.append(args[:2])
        return emulated(*args, **kwargs)

    monkeypatch.setattr(objectives, "Replay", partial(Replay, record=record))
    monkeypatch.setattr(objectives.Replay, "takes", Replay.takes, raising=False)
    for replayed in (False, True):
        raw = {
            "data": {"batch_key": "batch"},
            "optim": {"epochs": 2, "batch_size": 64, "device": "cpu"},
            "alignment": {name: {"enabled": True} for name in ("mmd", "ot", "posterior")},
        }
        assembly = assemble(raw, data=data)
        without_dropout(assembly.model).modality_dropout = 0.0
        trainer = Trainer(assembly.objective, assembly.config.optim)
        trainer.replays = replayed
        history = trainer.fit(assembly.training_loader(), assembly.loader(assembly.split.val))
        names = (
            "loss",
            "mmd.loss",
            "mmd.n_pairs",
            "mmd.grad_norm",
            "ot.loss",
            "posterior.loss",
            "posterior.kl",
        )
        rows = [record[part] for record in history.history for part in ("train", "val")]
        losses.append([row[name] for row in rows for name in names if name in row])
        assert assembly.objective.recorded is None
    ((passes, _),) = recorded
    assert len(passes) == 4  # ot looks at the cells
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_cells_of_another_batch_are_in_no_group() -> None:
    model = make_model().train()
    replay = Replay(model, record=emulated)
    replay.infer(ragged(20, 0, n_seeds=16))
    replay.infer(ragged(17, 1, n_seeds=16))
    codes = replay._place.groups["batch"]
    assert (codes[:17] >= 0).all()
    assert (codes[17:] == -1).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that CUDA graphs could be recorded on")
def test_cuda_graphs_give_what_the_model_gives() -> None:
    model = without_dropout(make_model(tech=2)).train().cuda()
    replay = Replay(model, make_heads())
    for seed, n in enumerate((20, 20, 26, 17)):
        assert_same_step(replay, model, ragged(n, seed, n_seeds=16).to("cuda"))
