"""What new cells add to a model: features left out, adapters, correction, labels with a confidence."""

from __future__ import annotations

import copy
import json
from dataclasses import fields, replace

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from batches import DECODER, INPUT, LATENT, SIZES, make_batch, make_counts, make_model
from scipy.spatial.distance import cdist

from remadom.adapters.arches import add_residuals, train_added
from remadom.adapters.cells import NOTHING, ReferenceCells, experts_of
from remadom.adapters.labels import UNKNOWN, Labeler, Transfer
from remadom.adapters.lacking import leave_out
from remadom.adapters.mixtures import Mixture, corrected
from remadom.adapters.placing import place
from remadom.adapters.profile_axes import ProfileAxes
from remadom.adapters.settings import AdapterSettings
from remadom.core.decoders import DECODERS
from remadom.core.encoder import GaussianEncoder
from remadom.core.inputs import INPUTS
from remadom.core.residual import BatchResidual, ExtendedLinear
from remadom.core.vae import MosaicVAE
from remadom.data.lsi import fit_lsi
from remadom.data.normalize import tfidf
from remadom.errors import InputError
from remadom.eval.confidence import calibration_curve, expected_calibration_error, label_scores
from remadom.schedule import schedule_of
from remadom.train.objective import Objective
from remadom.train.settings import OptimSettings
from remadom.train.trainer import Trainer
from remadom.types import Batch, Rows

# --- features that are lacking


def simulated(n: int, n_features: int, kind: str, seed: int = 0) -> np.ndarray:
    """Counts of cells of four types, in features that differ in level."""
    rng = np.random.default_rng(seed)
    fixed = np.random.default_rng(99)  # the types are the same for every seed
    level = np.exp(fixed.normal(-0.5 if kind == "tfidf" else 0.5, 0.7, n_features))
    types = np.exp(fixed.normal(0, 0.8, (4, n_features)))
    rate = level * types[rng.integers(0, 4, n)] * rng.lognormal(0, 0.3, (n, 1))
    counts = rng.poisson(rate * (20 if kind == "clr" else 1)).astype(np.float32)
    return (counts > 0).astype(np.float32) if kind == "tfidf" else counts


KINDS = ["lognorm", "clr", "tfidf", "log1p", "identity", "standardized"]


def encoder_of(kind: str, training: np.ndarray, components: int = 0) -> GaussianEncoder:
    torch.manual_seed(0)
    transform = INPUTS.build(kind, training.shape[1])
    encoder = GaussianEncoder(training.shape[1], 6, transform, hidden=32, components=components).eval()
    encoder.start_from(Rows.of(sp.csr_matrix(training)), np.zeros(len(training), int), 0)
    return encoder


def one_model(encoder: GaussianEncoder) -> MosaicVAE:
    """A model with this encoder for ``rna`` and no decoder of it."""
    whole = make_model(("rna",))
    whole.encoders["rna"] = encoder
    return whole


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_changes_where_all_features_are_there(kind: str):
    counts = simulated(80, 40, kind)
    model = one_model(encoder_of(kind, counts))
    before = copy.deepcopy(model)
    present = np.ones(40, dtype=bool)
    leave_out(model, "rna", present[: model.decoder("rna").out_dim], 1.0, reads_features=True)
    rows = Rows.of(sp.csr_matrix(counts))
    for a, b in zip(model.encoder("rna")(rows), before.encoder("rna")(rows), strict=True):
        assert torch.equal(a, b)
    assert model.decoder("rna").scored is None
    # what a transformation itself makes of a share of 1 is nothing either
    leave = copy.deepcopy(before.encoder("rna").transform)
    leave.lacking(torch.ones(40, dtype=torch.bool), 1.0)
    torch.testing.assert_close(
        leave(rows).dense(), before.encoder("rna").transform(rows).dense(), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    ("kind", "components"), [*((kind, 0) for kind in KINDS), ("lognorm", 10), ("clr", 10), ("tfidf", 10)]
)
def test_missing_features_are_not_read_as_zeros(kind: str, components: int):
    """With 60 % of the features gone, cells lie near to where all features would put them."""
    training, counts = simulated(600, 200, kind, seed=1), simulated(200, 200, kind, seed=2)
    present = np.random.default_rng(3).random(200) < 0.4
    encoder = encoder_of(kind, training, components)
    with torch.no_grad():
        full = encoder(Rows.of(sp.csr_matrix(counts))).mu
        left = Rows.of(sp.csr_matrix(counts * present))
        as_zeros = encoder(left).mu
        model = one_model(copy.deepcopy(encoder))
        del model.decoders["rna"]
        leave_out(
            model, "rna", present, float(training[:, present].sum() / training.sum()), reads_features=True
        )
        masked = model.encoder("rna")(left).mu
    error = [float((z - full).norm(dim=1).mean() / full.std(0).norm()) for z in (masked, as_zeros)]
    print(f"{kind}: distance to the full embedding {error[0]:.2f} masked, {error[1]:.2f} as zeros")
    assert error[0] < (0.95 if kind == "clr" else 0.75) * error[1], "what cannot be known is lost either way"
    assert (masked.mean(0) - full.mean(0)).norm() < 0.4 * (as_zeros.mean(0) - full.mean(0)).norm()


