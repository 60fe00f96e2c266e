"""The mosaic VAE: any pattern of missing modalities, and what must not depend on anything but the cell."""

from __future__ import annotations

from dataclasses import fields
from itertools import combinations

import numpy as np
import pytest
import torch
from batches import LATENT, SIZES, make_batch, make_counts, make_model, take

from remadom.core.fusion import ProductOfExperts
from remadom.core.vae import MosaicVAE
from remadom.errors import InputError
from remadom.types import Batch, Latent, Posterior

NAMES = tuple(SIZES)
SUBSETS = [s for k in (1, 2, 3) for s in combinations(NAMES, k)]


def only(subset: tuple[str, ...], n: int = 9) -> dict[str, np.ndarray]:
    return {m: np.full(n, m in subset) for m in NAMES}


def test_api_of_the_guide():
    model, batch = make_model(), make_batch()
    enc_outs = model.encode(batch)
    assert set(enc_outs) == set(NAMES)
    assert all(isinstance(p, Posterior) and p.mu.shape == (9, LATENT) for p in enc_outs.values())
    z_bio, mu, _ = model.fuse(enc_outs)
    assert not torch.equal(z_bio, mu), "training samples"
    params = model.decode(z_bio, batch)
    assert params["rna"].mu.shape == (9, SIZES["rna"])
    assert params["atac"].p.shape == (9, SIZES["atac"])
    assert params["adt"].alpha.shape == (9, SIZES["adt"])
    parts = model.elbo(batch)
    torch.testing.assert_close(parts["loss"], parts["recon"] + parts["kl"])
    torch.testing.assert_close(parts["recon"], sum(parts[f"recon.{m}"] for m in NAMES))
    latent = model.embed(batch)
    assert isinstance(latent, Latent)
    assert torch.equal(latent.z_bio, latent.mu), "embed has no noise"


@pytest.mark.parametrize("subset", SUBSETS, ids="+".join)
def test_every_pattern_of_modalities_trains_embeds_and_decodes(subset: tuple[str, ...]):
    model, batch = make_model(modality_dropout=0.5), make_batch(has=only(subset))
    loss = model.elbo(batch)["loss"]
    loss.backward()
    assert loss.isfinite()
    for m in NAMES:
        grads = [p.grad for p in model.encoders[m].parameters()]
        reached = any(g is not None and g.abs().sum() > 0 for g in grads)
        assert reached == (m in subset)
    assert all(
        torch.isfinite(p).all()
        for params in model.decode(model.embed(batch).mu, batch).values()
        for p in params
    )


def test_an_absent_modality_is_as_if_the_model_had_none():
    both, alone = make_model(("rna", "adt")).eval(), make_model(("rna",)).eval()
    alone.encoders["rna"].load_state_dict(both.encoders["rna"].state_dict())
    batch = make_batch(has={"adt": np.zeros(9, dtype=bool)})
    torch.testing.assert_close(both.embed(batch).mu, alone.embed(batch).mu)
    assert both.terms(both.infer(batch)[1], batch)["recon.adt"].abs().sum() == 0


def test_values_of_absent_cells_cannot_leak():
    counts = make_counts(9)
    has = {"adt": np.arange(9) % 2 == 0}
    model = make_model().eval()
    garbage = {**counts, "adt": np.where(has["adt"][:, None], counts["adt"], 0)}
    for a, b in zip(
        model.embed(make_batch(has=has, counts=counts)),
        model.embed(make_batch(has=has, counts=garbage)),
        strict=True,
    ):
        assert torch.equal(a, b)


def test_a_measured_zero_cell_is_not_a_missing_one():
    counts = make_counts(9)
    counts["rna"][3] = 0
    measured, missing = make_batch(counts=counts), make_batch(counts=counts, has={"rna": np.arange(9) != 3})
    model = make_model().eval()
    assert not torch.allclose(model.embed(measured).mu[3], model.embed(missing).mu[3])
    assert model.terms(model.infer(measured)[1], measured)["recon.rna"][3] > 0


