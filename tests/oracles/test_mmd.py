"""MMD^2 against brute force, closed forms and finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist

from remadom.errors import InputError
from remadom.solvers import mmd
from remadom.solvers.in_common import ENTROPY, in_common
from remadom.solvers.kernel import pairwise_cost
from remadom.solvers.mmd import mean_mmd2, mean_mmd2_of_groups, median_bandwidth, mmd2
from remadom.solvers.ot import OtSolver


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def test_the_median_bandwidth_is_the_median_and_falls_back_where_rows_are_copies() -> None:
    x, y = normal(31, 3), normal(22, 3, seed=1)
    pairs = np.sort(pdist(torch.cat([x, y]), "sqeuclidean"))
    assert float(median_bandwidth(x, y)) == pytest.approx(pairs[(len(pairs) - 1) // 2])
    many, more = normal(5000, 3, seed=2), normal(4000, 3, seed=3) + 1
    whole = np.median(pdist(torch.cat([many, more])[::5], "sqeuclidean"))
    assert float(median_bandwidth(many, more)) == pytest.approx(whole, rel=0.1)
    mostly = torch.zeros(10, 2)
    mostly[0] = 3.0
    assert float(median_bandwidth(mostly, mostly[1:])) == pytest.approx(18 * 18 / (19 * 18 / 2))
    assert float(median_bandwidth(torch.ones(4, 2), torch.ones(3, 2))) == 1


def test_median_bandwidths_of_several_samples_are_those_of_each() -> None:
    copies, halves = torch.ones(9, 3), torch.cat([torch.zeros(8, 3), torch.ones(1, 3)])
    samples = [normal(300, 3).float(), normal(31, 3, seed=1).float(), normal(257, 3).float(), copies, halves]
    rows = torch.nn.utils.rnn.pad_sequence(samples, batch_first=True, padding_value=7.0)
    expected = torch.stack([median_bandwidth(sample[:4], sample[4:]) for sample in samples])
    torch.testing.assert_close(
        mmd._median_bandwidths(rows, torch.tensor([len(s) for s in samples])), expected
    )


def brute_force(
    x: torch.Tensor, y: torch.Tensor, w: torch.Tensor, v: torch.Tensor, variances: list[float], unbiased: bool
) -> float:
    def kernel(one: torch.Tensor, other: torch.Tensor) -> float:
        squared = float((one - other).square().sum())
        return sum(math.exp(-squared / (2 * s)) for s in variances) / len(variances)

    def within(sample: torch.Tensor, weights: torch.Tensor) -> float:
        pairs = [(i, j) for i in range(len(sample)) for j in range(len(sample)) if i != j or not unbiased]
        total = sum(float(weights[i] * weights[j]) for i, j in pairs)
        return sum(float(weights[i] * weights[j]) * kernel(sample[i], sample[j]) for i, j in pairs) / total

    crossed = [(i, j) for i in range(len(x)) for j in range(len(y))]
    between = sum(float(w[i] * v[j]) * kernel(x[i], y[j]) for i, j in crossed) / float(w.sum() * v.sum())
    return within(x, w) + within(y, v) - 2 * between


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("bandwidths", [(0.5, 1.0, 2.0), (3.0,), (0.2, 1.0)])
def test_mmd_equals_the_sum_over_pairs(unbiased: bool, bandwidths: tuple[float, ...]) -> None:
    x, y = normal(6, 3), normal(5, 3, seed=1) + 0.5
    median = float(median_bandwidth(x, y))
    expected = brute_force(x, y, torch.ones(6), torch.ones(5), [s * median for s in bandwidths], unbiased)
    assert float(mmd2(x, y, bandwidths, unbiased=unbiased)) == pytest.approx(expected, abs=1e-12)
    w, v = torch.rand(6, generator=torch.Generator().manual_seed(2)), torch.tensor([1.0, 2, 3, 0, 1])
    expected = brute_force(x, y, w, v, [2.0 * s for s in bandwidths], unbiased)
    found = mmd2(x, y, bandwidths, weights_x=w, weights_y=v, unbiased=unbiased, sigma2=2.0)
    assert float(found) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("reach", [None, 0.5])
def test_the_mean_over_pairs_is_that_of_each_pair(reach: float | None) -> None:
    x = (normal(20, 3) * 2 + 5).requires_grad_()
    a, b, c, rest = (torch.arange(*ends) for ends in ((0, 5), (5, 9), (9, 16), (5, 16)))
    for pairs in ([(a, b)], [(a, b), (a, c), (b, c)], [(a, rest), (b, c)]):
        expected = torch.stack([mmd2(x[p], x[q], (0.1, 1.0), reach=reach) for p, q in pairs]).mean()
        found = mean_mmd2(x, pairs, (0.1, 1.0), reach)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
        slopes = [torch.autograd.grad(2 * value, x)[0] for value in (found, expected)]
        torch.testing.assert_close(*slopes, rtol=1e-9, atol=1e-12)
        assert (slopes[0][16:] == 0).all()


def test_large_sets_are_compared_pair_by_pair_and_could_be_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    x = normal(400, 2)
    a, b, c = torch.arange(200), torch.arange(200, 300), torch.arange(300, 400)
    expected = (mmd2(x[a], x[b]) + mmd2(x[b], x[c])) / 2
    torch.testing.assert_close(mean_mmd2(x, [(a, b), (b, c)]), expected)
    monkeypatch.setattr(mmd, "_fit_together", lambda x, n_rows, n_pairs: True)
    torch.testing.assert_close(mean_mmd2(x, [(a, b), (b, c)]), expected)


def types(shares: tuple[float, ...], n: int = 300, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of three types far from each other, and the type of each."""
    generator = torch.Generator().manual_seed(seed)
    which = torch.multinomial(torch.tensor(shares), n, replacement=True, generator=generator)
    rows = 3 * torch.eye(3)[which] + 0.3 * torch.randn(n, 3, generator=generator)
    return rows.double(), which


