"""The batch of each cell as a covariate, known or not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from remadom.shapes import Bool, Float, Int


class BatchCovariates(nn.Module):
    """One-hot batch of each cell for a module that is conditioned on it.

    A label of -1, no labels, a batch that came after training, or one in which the modality was never measured stands
    for the average of the batches in which it was.

    Parameters
    ----------
    n_batches
        Number of batches; with 0 or 1 there is nothing to condition on and the width is 0.
    """

    seen: Tensor

    def __init__(self, n_batches: int) -> None:
        super().__init__()
        self.width = n_batches if n_batches > 1 else 0
        self.register_buffer("seen", torch.ones(self.width))

    @torch.no_grad()
    def see(self, batch_labels: Int[Tensor, " cell"]) -> None:
        """Learn from the labels of the training cells in which batches the modality was measured."""
        self.seen.zero_()
        self.seen[batch_labels[(batch_labels >= 0) & (batch_labels < self.width)]] = 1.0

    def known(self, batch_labels: Int[Tensor, " cell"]) -> Bool[Tensor, " cell"]:
        """Which cells are of a batch in which the modality was measured."""
        codes = batch_labels.clamp(0, self.width - 1)
        return (batch_labels == codes) & (self.seen[codes] > 0)

    @contextmanager
    def without(self, code: int) -> Iterator[None]:
        """As if the modality had never been measured in this batch."""
        before = self.seen.clone()
        self.seen[code] = 0.0
        try:
            yield
        finally:
            self.seen.copy_(before)

    def forward(
        self, n_cells: int, batch_labels: Int[Tensor, " cell"] | None
    ) -> Float[Tensor, "cell group"] | None:
        """Cell x batch, rows of which add up to 1; ``None`` where there is nothing to condition on."""
        if self.width == 0:
            return None
        average = (self.seen / self.seen.sum().clamp(min=1)).expand(n_cells, -1)
        if batch_labels is None:
            return average
        one_hot = F.one_hot(batch_labels.clamp(0, self.width - 1), self.width).to(average.dtype)
        return torch.where(self.known(batch_labels).unsqueeze(1), one_hot, average)