def test_missing_peaks_are_not_read_as_closed_by_lsi():
    training, counts = (sp.csr_matrix(simulated(400, 200, "tfidf", seed=s)) for s in (1, 2))
    lsi = fit_lsi(lambda cells: training[cells], np.arange(400), n_components=6, drop_depth=False)
    everything = np.ones(200, dtype=bool)
    np.testing.assert_array_equal(lsi.lacking(everything, 1.0).transform(counts), lsi.transform(counts))
    present = np.random.default_rng(3).random(200) < 0.4
    left = sp.csr_matrix(counts.multiply(present))
    share = float(training[:, present].sum() / training.sum())
    full, masked, zeros = (
        lsi.transform(counts),
        lsi.lacking(present, share).transform(left),
        lsi.transform(left),
    )
    error = [float(np.linalg.norm(z - full, axis=1).mean()) for z in (masked, zeros)]
    print(f"lsi: distance to the full components {error[0]:.2f} masked, {error[1]:.2f} as zeros")
    assert error[0] < 0.75 * error[1]
    assert np.linalg.norm((masked - full).mean(0)) < 0.3 * np.linalg.norm((zeros - full).mean(0))


def even(n: int, seed: int) -> np.ndarray:
    """Open peaks of cells each of which has 8 of the first 20 and 12 of the other 30: a share of 0.4."""
    rng = np.random.default_rng(seed)
    counts = np.zeros((n, 50), dtype=np.float32)
    for row in counts:
        row[rng.choice(20, 8, replace=False)] = 1
        row[20 + rng.choice(30, 12, replace=False)] = 1
    return counts


@pytest.mark.parametrize("kind", ["lognorm", "tfidf"])
def test_depth_is_that_of_the_features_that_are_there(kind: str):
    """Where the share of the counts is the same in every cell, features that are there read as if all were."""
    counts, present = even(60, 0), np.arange(50) < 20
    transform = INPUTS.build(kind, 50)
    transform.fit(Rows.from_dense(torch.from_numpy(counts)))
    full = transform(Rows.from_dense(torch.from_numpy(counts))).dense()
    transform.lacking(torch.from_numpy(present), 0.4)
    left = transform(Rows.from_dense(torch.from_numpy(counts * present))).dense()
    torch.testing.assert_close(left[:, :20], full[:, :20])


def test_components_of_the_peaks_that_are_there_by_hand():
    counts, present = even(60, 0), np.arange(50) < 20
    training = sp.csr_matrix(counts)
    lsi = fit_lsi(lambda cells: training[cells], np.arange(60), n_components=5, drop_depth=False)
    values = np.asarray(tfidf(training, lsi.idf).todense())
    np.testing.assert_allclose(values.mean(0), lsi.center, rtol=1e-4)
    filled = np.where(present, values, lsi.center)
    expected = (filled @ lsi.components - lsi.mean) / lsi.scale
    found = lsi.lacking(present, 0.4).transform(sp.csr_matrix(counts * present))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", sorted(DECODERS))
def test_the_likelihood_is_that_of_the_features_that_are_there(name: str):
    """The same as that of a decoder with the parameters of these features alone."""
    torch.manual_seed(0)
    decoder = DECODERS.build(name, LATENT, 7, 2, hidden=8)
    n, present = 5, np.array([True, False, True, True, False, False, True])
    z, batch, depth = torch.randn(n, LATENT), torch.arange(n) % 2, torch.full((n,), 30.0)
    if decoder.support == "fractions":
        x = torch.rand(n, 7)
    elif decoder.support == "real":
        x = torch.randn(n, 7)
    else:
        x = torch.poisson(torch.full((n, 7), 1.5))
    natural = decoder.natural(z, depth, batch, None)
    expected = decoder.likelihood(Rows.from_dense(x[:, present]), *(value[..., present] for value in natural))
    model = make_model(("rna",))
    del model.encoders["rna"]
    model.decoders["rna"] = decoder
    whole = decoder.nll(Rows.from_dense(x), z, depth, batch)
    leave_out(model, "rna", present, 0.5, reads_features=True)
    found = decoder.nll(Rows.from_dense(x * torch.from_numpy(present)), z, depth, batch)
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, whole)
    assert len(decoder.mean(decoder(z, depth, batch))[0]) == 7, "all features are still predicted"


# --- adapters


def added(known: int = 2, n_new: int = 1, rank: int = 3, **params) -> tuple[MosaicVAE, MosaicVAE]:
    """A model, and a copy of it with residuals."""
    before = make_model(**params).eval()
    model = copy.deepcopy(before)
    add_residuals(model, known, n_new, rank, seed=0)
    return before, model.eval()


def as_batches(batch: Batch, codes: torch.Tensor) -> Batch:
    return Batch(**{**vars(batch), "groups": {**batch.groups, "batch": codes}})


def outputs(model: MosaicVAE, batch: Batch) -> list[torch.Tensor]:
    """Posteriors, embedding, and parameters of every likelihood."""
    with torch.no_grad():
        latent = model.embed(batch)
        experts = [value for expert in model.encode(batch).values() for value in expert]
        decoded = [value for params in model.decode(latent.z_bio, batch).values() for value in params]
    return [latent.z_bio, latent.logvar, *experts, *decoded]


