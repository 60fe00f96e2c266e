"""The technical latent space: its prior, what it changes in the model, and what a run learns to put into it."""

from __future__ import annotations

import logging
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from batches import LATENT, SIZES, make_batch, make_model, take
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from torch.distributions import Normal, kl_divergence

from remadom import run
from remadom.config.build import assemble
from remadom.config.load import overlay
from remadom.core.gaussians import kl_between, kl_to_prior
from remadom.core.technical import TechnicalPrior
from remadom.data.mock import generate, mock_config, to_mudata
from remadom.errors import InputError
from remadom.types import Batch, Posterior

TECH = 3


def prior(n_batches: int = 4) -> TechnicalPrior:
    torch.manual_seed(0)
    made = TechnicalPrior(n_batches, TECH, ("rna", "adt"))
    with torch.no_grad():
        made.log_scale.add_(torch.randn_like(made.log_scale))
    return made


def relabeled(batch: Batch, labels: torch.Tensor) -> Batch:
    return replace(batch, groups={**batch.groups, "batch": labels})


def test_the_prior_of_no_known_batch_has_the_moments_of_the_mixture():
    made = prior()
    mu, logvar = made(4, torch.tensor([2, -1, 9, 0]))
    torch.testing.assert_close(mu[[0, 3]], made.mean[[2, 0]])
    torch.testing.assert_close((0.5 * logvar[0]).exp(), made.log_scale[2].exp())
    draws = Normal(made.mean, made.log_scale.exp()).sample((40_000,)).flatten(0, 1)
    for unknown in (1, 2):
        torch.testing.assert_close(mu[unknown], draws.mean(0), rtol=0, atol=0.02)
        torch.testing.assert_close(logvar[unknown].exp(), draws.var(0), rtol=0.04, atol=0)
    torch.testing.assert_close(made(1, None).mu[0], mu[1])


def test_a_modality_is_decoded_with_the_states_in_which_it_was_measured():
    made = prior()
    made.see("adt", torch.tensor([1, 3, 3]))
    z = torch.randn(5, TECH)
    labels = torch.tensor([0, 1, 3, -1, 7])
    state, average = made.state_for("adt", z, labels), made.mean[[1, 3]].mean(0)
    torch.testing.assert_close(state[[1, 2]], z[[1, 2]])
    torch.testing.assert_close(state[[0, 3, 4]], average.expand(3, -1))
    torch.testing.assert_close(made.state_for("adt", z, None), average.expand(5, -1))
    torch.testing.assert_close(made.state_for("rna", z, labels)[:3], z[:3])
    made.see("new", torch.tensor([-1, 8]))
    torch.testing.assert_close(made.state_for("new", z, labels)[3], made.mean.mean(0))


def test_kl_between_gaussians():
    mu, logvar, m, v = (torch.randn(5, 3, dtype=torch.float64) for _ in range(4))
    p, q = Normal(m, (0.5 * v).exp()), Normal(mu, (0.5 * logvar).exp())
    torch.testing.assert_close(kl_between(Posterior(mu, logvar), Posterior(m, v)), kl_divergence(q, p).sum(1))


def test_a_model_without_it_has_no_trace_of_it():
    model = make_model().eval()
    assert not [name for name in model.state_dict() if "technical" in name]
    latent = model.embed(make_batch())
    assert latent.z_tech is None
    assert "kl_tech" not in model.elbo(make_batch())


def test_the_batch_reaches_z_tech_and_never_z_bio():
    model, batch = make_model(tech=TECH).eval(), make_batch()
    other = relabeled(batch, 1 - batch.groups["batch"])
    one, two = model.embed(batch), model.embed(other)
    assert one.z_bio.shape == (9, LATENT)
    assert one.z_tech.shape == (9, TECH)
    assert torch.equal(one.z_bio, two.z_bio)
    assert (one.z_tech - two.z_tech).abs().min() > 1e-3
    assert model.encode(batch)["rna"].mu.shape == (9, LATENT), "heads read z_bio alone"
    z_bio, mu, logvar = one
    assert torch.equal(z_bio, mu)
    torch.testing.assert_close(mu, model.fuse(model.encode(batch)).mu)
    torch.testing.assert_close(logvar, model.product(model.encode(batch)).logvar)


def test_cells_do_not_see_each_other():
    model = make_model(tech=TECH).eval()
    batch = make_batch(has={"adt": np.arange(9) % 2 > 0})
    whole, terms = model.embed(batch), model.terms(model.infer(batch)[1], batch)
    for cells in ([8, 0, 3], [4]):
        part = take(batch, cells)
        torch.testing.assert_close(model.embed(part).z_tech, whole.z_tech[cells])
        for name, value in model.terms(model.infer(part)[1], part).items():
            torch.testing.assert_close(value, terms[name][cells], rtol=1e-5, atol=1e-4)