@pytest.mark.parametrize("reach", [0.1, 0.3, 0.5, 1.0])
def test_what_samples_have_in_common_is_what_unbalanced_transport_sends(reach: float) -> None:
    (x, _), (y, _) = types((0.5, 0.4, 0.1)), types((0.1, 0.4, 0.5), seed=1)
    sigma2 = float(median_bandwidth(x, y))
    a, b = (torch.full((300,), 1 / 300).double() for _ in range(2))
    plan, _ = OtSolver().plan(x, y, ENTROPY * sigma2, reach=reach * sigma2**0.5)
    found = in_common(pairwise_cost(x, y), a, b, sigma2, reach)
    for weights, sent in zip(found, (plan.sum(1), plan.sum(0)), strict=True):
        torch.testing.assert_close(weights, sent / sent.sum(), rtol=0.05, atol=1e-5)


def test_with_a_reach_beyond_all_rows_all_of_them_count() -> None:
    (x, _), (y, _) = types((0.5, 0.4, 0.1)), types((0.1, 0.4, 0.5), seed=1)
    found = mmd2(x, y, (0.1, 1.0), reach=1e6)
    assert float(found) == pytest.approx(float(mmd2(x, y, (0.1, 1.0))), rel=0.05)


def test_samples_of_the_same_types_in_other_shares_have_the_same_in_common() -> None:
    (x, of_x), (y, of_y) = types((0.6, 0.4, 0.0)), types((0.1, 0.4, 0.5), seed=1)
    x.requires_grad_()
    y.requires_grad_()
    whole, common = mmd2(x, y, (0.1, 1.0)), mmd2(x, y, (0.1, 1.0), reach=0.2)
    assert float(whole.detach()) > 0.05
    assert abs(float(common.detach())) < 0.003
    pull_of_whole, pull = (torch.autograd.grad(value, y)[0].norm(dim=1) for value in (whole, common))
    private = of_y == 2
    assert pull[private].max() < 0.1 * pull_of_whole[private].max()
    sigma2 = float(median_bandwidth(x.detach(), y.detach()))
    a, b = (torch.full((300,), 1 / 300).double() for _ in range(2))
    of_rows = in_common(pairwise_cost(x.detach(), y.detach()), a, b, sigma2, 0.2)
    shares = [torch.zeros(3).double().index_add_(0, t, w) for t, w in zip((of_x, of_y), of_rows, strict=True)]
    torch.testing.assert_close(*shares, atol=0.04, rtol=0)
    assert shares[1][2] < 0.04  # of a half