def equal(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("rank", [0, 3])
@pytest.mark.parametrize("n_new", [1, 3])
@pytest.mark.parametrize("tech", [0, 2])
def test_new_adapters_change_nothing_to_the_bit(rank: int, n_new: int, tech: int):
    before, model = added(n_new=n_new, rank=rank, tech=tech)
    batch = make_batch(11)
    for codes in (batch.groups["batch"], torch.arange(11) % (2 + n_new), torch.full((11,), -1)):
        assert equal(outputs(before, as_batches(batch, codes)), outputs(model, as_batches(batch, codes)))


@pytest.mark.parametrize("name", sorted(DECODERS))
def test_every_decoder_takes_new_batches(name: str):
    """Zero at the start for every one; an offset of a feature in a new batch moves this feature in this batch only."""
    torch.manual_seed(0)
    decoder = DECODERS.build(name, LATENT, 6, 2, hidden=8)
    z, codes, depth = torch.randn(9, LATENT), torch.arange(9) % 4, torch.full((9,), 30.0)
    before = decoder.natural(z, depth, codes, None)
    decoder.add_batches(BatchResidual(8, 2, 2, 2))
    heads = [module for module in decoder.modules() if isinstance(module, ExtendedLinear)]
    assert heads
    assert all(torch.equal(a, b) for a, b in zip(before, decoder.natural(z, depth, codes, None), strict=True))
    with torch.no_grad():
        heads[0].more[1, 4] = 1.0
    after = decoder.natural(z, depth, codes, None)
    moved = torch.stack([(a != b).expand(9, 6) for a, b in zip(before, after, strict=True)]).any(0)
    assert moved[codes == 3, 4].all()
    if "softmax" not in type(decoder).__doc__.lower():
        assert moved.sum() == (codes == 3).sum()
    assert not moved[codes < 3].any()


class Shown(list):
    """Batches, as often as asked."""

    def set_epoch(self, epoch: int) -> None:
        pass


def optim(**changes) -> OptimSettings:
    return OptimSettings(device="cpu", **changes)


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("tech", [0, 2])
def test_after_training_the_reference_is_where_it_was_to_the_bit(rank: int, tech: int):
    before, model = added(n_new=2, rank=rank, tech=tech)
    new = as_batches(make_batch(30, seed=1), 2 + torch.arange(30) % 2)
    train_added(model, Shown([new, new]), AdapterSettings(epochs=4, lr=0.05), optim())
    assert not model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    old = dict(before.named_parameters())
    now = {name.replace(".linear.", "."): value for name, value in model.named_parameters()}
    assert all(torch.equal(now.pop(name), value) for name, value in old.items())
    assert {name.split(".")[-1] for name in now} == {"offset", "down", "up", "more"}
    idle = [name for name, value in now.items() if not value.any() and value.numel()]
    assert idle == []
    reference = make_batch(13)
    mixed = as_batches(reference, torch.where(torch.arange(13) % 3 == 2, 2, reference.groups["batch"]))
    unknown = as_batches(reference, torch.full((13,), -1))
    for batch in (reference, unknown):
        assert equal(outputs(before, batch), outputs(model, batch))
    ours = (mixed.groups["batch"] < 2).nonzero().squeeze(1)
    for a, b in zip(outputs(before, mixed), outputs(model, mixed), strict=True):
        assert a.shape[0] != 13 or torch.equal(a[ours], b[ours]), "beside new cells too"
    for code in (2, 3):
        cells = as_batches(make_batch(30, seed=1), torch.full((30,), code))
        for a, b in zip(outputs(before, cells), outputs(model, cells), strict=True):
            assert a.shape[0] != 30 or not torch.equal(a, b)


def test_training_lowers_the_loss_of_the_new_cells_and_each_batch_has_its_own():
    _, model = added(n_new=2)
    counts = make_counts(60, seed=2)
    counts["rna"][::2, 0] += 15  # the first new batch has much of one gene
    new = as_batches(make_batch(60, counts=counts), 2 + torch.arange(60) % 2)
    history = train_added(model, Shown([new]), AdapterSettings(epochs=60, lr=0.02), optim())
    losses = [entry["train"]["elbo.loss"] for entry in history.history]
    assert losses[-1] < losses[0] - 1
    with torch.no_grad():
        expected = {code: model.impute(as_batches(new, torch.full((60,), code)), "rna") for code in (2, 3)}
    assert expected[2][:, 0].mean() > 3 * expected[3][:, 0].mean()


def test_residual_by_hand():
    torch.manual_seed(0)
    residual = BatchResidual(5, 3, 2, 2)
    with torch.no_grad():
        residual.offset.normal_()
        residual.up.normal_()
    hidden, codes = torch.randn(6, 5), torch.tensor([0, 3, 4, -1, 2, 4])
    found = residual(hidden, codes)
    for i, code in enumerate(codes.tolist()):
        expected = hidden[i]
        if code >= 3:
            expected = (
                expected
                + residual.offset[code - 3]
                + (hidden[i] @ residual.down).relu() @ residual.up[code - 3]
            )
        torch.testing.assert_close(found[i], expected)
    assert residual.codes(6, codes).tolist() == [[0, 0], [1, 0], [0, 1], [0, 0], [0, 0], [0, 1]]
    assert residual.codes(2, None).tolist() == [[0, 0], [0, 0]]
    assert residual(hidden, None) is hidden
    assert residual(hidden[:0], codes[:0]).shape == (0, 5)


def test_a_new_modality_is_placed_where_the_known_one_is():
    """Only its encoder and decoder train; cells of it alone come near to where their other modality puts them."""
    torch.manual_seed(0)
    before = make_model(("rna",))
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 2, 200)
    counts = make_counts(200)
    counts["rna"] = rng.poisson(np.where((np.arange(SIZES["rna"]) < 6) == (kind[:, None] == 1), 9, 1)).astype(
        np.float32
    )
    level = np.where(np.arange(SIZES["adt"]) < 2, 5 + 60 * kind[:, None], 30)
    counts["adt"] = rng.poisson(level).astype(np.float32)
    batch = make_batch(200, counts={m: counts[m] for m in ("rna", "adt")})
    alone = Batch(**{**vars(batch), "x": {"rna": batch.x["rna"]}, "has": {"rna": batch.has["rna"]}})
    Trainer(Objective(before, schedule_of(0.05), {}), optim(epochs=60, lr=0.02)).fit(Shown([alone] * 5))
    before.eval()
    model = copy.deepcopy(before)
    transform = INPUTS.build(INPUT["adt"], SIZES["adt"])
    transform.fit(batch.x["adt"])
    model.encoders["adt"] = GaussianEncoder(SIZES["adt"], LATENT, transform, hidden=8)
    model.decoders["adt"] = DECODER["adt"](LATENT, SIZES["adt"], 2, hidden=8)
    model.decoder("adt").start_from(batch.x["adt"], batch.groups["batch"])
    with torch.no_grad():
        rna, start = (model.encode(batch)[m] for m in ("rna", "adt"))
    train_added(model, Shown([batch] * 4), AdapterSettings(epochs=40, lr=0.02), optim(), ["adt"])
    old = dict(before.named_parameters())
    assert all(torch.equal(dict(model.named_parameters())[name], value) for name, value in old.items())
    with torch.no_grad():
        found = model.encode(batch)
        places = {m: model.product({m: found[m]}).mu for m in found}
        at_first = model.product({"adt": start}).mu
    assert torch.equal(found["rna"].mu, rna.mu)
    of_type = torch.from_numpy(kind) == 1
    middle = torch.stack([places["rna"][~of_type].mean(0), places["rna"][of_type].mean(0)])
    right = torch.cdist(places["adt"], middle).argmin(1) == of_type.long()
    assert right.float().mean() > 0.95, "cells of the new modality alone lie with cells of their type"
    apart = [float((z - places["rna"]).norm(dim=1).mean()) for z in (places["adt"], at_first)]
    assert apart[0] < 0.7 * apart[1]
    assert model.modality_dropout == before.modality_dropout


