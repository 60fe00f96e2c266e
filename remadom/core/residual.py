"""What batches that came after training add to a model, which gives for all others what it gave before."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from remadom.shapes import Float, Int


class BatchResidual(nn.Module):
    """Offset and low-rank residual of a hidden layer, of each new batch its own: exactly nothing for all other cells.

    In the place of the weights of a new batch in a conditioned layer (scArches, Lotfollahi et al. 2022,
    doi:10.1038/s41587-021-01001-7), with a residual adapter beside them (Houlsby et al. 2019, arXiv:1902.00751). Starts
    at zero: a model with new residuals gives what it gave without.

    Parameters
    ----------
    width
        Of the hidden layer.
    known
        Number of the batches of training: codes from here on are new ones.
    n_new
        Number of new batches.
    rank
        Of the residual; 0 for the offset alone.
    """

    def __init__(self, width: int, known: int, n_new: int, rank: int) -> None:
        super().__init__()
        self.known = known
        self.offset = nn.Parameter(torch.zeros(n_new, width))
        self.down = nn.Parameter(torch.randn(width, rank) / width**0.5)
        self.up = nn.Parameter(torch.zeros(n_new, rank, width))

    def forward(
        self, hidden: Float[Tensor, "cell hidden"], batch_labels: Int[Tensor, " cell"] | None
    ) -> Float[Tensor, "cell hidden"]:
        """The layer with what is added for the cells of new batches."""
        if batch_labels is None:
            return hidden
        at = (batch_labels >= self.known).nonzero().squeeze(1)
        if at.shape[0] == 0:
            return hidden
        code = batch_labels[at] - self.known
        reduced = F.relu(hidden[at] @ self.down)
        added = self.offset[code] + torch.einsum("cr,crh->ch", reduced, self.up[code])
        return hidden.index_add(0, at, added.to(hidden.dtype))

    def codes(self, n_cells: int, batch_labels: Int[Tensor, " cell"] | None) -> Float[Tensor, "cell group"]:
        """One-hot new batch of each cell; rows of other cells are zero."""
        if batch_labels is None:
            return self.offset.new_zeros(n_cells, len(self.offset))
        at = (batch_labels - self.known).clamp(min=-1) + 1
        return F.one_hot(at, len(self.offset) + 1)[:, 1:].to(self.offset.dtype)


class ExtendedLinear(nn.Module):
    """A linear layer with more inputs, the weights of which start at zero.

    Parameters
    ----------
    linear
        The layer.
    n_more
        Number of inputs that come after its own.
    """

    def __init__(self, linear: nn.Linear, n_more: int) -> None:
        super().__init__()
        self.linear = linear
        self.more = nn.Parameter(torch.zeros(n_more, linear.out_features))

    def forward(self, x: Float[Tensor, "cell input"]) -> Float[Tensor, "cell output"]:
        """The layer's output, and what the inputs after its own add."""
        n = self.linear.in_features
        out: Tensor = self.linear(x[:, :n].contiguous())  # as it was given, or sums may be rounded otherwise
        return out if x.shape[1] == n else out + x[:, n:] @ self.more
