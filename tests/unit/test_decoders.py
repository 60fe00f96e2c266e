"""Decoders: what the guide names, where training starts, and what each option changes."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from remadom.core.decoders import (
    DECODERS,
    ADTMixtureDecoder,
    ATACDecoderBernoulli,
    BetaDecoder,
    GaussianMixtureDecoder,
    NBDecoder,
    NBMixtureDecoder,
    PoissonDecoder,
    RNADecoderZINB,
    ZeroTruncatedNBDecoder,
    ZeroTruncatedPoissonDecoder,
)
from remadom.core.decoders.modes import lower_and_upper_mode
from remadom.types import Rows

Z = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(6) % 2


def counts(mean: np.ndarray, n: int = 400, seed: int = 0) -> Rows:
    return Rows.of(
        sp.csr_matrix(np.random.default_rng(seed).poisson(mean, (n, len(mean))).astype(np.float32))
    )


@pytest.mark.parametrize("decoder_class", [RNADecoderZINB, NBDecoder, PoissonDecoder])
def test_the_mean_scales_with_the_library(decoder_class):
    decoder = decoder_class(3, 5, 2)
    mu = decoder(Z, torch.full((6,), 100.0), LABELS).mu
    torch.testing.assert_close(mu.sum(1), torch.full((6,), 100.0))
    twice = decoder(Z, torch.full((6,), 200.0), LABELS).mu
    torch.testing.assert_close(twice, 2 * mu)
    free = decoder_class(3, 5, 2, library=False)
    torch.testing.assert_close(free(Z, torch.full((6,), 100.0), LABELS).mu, free(Z, None, LABELS).mu)


def test_a_cell_without_counts_has_a_library_of_one():
    assert RNADecoderZINB(3, 5)(Z, torch.zeros(6), None).mu.isfinite().all()


@pytest.mark.parametrize("decoder_class", [ZeroTruncatedNBDecoder, ZeroTruncatedPoissonDecoder])
def test_the_rate_of_what_was_measured_follows_the_library_without_adding_up_to_it(decoder_class):
    decoder = decoder_class(3, 5, 2, library=True)
    mu = decoder(Z, torch.full((6,), 100.0), LABELS).mu
    torch.testing.assert_close(decoder(Z, torch.full((6,), 200.0), LABELS).mu, 2 * mu)
    assert not torch.allclose(mu.sum(1), torch.full((6,), 100.0), rtol=0.1)


@pytest.mark.parametrize("decoder_class", [RNADecoderZINB, NBDecoder, ZeroTruncatedNBDecoder])
@pytest.mark.parametrize(("dispersion", "shape"), [("gene", (5,)), ("batch", (6, 5)), ("cell", (6, 5))])
def test_dispersion_per_gene_batch_or_cell(decoder_class, dispersion: str, shape: tuple[int, ...]):
    decoder = decoder_class(3, 5, 2, dispersion=dispersion)
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


@pytest.mark.parametrize(("inflation", "shape"), [("gene", (5,)), ("cell", (6, 5))])
def test_inflation_per_gene_or_cell(inflation: str, shape: tuple[int, ...]):
    decoder = RNADecoderZINB(3, 5, 2, inflation=inflation)
    decoder.start_from(counts(np.arange(1, 6.0)), None)
    pi = decoder(Z, None, LABELS).pi
    assert pi.shape == shape
    torch.testing.assert_close(pi.mean(), torch.tensor(-3.0).sigmoid(), atol=0.05, rtol=0)
    mean = decoder.mean(decoder(Z, torch.full((6,), 100.0), LABELS))
    assert mean.shape == (6, 5)
    assert mean.sum(1).tolist() == pytest.approx([100 * (1 - pi.mean().item())] * 6, rel=0.1)


@pytest.mark.parametrize("depth", [False, True])
@pytest.mark.parametrize("name", ["zinb", "bernoulli"])
def test_the_likelihood_in_training_is_that_of_the_parameters(name: str, depth: bool):
    """Output layers within the likelihood, and under autocast before it, beside the parameters that users see."""
    torch.manual_seed(3)
    options = {"inflation": "gene" if depth else "cell"} if name == "zinb" else {"depth": depth, "lowrank": 2}
    decoder = DECODERS.build(name, 3, 5, 2, **options)
    x, libsize = counts(np.full(5, 0.5), 6), torch.tensor([1.0, 2, 3, 4, 5, 6])
    decoder.start_from(x, None)
    expected = decoder.reconstruction_loss(x, decoder(Z, libsize, LABELS))
    torch.testing.assert_close(decoder.nll(x, Z, libsize, LABELS).mean(), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = decoder.nll(x, Z, libsize, LABELS).mean()
    torch.testing.assert_close(half, expected, rtol=0.02, atol=0)


@pytest.mark.parametrize("decoder_class", [DECODERS[name] for name in DECODERS])
def test_the_batch_shifts_features_unless_there_is_one(decoder_class):
    decoder = decoder_class(3, 5, 2)
    one, other = (decoder.natural(Z, None, torch.full((6,), b), None)[0] for b in (0, 1))
    assert not torch.allclose(one, other)
    single = decoder_class(3, 5, 1)
    torch.testing.assert_close(
        single.natural(Z, None, LABELS, None)[0], single.natural(Z, None, None, None)[0]
    )


@pytest.mark.parametrize("name", list(DECODERS))
def test_every_feature_has_a_coefficient_for_each_covariate(name: str):
    """Where the hidden layer does not look at them, covariates shift each feature by its own weights, exactly."""
    torch.manual_seed(0)
    plain = {"library": False} if name in ("zinb", "nb", "poisson") else {}
    decoder = DECODERS.build(name, 3, 5, 2, 2, **plain)
    with torch.no_grad():
        decoder.first.weight[:, -2:] = 0
    heads = {key: head for key, head in decoder.named_modules() if key.endswith("head")}
    head = next(iter(heads.values()))  # that of the mean, or of the background
    assert all(other.weight[:, -2:].unique().numel() == 10 for other in heads.values())
    zero, given = torch.zeros(6, 2), torch.tensor([[0.5, -2.0]]).repeat(6, 1)
    one, other = (decoder.natural(Z, None, LABELS, c)[0] for c in (zero, given))
    torch.testing.assert_close(other - one, (given @ head.weight[:, -2:].T), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(decoder.natural(Z, None, LABELS, None)[0], one)


def many(decoder: torch.nn.Module, n: int = 20_000) -> tuple[object, torch.Tensor]:
    """Parameters of one cell, ``n`` times, and a draw for each."""
    z = Z[:1].expand(n, 3)
    libsize = torch.full((n,), 12.0)
    with torch.no_grad():
        params = decoder(z, libsize, LABELS[:1].expand(n))
        return params, decoder.sample(params, torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", list(DECODERS))
def test_draws_have_the_mean_that_is_expected_and_the_likelihood_that_is_scored(name: str):
    torch.manual_seed(2)
    decoder = DECODERS.build(name, 3, 5, 2)
    params, drawn = many(decoder)
    expected = decoder.mean(params)[0]
    error = drawn.std(0) / len(drawn) ** 0.5
    assert ((drawn.mean(0) - expected).abs() < 5 * error).all()
    if decoder.support != "counts":
        return
    bulk = [drawn[:, 0] == k for k in range(4)]  # the share of each count is its likelihood
    for k, share in enumerate(b.float().mean().item() for b in bulk):
        column = torch.tensor([[float(k)] * 5])
        alone = [p[:1, [0]] if p.dim() > 1 else p[[0]] for p in decoder.from_params(params)]
        likelihood = (-decoder.likelihood(column[:, :1], *alone)).exp().item()
        if k == 0 and not decoder.scores_zeros:
            likelihood = 0.0
        assert share == pytest.approx(likelihood, abs=0.015), k


@pytest.mark.parametrize("decoder_class", [ZeroTruncatedNBDecoder, ZeroTruncatedPoissonDecoder])
def test_what_was_measured_is_never_zero(decoder_class):
    decoder = decoder_class(3, 5)
    with torch.no_grad():
        for head in (m for k, m in decoder.named_modules() if k in ("head", "mean_head")):
            head.bias.copy_(torch.tensor([-60.0, -5.0, 0.0, 2.0, 5.0]))
    params, drawn = many(decoder, 2000)
    assert (drawn >= 1).all()
    assert decoder.mean(params).isfinite().all()
    torch.testing.assert_close(decoder.mean(params)[0, 0], torch.tensor(1.0))


def test_depth_keeps_probabilities_below_one_and_multiplies_fragments():
    decoder = ATACDecoderBernoulli(3, 5, depth=True)
    depths = torch.tensor([1.0, 2.0, 1e3, 1e4, 1e6, 1e9])
    p = decoder(Z[:1].expand(6, 3), depths).p
    assert ((p > 0) & (p <= 1)).all()
    torch.testing.assert_close(1 - p[1], (1 - p[0]) ** 2)  # closed with twice the fragments: closed twice
    assert decoder.library
    assert not ATACDecoderBernoulli(3, 5).library


def test_lowrank_has_fewer_numbers_per_peak():
    full, low = ATACDecoderBernoulli(3, 1000, 0), ATACDecoderBernoulli(3, 1000, 0, lowrank=4)
    size = lambda d: sum(p.numel() for p in d.parameters())  # noqa: E731
    assert size(full) - size(low) > 1000 * (128 - 4) - 128 * 4 - 1
    singular = torch.linalg.svdvals(low(torch.randn(50, 3)).logits - low.head.bias)
    assert (singular[4:] < 1e-3 * singular[0]).all()


@pytest.mark.parametrize("decoder_class", [ADTMixtureDecoder, NBMixtureDecoder, GaussianMixtureDecoder])
def test_foreground_is_above_background(decoder_class):
    params = decoder_class(3, 5, 2)(Z, None, LABELS)
    assert (params[1] >= params[0]).all()
    assert ((params.alpha > 0) & (params.alpha < 1)).all()


def started(decoder: torch.nn.Module, sample: Rows) -> torch.nn.Module:
    """The decoder at the start of training, without what its random weights add."""
    decoder.start_from(sample, None)
    with torch.no_grad():
        for key, head in decoder.named_modules():
            if key.endswith("head"):
                head.weight.zero_()
    return decoder


@pytest.mark.parametrize("library", [True, False])
@pytest.mark.parametrize("decoder_class", [RNADecoderZINB, NBDecoder, PoissonDecoder])
def test_counts_start_from_the_means_of_the_data(decoder_class, library: bool):
    mean = np.array([8.0, 4.0, 2.0, 1.0, 0.5])
    decoder = started(decoder_class(3, 5, library=library), counts(mean))
    mu = decoder(Z, torch.full((6,), float(mean.sum())), None).mu[0]
    np.testing.assert_allclose(mu.detach(), mean, rtol=0.1)


@pytest.mark.parametrize("library", [True, False])
@pytest.mark.parametrize("decoder_class", [ZeroTruncatedNBDecoder, ZeroTruncatedPoissonDecoder])
def test_what_was_measured_starts_from_the_rate_that_its_zeros_hide(decoder_class, library: bool):
    mean = np.array([8.0, 4.0, 2.0, 1.0, 0.5])
    sample = counts(mean, n=4000)
    decoder = started(decoder_class(3, 5, library=library), sample)
    total = torch.full((6,), float(sample.totals().mean()))
    np.testing.assert_allclose(decoder(Z, total, None).mu[0].detach(), mean, rtol=0.1)


@pytest.mark.parametrize("name", ["gaussian", "gaussian_mixture"])
def test_real_values_start_from_their_means_and_deviations(name: str):
    rng = np.random.default_rng(0)
    signal = rng.random((4000, 3)) < [0.2, 0.5, 0.7]
    x = rng.normal(np.where(signal, [4.0, 1.0, 0.5], [-2.0, -3.0, -1.5]), 0.4)
    decoder = started(DECODERS.build(name, 3, 3), Rows.from_dense(x))
    params, drawn = many(decoder)
    np.testing.assert_allclose(decoder.mean(params)[0].detach(), x.mean(0), atol=0.05)
    np.testing.assert_allclose(drawn.std(0), x.std(0), rtol=0.1)
    if name == "gaussian_mixture":
        np.testing.assert_allclose(params.loc_b[0], [-2.0, -3.0, -1.5], atol=0.1)
        np.testing.assert_allclose(params.scale_f, 0.4, atol=0.1)


def test_fractions_start_from_their_ends_means_and_precision():
    rng = np.random.default_rng(0)
    x = rng.beta([2.0, 6.0, 0.8], [6.0, 2.0, 0.8], (4000, 3))
    ends = rng.random((4000, 3))
    x = np.where(ends < [0.1, 0.3, 0.6], 0.0, np.where(ends > [0.9, 0.95, 0.8], 1.0, x))
    decoder = started(BetaDecoder(3, 3), Rows.of(sp.csr_matrix(x.astype(np.float32))))
    params, drawn = many(decoder)
    np.testing.assert_allclose(decoder.mean(params)[0].detach(), x.mean(0), atol=0.02)
    for end in (0.0, 1.0):
        np.testing.assert_allclose((drawn == end).float().mean(0), (x == end).mean(0), atol=0.02)
    np.testing.assert_allclose(drawn.std(0), x.std(0), rtol=0.05)
    assert ((drawn >= 0) & (drawn <= 1)).all()


def test_beta_of_one_value_has_finite_ends():
    for constant in (0.0, 1.0, 0.25):
        decoder = BetaDecoder(3, 3)
        decoder.start_from(Rows.from_dense(np.full((20, 3), constant)), None)
        x = Rows.from_dense(np.full((6, 3), constant))
        assert decoder.nll(x, Z).isfinite().all()
        np.testing.assert_allclose(decoder.mean(started(decoder, x)(Z)).detach(), constant, atol=0.1)


@pytest.mark.parametrize("depth", [False, True])
def test_atac_starts_from_the_open_share(depth: bool):
    sample = counts(np.array([0.05, 0.5, 3.0]))
    decoder = started(ATACDecoderBernoulli(3, 3, depth=depth), sample)
    open_share = (sample.dense() > 0).float().mean(0)
    typical = sample.totals().clamp(min=1).mean().expand(6)
    torch.testing.assert_close(decoder(Z, typical).p[0].detach(), open_share)


@pytest.mark.parametrize("decoder_class", [ADTMixtureDecoder, NBMixtureDecoder])
def test_adt_background_starts_from_the_lower_mode_of_each_batch(decoder_class):
    rng = np.random.default_rng(0)
    labels = np.arange(600) % 2
    background = np.where(labels == 0, 5, 20)[:, None] * np.ones((1, 3))
    signal = rng.random((600, 3)) < 0.3
    x = rng.poisson(background + signal * 400).astype(np.float32)
    decoder = decoder_class(3, 3, 2)
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