# --- cells of a reference


def cells_like(n: int = 20) -> tuple[MosaicVAE, Batch, ReferenceCells]:
    model = make_model().eval()
    has = {"rna": np.arange(n) % 3 != 0, "atac": np.arange(n) % 3 != 1, "adt": np.arange(n) == 2}
    batch = make_batch(n, has=has)
    labels = np.where(np.arange(n) % 4 == 0, NOTHING, "type é").astype(object)
    names = np.array([f"zelle_{i}_ü" for i in range(n)], dtype=object)
    batches = np.array(["b", "a"], dtype=object)[np.arange(n) % 2]
    return model, batch, ReferenceCells(experts_of(model, [batch]), names, batches, {"kind": labels})


def with_profiles(cells: ReferenceCells) -> ReferenceCells:
    rng = np.random.default_rng(0)
    values = {m: rng.poisson(9.0, (60, size)).astype(np.float32) for m, size in SIZES.items() if m != "atac"}
    axes = {m: ProfileAxes.fit(of, "counts", 1e4, 0) for m, of in values.items()}
    return replace(cells, axes=axes, profiles={m: axes[m].of(of[: len(cells)]) for m, of in values.items()})


def test_cells_are_seen_as_others_with_these_modalities_are_embedded():
    model, batch, cells = cells_like()
    with torch.no_grad():
        everything = model.embed(batch).mu.numpy()
        rna = model.product({"rna": model.encode(batch)["rna"]}).mu.numpy()
    np.testing.assert_allclose(cells.seen_by(model, ("rna", "atac", "adt")), everything, atol=1e-6)
    has = batch.has["rna"].numpy()
    seen = cells.seen_by(model, ("rna",))
    np.testing.assert_allclose(seen[has], rna[has], atol=1e-6)
    np.testing.assert_allclose(
        seen[~has], everything[~has], atol=1e-6, err_msg="without it, from all that it has"
    )
    np.testing.assert_allclose(cells.seen_by(model, ("other",)), everything, atol=1e-6)


def test_cells_come_back_from_their_tensors():
    cells = with_profiles(cells_like()[2])
    plain, tensors = cells.state()
    assert "atac" not in plain["profiles"]
    again = ReferenceCells.from_state(json.loads(json.dumps(plain)), tensors)
    for m, axes in cells.axes.items():
        assert np.array_equal(again.profiles[m], cells.profiles[m])
        for field in fields(axes):
            assert np.array_equal(getattr(again.axes[m], field.name), getattr(axes, field.name))
    del plain["profiles"]
    assert ReferenceCells.from_state(plain, tensors).axes == {}, "saved before there were profiles"
    assert again.names.tolist() == cells.names.tolist()
    assert again.batch.tolist() == cells.batch.tolist()
    assert again.labels["kind"].tolist() == cells.labels["kind"].tolist()
    for m, expert in cells.experts.items():
        assert all(np.array_equal(a, b) for a, b in zip(expert, again.experts[m], strict=True))
    nobody = ReferenceCells({}, np.array([], dtype=object), np.array([], dtype=object), {})
    assert len(ReferenceCells.from_state(*nobody.state())) == 0


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.pop("batch"),
        lambda t: t.pop("label.kind"),
        lambda t: t.update(batch=t["batch"] + 7),
        lambda t: t.update(batch=-1 - t["batch"]),
        lambda t: t.update(batch=t["batch"][:-1]),
        lambda t: t.update({"names.end": t["names.end"].flip(0)}),
        lambda t: t.update({"names.end": t["names.end"] + 1}),
        lambda t: t.update({"names": torch.full_like(t["names"], 255)}),
        lambda t: t.update({"mu.rna": t["mu.rna"][:-1]}),
        lambda t: t.update({"profile.adt": t["profile.adt"][:-1]}),
        lambda t: t.pop("axes.adt"),
    ],
)
def test_damaged_cells_are_told(change):
    plain, tensors = with_profiles(cells_like()[2]).state()
    change(tensors)
    with pytest.raises(InputError, match="of the reference('s cells)? are damaged"):
        ReferenceCells.from_state(plain, tensors)


