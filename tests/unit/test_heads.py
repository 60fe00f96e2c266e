"""Which groups are compared, and what each head computes, against closed forms and brute force."""

from __future__ import annotations

import copy
import math
from itertools import combinations

import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from remadom.align import HEADS
from remadom.align.groups import GroupHead
from remadom.align.posterior import info_nce, symmetric_kl
from remadom.errors import InputError
from remadom.types import BridgeEdges, Posterior, SparseGraph


class Gap(GroupHead):
    """Squared distance of the means: a comparison whose value is known."""

    def forward(self, z_bio, groups):
        return self.over_pairs(z_bio, groups, {})

    def compare(self, x, y, at_x, at_y, aux):
        return (x.mean(0) - y.mean(0)).square().sum()


def codes(*values: int) -> torch.Tensor:
    return torch.tensor(values)


def on_a_line(*groups: float) -> torch.Tensor:
    """Two cells at each place."""
    return torch.tensor(groups).repeat_interleave(2)[:, None].requires_grad_()


def test_all_pairs_are_averaged():
    z, batch = on_a_line(0.0, 1.0, 3.0), codes(0, 0, 1, 1, 2, 2)
    loss, logs = Gap()(z_bio=z, groups={"batch": batch})
    assert loss.item() == pytest.approx((1 + 9 + 4) / 3)
    assert logs["n_pairs"] == 3


def test_against_a_reference_and_against_the_rest():
    z, batch = on_a_line(0.0, 1.0, 3.0), codes(0, 0, 1, 1, 2, 2)
    head = Gap(pairs="reference", reference="b")
    head.connect({"batch": ("a", "b", "c")}, 1)
    assert head(z_bio=z, groups={"batch": batch})[0].item() == pytest.approx((1 + 4) / 2)
    rest = Gap(pairs="rest")(z_bio=z, groups={"batch": batch})[0]
    assert rest.item() == pytest.approx((2**2 + 0.5**2 + 2.5**2) / 3)


def test_the_largest_group_is_the_reference_by_default():
    z, batch = torch.tensor([[0.0], [0.0], [1.0], [1.0], [1.0], [3.0], [3.0]]), codes(0, 0, 1, 1, 1, 2, 2)
    assert Gap(pairs="reference")(z_bio=z, groups={"batch": batch})[0].item() == pytest.approx((1 + 4) / 2)


def test_groups_of_one_cell_are_skipped_and_counted_and_no_group_is_no_group():
    z, batch = torch.tensor([[0.0], [0.0], [1.0], [1.0], [9.0], [7.0]]), codes(0, 0, 1, 1, 2, -1)
    loss, logs = Gap()(z_bio=z, groups={"batch": batch})
    assert loss.item() == pytest.approx(1.0)
    assert logs["skipped_groups"] == 1


@pytest.mark.parametrize("batch", [codes(0, 0, 0), codes(-1, -1, -1), codes(0, 1, 2)])
def test_nothing_to_compare_is_zero_with_a_gradient_of_zero(batch):
    z = torch.randn(3, 2, requires_grad=True)
    loss, logs = Gap()(z_bio=z, groups={"batch": batch})
    loss.backward()
    assert loss.item() == 0
    assert z.grad.abs().sum() == 0
    assert logs["n_pairs"] == 0


def test_pairs_rotate_under_their_cap():
    z, batch = on_a_line(*[2.0**i for i in range(6)]), torch.arange(6).repeat_interleave(2)
    torch.manual_seed(0)
    values = {round(Gap(max_pairs=2)(z_bio=z, groups={"batch": batch})[0].item(), 3) for _ in range(40)}
    possible = {(2.0**a - 2.0**b) ** 2 for a, b in combinations(range(6), 2)}
    assert values <= {round((p + q) / 2, 3) for p, q in combinations(sorted(possible), 2)}
    assert len(values) > 10


def test_levels_compare_batches_within_a_data_set_and_data_sets_as_wholes():
    z = on_a_line(0.0, 1.0, 10.0, 13.0)
    groups = {"dataset": codes(0, 0, 0, 0, 1, 1, 1, 1), "batch": codes(0, 0, 1, 1, 2, 2, 3, 3)}
    loss, logs = Gap(group_key=("dataset", "batch"))(z_bio=z, groups=groups)
    assert loss.item() == pytest.approx(((11.5 - 0.5) ** 2 + (1 + 9) / 2) / 2)
    assert logs["n_pairs"] == 3


