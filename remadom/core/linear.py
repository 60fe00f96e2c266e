"""First layers of encoders: linear layers on sparse rows, with or without components to start from."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from remadom.shapes import Bool, Float
from remadom.solvers.axes import batch_shrinkage, principal_axes
from remadom.types import Rows

PACE = 0.1
"""How fast a layer with components learns of single features, in learning rates."""


class SparseLinear(nn.Module):
    """A linear layer on :class:`~remadom.types.Rows`, stored feature x hidden, that reads non-zeros only."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(in_features)
        self.weight = nn.Parameter(torch.empty(in_features, out_features).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(out_features))

    def forward(self, rows: Rows) -> Float[Tensor, "cell hidden"]:
        """``rows @ weight + bias``."""
        return rows.linear(self.weight) + self.bias

    def whole(self) -> Float[Tensor, "feature hidden"]:
        """What each feature is multiplied with, all in all."""
        return self.weight

    @torch.no_grad()
    def grow(self, features: Bool[Tensor, " feature"], gain: float) -> None:
        """Multiply what these features say."""
        self.weight[features] *= gain


class ComponentLinear(SparseLinear):
    """A linear layer that reads principal components, and learns slowly what else the single features say.

    ``(rows @ axes - middle) @ onto + PACE * rows @ weight + bias``. The axes are those of training cells and stay as
    they are, each score over the deviation of the first; ``onto`` starts at random and ``weight`` at 0. Adam moves
    every weight by up to one learning rate a step, however little its feature says, so a layer that starts at random
    learns the noise of few cells by heart. ``PACE`` divides these steps.

    Parameters
    ----------
    in_features, out_features
        Sizes of the layer.
    components
        Most axes that are read. Fewer are found among fewer cells, the others read nothing.
    """

    axes: Tensor
    middle: Tensor

    def __init__(self, in_features: int, out_features: int, components: int) -> None:
        super().__init__(in_features, out_features)
        nn.init.zeros_(self.weight)
        bound = 1 / math.sqrt(components)
        self.onto = nn.Parameter(torch.empty(components, out_features).uniform_(-bound, bound))
        self.register_buffer("axes", torch.zeros(in_features, components))
        self.register_buffer("middle", torch.zeros(components))

    def forward(self, rows: Rows) -> Float[Tensor, "cell hidden"]:
        """The layer's values."""
        scores = rows.linear(self.axes) - self.middle
        return scores @ self.onto + PACE * rows.linear(self.weight) + self.bias

    def whole(self) -> Float[Tensor, "feature hidden"]:
        """What each feature is multiplied with, all in all."""
        return self.axes @ self.onto + PACE * self.weight

    @torch.no_grad()
    def grow(self, features: Bool[Tensor, " feature"], gain: float) -> None:
        """Multiply what these features say."""
        super().grow(features, gain)
        self.axes[features] *= gain

    @torch.no_grad()
    def start_from(self, rows: Rows, batch: np.ndarray, seed: int) -> None:
        """Find the axes of training cells, of what the encoder makes of their values."""
        values = rows.scipy()
        axes, mean = principal_axes(values, self.axes.shape[1], seed)
        if not axes.shape[1]:
            return
        axes = axes @ batch_shrinkage(values @ axes - mean @ axes, batch, seed)
        self.axes[:, : axes.shape[1]] = torch.from_numpy(axes)
        self.middle[: axes.shape[1]] = torch.from_numpy(mean @ axes)
