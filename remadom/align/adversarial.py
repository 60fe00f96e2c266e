"""Domain-adversarial alignment: a discriminator that the encoders learn to confuse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from remadom.align.base import HEADS, AlignmentHead
from remadom.align.groups import levels_of, need_groups
from remadom.schedule import Scheduled
from remadom.shapes import Bool, Float, Int
from remadom.types import Logs


class Question(NamedTuple):
    """Cells, the group of each, and the groups that it can be of."""

    cells: Int[Tensor, " asked"]
    truth: Int[Tensor, " asked"]
    choices: Bool[Tensor, "asked group"]

    def among(self, logits: Tensor) -> Tensor:
        """Logits of the groups that a cell can be of."""
        return logits.masked_fill(~self.choices, -torch.inf)

    def entropy(self, logits: Tensor) -> Tensor:
        """Cross-entropy over that of a guess; each group counts alike."""
        each = cross_entropy(self.among(logits), self.truth, reduction="none")
        relative = each / torch.log(self.choices.sum(1).to(each.dtype))
        balance = 1 / torch.bincount(self.truth).to(each.dtype)[self.truth]
        return (balance * relative).sum() / balance.sum()


@HEADS.register("adversarial")
class AdversarialHead(AlignmentHead):
    """A discriminator of groups whose gradient reaches the encoders reversed (Ganin et al., JMLR 2016, 17(59)).

    At every step the discriminator first learns, in a few steps of its own (as critics do: Arjovsky et al. 2017,
    arXiv:1701.07875; one step at the encoders' pace always lags behind them), to tell the group of a cell from
    its latent; then the encoders move against its gradient. The loss is 1 less its cross-entropy over that of a
    guess, every group counting alike: 0 is groups that it cannot tell apart, 1 is groups that it always can. Like
    MMD it matches whole distributions, composition included.

    Parameters
    ----------
    group_key
        Grouping of the cells to be told apart. A list goes from coarse to fine, ``[dataset, batch]``: a batch is told
        from the others of its data set, by a discriminator of its own.
    hidden
        Width of the discriminator's two hidden layers.
    steps
        Steps of the discriminator for each one of the encoders.
    lr
        Learning rate of the discriminator.
    """

    def __init__(
        self,
        *,
        weight: Scheduled = 0.5,
        group_key: str | tuple[str, ...] = "batch",
        hidden: PositiveInt = 64,
        steps: PositiveInt = 3,
        lr: PositiveFloat = 1e-3,
    ) -> None:
        super().__init__(weight=weight)
        self.levels = levels_of(group_key)
        self.hidden, self.steps, self.lr = hidden, steps, lr
        self.discriminators = nn.ModuleList()
        self._optimizer: torch.optim.Optimizer | None = None

    @property
    def group_keys(self) -> tuple[str, ...]:
        return self.levels

    def connect(self, names: Mapping[str, tuple[str, ...]], latent_dim: int) -> None:
        need_groups(self.levels, names)
        self.discriminators = nn.ModuleList(
            nn.Sequential(
                nn.Linear(latent_dim, self.hidden),
                nn.LeakyReLU(0.2),
                nn.Linear(self.hidden, self.hidden),
                nn.LeakyReLU(0.2),
                nn.Linear(self.hidden, len(names[key])),
            )
            for key in self.levels
        )
        self._optimizer = torch.optim.Adam(self.discriminators.parameters(), self.lr, betas=(0.5, 0.99))

    def forward(
        self, z_bio: Float[Tensor, "cell latent"], groups: Mapping[str, Int[Tensor, " cell"]]
    ) -> tuple[Tensor, Logs]:
        total, accuracy, n_levels = 0.0 * z_bio.sum(), torch.zeros((), device=z_bio.device), 0
        for level, discriminator in enumerate(self.discriminators):
            question = self._question(groups, level, discriminator[-1].out_features)  # type: ignore[index]
            if len(question.cells) == 0:
                continue
            z = z_bio[question.cells].float()
            if self.training and torch.is_grad_enabled():
                self._learn(discriminator, z.detach(), question)
            fixed = {name: value.detach() for name, value in discriminator.named_parameters()}
            logits = functional_call(discriminator, fixed, (z,))
            total = total + 1 - question.entropy(logits)
            right = question.among(logits).argmax(1) == question.truth
            accuracy, n_levels = accuracy + right.float().mean().detach(), n_levels + 1
        some = max(1, n_levels)
        return total / some, {"accuracy": accuracy / some, "n_pairs": torch.tensor(float(n_levels))}

    def _question(self, groups: Mapping[str, Tensor], level: int, n_groups: int) -> Question:
        """The cells of a level that have other groups beside theirs, and which these are."""
        codes = groups[self.levels[level]]
        inside = torch.zeros_like(codes) if level == 0 else groups[self.levels[level - 1]]
        known = (codes >= 0) & (inside >= 0)
        cells = known.nonzero().squeeze(1)
        _, scope = torch.unique(inside[cells], return_inverse=True)
        there = torch.zeros(len(cells), n_groups, dtype=torch.bool, device=codes.device)
        there[scope, codes[cells]] = True
        choices = there[scope]
        several = choices.sum(1) > 1
        return Question(cells[several], codes[cells][several], choices[several])

    def _learn(self, discriminator: nn.Module, z: Tensor, question: Question) -> None:
        """Steps of a discriminator alone."""
        optimizer = self._optimizer
        assert optimizer is not None, "connect() comes first"
        with torch.autocast(z.device.type, enabled=False):
            for _ in range(self.steps):
                optimizer.zero_grad(set_to_none=True)
                question.entropy(discriminator(z)).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def get_extra_state(self) -> dict[str, Any]:
        """State of the discriminator's optimizer."""
        return {} if self._optimizer is None else self._optimizer.state_dict()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take up a state of :meth:`get_extra_state`."""
        if self._optimizer is not None:
            self._optimizer.load_state_dict(state)