def test_order_of_the_cells_does_not_matter():
    z, batch = torch.randn(30, 3), torch.arange(30) % 3
    order = torch.randperm(30)
    for name in ("mmd", "sinkhorn", "ot"):
        head = HEADS.build(name)
        one = head(z_bio=z, groups={"batch": batch})[0]
        other = head(z_bio=z[order], groups={"batch": batch[order]})[0]
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["mmd", "sinkhorn", "ot", "gw", "adversarial"])
def test_one_group_is_an_error_that_names_the_grouping(name):
    head = HEADS.build(name)
    keys = head.group_keys
    with pytest.raises(InputError, match=f"one group of .*{keys[0]}"):
        head.connect(dict.fromkeys(keys, ("only",)), 4)


def test_an_unknown_reference_names_the_nearest():
    with pytest.raises(InputError, match="did you mean 'donor_1'"):
        Gap(pairs="reference", reference="donor1").connect({"batch": ("donor_1", "other")}, 2)


def test_a_grouping_twice_is_an_error():
    with pytest.raises(InputError, match="different groupings"):
        Gap(group_key=("batch", "batch"))


def gaussians(n: int = 20, d: int = 3, seed: int = 0) -> Posterior:
    generator = torch.Generator().manual_seed(seed)
    return Posterior(torch.randn(n, d, generator=generator), torch.randn(n, d, generator=generator))


def test_symmetric_kl_is_that_of_torch():
    p, q = gaussians(), gaussians(seed=1)
    one, other = (Independent(Normal(x.mu, (0.5 * x.logvar).exp()), 1) for x in (p, q))
    expected = 0.5 * (kl_divergence(one, other) + kl_divergence(other, one))
    torch.testing.assert_close(symmetric_kl(p, q), expected)
    torch.testing.assert_close(symmetric_kl(p, p), torch.zeros(20))


def test_contrast_is_one_for_a_guess_and_falls_for_a_match():
    x, together = torch.randn(200, 4), torch.zeros(200, dtype=torch.long)
    assert info_nce(x, x, 0.01, together) < 0.1
    guess = info_nce(x, torch.zeros(200, 4), 1.0, together)
    cost = torch.cdist(x, torch.zeros(200, 4)).square()
    logits = -cost / cost.mean()
    truth = torch.arange(200)
    brute = torch.nn.functional.cross_entropy(logits, truth) + torch.nn.functional.cross_entropy(
        logits.T, truth
    )
    assert guess.item() == pytest.approx(brute.item() / 2 / math.log(200), rel=1e-5)


def test_contrast_is_among_the_cells_of_a_group():
    """A batch effect that both modalities have does not help to find a partner."""
    batch = torch.arange(40) % 2
    x = 50.0 * batch[:, None].float().repeat(1, 3)
    assert info_nce(x, x, 0.01, batch).item() == pytest.approx(1.0)
    assert info_nce(x, x, 0.01, torch.zeros(40, dtype=torch.long)).item() < 0.9
    alone = info_nce(x, x, 0.01, torch.arange(40))
    assert alone.item() == 0


def test_posterior_uses_only_cells_that_have_both():
    p, q = gaussians(), gaussians(seed=1)
    q.mu[10:], q.logvar[10:] = 0.0, float("inf")
    batch = {"batch": torch.zeros(20, dtype=torch.long)}
    head = HEADS.build("posterior", contrast=0.0)
    loss, logs = head(posteriors={"rna": p, "adt": q}, groups=batch)
    both = symmetric_kl(Posterior(p.mu[:10], p.logvar[:10]), Posterior(q.mu[:10], q.logvar[:10]))
    assert loss.item() == pytest.approx(both.mean().item() / 3, rel=1e-5)
    assert logs["n_pairs"] == 1
    q.logvar[:] = float("inf")
    assert head(posteriors={"rna": p, "adt": q}, groups=batch)[0] == 0