# --- correction by mixtures

CENTERS = np.array([[0, 0, 0], [6, 0, 0], [0, 6, 0], [0, 0, 6]], dtype=float)


def clusters(sizes: list[int], seed: int = 0, spread: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    kind = np.repeat(np.arange(len(sizes)), sizes)
    return CENTERS[kind] + rng.normal(0, spread, (len(kind), 3)), kind


@pytest.fixture(scope="module")
def mixture() -> Mixture:
    return Mixture.fit(clusters([400, 400, 400, 400])[0], clusters=12, seed=0)


def left(z: np.ndarray, truth: np.ndarray) -> float:
    """Length of the mean difference over the cells of a type: what a correction leaves of a shift."""
    return float(np.linalg.norm((z - truth).mean(0)))


def one(n: int) -> np.ndarray:
    return np.zeros(n, dtype=int)


def test_mixture_is_a_probability(mixture: Mixture):
    z, _ = clusters([30, 30, 30, 30], seed=1)
    share, squared = mixture.posterior(z)
    np.testing.assert_allclose(share.sum(1), 1)
    expected = cdist(z, mixture.centers, "mahalanobis", VI=np.diag(1 / mixture.variance))
    np.testing.assert_allclose(squared, expected.min(1) ** 2, rtol=1e-8)
    log = np.log(mixture.weight) - expected**2 / 2
    np.testing.assert_allclose(share, np.exp(log) / np.exp(log).sum(1, keepdims=True), rtol=1e-6, atol=1e-12)
    assert mixture.weight.sum() == pytest.approx(1)
    far, _ = mixture.posterior(z + 1e6)
    assert np.isfinite(far).all()


@pytest.mark.parametrize("n", [1, 2, 49, 99, 1000])
def test_mixture_of_few_cells_and_of_equal_cells(n: int):
    z, _ = clusters([n], seed=1)
    assert len(Mixture.fit(z, clusters=12, seed=0).centers) == min(12, max(1, n // 50))
    same = Mixture.fit(np.ones((n, 3)), clusters=1, seed=0)
    assert np.isfinite(same.posterior(z)[0]).all()
    with pytest.raises(InputError, match="no cells"):
        Mixture.fit(z[:0])


def test_a_shift_of_a_whole_batch_is_removed(mixture: Mixture):
    truth, _ = clusters([300, 100, 30, 0], seed=1)
    shift = np.array([1.0, -0.8, 0.6])
    z = corrected(truth + shift, one(len(truth)), mixture).cells
    assert z.dtype == np.float32
    assert left(z, truth) < 0.1 * np.linalg.norm(shift)
    assert np.linalg.norm(z - truth, axis=1).mean() < 0.4 * np.linalg.norm(shift)


@pytest.mark.parametrize(("n_clusters", "share"), [(4, 0.25), (12, 0.5)])
def test_a_shift_that_differs_by_cluster_is_removed(n_clusters: int, share: float):
    """Of several clusters in one type, a cell may be taken for the one that its shift leads to, so more is left."""
    fitted = Mixture.fit(clusters([400, 400, 400, 400])[0], clusters=n_clusters, seed=0)
    truth, kind = clusters([300, 300, 300, 300], seed=1)
    shifts = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [-0.7, -0.7, 0]], dtype=float)
    z = corrected(truth + shifts[kind], one(len(truth)), fitted).cells
    of_shift = [left(z[kind == k], truth[kind == k]) / np.linalg.norm(shifts[k]) for k in range(4)]
    print(f"{n_clusters} clusters: {max(of_shift):.2f} of the shift is left")
    assert max(of_shift) < share


def test_each_batch_is_corrected_on_its_own_in_any_order(mixture: Mixture):
    truth, kind = clusters([200, 200, 200, 200], seed=1)
    batch = np.random.default_rng(0).integers(0, 2, len(truth))
    shifted = truth + np.array([[1.0, 0, 0], [0, -1.0, 0]])[batch]
    z = corrected(shifted, batch, mixture).cells
    assert max(left(z[batch == b], truth[batch == b]) for b in (0, 1)) < 0.12
    np.testing.assert_array_equal(
        z[batch == 1], corrected(shifted[batch == 1], one((batch == 1).sum()), mixture).cells
    )
    order = np.random.default_rng(1).permutation(len(truth))
    again = corrected(shifted[order], 5 - batch[order], mixture).cells
    np.testing.assert_allclose(again, z[order], atol=1e-5)
    assert not np.shares_memory(z, shifted)
    assert len(np.unique(kind)) == 4


def test_without_a_shift_hardly_anything_moves(mixture: Mixture):
    truth, _ = clusters([200, 200, 200, 200], seed=1)
    z = corrected(truth, one(len(truth)), mixture).cells
    assert np.linalg.norm(z - truth, axis=1).max() < 0.25
    assert left(z, truth) < 0.05


def test_a_type_that_the_reference_does_not_have_is_not_drawn_onto_it(mixture: Mixture):
    truth, _ = clusters([200, 200, 200, 200], seed=1)
    novel = np.random.default_rng(2).normal([20, 20, 20], 0.5, (200, 3))
    shift = np.array([0.8, 0.0, -0.6])
    z = corrected(np.concatenate([truth, novel]) + shift, one(1000), mixture).cells
    assert left(z[:800], truth) < 0.12
    assert left(z[800:], novel) < 0.15, "it moves with its batch, and no farther"


def test_few_cells_move_a_little_only(mixture: Mixture):
    """One cell cannot tell of a shift of its batch; 20 are as good as the cells of no shift beside them."""
    cell = CENTERS[:1] + 1.0
    alone = corrected(cell, one(1), mixture, shrinkage=20.0).cells
    assert np.linalg.norm(alone - cell) < 0.25 * np.linalg.norm(cell - CENTERS[:1])
    free = corrected(cell, one(1), mixture, shrinkage=0.0).cells
    assert np.linalg.norm(free - cell) > np.linalg.norm(alone - cell)
    far = np.full((1, 3), 20.0)
    assert np.linalg.norm(corrected(far, one(1), mixture).cells - far) < 0.25 * np.linalg.norm(far)
    assert corrected(cell[:0], one(0), mixture).cells.shape == (0, 3)
    truth, _ = clusters([3, 2, 0, 0], seed=5)
    few = corrected(truth + 1.0, one(5), mixture).cells
    assert 0 < left(few, truth + 1.0) < left(truth + 1.0, truth)


# --- labels


def labeler(z: np.ndarray, labels: np.ndarray, **params) -> Labeler:
    return Labeler.fit(z, labels, Mixture.fit(z, clusters=20, seed=0), **params)


def overlapping(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Cells of three types that overlap."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 3, n)
    centers = np.array([[0, 0], [1.5, 0], [0, 4.0]])
    return centers[kind] + rng.normal(0, 1, (n, 2)), np.array(["a", "b", "c"], dtype=object)[kind]


def test_labels_of_clusters_that_are_apart_are_right():
    z, kind = clusters([100, 100, 100, 100])
    query, truth = clusters([50, 40, 30, 20], seed=1)
    names = np.array(["w", "x", "y", "z"], dtype=object)
    found = labeler(z, names[kind]).transfer(query)
    assert (found.nearest == names[truth]).all()
    assert (found.mixture == names[truth]).all()
    assert found.confidence.min() > 0.95
    assert found.mixture_confidence.min() > 0.95


def test_confidence_is_honest_where_types_overlap():
    z, labels = overlapping(4000, 0)
    query, truth = overlapping(4000, 1)
    found = labeler(z, labels).transfer(query)
    right = found.nearest == truth
    assert 0.75 < right.mean() < 0.9
    error = expected_calibration_error(found.confidence, right)
    print(f"calibration error {error:.3f} at an accuracy of {right.mean():.3f}")
    assert error < 0.05
    assert np.ptp(found.confidence) > 0.4, "some cells are sure, others are not"
    sure = found.confidence > 0.95
    assert right[sure].mean() > 0.93
    assert right[~sure].mean() < right[sure].mean() - 0.1


@pytest.mark.parametrize("unknown", [0.02, 0.05, 0.2])
def test_the_share_of_unknown_among_cells_of_the_reference_s_own_kind(unknown: float):
    z, labels = overlapping(3000, 0)
    query, _ = overlapping(3000, 1)
    found = labeler(z, labels, unknown=unknown).transfer(query)
    share = float((found.label == UNKNOWN).mean())
    print(f"unknown {share:.3f}, asked for {unknown}")
    assert 0.4 * unknown < share < 1.4 * unknown
    assert ((found.label == UNKNOWN) == (found.familiar < unknown)).all()
    known = found.label != UNKNOWN
    assert (found.label[known] == found.nearest[known]).all()


def test_a_type_that_the_reference_does_not_have_is_unknown():
    z, kind = clusters([200, 200, 200, 0])
    query, truth = clusters([100, 100, 100, 100], seed=1)
    found = labeler(z, np.array(["a", "b", "c"], dtype=object)[kind]).transfer(query)
    assert (found.label[truth == 3] == UNKNOWN).all()
    assert (found.label[truth < 3] == UNKNOWN).mean() < 0.1
    assert found.familiar[truth == 3].max() < 0.01


@pytest.mark.parametrize("k", [1, 5, 30])
def test_votes_are_those_of_the_nearest_cells(k: int):
    """By brute force: the label of most of the nearest cells, the nearer ones deciding between equals."""
    z, labels = overlapping(300, 0)
    query, _ = overlapping(100, 1)
    fitted = labeler(z, labels, neighbors=k)
    found = fitted.transfer(query)
    names = np.unique(labels)
    order = np.argsort(cdist(query, z.astype(np.float32)), axis=1)[:, :k]
    for i, near in enumerate(order):
        votes = {name: (labels[near] == name).sum() for name in names}
        best = [name for name in names if votes[name] == max(votes.values())]
        if len(best) > 1:  # between equals the sum of the ranks decides
            best = sorted(best, key=lambda name: np.flatnonzero(labels[near] == name).sum())[:1]
        assert found.nearest[i] == best[0]
    distance = np.sort(cdist(query, z), axis=1)[:, :k].mean(1)
    own = cdist(z, z)
    np.fill_diagonal(own, np.inf)
    among = np.sort(np.sort(own, axis=1)[:, :k].mean(1))
    beyond = [(among >= d - 1e-6).sum() for d in distance]
    of_any = (1 + np.array(beyond)) / (1 + len(among))
    assert (found.familiar >= of_any - 0.01).all()


def test_labels_do_not_depend_on_the_order_of_cells_or_on_names():
    z, labels = overlapping(500, 0)
    query, _ = overlapping(60, 1)
    mixture = Mixture.fit(z, clusters=5, seed=0)
    first = Labeler.fit(z, labels, mixture).transfer(query)
    order = np.random.default_rng(0).permutation(500)
    renamed = np.array([{"a": "z", "b": "y", "c": "x"}[name] for name in labels], dtype=object)
    other = Labeler.fit(z[order], renamed[order], mixture).transfer(query[::-1])
    back = {"z": "a", "y": "b", "x": "c"}
    assert [back[name] for name in other.nearest[::-1]] == first.nearest.tolist()
    np.testing.assert_allclose(other.confidence[::-1], first.confidence, atol=1e-6)
    np.testing.assert_allclose(other.familiar[::-1], first.familiar, atol=1e-6)


def test_one_label_two_cells_and_more_neighbors_than_cells():
    z, _ = clusters([40])
    found = labeler(z, np.full(40, "a", dtype=object), neighbors=1000).transfer(z)
    assert (found.nearest == "a").all()
    np.testing.assert_allclose(found.confidence, 1)
    pair = labeler(np.array([[0.0, 0], [1, 0]]), np.array(["a", "b"], dtype=object)).transfer(
        np.array([[0.1, 0]])
    )
    assert pair.nearest.tolist() == ["a"]
    assert 0 <= pair.confidence[0] <= 1


def test_cells_without_a_label_do_not_vote():
    z, labels = overlapping(400, 0)
    some = np.where(np.arange(400) % 3 == 0, NOTHING, labels)
    mixture = Mixture.fit(z, clusters=5, seed=0)
    with_gaps = Labeler.fit(z, some, mixture).transfer(z)
    without = Labeler.fit(z[some != NOTHING], some[some != NOTHING], mixture).transfer(z)
    assert with_gaps.nearest.tolist() == without.nearest.tolist()
    np.testing.assert_array_equal(with_gaps.confidence, without.confidence)
    assert NOTHING not in with_gaps.mixture
    with pytest.raises(InputError, match="1 cells of the reference have a label, expected two or more"):
        labeler(z, np.where(np.arange(400) == 5, "a", NOTHING).astype(object))


def test_duplicated_cells_do_not_vote_for_themselves_when_votes_are_calibrated():
    """Cells with labels by chance: a cell that found itself would seem sure."""
    rng = np.random.default_rng(0)
    z, labels = rng.normal(size=(300, 2)), rng.choice(np.array(["a", "b"], dtype=object), 300)
    alone = labeler(z, labels, neighbors=1).transfer(z)
    assert abs(alone.confidence.mean() - 0.5) < 0.1
    equal_cells = np.zeros((50, 2))
    found = labeler(equal_cells, labels[:50], neighbors=5).transfer(equal_cells)
    assert np.isfinite(found.confidence).all()
    assert np.isfinite(found.familiar).all()


def test_no_cells_have_no_labels():
    z, labels = overlapping(100, 0)
    found = labeler(z, labels).transfer(z[:0])
    assert [len(getattr(found, name)) for name in ("label", "confidence", "familiar")] == [0, 0, 0]


def test_transfers_are_joined_by_position():
    z, labels = overlapping(200, 0)
    fitted = labeler(z, labels)
    whole = fitted.transfer(z)
    halves = [np.arange(0, 200, 2), np.arange(1, 200, 2)]
    joined = Transfer.joined([(half, fitted.transfer(z[half])) for half in halves], 200)
    for name in vars(whole):
        assert getattr(joined, name).tolist() == getattr(whole, name).tolist(), name


def test_several_levels_and_patterns_at_once():
    """Cells with one modality are compared with the reference as seen by that one."""
    model, batch, cells = cells_like(60)
    coarse = np.array(["all"] * 60, dtype=object)
    empty = np.full(60, NOTHING, dtype=object)
    levels = {"kind": cells.labels["kind"], "coarse": coarse, "empty": empty}
    cells = ReferenceCells(cells.experts, cells.names, cells.batch, levels)
    with torch.no_grad():
        z = model.embed(batch).mu.numpy()
    has = {m: batch.has[m].numpy() for m in batch.has}
    mixture = Mixture.fit(z, clusters=2, seed=0)
    placed = place(cells, model, has, z, z, {}, mixture, AdapterSettings(neighbors=5), seed=0)
    assert set(placed.labels) == {"kind", "coarse"}
    assert (placed.labels["coarse"].nearest == "all").all()
    assert placed.familiar.shape == placed.cluster.shape == (60,)
    only = has["atac"] & ~has["rna"] & ~has["adt"]
    alone = Labeler.fit(cells.seen_by(model, ["atac"]), levels["kind"], mixture, neighbors=5).transfer(
        z[only]
    )
    assert placed.labels["kind"].nearest[only].tolist() == alone.nearest.tolist()
    np.testing.assert_allclose(placed.labels["kind"].confidence[only], alone.confidence)
    np.testing.assert_allclose(placed.labels["kind"].familiar[only], alone.familiar)
    quality = placed.quality()
    assert quality["unlike_the_reference"] == pytest.approx((placed.familiar < 0.05).mean())
    assert sum(group["cells"] for group in quality["by_cluster"].values()) == 60
    assert sum(group["cells"] for group in quality["by_kind"].values()) == 60


def test_those_vote_who_are_near_in_the_latent_and_in_profiles():
    """By brute force; how familiar a cell is goes by the latent alone."""
    z, labels = overlapping(300, 0)
    query, truth = overlapping(80, 1)
    rng = np.random.default_rng(2)
    more, others = rng.normal(0, 2, (300, 3)), rng.normal(0, 2, (80, 3))
    near, asked = np.hstack([z, more]), np.hstack([query, others])
    mixture = Mixture.fit(z, clusters=5, seed=0)
    fitted = Labeler.fit(z, labels, mixture, near=near, neighbors=7)
    found, alone = fitted.transfer(query, near=asked), Labeler.fit(z, labels, mixture, neighbors=7)
    nearest = np.argsort(cdist(asked, near.astype(np.float32)), axis=1)[:, :7]
    for name, at in zip(found.nearest, nearest, strict=True):
        votes = {other: (labels[at] == other).sum() for other in np.unique(labels)}
        assert votes[name] == max(votes.values())
    assert (found.nearest != alone.transfer(query).nearest).any()
    same = found.nearest == alone.transfer(query).nearest
    np.testing.assert_allclose(found.familiar[same], alone.transfer(query).familiar[same])
    error = expected_calibration_error(found.confidence, found.nearest == truth)
    assert error < 0.15, "votes are calibrated where they are taken"


def test_cells_vote_by_the_profiles_of_the_modalities_that_a_cell_has():
    model, batch, cells = cells_like(60)
    cells = with_profiles(replace(cells, labels={"kind": np.array(["a", "b"] * 30, dtype=object)}))
    for m, sign in (("rna", 1), ("adt", -1)):  # genes say what the label is, proteins say the other one
        cells.profiles[m][:] = 0
        cells.profiles[m][:, 0] = sign * np.where(np.arange(60) % 2, 1000.0, -1000.0)
    with torch.no_grad():
        z = model.embed(batch).mu.numpy()
    has = {"rna": np.arange(60) < 30, "atac": np.ones(60, dtype=bool), "adt": np.arange(60) >= 30}
    mixture = Mixture.fit(z, clusters=2, seed=0)
    settings = AdapterSettings(neighbors=5)
    profiles = {m: cells.profiles[m].copy() for m in ("rna", "adt")}
    profiles["rna"][30:] = profiles["adt"][:30] = np.nan  # as where they were not measured
    placed = place(cells, model, has, z, z, profiles, mixture, settings, seed=0).labels["kind"]
    assert (placed.nearest == cells.labels["kind"]).all()
    turned = {"rna": -profiles["rna"]}  # proteins of the new cells cannot be compared: the latent alone
    placed = place(cells, model, has, z, z, turned, mixture, settings, seed=0).labels["kind"]
    assert (placed.nearest[:30] != cells.labels["kind"][:30]).all()
    latent = place(cells, model, has, z, z, {}, mixture, settings, seed=0).labels["kind"]
    assert (placed.nearest[30:] == latent.nearest[30:]).all()
    np.testing.assert_array_equal(placed.familiar[30:], latent.familiar[30:])


@pytest.mark.parametrize(
    ("far", "words"),
    [(0.04, "the cells fit the reference"), (0.3, "some cells are unlike"), (0.9, "do not fit")],
)
def test_the_verdict_in_words(far: float, words: str):
    model, batch, cells = cells_like(60)
    has = {m: batch.has[m].numpy() for m in batch.has}
    with torch.no_grad():
        z = model.embed(batch).mu.numpy()
    placed = place(
        cells, model, has, z, z, {}, Mixture.fit(z, clusters=2, seed=0), AdapterSettings(neighbors=5), seed=0
    )
    familiar = np.where(np.arange(60) < far * 60, 0.0, 1.0)
    verdict = type(placed)(placed.labels, familiar, placed.cluster, placed.unknown).quality()["words"]
    assert words in verdict


# --- scores of labels


def test_scores_by_hand():
    nearest = np.array(["a", "a", "b", "b", "a", "a"], dtype=object)
    truth = np.array(["a", "b", "b", "b", "new", None], dtype=object)
    confidence = np.array([0.9, 0.9, 0.5, 0.7, 0.9, 0.9])
    unknown = np.array([False, True, False, False, True, False])
    familiar = np.array([0.9, 0.3, 0.8, 0.02, 0.1, 0.5])
    found = label_scores(nearest, confidence, unknown, familiar, truth, ["a", "b", "c", ""])
    assert (found["labeled"], found["accuracy"], found["called_unknown"]) == (5, 0.75, 0.25)
    assert found["balanced_accuracy"] == pytest.approx((1 + 2 / 3) / 2)
    assert found["accuracy_of_named"] == 1
    assert (found["novel_types"], found["novel_cells"], found["novel_called_unknown"]) == (["new"], 1, 1)
    assert found["novel_auroc"] == 0.75, "three of four known cells are more familiar"
    expected = (2 * abs(0.9 - 0.5) + abs(0.5 - 1) + abs(0.7 - 1)) / 4
    assert found["calibration_error"] == pytest.approx(expected)
    assert label_scores(nearest, confidence, unknown, familiar, np.full(6, None, dtype=object), ["a"]) == {}
    none_known = label_scores(nearest, confidence, unknown, familiar, np.full(6, "new", dtype=object), ["a"])
    assert "accuracy" not in none_known
    assert "novel_auroc" not in none_known


def test_calibration_of_numbers_on_the_edges():
    curve = calibration_curve(np.array([0.0, 1.0, 1.0, 0.1]), np.array([False, True, False, True]))
    assert curve == [(0.0, 0.0, 1), (0.1, 1.0, 1), (1.0, 0.5, 2)]
    assert np.isnan(expected_calibration_error(np.array([]), np.array([], dtype=bool)))
