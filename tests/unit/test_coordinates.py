"""Coordinates of what cells decode to: a multiple factor analysis of their profiles."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from remadom.core.coordinates import DecodedCoordinates, comparable
from remadom.core.decoders import DECODERS, Decoder
from remadom.core.encoder import GaussianEncoder
from remadom.core.fusion import ProductOfExperts
from remadom.core.inputs import INPUTS
from remadom.core.vae import MosaicVAE
from remadom.train import coordinates
from remadom.train.coordinates import fit_coordinates

LATENT, FEATURES = 5, {"adt": 6, "rna": 30}
TOTALS = {"adt": 1.0, "rna": 800.0}


def model_of(n_batches: int = 2, **likelihoods: str) -> MosaicVAE:
    torch.manual_seed(0)
    names = {"adt": "poisson_mixture", "rna": "nb"} | likelihoods
    decoders = {m: DECODERS[names[m]](LATENT, size, n_batches) for m, size in FEATURES.items()}
    return of_decoders(decoders)


def of_decoders(decoders: dict[str, Decoder]) -> MosaicVAE:
    encoders = {
        m: GaussianEncoder(d.out_dim, LATENT, INPUTS.build("log1p", d.out_dim)) for m, d in decoders.items()
    }
    return MosaicVAE(encoders, ProductOfExperts(None, tuple(decoders)), decoders).eval()


def places(n: int = 300) -> torch.Tensor:
    return torch.randn(n, LATENT, generator=torch.Generator().manual_seed(1))


def placed(model: MosaicVAE, z: torch.Tensor, **given) -> np.ndarray:
    found = fit_coordinates(model, given.get("fitted", z), TOTALS, given.get("seed", 0))
    with torch.no_grad():
        return found(z, model.profile).numpy()


def apart(x: np.ndarray) -> np.ndarray:
    return np.linalg.norm(x[:, None] - x[None], axis=-1)


def test_distances_are_those_of_a_multiple_factor_analysis_of_the_profiles():
    model, z = model_of(), places()
    blocks = []
    for modality, total in TOTALS.items():
        with torch.no_grad():
            given = (torch.full((len(z),), total), torch.full((len(z),), -1), None)
            decoder = model.decoder(modality)
            x = decoder.mean(decoder(z, *given)).double().numpy()
        x = np.log1p(1e4 * x / x.sum(1, keepdims=True))
        x -= x.mean(1, keepdims=True)
        x -= x.mean(0)
        u, s, _ = np.linalg.svd(x, full_matrices=False)
        blocks.append((u * s)[:, :LATENT] / (s[0] / np.sqrt(len(x) - 1)))
    u, s, _ = np.linalg.svd(np.hstack(blocks), full_matrices=False)
    expected = (u * s)[:, :LATENT]
    expected *= np.sqrt(float(z.var(0).sum()) / expected.var(0, ddof=1).sum())
    np.testing.assert_allclose(apart(placed(model, z)), apart(expected), atol=2e-3)


def test_no_batch_and_no_depth_is_in_them():
    model, z = model_of(), places()
    with torch.no_grad():
        one, deeper = (model.profile(z, "rna", total) for total in (800.0, 8000.0))
        decoder = model.decoder("rna")
        each = [decoder(z, torch.full((len(z),), 800.0), torch.full((len(z),), b), None).mu for b in (0, 1)]
    torch.testing.assert_close(one, deeper, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(comparable(each[0], "counts"), comparable(each[1], "counts"), atol=1e-3)
    one = placed(model, z)
    assert float(one.var(0, ddof=1).sum()) == pytest.approx(float(z.var(0).sum()), rel=1e-3)


def test_the_order_of_cells_and_of_modalities_does_not_matter():
    model, z = model_of(), places()
    turn = torch.randperm(len(z), generator=torch.Generator().manual_seed(2))
    np.testing.assert_allclose(
        apart(placed(model, z)), apart(placed(model, z, fitted=z[turn], seed=3)), atol=5e-3
    )
    turned = of_decoders({m: model.decoder(m) for m in list(FEATURES)[::-1]})
    np.testing.assert_allclose(apart(placed(model, z)), apart(placed(turned, z)), atol=5e-3)


def test_features_beyond_the_limit_are_those_that_vary_least(monkeypatch):
    monkeypatch.setattr(coordinates, "FEATURES", 4)
    model, z = model_of(), places()
    found = fit_coordinates(model, z, TOTALS, 0)
    with torch.no_grad():
        variance = model.profile(z, "rna", 800.0).var(0)
    used = found.axes_rna.abs().sum(1) > 0
    assert set(used.nonzero().squeeze(1).tolist()) == set(variance.topk(4).indices.tolist())


def test_values_that_are_not_counts_are_compared_as_they_are():
    model = model_of(adt="gaussian")
    x = torch.randn(7, 6)
    torch.testing.assert_close(comparable(x, model.decoder("adt").support), x)


def test_there_are_none_where_all_cells_decode_to_the_same():
    model = model_of()
    with torch.no_grad():
        for decoder in model.decoders.values():
            decoder.first.weight.zero_()
    assert fit_coordinates(model, places(), TOTALS, 0) is None


def test_a_modality_that_tells_nothing_takes_no_part():
    model, z = model_of(), places()
    with torch.no_grad():
        model.decoder("adt").first.weight.zero_()
    found = fit_coordinates(model, z, TOTALS, 0)
    assert found.modalities == ("rna",)


def test_they_are_kept_as_arrays():
    model, z = model_of(), places()
    found = fit_coordinates(model, z, TOTALS, 0)
    again = DecodedCoordinates.from_arrays(found.state_dict())
    with torch.no_grad():
        one, other = (each(z, model.profile) for each in (found, again))
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_more_dimensions_than_are_decoded_are_left_at_zero():
    torch.manual_seed(0)
    model, z = of_decoders({"adt": DECODERS["poisson_mixture"](LATENT, 3, 1)}), places()
    found = fit_coordinates(model, z, TOTALS, 0)
    with torch.no_grad():
        y = found(z, model.profile)
    assert y.shape == z.shape
    assert (y[:, 3:] == 0).all()