@pytest.mark.parametrize("reach", [None, 0.5])
@pytest.mark.parametrize("together", [2**24, 900])
def test_the_mean_over_pairs_of_groups_is_that_over_their_pairs(
    monkeypatch: pytest.MonkeyPatch, together: int, reach: float | None
) -> None:
    monkeypatch.setattr(mmd, "DISTANCES_TOGETHER", together)
    x = (normal(30, 3) * 2 + 5).requires_grad_()
    codes = torch.tensor([0] * 5 + [2] * 4 + [1] * 7 + [-1] * 6 + [3] + [0] * 7)  # one row of 3, none of 4
    codes = codes[torch.randperm(30, generator=torch.Generator().manual_seed(0))]
    a, b, c = ((codes == code).nonzero().squeeze(1) for code in (0, 1, 2))
    expected = mean_mmd2(x, [(a, b), (a, c), (b, c)], (0.1, 1.0), reach)
    found, n_pairs, counts = mean_mmd2_of_groups(x, codes, 5, (0.1, 1.0), reach)
    assert n_pairs == 3
    assert counts.tolist() == [12, 7, 4, 1, 0]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    slopes = [torch.autograd.grad(2 * value, x)[0] for value in (found, expected)]
    torch.testing.assert_close(*slopes, rtol=1e-9, atol=1e-12)


def test_groups_without_pairs_have_nothing_between_them_and_some_pairs_are_drawn_of_many() -> None:
    x, codes = normal(12, 2).requires_grad_(), torch.arange(12) // 2
    nothing, n_pairs, _ = mean_mmd2_of_groups(x, torch.where(codes == 1, 1, -1), 3)
    assert nothing == n_pairs == 0
    assert (torch.autograd.grad(nothing, x)[0] == 0).all()
    x, codes = x.detach(), codes.clamp(max=3)
    torch.manual_seed(0)
    found = [mean_mmd2_of_groups(x, codes, 6, max_pairs=2) for _ in range(60)]
    assert all(n == 2 for _, n, _ in found)  # of the six that there are, not of the nine without rows
    assert len({float(value) for value, *_ in found}) > 5
    mean = torch.stack([value for value, *_ in found]).mean()
    assert float(mean) == pytest.approx(float(mean_mmd2_of_groups(x, codes, 6)[0]), abs=0.05)


def test_the_mean_over_pairs_refuses_what_the_comparison_of_one_pair_does() -> None:
    x, at = normal(6, 2), torch.arange(6)
    with pytest.raises(InputError, match="bandwidths"):
        mean_mmd2(x, [(at[:3], at[3:])], ())
    with pytest.raises(InputError, match="needs at least 2"):
        mean_mmd2(x, [(at[:3], at[3:4])])


def test_the_mean_over_pairs_in_half_precision_and_of_copies() -> None:
    x, at = normal(40, 5, dtype=torch.float32), torch.arange(40)
    exact = mean_mmd2(x, [(at[:20], at[20:])])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = mean_mmd2(x.bfloat16(), [(at[:20], at[20:])])
    torch.testing.assert_close(found, exact, rtol=0.1, atol=2e-3)
    copies = torch.ones(6, 2, requires_grad=True)
    mean_mmd2(copies, [(at[:3], at[3:6])]).backward()
    assert copies.grad is not None
    assert (copies.grad == 0).all()