def test_contrast_at_two_levels_is_their_mean():
    posteriors = {"rna": gaussians(), "adt": gaussians(seed=1)}
    groups = {"dataset": torch.arange(20) // 10, "batch": torch.arange(20) // 5}

    def loss(key):
        return HEADS.build("posterior", group_key=key)(posteriors=posteriors, groups=groups)[0].item()

    assert loss(("dataset", "batch")) == pytest.approx((loss("dataset") + loss("batch")) / 2, rel=1e-5)
    assert loss("dataset") != pytest.approx(loss("batch"), rel=1e-3)


def test_the_discriminator_learns_and_the_latent_unlearns():
    torch.manual_seed(0)
    head = HEADS.build("adversarial")
    head.connect({"batch": ("a", "b")}, 2)
    z = torch.randn(100, 2) + torch.tensor([[4.0, 0.0]]) * (torch.arange(100) % 2)[:, None]
    batch = {"batch": torch.arange(100) % 2}
    z.requires_grad_()
    first = head(z_bio=z, groups=batch)[0]
    for _ in range(100):
        loss, logs = head(z_bio=z, groups=batch)
    assert logs["accuracy"] > 0.9
    assert loss > 0.7 > first
    loss.backward()
    assert all(p.grad is None for p in head.parameters())  # the encoders' optimizer does not train it
    step = z.detach() - 50 * z.grad
    before, after = ((x[::2].mean(0) - x[1::2].mean(0)).norm() for x in (z.detach(), step))
    assert after < before


def test_a_discriminator_of_batches_looks_within_their_data_set():
    """Data sets far apart, batches alike: the finer level has nothing to tell, and no cell is asked beyond it."""
    torch.manual_seed(0)
    names = {"dataset": ("one", "two", "alone"), "batch": ("a", "b", "c", "d", "e")}
    groups = {"batch": torch.arange(100) % 5, "dataset": torch.tensor([0, 0, 1, 1, 2])[torch.arange(100) % 5]}
    z = (torch.randn(100, 2) + 8.0 * groups["dataset"][:, None]).requires_grad_()
    values = {}
    for levels in (("batch",), ("dataset", "batch")):
        head = HEADS.build("adversarial", group_key=levels, steps=1)
        head.connect(names, 2)
        for _ in range(150):
            values[levels], _ = head(z_bio=z, groups=groups)
    question = head._question(groups, 1, 5)
    assert (groups["dataset"][question.cells] != 2).all()  # the only batch of its data set is told from none
    assert (question.choices.sum(1) == 2).all()
    assert values["batch",] > 0.3
    with torch.no_grad():
        finer = 1 - question.entropy(head.discriminators[1](z[question.cells]))
    assert finer < 0.25


def test_a_discriminator_goes_on_where_it_was_saved():
    z, batch = torch.randn(30, 2), {"batch": torch.arange(30) % 3}
    one, other = HEADS.build("adversarial"), HEADS.build("adversarial")
    for head in (one, other):
        head.connect({"batch": ("a", "b", "c")}, 2)
    one(z_bio=z.requires_grad_(), groups=batch)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for head in (one, other):
        head(z_bio=z, groups=batch)
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=0)


def dense_graph(A: torch.Tensor) -> SparseGraph:
    rows, columns = A.nonzero().T
    indptr = torch.cat([torch.zeros(1, dtype=torch.long), torch.bincount(rows, minlength=len(A)).cumsum(0)])
    return SparseGraph(indptr, columns, A[rows, columns], A.sum(1))


@pytest.mark.parametrize("hops", [1, 2])
def test_crossgraph_is_the_dense_product(hops: int):
    generator = torch.Generator().manual_seed(0)
    A = torch.triu((torch.rand(12, 12, generator=generator) < 0.4).float(), 1)
    A[:, 11] = 0  # an isolated cell keeps all of its walk
    A = A + A.T
    edges = BridgeEdges.of(
        torch.tensor([0, 3, 11]), torch.tensor([7, 8, 2]), torch.tensor([1.0, 0.5, 2.0]), 12
    )
    z = torch.randn(12, 3, generator=generator)
    S = 0.7 * A / A.sum(1, keepdim=True).clamp(min=1) + torch.diag(torch.where(A.sum(1) > 0, 0.3, 1.0))
    W = torch.zeros(12, 12)
    W[edges.src, edges.dst] = edges.weight
    P = torch.linalg.matrix_power(S, hops).T @ W @ torch.linalg.matrix_power(S, hops)
    expected = (P * torch.cdist(z, z).square()).sum() / P.sum() / torch.cdist(z, z).square().mean()
    head = HEADS.build("crossgraph", hops=hops, stay=0.3)
    loss, logs = head(z_bio=z, graph=dense_graph(A), edges=edges)
    torch.testing.assert_close(loss, expected)
    assert logs["n_edges"] == 3


