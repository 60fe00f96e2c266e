"""The checks that users are given hold for every component of our own, and fail for broken ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from pydantic import PositiveInt
from torch import nn

from remadom import testing
from remadom.align import HEADS, AlignmentHead
from remadom.bridges import BRIDGES, Bridge
from remadom.core.decoders import DECODERS, Decoder
from remadom.core.inputs import INPUTS, EncoderInput
from remadom.errors import InputError
from remadom.eval.metric import METRICS, Metric
from remadom.registry import Registry
from remadom.types import BridgeEdges, Rows


@pytest.mark.parametrize("name", DECODERS)
def test_decoders(name: str):
    testing.check_decoder(name)


@pytest.mark.parametrize("name", INPUTS)
def test_inputs(name: str):
    testing.check_input(name)


@pytest.mark.parametrize("name", HEADS)
def test_heads(name: str):
    testing.check_head(name)


@pytest.mark.parametrize("name", BRIDGES)
def test_bridges(name: str):
    testing.check_bridge(name)


@contextmanager
def registered(registry: Registry, component: type) -> Iterator[None]:
    registry.register("broken")(component)
    try:
        yield
    finally:
        del registry._components["broken"]
        registry.schema.cache_clear()


class Halves(Decoder):
    """A Gaussian of fixed width.

    Parameters
    ----------
    hidden
        Width.
    """

    support = "real"
    factor = 0.5

    def __init__(self, latent_dim, out_dim, n_batches=0, n_covariates=0, *, hidden: PositiveInt = 8):
        super().__init__(latent_dim, out_dim, n_batches, n_covariates, hidden)
        self.head = nn.Linear(hidden + self.n_conditions, out_dim)

    def natural(self, z, libsize, batch_labels, covariates):
        return (self.head(self.hidden(z, batch_labels, covariates)),)

    def params(self, mean):
        return (mean,)

    def from_params(self, params):
        return (params[0],)

    def likelihood(self, x, mean):
        return self.factor * ((x.dense() if isinstance(x, Rows) else x) - mean).square().sum(1)

    def mean(self, params):
        return params[0]

    def sample(self, params, generator):
        return params[0]

    def start_from(self, sample, batch_labels):
        pass


class Undocumented(Halves):
    """Without a word on its parameter."""

    def __init__(self, *sizes, width: int = 3):
        super().__init__(*sizes)


class Infinite(Halves):
    """Of no use."""

    factor = float("inf")


class OtherWay(Halves):
    """Two losses."""

    def from_params(self, params):
        return (params[0] + 1,)


class Idle(Halves):
    """With weights that nothing reads."""

    def __init__(self, *sizes, hidden: PositiveInt = 8):
        super().__init__(*sizes, hidden=hidden)
        self.idle = nn.Linear(2, 2)


class Forgetful(Halves):
    """What it draws at the start is lost."""

    def __init__(self, *sizes, hidden: PositiveInt = 8):
        super().__init__(*sizes, hidden=hidden)
        self.factor = float(torch.rand(()) + 0.5)


@pytest.mark.parametrize(
    ("component", "words"),
    [
        (Undocumented, "width is not in the docstring"),
        (Infinite, "the loss of 60 cells"),
        (OtherWay, "reconstruction_loss is"),
        (Idle, "idle.weight is in no loss"),
        (Forgetful, "differs after saving"),
    ],
)
def test_a_broken_decoder_is_told(component: type[Decoder], words: str):
    with registered(DECODERS, Halves):
        testing.check_decoder("broken")
    with registered(DECODERS, component), pytest.raises(AssertionError, match=words):
        testing.check_decoder("broken")


def test_broken_inputs_heads_bridges_and_metrics_are_told():
    class Rank(EncoderInput):
        """Depends on how the block is stored."""

        def forward(self, rows):
            return rows.map(lambda x: x + float(rows.is_sparse))

    class Far(AlignmentHead):
        """Nothing to pull at."""

        def forward(self, z_bio):
            return torch.zeros((), requires_grad=True), {}

    class Lone(Bridge):
        """Nobody knows anybody."""

        def build(self, n_cells):
            return BridgeEdges.none(n_cells)

    class Word(Metric):
        """Says nothing in numbers."""

        def measure(self):
            return "good"

    with registered(INPUTS, Rank), pytest.raises(AssertionError, match="sparse and dense"):
        testing.check_input("broken")
    with registered(HEADS, Far), pytest.raises(AssertionError, match="does not depend on the latent"):
        testing.check_head("broken")
    with registered(BRIDGES, Lone), pytest.raises(AssertionError, match="found no edge"):
        testing.check_bridge("broken")
    with registered(METRICS, Word), pytest.raises(InputError, match="gave 'good'"):
        testing.check_metric("broken")