def test_the_unbiased_statistic_is_zero_on_average_for_one_distribution() -> None:
    found = torch.stack(
        [mmd2(normal(12, 2, seed=2 * i), normal(9, 2, seed=2 * i + 1), sigma2=2.0) for i in range(400)]
    )
    standard_error = float(found.std()) / 20
    assert abs(float(found.mean())) < 3 * standard_error
    biased = mmd2(normal(12, 2), normal(9, 2, seed=1), sigma2=2.0, unbiased=False)
    assert float(biased) > 10 * standard_error


def test_mmd_of_two_normal_samples_is_the_closed_form() -> None:
    d, delta, s = 3, 2.0, 2.5
    x, y = normal(3000, d), normal(3000, d, seed=1) + delta / math.sqrt(d)
    # E k(u, v) for u - v ~ N(m, 2 I): (s / (s + 2))^(d / 2) exp(-|m|^2 / (2 (s + 2)))
    expected = 2 * (s / (s + 2)) ** (d / 2) * (1 - math.exp(-(delta**2) / (2 * (s + 2))))
    assert float(mmd2(x, y, (1.0,), sigma2=s)) == pytest.approx(expected, rel=0.06)


@pytest.mark.parametrize("unbiased", [True, False])
def test_the_gradient_of_mmd_is_the_finite_difference(unbiased: bool) -> None:
    leaves = normal(6, 3).requires_grad_(), (normal(5, 3, seed=1) + 0.5).requires_grad_()
    w = torch.tensor([1.0, 2, 1, 0, 3, 1])

    def loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return 3 * mmd2(x, y, (0.5, 1.0, 3.0), weights_x=w, unbiased=unbiased, sigma2=1.7)

    assert torch.autograd.gradcheck(loss, leaves)
    (gradient,) = torch.autograd.grad(loss(*leaves), leaves[0])
    assert (gradient[3] == 0).all()


def test_mmd_in_float32_bfloat16_and_at_extreme_scales() -> None:
    x, y = normal(40, 5, dtype=torch.float32), normal(30, 5, seed=1, dtype=torch.float32) + 1
    exact = float(mmd2(x.double(), y.double()))
    for scale in (1e-4, 1.0, 1e4):
        leaf = (scale * x).requires_grad_()
        loss = mmd2(leaf, scale * y)
        loss.backward()
        assert float(loss.detach()) == pytest.approx(exact, rel=1e-4)
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()
    half = x.bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = mmd2(half, y.bfloat16())
    loss.backward()
    assert float(loss.detach()) == pytest.approx(exact, rel=0.05)
    assert half.grad is not None
    assert half.grad.dtype == torch.bfloat16
    copies = torch.ones(4, 2, requires_grad=True)
    mmd2(copies, torch.ones(3, 2)).backward()
    assert copies.grad is not None
    assert (copies.grad == 0).all()


def test_equals_the_gaussian_loss_of_geomloss() -> None:
    geomloss = pytest.importorskip("geomloss")
    x, y = normal(50, 4), normal(40, 4, seed=1) + 0.5
    theirs = geomloss.SamplesLoss("gaussian", blur=1.5, backend="tensorized")(x, y)
    torch.testing.assert_close(mmd2(x, y, (1.0,), sigma2=2.25, unbiased=False), 2 * theirs)


def test_what_cannot_be_computed_is_refused_in_words() -> None:
    x = normal(4, 3)
    with pytest.raises(InputError, match="sample y has 1 row"):
        mmd2(x, x[:1])
    with pytest.raises(InputError, match="sample x has 1 row"):
        mmd2(x, x, weights_x=torch.tensor([1.0, 0, 0, 0]))
    with pytest.raises(InputError, match="weights_y has shape"):
        mmd2(x, x, weights_y=torch.ones(3))
    with pytest.raises(InputError, match="bandwidths"):
        mmd2(x, x, bandwidths=())
    leaf = x.clone().requires_grad_()
    with pytest.raises(InputError, match="second derivative"):
        torch.autograd.grad(mmd2(leaf, x + 1), leaf, create_graph=True)
