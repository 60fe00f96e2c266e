"""Decoders: what the guide names, where training starts, and what each option changes."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from remadom.core.decoders import ADTMixtureDecoder, ATACDecoderBernoulli, RNADecoderZINB
from remadom.core.decoders.adt import lower_and_upper_mode
from remadom.types import Rows

Z = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(6) % 2


def counts(mean: np.ndarray, n: int = 400, seed: int = 0) -> Rows:
    return Rows.of(
        sp.csr_matrix(np.random.default_rng(seed).poisson(mean, (n, len(mean))).astype(np.float32))
    )


def test_rna_mean_scales_with_the_library():
    decoder = RNADecoderZINB(3, 5, 2)
    mu, theta, pi = decoder(Z, torch.full((6,), 100.0), LABELS)
    torch.testing.assert_close(mu.sum(1), torch.full((6,), 100.0))
    twice = decoder(Z, torch.full((6,), 200.0), LABELS).mu
    torch.testing.assert_close(twice, 2 * mu)
    assert (theta > 0).all()
    assert ((pi >= 0) & (pi <= 1)).all()
    free = RNADecoderZINB(3, 5, 2, library=False)
    torch.testing.assert_close(free(Z, torch.full((6,), 100.0), LABELS).mu, free(Z, None, LABELS).mu)


def test_a_cell_without_counts_has_a_library_of_one():
    assert RNADecoderZINB(3, 5)(Z, torch.zeros(6), None).mu.isfinite().all()


@pytest.mark.parametrize(("dispersion", "shape"), [("gene", (5,)), ("batch", (6, 5)), ("cell", (6, 5))])
def test_rna_dispersion_per_gene_batch_or_cell(dispersion: str, shape: tuple[int, ...]):
    decoder = RNADecoderZINB(3, 5, 2, dispersion=dispersion)
    with torch.no_grad():
        if decoder.log_theta is not None:
            decoder.log_theta.copy_(torch.randn_like(decoder.log_theta))
    theta = decoder(Z, None, LABELS).theta
    assert theta.shape == shape
    if dispersion == "batch":
        torch.testing.assert_close(theta[0], theta[2])
        assert not torch.allclose(theta[0], theta[1])
    if dispersion == "cell":
        assert not torch.allclose(theta[0], theta[2])


@pytest.mark.parametrize("decoder_class", [RNADecoderZINB, ATACDecoderBernoulli, ADTMixtureDecoder])
def test_the_batch_shifts_features_unless_there_is_one(decoder_class):
    decoder = decoder_class(3, 5, 2)
    one, other = (decoder.natural(Z, None, torch.full((6,), b))[0] for b in (0, 1))
    assert not torch.allclose(one, other)
    single = decoder_class(3, 5, 1)
    torch.testing.assert_close(single.natural(Z, None, LABELS)[0], single.natural(Z, None, None)[0])


def test_lowrank_has_fewer_numbers_per_peak():
    full, low = ATACDecoderBernoulli(3, 1000, 0), ATACDecoderBernoulli(3, 1000, 0, lowrank=4)
    size = lambda d: sum(p.numel() for p in d.parameters())  # noqa: E731
    assert size(full) - size(low) > 1000 * (128 - 4) - 128 * 4 - 1
    singular = torch.linalg.svdvals(low(torch.randn(50, 3)).logits - low.head.bias)
    assert (singular[4:] < 1e-3 * singular[0]).all()


def test_foreground_is_above_background():
    mu_b, mu_f, alpha = ADTMixtureDecoder(3, 5, 2)(Z, None, LABELS)
    assert (mu_f >= mu_b).all()
    assert ((alpha > 0) & (alpha < 1)).all()


@pytest.mark.parametrize("library", [True, False])
def test_rna_starts_from_the_means_of_the_data(library: bool):
    mean = np.array([8.0, 4.0, 2.0, 1.0, 0.5])
    sample = counts(mean)
    decoder = RNADecoderZINB(3, 5, library=library)
    decoder.start_from(sample, None)
    with torch.no_grad():
        for head in (decoder.mean_head, decoder.inflation_head):
            head.weight.zero_()
    mu = decoder(Z, torch.full((6,), float(mean.sum())), None).mu[0]
    np.testing.assert_allclose(mu.detach(), mean, rtol=0.1)


def test_atac_starts_from_the_open_share():
    sample = counts(np.array([0.05, 0.5, 3.0]))
    decoder = ATACDecoderBernoulli(3, 3)
    decoder.start_from(sample, None)
    with torch.no_grad():
        decoder.head.weight.zero_()
    open_share = (sample.dense() > 0).float().mean(0)
    torch.testing.assert_close(decoder(Z).p[0].detach(), open_share)


def test_adt_background_starts_from_the_lower_mode_of_each_batch():
    rng = np.random.default_rng(0)
    labels = np.arange(600) % 2
    background = np.where(labels == 0, 5, 20)[:, None] * np.ones((1, 3))
    signal = rng.random((600, 3)) < 0.3
    x = rng.poisson(background + signal * 400).astype(np.float32)
    decoder = ADTMixtureDecoder(3, 3, 2)
    decoder.start_from(Rows.from_dense(x), torch.from_numpy(labels))
    with torch.no_grad():
        decoder.background_head.weight[:, :-2] = 0
        decoder.ratio_head.weight.zero_()
    params = decoder(Z, None, LABELS)
    np.testing.assert_allclose(params.mu_b[:2].detach(), [[5] * 3, [20] * 3], rtol=0.15)
    assert (params.mu_f > 150).all()


def test_modes_of_a_constant_column_are_finite():
    low, high, share = lower_and_upper_mode(torch.zeros(10, 2))
    assert all(v.isfinite().all() for v in (low, high, share.float()))
