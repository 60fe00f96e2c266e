"""Likelihoods against scipy.stats in float64 on a grid with extremes, and gradients against finite differences."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scipy import stats

from remadom.core import likelihood
from remadom.core.likelihood import bernoulli_nll, library_zinb_nll, poisson_mixture_nll, zinb_nll
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


def params_for(name: str, generator: torch.Generator) -> list[torch.Tensor]:
    def draw(*shape: int) -> torch.Tensor:
        return (2 * torch.randn(*shape, generator=generator, dtype=torch.float64)).requires_grad_()

    shapes = {
        "zinb": [(5, 7), (7,), (5, 7)],
        "zinb_cell": [(5, 7)] * 3,
        "library": [(5, 7), (7,), (5, 7)],
        "bernoulli": [(5, 7)],
        "mixture": [(5, 7)] * 3,
    }
    return [draw(*shape) for shape in shapes[name]]


LOG_LIBRARY = torch.tensor([0.0, 1.0, 3.0, 7.0, 2.0], dtype=torch.float64)


def library_nll(x: Rows | torch.Tensor, scores: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
    return library_zinb_nll(x, scores, LOG_LIBRARY, *rest)


NLL = {
    "library": library_nll,
    "zinb": zinb_nll,
    "zinb_cell": zinb_nll,
    "bernoulli": bernoulli_nll,
    "mixture": poisson_mixture_nll,
}


@pytest.mark.parametrize("name", NLL)
def test_gradients_equal_finite_differences(name: str):
    generator = torch.Generator().manual_seed(1)
    counts = torch.poisson(torch.full((5, 7), 0.7), generator=generator).numpy()
    counts[0] = 0
    counts[1, 2] = 30
    for rows in blocks(counts):
        params = params_for(name, generator)
        assert torch.autograd.gradcheck(lambda *p, rows=rows: NLL[name](rows, *p), params)


@pytest.mark.parametrize("name", NLL)
def test_sparse_and_dense_blocks_agree_and_sum_over_features(name: str):
    generator = torch.Generator().manual_seed(2)
    counts = torch.poisson(torch.full((5, 7), 0.5), generator=generator).numpy()
    params = [p.detach() for p in params_for(name, generator)]
    sparse, dense = (NLL[name](rows, *params) for rows in blocks(counts))
    torch.testing.assert_close(sparse, dense, rtol=1e-12, atol=1e-12)
    if name == "library":  # its softmax runs over the features
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
@pytest.mark.parametrize("name", NLL)
def test_half_precision_parameters_give_finite_values_and_gradients(name: str, dtype: torch.dtype):
    counts = torch.tensor([[0.0, 1, 5, 0, 1000, 0, 60000]]).repeat(5, 1)
    params = [
        p.detach().to(dtype).mul(4).requires_grad_()
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


@pytest.mark.parametrize("name", NLL)
def test_a_block_taken_in_parts_is_the_same_block(name: str, monkeypatch: pytest.MonkeyPatch):
    generator = torch.Generator().manual_seed(5)
    params = params_for(name, generator)
    counts = torch.poisson(torch.full((5, 7), 0.6), generator=generator).numpy()
    for rows in blocks(counts):
        results = []
        for at_once in (2**20, 14, 1):  # all cells, two at a time, one at a time
            monkeypatch.setattr(likelihood, "AT_ONCE", at_once)
            nll = NLL[name](rows, *params)
            results.append([nll, *torch.autograd.grad((nll * LOG_LIBRARY).sum(), params)])
        for other in results[1:]:
            for a, b in zip(results[0], other, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
