"""What an encoder makes of the counts before its first layer: zero-preserving where the counts are sparse."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from remadom.registry import Registry
from remadom.types import Rows


class EncoderInput(nn.Module, ABC):
    """Transformation of a block of counts; its statistics are fitted once, on training cells.

    Parameters
    ----------
    n_features
        Columns of the block.
    """

    signed: ClassVar[bool] = False
    """Whether it reads negative values too."""

    center: Tensor
    """Mean of each transformed feature over the training cells: what stands for one that other cells lack."""

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.n_features = n_features
        self.register_buffer("center", torch.zeros(n_features))

    @abstractmethod
    def forward(self, rows: Rows) -> Rows:
        """Transform a block; the shape stays."""

    def learn(self, sample: Rows) -> None:
        """Learn statistics from training cells; most transformations have none."""

    def lacking(self, present: Tensor, share: float) -> None:
        """Make up for features that the cells to come lack (and have as zeros), where others depend on them.

        Parameters
        ----------
        present
            Whether a feature is there.
        share
            Share of the counts of a training cell that lies in features that are there.
        """

    @torch.no_grad()
    def fit(self, sample: Rows) -> None:
        """Learn from training cells what the transformation needs, and the mean of what it gives."""
        self.learn(sample)
        self.center.copy_(self.forward(sample).feature_means())


INPUTS: Registry[EncoderInput] = Registry("encoder input")


@INPUTS.register("identity")
class Identity(EncoderInput):
    """The values as they are: for components that are already features, such as LSI."""

    signed = True

    def forward(self, rows: Rows) -> Rows:
        return rows


@INPUTS.register("standardized")
class Standardized(EncoderInput):
    """Each feature less its mean, over its deviation, in the training cells: for values that are no counts.

    Makes the block dense.
    """

    signed = True
    mean: Tensor
    scale: Tensor
    present: Tensor | None

    def __init__(self, n_features: int) -> None:
        super().__init__(n_features)
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("scale", torch.ones(n_features))
        self.register_buffer("present", None, persistent=False)

    def learn(self, sample: Rows) -> None:
        values = sample.dense()
        self.mean.copy_(values.mean(0))
        self.scale.copy_(values.std(0, unbiased=False).clamp(min=1e-2).reciprocal())

    def lacking(self, present: Tensor, share: float) -> None:
        self.present = present

    def forward(self, rows: Rows) -> Rows:
        values = (rows.dense() - self.mean) * self.scale
        return Rows.from_dense(values if self.present is None else values * self.present)


@INPUTS.register("log1p")
class Log1p(EncoderInput):
    """``log(1 + x)``: depth stays visible to the encoder."""

    def forward(self, rows: Rows) -> Rows:
        return rows.map(torch.log1p)


@INPUTS.register("lognorm")
class LogNormalize(EncoderInput):
    """``log(1 + x * target / total)``, where ``target`` is the median total of the training cells."""

    target: Tensor

    def __init__(self, n_features: int) -> None:
        super().__init__(n_features)
        self.register_buffer("target", torch.tensor(1e4))

    def learn(self, sample: Rows) -> None:
        totals = sample.totals()
        self.target.copy_(totals[totals > 0].median() if bool((totals > 0).any()) else torch.tensor(1e4))

    def lacking(self, present: Tensor, share: float) -> None:
        self.target *= share

    def forward(self, rows: Rows) -> Rows:
        return rows.scale(cells=self.target / rows.totals().clamp(min=1.0)).map(torch.log1p)


@INPUTS.register("clr")
class CenteredLogRatio(EncoderInput):
    """``log(1 + x)`` less its mean over the features of the cell (Stoeckius et al. 2017, doi:10.1038/nmeth.4380).

    Each feature is then standardized by its mean and deviation in the training cells. Makes the block dense:
    for panels of proteins, not for genomes.
    """

    mean: Tensor
    scale: Tensor
    present: Tensor | None

    def __init__(self, n_features: int) -> None:
        super().__init__(n_features)
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("scale", torch.ones(n_features))
        self.register_buffer("present", None, persistent=False)

    def _ratios(self, rows: Rows) -> Tensor:
        logs = rows.dense().log1p()
        if self.present is None:
            return logs - logs.mean(1, keepdim=True)
        # the mean over all features, from the ones that are there and how far apart the two lie in training cells
        apart = self.mean[self.present].mean()
        ratios: Tensor = logs - (logs[:, self.present].mean(1, keepdim=True) - apart)
        return torch.where(self.present, ratios, self.mean)

    def learn(self, sample: Rows) -> None:
        ratios = self._ratios(sample)
        self.mean.copy_(ratios.mean(0))
        self.scale.copy_(ratios.std(0, unbiased=False).clamp(min=1e-2).reciprocal())

    def lacking(self, present: Tensor, share: float) -> None:
        self.present = present

    def forward(self, rows: Rows) -> Rows:
        return Rows.from_dense((self._ratios(rows) - self.mean) * self.scale)


@INPUTS.register("tfidf")
class TermFrequency(EncoderInput):
    """``log(1 + 1e4 * tf * idf)`` of open peaks, with ``idf = cells / open cells`` (Stuart et al. 2021,
    doi:10.1038/s41592-021-01282-5), scaled so that a training cell has a norm of about 10.
    """

    idf: Tensor
    scale: Tensor

    def __init__(self, n_features: int) -> None:
        super().__init__(n_features)
        self.register_buffer("idf", torch.ones(n_features))
        self.register_buffer("scale", torch.tensor(1.0))
        self.depth = 1e4

    def learn(self, sample: Rows) -> None:
        self.scale.fill_(1.0)
        open_share = sample.map(_is_open).feature_means()
        self.idf.copy_(open_share.clamp(min=1 / max(1, len(sample))).reciprocal())
        squares = self.forward(sample).map(torch.square).totals()
        self.scale.copy_(squares.mean().clamp(min=1e-6).rsqrt() * 10)

    def lacking(self, present: Tensor, share: float) -> None:
        opened = self.idf.reciprocal()  # share of the training cells in which a peak is open
        self.depth *= float(opened[present].sum() / opened.sum())

    def forward(self, rows: Rows) -> Rows:
        opened = rows.map(_is_open)
        weighted = opened.scale(cells=self.depth / opened.totals().clamp(min=1.0), features=self.idf)
        return weighted.map(lambda x: torch.log1p(x) * self.scale)


def _is_open(x: Tensor) -> Tensor:
    return (x > 0).to(x.dtype)