def test_the_kl_term_covers_both_spaces_over_the_seeds():
    model, batch = make_model(tech=TECH).eval(), make_batch()
    latent = model.infer(batch)[1]
    terms = model.terms(latent, batch)
    of = model.technical(9, batch.groups["batch"])
    torch.testing.assert_close(terms["kl_tech"], kl_between(latent.tech, of))
    torch.testing.assert_close(terms["kl"], kl_to_prior(latent.mu, latent.logvar) + terms["kl_tech"])
    seed = torch.arange(9) < 4
    kept = {f.name: getattr(batch, f.name) for f in fields(batch) if f.name != "n_seeds"}
    partners = Batch(**{**kept, "seed": seed})
    parts = model.elbo(partners, beta=0.3)
    for name in ("kl", "kl_tech", "recon.adt"):
        torch.testing.assert_close(parts[name], terms[name][seed].mean())
    torch.testing.assert_close(parts["loss"], parts["recon"] + 0.3 * parts["kl"])


def test_training_reaches_the_prior_and_every_encoder():
    model = make_model(tech=TECH, modality_dropout=0.5)
    model.elbo(make_batch(40))["loss"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    for encoder in model.encoders.values():
        assert encoder.head.weight.grad.abs().sum(1).min() > 0


def test_imputed_as_a_batch_is_decoded_at_the_mean_of_its_prior():
    model, batch = make_model(tech=TECH).eval(), make_batch()
    z, library = model.embed(batch).z_bio, batch.library["rna"]
    decoder, means = model.decoder("rna"), model.technical.mean

    def at(state: torch.Tensor) -> torch.Tensor:
        return decoder.mean(decoder(z, library, None, state.expand(9, -1)))

    for code, state in ((0, means[0]), (1, means[1]), (-1, means.mean(0))):
        found = model.impute(batch, "rna", batch_labels=torch.full((9,), code))
        torch.testing.assert_close(found, at(state))
    own = model.impute(batch, "rna")
    torch.testing.assert_close(own, at(model.embed(batch).z_tech))
    plain = model.decode(z, batch)["rna"]
    torch.testing.assert_close(decoder.mean(plain), at(means[batch.groups["batch"]]))
    drawn = list(model.draws(batch, "rna", 2, torch.Generator().manual_seed(0)))
    assert [d.shape for d in drawn] == [(9, SIZES["rna"])] * 2


def accuracy(z: np.ndarray, labels: np.ndarray) -> list[float]:
    """Balanced, cross-validated, of a linear classifier and of the nearest neighbors."""
    shares = []
    for classifier in (LogisticRegression(max_iter=1000), KNeighborsClassifier(15)):
        found = cross_val_predict(classifier, z / z.std(0), labels)
        shares.append(float(np.mean([(found == labels)[labels == k].mean() for k in np.unique(labels)])))
    return shares


def test_the_batch_is_told_by_z_tech_and_types_by_z_bio(tmp_path: Path):
    mock = generate("paired", cells=450, genes=80, proteins=12, modalities=["rna", "adt"], batches=3, seed=0)
    raw = overlay(
        mock_config(mock, "mock.h5mu"),
        {
            "data": {"path": None, "split_key": None},
            "model": {"latent_bio": 8, "latent_tech": 4},
            "optim": {"epochs": 25, "batch_size": 64, "lr": 0.005},
            "evaluation": {"figures": False},
            "logging": {"run_dir": str(tmp_path / "run")},
        },
    )
    done = run.train(raw, data=to_mudata(mock))
    arrays = np.load(done.dir / "embeddings.npz")
    obs = mock.obs.loc[arrays["obs_names"]]
    batch, major = obs["batch"].to_numpy().astype(str), obs["cell_type"].astype(str).str[0].to_numpy()
    assert min(accuracy(arrays["z_tech"], batch)) > 0.95
    assert max(accuracy(arrays["z_bio"], batch)) < 1 / 3 + 0.08
    assert min(accuracy(arrays["z_bio"], major)) > 0.7
    assert "elbo.kl_tech" in done.history.history[-1]["train"]
    assert done.assembly.config.model.decoders["rna"]["conditional_batches"] == 1
    again = np.load(run.embed(done.dir.path, to_mudata(mock), out=tmp_path / "e.npz"))
    at = [list(again["obs_names"]).index(name) for name in arrays["obs_names"][:50]]
    np.testing.assert_allclose(again["z_tech"][at], arrays["z_tech"][:50], atol=1e-5)


def test_one_batch_is_refused_and_a_missing_head_is_said(caplog: pytest.LogCaptureFixture):
    mock = generate("paired", cells=60, genes=20, proteins=5, modalities=["rna", "adt"], batches=2)
    raw = overlay(
        mock_config(mock, "mock.h5mu"),
        {"data": {"path": None}, "model": {"latent_tech": 2}, "alignment": {}},
    )
    with caplog.at_level(logging.WARNING):
        assemble(raw, data=to_mudata(mock))
    assert any("no head of alignment compares the batches" in r.message for r in caplog.records)
    with pytest.raises(InputError, match="there is one batch"):
        assemble(overlay(raw, {"data": {"batch_key": "none"}}), data=one_batch(mock))


def one_batch(mock):
    data = to_mudata(mock)
    for part in (data, *data.mod.values()):
        part.obs["none"] = "a"
    return data
