"""Likelihoods against scipy.stats in float64 on a grid with extremes, and gradients against finite differences."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scipy import stats
from scipy.special import expit, log_expit

from remadom.core.likelihood import (
    Affine,
    bernoulli_nll,
    block,
    gaussian_mixture_nll,
    gaussian_nll,
    library_zinb_nll,
    nb_mixture_nll,
    nb_nll,
    opened_nll,
    ordered_beta_nll,
    poisson_mixture_nll,
    poisson_nll,
    positive_nb_nll,
    positive_poisson_nll,
    zinb_nll,
)
from remadom.types import Rows

MU = np.array([1e-8, 1e-4, 0.3, 1.0, 17.0, 1e3, 1e6])
THETA = np.array([1e-4, 1e-2, 0.5, 3.0, 15.9, 16.1, 1e3, 1e6])
X = np.array([0, 1, 2, 7, 40, 1000, 10**6])
PI = np.array([1e-6, 0.1, 0.5, 0.999])


def grid(*axes: np.ndarray) -> list[np.ndarray]:
    """Every combination of the values, one cell of one feature each."""
    return [a.reshape(-1, 1) for a in np.meshgrid(*axes, indexing="ij")]


def blocks(x: np.ndarray) -> list[Rows]:
    """The same counts as a sparse and as a dense block, in float64."""
    sparse = Rows.from_scipy(sp.csr_matrix(x.astype(np.float64)))
    return [
        Rows(sparse.values.double(), sparse.n_features, sparse.indptr, sparse.indices, sparse.columns),
        Rows.from_dense(torch.from_numpy(x.astype(np.float64))),
    ]


def t(a: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(a, dtype=np.float64))


def exact_nb_logpmf(x: np.ndarray, mu: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """Negative binomial to 60 digits: ``scipy.stats.nbinom`` takes p = theta/(theta+mu) and loses 1-p near 1."""
    with mpmath.workdps(60):
        out = []
        for xi, m, th in zip(x.ravel().tolist(), mu.ravel().tolist(), theta.ravel().tolist(), strict=True):
            m, th = mpmath.mpf(m), mpmath.mpf(th)
            gammas = mpmath.loggamma(xi + th) - mpmath.loggamma(th) - mpmath.loggamma(xi + 1)
            out.append(float(gammas + th * mpmath.log(th / (th + m)) + xi * mpmath.log(m / (th + m))))
    return np.array(out).reshape(x.shape)


def zinb_logpmf(x: np.ndarray, nb: np.ndarray, pi: np.ndarray) -> np.ndarray:
    return np.where(x > 0, np.log1p(-pi) + nb, np.logaddexp(np.log(pi), np.log1p(-pi) + nb))[:, 0]


def test_zinb_equals_the_exact_distribution():
    x, mu, theta, pi = grid(X, MU, THETA, PI)
    expected = zinb_logpmf(x, exact_nb_logpmf(x, mu, theta), pi)
    for rows in blocks(x):
        found = -zinb_nll(rows, t(np.log(mu)), t(np.log(theta)), t(np.log(pi) - np.log1p(-pi))).numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


def test_zinb_equals_scipy_where_scipy_is_well_conditioned():
    x, mu, theta, pi = grid(
        X[X <= 1000], np.array([0.3, 1.0, 17.0, 1e3]), np.array([0.5, 3.0, 16.1, 1e3]), PI
    )
    expected = zinb_logpmf(x, stats.nbinom.logpmf(x, theta, theta / (theta + mu)), pi)
    for rows in blocks(x):
        found = -zinb_nll(rows, t(np.log(mu)), t(np.log(theta)), t(np.log(pi) - np.log1p(-pi))).numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


def test_bernoulli_equals_scipy():
    x, p = grid(np.array([0, 1]), np.array([1e-12, 1e-4, 0.3, 0.5, 0.999]))
    for rows in blocks(x):
        found = -bernoulli_nll(rows, t(np.log(p) - np.log1p(-p))).numpy()
        np.testing.assert_allclose(found, stats.bernoulli.logpmf(x, p)[:, 0], rtol=1e-9, atol=1e-12)


def test_bernoulli_counts_above_one_are_open():
    logits = torch.randn(1, 3, dtype=torch.float64)
    one, many = torch.tensor([[1.0, 0, 1]]), torch.tensor([[7.0, 0, 2]])
    assert torch.equal(bernoulli_nll(one, logits), bernoulli_nll(many, logits))


def test_poisson_mixture_equals_scipy():
    x, b, f, a = grid(X, MU, MU, PI)
    pb, pf = stats.poisson.logpmf(x, b), stats.poisson.logpmf(x, f)
    expected = np.logaddexp(np.log(a) + pf, np.log1p(-a) + pb)
    for rows in blocks(x):
        found = -poisson_mixture_nll(rows, t(np.log(b)), t(np.log(f)), t(np.log(a) - np.log1p(-a))).numpy()
        np.testing.assert_allclose(found, expected[:, 0], rtol=1e-9, atol=1e-9)


def test_nb_equals_the_exact_distribution_and_scipy_where_that_is_well_conditioned():
    x, mu, theta = grid(X, MU, THETA)
    expected = exact_nb_logpmf(x, mu, theta)
    for rows in blocks(x):
        found = -nb_nll(rows, t(np.log(mu)), t(np.log(theta))).numpy()
        np.testing.assert_allclose(found, expected[:, 0], rtol=1e-9, atol=1e-9)
    mild = (x <= 1000) & (mu >= 0.3) & (mu <= 1e3) & (theta >= 0.5) & (theta <= 1e3)
    scipys = stats.nbinom.logpmf(x[mild], theta[mild], (theta / (theta + mu))[mild])
    np.testing.assert_allclose(expected[mild], scipys, rtol=1e-9, atol=1e-9)


def test_poisson_equals_scipy():
    x, mu = grid(X, MU)
    for rows in blocks(x):
        found = -poisson_nll(rows, t(np.log(mu))).numpy()
        np.testing.assert_allclose(found, stats.poisson.logpmf(x, mu)[:, 0], rtol=1e-9, atol=1e-9)


def test_counts_above_zero_are_scored_given_that_they_are_and_zeros_are_not():
    """The truncated forms against 60 digits: ``log(1 - P(0))`` is lost in doubles where P(0) is near one."""
    x, mu, theta = grid(X, MU, THETA)
    with mpmath.workdps(60):
        pairs = zip(mu.ravel().tolist(), theta.ravel().tolist(), strict=True)
        nb_seen = [mpmath.log(1 - (1 + mpmath.mpf(m) / th) ** -mpmath.mpf(th)) for m, th in pairs]
        poisson_seen = [mpmath.log(1 - mpmath.exp(-mpmath.mpf(m))) for m in mu.ravel().tolist()]
    for plain, seen, nll, args in (
        (exact_nb_logpmf(x, mu, theta), nb_seen, positive_nb_nll, (mu, theta)),
        (stats.poisson.logpmf(x, mu), poisson_seen, positive_poisson_nll, (mu,)),
    ):
        expected = np.where(x > 0, plain - np.array(seen, dtype=float).reshape(x.shape), 0.0)
        for rows in blocks(x):
            found = -nll(rows, *(t(np.log(a)) for a in args)).numpy()
            np.testing.assert_allclose(found, expected[:, 0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("mu", [0.05, 2.0, 30.0])
def test_the_probabilities_of_all_counts_above_zero_are_one(mu: float):
    x = torch.arange(1.0, 2001, dtype=torch.float64).unsqueeze(1)
    log_mu = torch.full_like(x, float(np.log(mu)))
    for nll in (positive_poisson_nll(x, log_mu), positive_nb_nll(x, log_mu, torch.tensor([0.7]).double())):
        assert (-nll).exp().sum().item() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rates_that_underflow_keep_their_logs(dtype: torch.dtype):
    """At a vanishing rate one count is all that a positive count can be, and one event is ``rate`` likely."""
    log_rate = torch.tensor([[-200.0], [-2000.0]], dtype=dtype, requires_grad=True)
    one = torch.ones(2, 1, dtype=dtype)
    theta = torch.zeros(1, dtype=dtype)
    for nll, expected in (
        (opened_nll(one, log_rate), -log_rate[:, 0]),
        (positive_poisson_nll(one, log_rate), torch.zeros(2)),
        (positive_nb_nll(one, log_rate, theta), torch.zeros(2)),
    ):
        torch.testing.assert_close(nll, expected.to(dtype), rtol=1e-6, atol=1e-3)
        (slope,) = torch.autograd.grad(nll.sum(), log_rate)
        torch.testing.assert_close(slope[:, 0], -(expected != 0).to(dtype), rtol=1e-5, atol=1e-5)


def test_open_by_rate_is_the_poisson_of_at_least_one_fragment():
    x, mu = grid(np.array([0, 1, 5]), np.array([1e-300, 1e-8, 1e-4, 0.3, 1.0, 17.0, 600.0]))
    expected = np.where(x > 0, stats.poisson.logsf(0, mu), stats.poisson.logpmf(0, mu))
    for rows in blocks(x):
        found = -opened_nll(rows, t(np.log(mu))).numpy()
        np.testing.assert_allclose(found, expected[:, 0], rtol=1e-9, atol=1e-12)


def test_nb_mixture_is_the_mixture_of_its_negative_binomials():
    x, b, f, theta, a = grid(X, MU[::2], MU[1::2], THETA[::2], PI)
    nb = [exact_nb_logpmf(x, mu, theta) for mu in (b, f)]
    expected = np.logaddexp(np.log1p(-a) + nb[0], np.log(a) + nb[1])
    for rows in blocks(x):
        args = [t(np.log(v)) for v in (b, f, theta)]
        found = -nb_mixture_nll(rows, *args, t(np.log(a) - np.log1p(-a))).numpy()
        np.testing.assert_allclose(found, expected[:, 0], rtol=1e-9, atol=1e-9)


REAL = np.array([-1e6, -3.0, -1e-8, 0.0, 0.5, 7.0, 1e6])
SCALE = np.array([1e-4, 0.1, 1.0, 30.0, 1e6])


def test_gaussian_equals_scipy():
    x, mean, scale = grid(REAL, REAL, SCALE)
    for rows in blocks(x):
        found = -gaussian_nll(rows, t(mean), t(np.log(scale))).numpy()
        np.testing.assert_allclose(found, stats.norm.logpdf(x, mean, scale)[:, 0], rtol=1e-9, atol=1e-9)


def test_gaussian_mixture_equals_scipy():
    x, b, f, sb, sf, a = grid(REAL[::2], REAL, REAL[::2], SCALE, SCALE[::2], PI)
    parts = [stats.norm.logpdf(x, mean, scale) for mean, scale in ((b, sb), (f, sf))]
    expected = np.logaddexp(np.log1p(-a) + parts[0], np.log(a) + parts[1])
    for rows in blocks(x):
        args = [t(v) for v in (b, f, np.log(sb), np.log(sf), np.log(a) - np.log1p(-a))]
        found = -gaussian_mixture_nll(rows, *args).numpy()
        np.testing.assert_allclose(found, expected[:, 0], rtol=1e-9, atol=1e-9)


def test_beta_equals_scipy_and_its_ends_have_masses():
    values = np.array([0.0, 1e-30, 1e-9, 0.2, 0.5, 0.97, 1 - 2**-24, 1.0], dtype=np.float32).astype(float)
    x, mean, phi, cut, gap = grid(
        values, np.array([1e-4, 0.3, 0.5, 0.99]), THETA, np.array([-9.0, -1.0, 2.0]), np.array([0.1, 5.0])
    )
    score = np.log(mean) - np.log1p(-mean)
    with np.errstate(divide="ignore", invalid="ignore"):
        middle = np.log(expit(score - cut) - expit(score - cut - gap)) + stats.beta.logpdf(
            x, mean * phi, (1 - mean) * phi
        )
    ends = np.where(x == 0, log_expit(cut - score), log_expit(score - cut - gap))
    expected = np.where((x == 0) | (x == 1), ends, middle)
    for rows in blocks(x):
        found = -ordered_beta_nll(rows, t(score), t(np.log(phi)), t(cut), t(np.log(gap))).numpy()
        np.testing.assert_allclose(found, expected[:, 0], rtol=1e-9, atol=1e-8)


def test_beta_and_its_masses_add_up_to_one():
    x = torch.linspace(0, 1, 20001, dtype=torch.float64).unsqueeze(1)
    density = (-ordered_beta_nll(x, *(torch.full_like(x, v) for v in (0.4, 2.0, -1.5, 1.0)))).exp()
    whole = density[0] + density[-1] + torch.trapezoid(density[1:-1], x[1:-1, 0])
    assert whole.item() == pytest.approx(1, abs=1e-4)


def params_for(name: str, generator: torch.Generator) -> list[torch.Tensor]:
    # logs of standard deviations enter squared, and those of an affine parameter as products
    spread = 0.5 if "gaussian" in name or "affine" in name else 2.0

    def draw(*shape: int) -> torch.Tensor:
        return (spread * torch.randn(*shape, generator=generator, dtype=torch.float64)).requires_grad_()

    shapes = {
        "zinb": [(5, 7), (7,), (5, 7)],
        "zinb_cell": [(5, 7)] * 3,
        "zinb_gene": [(5, 7), (7,), (7,)],
        "library": [(5, 7), (7,), (5, 7)],
        "library_gene": [(5, 7), (7,), (7,)],
        "library_affine": [(5, 3), (7, 3), (7,), (7,), (7, 3), (7,)],
        "bernoulli": [(5, 7)],
        "mixture": [(5, 7)] * 3,
        "nb": [(5, 7), (7,)],
        "nb_cell": [(5, 7)] * 2,
        "nb_above_zero": [(5, 7), (7,)],
        "poisson": [(5, 7)],
        "poisson_above_zero": [(5, 7)],
        "opened": [(5, 7)],
        "bernoulli_affine": [(5, 3), (7, 3), (7,)],
        "opened_affine": [(5, 3), (7, 3), (7,)],
        "nb_mixture": [(5, 7), (5, 7), (7,), (5, 7)],
        "gaussian": [(5, 7), (7,)],
        "gaussian_mixture": [(5, 7), (5, 7), (7,), (7,), (5, 7)],
        "beta": [(5, 7), (7,), (7,), (7,)],
    }
    return [draw(*shape) for shape in shapes[name]]


LOG_LIBRARY = torch.tensor([0.0, 1.0, 3.0, 7.0, 2.0], dtype=torch.float64)


def library_nll(x: Rows | torch.Tensor, scores: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
    return library_zinb_nll(x, scores, LOG_LIBRARY, *rest)


def affine_library_nll(
    x: Rows | torch.Tensor,
    inputs: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    *rest: torch.Tensor,
) -> torch.Tensor:
    log_theta, pi_weight, pi_bias = rest
    scores, pi = Affine(inputs, weight, bias), Affine(inputs, pi_weight, pi_bias)
    return library_zinb_nll(x, scores, LOG_LIBRARY, log_theta, pi)


NLL = {
    "library": library_nll,
    "library_gene": library_nll,
    "library_affine": affine_library_nll,
    "zinb_gene": zinb_nll,
    "bernoulli_affine": lambda x, *p: bernoulli_nll(x, Affine(*p)),
    "opened_affine": lambda x, *p: opened_nll(x, Affine(*p, shift=LOG_LIBRARY.to(p[0].dtype) / 7)),
    "zinb": zinb_nll,
    "zinb_cell": zinb_nll,
    "bernoulli": bernoulli_nll,
    "mixture": poisson_mixture_nll,
    "nb": nb_nll,
    "nb_cell": nb_nll,
    "nb_above_zero": positive_nb_nll,
    "poisson": poisson_nll,
    "poisson_above_zero": positive_poisson_nll,
    "opened": opened_nll,
    "nb_mixture": nb_mixture_nll,
    "gaussian": gaussian_nll,
    "gaussian_mixture": gaussian_mixture_nll,
    "beta": ordered_beta_nll,
}


def values_for(name: str, counts: np.ndarray) -> np.ndarray:
    """Counts made into values of a likelihood; zeros stay."""
    if name == "beta":
        return np.minimum(counts / 16, 1.0)
    return counts * np.where(np.arange(counts.shape[1]) % 2, -0.75, 1.25) if "gaussian" in name else counts


@pytest.mark.parametrize("name", NLL)
def test_gradients_equal_finite_differences(name: str):
    generator = torch.Generator().manual_seed(1)
    counts = torch.poisson(torch.full((5, 7), 0.7), generator=generator).numpy()
    counts[0] = 0
    counts[1, 2] = 30
    counts = values_for(name, counts)
    for rows in blocks(counts):
        params = params_for(name, generator)
        assert torch.autograd.gradcheck(lambda *p, rows=rows: NLL[name](rows, *p), params)


@pytest.mark.parametrize("name", NLL)
def test_sparse_and_dense_blocks_agree_and_sum_over_features(name: str):
    generator = torch.Generator().manual_seed(2)
    counts = torch.poisson(torch.full((5, 7), 0.5), generator=generator).numpy()
    counts = values_for(name, counts)
    params = [p.detach() for p in params_for(name, generator)]
    sparse, dense = (NLL[name](rows, *params) for rows in blocks(counts))
    torch.testing.assert_close(sparse, dense, rtol=1e-12, atol=1e-12)
    if "library" in name or "affine" in name:  # a softmax, or a layer, over all features
        return
    columns = sum(
        NLL[name](torch.from_numpy(counts[:, [j]]), *[p[..., [j]] for p in params])
        for j in range(counts.shape[1])
    )
    torch.testing.assert_close(sparse, columns, rtol=1e-12, atol=1e-12)


def test_float32_stays_close_on_extremes():
    x, mu, theta, pi = grid(X[X <= 1000], MU, THETA, PI)
    args = [np.log(mu), np.log(theta), np.log(pi) - np.log1p(-pi)]
    exact = zinb_nll(t(x), *[t(a) for a in args])
    single = zinb_nll(t(x).float(), *[t(a).float() for a in args])
    # the parameters themselves are rounded to float32: relative 1e-7 of terms up to total * |log|
    torch.testing.assert_close(single.double(), exact, rtol=2e-5, atol=5e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", [name for name in NLL if "affine" not in name])
def test_half_precision_parameters_give_finite_values_and_gradients(name: str, dtype: torch.dtype):
    values = [0.0, 0.01, 0.5, 0, 0.999, 0, 1] if name == "beta" else [0.0, 1, 5, 0, 1000, 0, 60000]
    counts = torch.tensor([values]).repeat(5, 1) / (1000 if "gaussian" in name else 1)
    params = [
        p.detach().to(dtype).mul(1.5 if name == "beta" else 4).requires_grad_()
        for p in params_for(name, torch.Generator().manual_seed(3))
    ]
    with torch.autocast("cpu", dtype=dtype):
        nll = NLL[name](counts, *params)
    nll.mean().backward()
    assert nll.dtype == torch.float32
    assert nll.isfinite().all()
    assert all(p.grad is not None and p.grad.dtype == dtype and p.grad.isfinite().all() for p in params)


def test_infinite_or_nan_parameters_are_not_hidden():
    counts = torch.tensor([[0.0, 2.0]])
    assert not bernoulli_nll(counts, torch.tensor([[float("nan"), 0.0]])).isfinite().all()


def test_library_form_is_the_zinb_of_its_means():
    generator = torch.Generator().manual_seed(4)
    scores, log_theta, pi = params_for("library", generator)
    counts = torch.poisson(torch.full((5, 7), 0.6, dtype=torch.float64), generator=generator)
    log_mu = LOG_LIBRARY.unsqueeze(1) + torch.log_softmax(scores, 1)
    for rows in blocks(counts.numpy()):
        torch.testing.assert_close(
            library_nll(rows, scores, log_theta, pi), zinb_nll(rows, log_mu, log_theta, pi)
        )


def test_an_affine_parameter_is_its_values():
    generator = torch.Generator().manual_seed(6)
    counts = torch.poisson(torch.full((5, 7), 0.6), generator=generator).numpy()
    inputs, weight, bias, log_theta, pi_weight, pi_bias = params_for("library_affine", generator)
    values, pi = inputs @ weight.T + bias, inputs @ pi_weight.T + pi_bias
    shift = LOG_LIBRARY / 7
    for rows in blocks(counts):
        for found, expected in (
            (
                affine_library_nll(rows, inputs, weight, bias, log_theta, pi_weight, pi_bias),
                library_nll(rows, values, log_theta, pi),
            ),
            (bernoulli_nll(rows, Affine(inputs, weight, bias)), bernoulli_nll(rows, values)),
            (
                opened_nll(rows, Affine(inputs, weight, bias, shift)),
                opened_nll(rows, values + shift.unsqueeze(1)),
            ),
        ):
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_what_is_frozen_gets_no_gradient():
    inputs, weight, bias = params_for("bernoulli_affine", torch.Generator().manual_seed(7))
    weight.requires_grad_(False)
    bernoulli_nll(torch.ones(5, 7, dtype=torch.float64), Affine(inputs, weight, bias)).sum().backward()
    assert weight.grad is None
    assert inputs.grad is not None
    assert bias.grad is not None


@pytest.mark.parametrize("name", NLL)
def test_a_block_taken_in_parts_is_the_same_block(name: str, monkeypatch: pytest.MonkeyPatch):
    generator = torch.Generator().manual_seed(5)
    params = params_for(name, generator)
    counts = torch.poisson(torch.full((5, 7), 0.6), generator=generator).numpy()
    counts = values_for(name, counts)
    for rows in blocks(counts):
        results = []
        for at_once in (2**20, 14, 1):  # all cells, two at a time, one at a time
            monkeypatch.setattr(block, "AT_ONCE", at_once)
            nll = NLL[name](rows, *params)
            results.append([nll, *torch.autograd.grad((nll * LOG_LIBRARY).sum(), params)])
        for other in results[1:]:
            for a, b in zip(results[0], other, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