def test_crossgraph_takes_edges_between_batches_of_a_data_set_and_between_data_sets():
    """Four batches of two data sets: one edge within a batch counts nowhere, the others at one level each."""
    z, graph = torch.randn(8, 3, generator=torch.Generator().manual_seed(1)), dense_graph(torch.ones(8, 8))
    groups = {"dataset": torch.arange(8) // 4, "batch": torch.arange(8) // 2}
    ends = torch.tensor([[0, 1], [0, 3], [1, 6], [4, 7]])
    edges = BridgeEdges.of(ends[:, 0], ends[:, 1], None, 8)

    def loss(chosen, key=None):
        kept = BridgeEdges.of(ends[chosen, 0], ends[chosen, 1], None, 8)
        return HEADS.build("crossgraph", group_key=key)(z_bio=z, graph=graph, edges=kept, groups=groups)[0]

    found, logs = HEADS.build("crossgraph", group_key=("dataset", "batch"))(
        z_bio=z, graph=graph, edges=edges, groups=groups
    )
    torch.testing.assert_close(found, (loss([1, 3]) + loss([2])) / 2)
    assert logs["n_edges"] == 3
    torch.testing.assert_close(loss([0, 1, 2, 3], "dataset"), loss([2]))


def test_times_are_coupled_within_the_groups_of_each_level():
    time = torch.tensor([0.0, 0.0, 1.0, 1.0] * 4)
    z = torch.randn(16, 3, generator=torch.Generator().manual_seed(2))
    groups = {"dataset": torch.arange(16) // 8, "batch": torch.arange(16) // 4}

    def moves(key, at=None):
        head = HEADS.build("temporal", group_key=key, order=0.0)
        assert head.group_keys == ("time", *([key] if isinstance(key, str) else key or ()))
        own = slice(None) if at is None else at
        loss, logs = head(z_bio=z[own], time=time[own], groups={k: g[own] for k, g in groups.items()})
        return loss.item(), int(logs["n_pairs"])

    apart = [moves(None, slice(start, start + 8))[0] for start in (0, 8)]
    assert moves("dataset") == (pytest.approx(sum(apart) / 2, rel=1e-5), 2)
    assert moves("dataset")[0] != pytest.approx(moves(None)[0], rel=1e-3)
    both, n_pairs = moves(("dataset", "batch"))
    assert both == pytest.approx((moves("dataset")[0] + moves("batch")[0]) / 2, rel=1e-5)
    assert n_pairs == 6


def test_crossgraph_without_edges_is_zero():
    z = torch.randn(4, 2, requires_grad=True)
    loss, _ = HEADS.build("crossgraph")(
        z_bio=z, graph=dense_graph(torch.ones(4, 4)), edges=BridgeEdges.none(4)
    )
    loss.backward()
    assert loss == 0


def private_population(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two batches that share a population, shifted by one; the second has another of its own, far away."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(200, 2))
    shared[100:, 0] += 1
    own = rng.normal(size=(60, 2)) * 0.5 + [0.0, 12.0]
    z = torch.tensor(np.concatenate([shared, own]), dtype=torch.float32)
    batch = torch.tensor([0] * 100 + [1] * 160)
    return z, batch, torch.arange(260) >= 200


def moved(name: str, params: dict, seed: int) -> tuple[float, float]:
    """How far a head moves the private population relative to the others, and the gap that is left of the shared one.

    In units of the spread of all cells, since blowing everything up moves nothing.
    """
    z, batch, own = private_population(seed)
    head = HEADS.build(name, **params)
    end = z.clone()
    for _ in range(60):  # descent in which the cell that is pulled most moves by 0.1
        at = end.requires_grad_()
        head(z_bio=at, groups={"batch": batch}, epoch=0.0)[0].backward()
        end = (at - 0.1 * at.grad / at.grad.norm(dim=1).max().clamp(min=1e-9)).detach()
    spread = z.std(0).norm()
    start, end = (spread * (x - x[:200].mean(0)) / x.std(0).norm() for x in (z, end))
    gap = (end[:100].mean(0) - end[100:200].mean(0)).norm()
    return float((end[own].mean(0) - start[own].mean(0)).norm()), float(gap)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_private_population_is_left_alone_by_partial_and_unbalanced_transport_and_moved_by_the_others(
    seed: int,
):
    """Class imbalance is the trap of distribution matching."""
    for name, params in (("mmd", {"reach": None}), ("sinkhorn", {}), ("ot", {"reach": None})):
        assert moved(name, params, seed)[0] > 1, name
    partial = {"mass": 0.6}
    for name, params in (("mmd", {}), ("sinkhorn", partial), ("ot", {}), ("ot", {"reach": None, **partial})):
        away, gap = moved(name, params, seed)
        assert away < 0.6, (name, params)
        assert gap < 0.4, (name, params)
