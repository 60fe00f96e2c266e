"""Squared lengths of edges, whose gradients are the same to the bit with any number of threads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from remadom.solvers.spread import squared_lengths


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_a_gradient_repeats_with_several_threads(two_threads):
    generator = torch.Generator().manual_seed(0)
    src, dst = torch.randint(0, 512, (2, 8000), generator=generator)
    weight = torch.rand(8000, generator=generator)
    found = []
    for _ in range(20):
        z = torch.randn(512, 16, generator=torch.Generator().manual_seed(1)).requires_grad_()
        (weight * squared_lengths(z, src, dst)).sum().backward()
        found.append(z.grad)
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_lengths_are_those_of_the_differences():
    z, src, dst = torch.randn(9, 3), torch.tensor([0, 4, 4]), torch.tensor([8, 1, 4])
    torch.testing.assert_close(squared_lengths(z, src, dst), (z[src] - z[dst]).square().sum(1))
