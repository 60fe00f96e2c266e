"""Product of experts against the closed form, and its invariances."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from remadom.core.fusion import ProductOfExperts, drop_modalities
from remadom.core.gaussians import kl_to_prior
from remadom.errors import InputError
from remadom.types import Posterior

NAMES = ("rna", "atac", "adt")
INF = float("inf")


def experts(n: int = 6, latent: int = 4, seed: int = 0) -> list[Posterior]:
    g = torch.Generator().manual_seed(seed)
    draw = lambda: torch.randn(n, latent, generator=g, dtype=torch.float64)  # noqa: E731
    return [Posterior(draw(), draw()) for _ in NAMES]


def fuse(poe: ProductOfExperts, parts: list[Posterior], names=NAMES) -> tuple[torch.Tensor, torch.Tensor]:
    return poe([p.mu for p in parts], [p.logvar for p in parts], modality_names=names)


def test_equals_the_product_of_gaussians():
    parts = experts()
    mu, logvar = fuse(ProductOfExperts(), parts)
    precision = 1 + sum(torch.exp(-p.logvar) for p in parts)
    expected = sum(p.mu * torch.exp(-p.logvar) for p in parts) / precision
    torch.testing.assert_close(mu, expected)
    torch.testing.assert_close(logvar, -precision.log())


def test_log_space_survives_extreme_variances():
    mus = [torch.tensor([[3.0]]), torch.tensor([[-2.0]])]
    mu, logvar = ProductOfExperts()(mus, [torch.tensor([[-200.0]]), torch.tensor([[200.0]])])
    torch.testing.assert_close(mu, torch.tensor([[3.0]]))
    torch.testing.assert_close(logvar, torch.tensor([[-200.0]]))


@settings(deadline=None, max_examples=20)
@given(st.permutations(range(3)))
def test_the_order_of_the_modalities_does_not_matter(order: list[int]):
    poe = ProductOfExperts({"rna": 1.0, "atac": 1.5, "adt": 0.7})
    parts = experts()
    straight = fuse(poe, parts)
    turned = fuse(poe, [parts[i] for i in order], [NAMES[i] for i in order])
    for a, b in zip(straight, turned, strict=True):
        torch.testing.assert_close(a, b)


def test_a_missing_expert_is_a_dropped_expert():
    parts = experts()
    gone = Posterior(torch.zeros_like(parts[1].mu), torch.full_like(parts[1].logvar, INF))
    with_gap = fuse(ProductOfExperts(), [parts[0], gone, parts[2]])
    without = fuse(ProductOfExperts(), [parts[0], parts[2]], ("rna", "adt"))
    for a, b in zip(with_gap, without, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_a_cell_without_any_modality_is_the_prior():
    gone = Posterior(torch.zeros(2, 3), torch.full((2, 3), INF))
    mu, logvar = fuse(ProductOfExperts(), [gone], ("rna",))
    assert torch.equal(mu, torch.zeros(2, 3))
    assert torch.equal(logvar, torch.zeros(2, 3))


def test_temperature_divides_the_precision():
    parts = experts()
    warm = fuse(ProductOfExperts([1.0, 4.0, 1.0], NAMES), parts)
    wider = [parts[0], Posterior(parts[1].mu, parts[1].logvar + torch.log(torch.tensor(4.0))), parts[2]]
    for a, b in zip(warm, fuse(ProductOfExperts(), wider), strict=True):
        torch.testing.assert_close(a, b)
    plain = fuse(ProductOfExperts(dict.fromkeys(NAMES, 1.0)), parts)
    for a, b in zip(plain, fuse(ProductOfExperts(), parts), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_gradients_reach_present_experts_only():
    mu = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    logvar = torch.tensor([[0.1, -1.0, 2.0], [INF] * 3], dtype=torch.float64, requires_grad=True)
    fused = ProductOfExperts()([mu], [logvar])
    (fused[0].sum() + fused[1].sum()).backward()
    assert mu.grad is not None
    assert mu.grad[0].abs().min() > 0
    assert torch.equal(mu.grad[1], torch.zeros(3, dtype=torch.float64))
    assert logvar.grad is not None
    assert logvar.grad[0].isfinite().all()


@pytest.mark.parametrize(
    ("temps", "message"),
    [([1.0], "1 values for 3 modalities"), ({"rnb": 1.0}, "did you mean 'rna'"), ({"rna": 0.0}, "above 0")],
)
def test_impossible_temperatures_are_refused(temps, message: str):
    with pytest.raises(InputError, match=message):
        ProductOfExperts(temps, NAMES)


def test_kl_equals_torch_distributions():
    mu, logvar = (torch.randn(5, 3, dtype=torch.float64) for _ in range(2))
    q = torch.distributions.Normal(mu, (0.5 * logvar).exp())
    p = torch.distributions.Normal(torch.zeros_like(mu), 1.0)
    torch.testing.assert_close(kl_to_prior(mu, logvar), torch.distributions.kl_divergence(q, p).sum(1))


def test_modality_dropout_keeps_a_random_nonempty_subset_of_what_is_there():
    n = 20_000
    torch.manual_seed(0)
    logvar = {m: torch.zeros(n, 2) for m in NAMES}
    logvar["atac"][: n // 2] = INF
    parts = {m: Posterior(torch.ones(n, 2), v) for m, v in logvar.items()}
    dropped = drop_modalities(parts, 0.6)
    kept = torch.stack([dropped[m].logvar[:, 0] < INF for m in NAMES], 1)
    had = torch.stack([v[:, 0] < INF for v in logvar.values()], 1)
    assert (kept <= had).all(), "nothing appears that was not there"
    assert kept.any(1).all(), "no cell is left with nothing"
    untouched = (kept == had).all(1).float()
    # two experts: three subsets, of which one is both; three experts: seven
    assert untouched[: n // 2].mean().item() == pytest.approx(0.4 + 0.6 / 3, abs=0.02)
    assert untouched[n // 2 :].mean().item() == pytest.approx(0.4 + 0.6 / 7, abs=0.02)
    shares = kept.float()[n // 2 :].mean(0)
    assert torch.allclose(shares, shares.mean().expand(3), atol=0.02), "no modality is favored"
    gone = ~kept & had
    for j, m in enumerate(NAMES):
        assert (dropped[m].mu[gone[:, j]] == 0).all()