def test_cells_do_not_see_each_other_and_their_order_does_not_matter():
    model = make_model().eval()
    batch = make_batch(has={"atac": np.arange(9) % 3 > 0, "adt": np.arange(9) % 2 > 0})
    whole, terms = model.embed(batch), model.terms(model.infer(batch)[1], batch)
    for cells in ([8, 0, 3], [4], list(range(8, -1, -1))):
        part = take(batch, cells)
        for a, b in zip(model.embed(part), whole, strict=True):
            torch.testing.assert_close(a, b[cells], rtol=1e-5, atol=1e-6)
        for name, value in model.terms(model.infer(part)[1], part).items():
            torch.testing.assert_close(value, terms[name][cells], rtol=1e-5, atol=1e-4)


def test_the_order_of_the_modalities_does_not_matter():
    model = make_model().eval()
    turned = MosaicVAE(
        dict(reversed(model.encoders.items())), ProductOfExperts(), dict(reversed(model.decoders.items()))
    ).eval()
    batch = make_batch()
    for a, b in zip(model.embed(batch), turned.embed(batch), strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(model.elbo(batch)["loss"], turned.elbo(batch)["loss"])


def test_the_loss_is_the_mean_over_seed_cells():
    model, batch = make_model().eval(), make_batch()
    terms = model.terms(model.infer(batch)[1], batch)
    seed = torch.arange(9) < 4
    kept = {f.name: getattr(batch, f.name) for f in fields(batch) if f.name != "n_seeds"}
    partners = Batch(**{**kept, "seed": seed})
    parts = model.elbo(partners, beta=0.3)
    torch.testing.assert_close(parts["kl"], terms["kl"][seed].mean())
    for modality in model.decoders:
        torch.testing.assert_close(parts[f"recon.{modality}"], terms[f"recon.{modality}"][seed].mean())
    torch.testing.assert_close(parts["loss"], parts["recon"] + 0.3 * parts["kl"])


def test_modality_weights_weigh_the_reconstruction():
    plain, weighted = make_model().eval(), make_model(modality_weights={"adt": 3.0, "atac": 0.0}).eval()
    batch = make_batch()
    parts = plain.elbo(batch)
    torch.testing.assert_close(weighted.elbo(batch)["recon"], parts["recon.rna"] + 3 * parts["recon.adt"])


def test_the_elbo_is_below_the_evidence():
    """With one latent dimension the evidence of a cell is an integral that quadrature does exactly."""
    torch.manual_seed(0)
    model = make_model(("adt",)).double().eval()
    for encoder in model.encoders.values():
        encoder.head = torch.nn.Linear(8, 2).double()
    decoder = type(model.decoders["adt"])(1, SIZES["adt"], 0, hidden=8).double()
    model.decoders["adt"] = decoder
    counts = torch.poisson(torch.full((1, SIZES["adt"]), 2.0)).double()
    grid = torch.linspace(-8, 8, 4001, dtype=torch.float64).unsqueeze(1)
    log_joint = -decoder.likelihood(counts.expand(4001, -1), *decoder.natural(grid, None, None, None))
    log_joint = log_joint - 0.5 * grid[:, 0] ** 2 - 0.5 * np.log(2 * np.pi)
    evidence = torch.logsumexp(log_joint, 0) + np.log(16 / 4000)
    q = torch.distributions.Normal(torch.tensor(0.3, dtype=torch.float64), 0.7)
    z = q.sample((20_000, 1))
    nll = decoder.likelihood(counts.expand(20_000, -1), *decoder.natural(z, None, None, None))
    kl = torch.distributions.kl_divergence(q, torch.distributions.Normal(torch.tensor(0.0).double(), 1.0))
    assert -(nll.mean() + kl) < evidence


def test_a_model_without_encoders_is_refused():
    with pytest.raises(InputError, match="no encoder"):
        MosaicVAE({}, ProductOfExperts(), {})
