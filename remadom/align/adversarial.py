"""Domain-adversarial alignment: a discriminator that the encoders learn to confuse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from remadom.align.base import HEADS, AlignmentHead
from remadom.errors import InputError
from remadom.schedule import Scheduled
from remadom.shapes import Float, Int
from remadom.types import Logs


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
        Grouping of the cells to be told apart.
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
        weight: Scheduled = 0.02,
        group_key: str = "batch",
        hidden: PositiveInt = 64,
        steps: PositiveInt = 3,
        lr: PositiveFloat = 1e-3,
    ) -> None:
        super().__init__(weight=weight)
        self.group_key, self.hidden, self.steps, self.lr = group_key, hidden, steps, lr
        self.discriminator = nn.Sequential()
        self._optimizer: torch.optim.Optimizer | None = None

    @property
    def group_keys(self) -> tuple[str, ...]:
        return (self.group_key,)

    def connect(self, names: Mapping[str, tuple[str, ...]], latent_dim: int) -> None:
        n_groups = len(names[self.group_key])
        if n_groups < 2:
            raise InputError(
                f"the data has one group of {self.group_key} ({', '.join(names[self.group_key])}), expected at "
                "least two; choose another group_key, or leave the head out"
            )
        self.discriminator = nn.Sequential(
            nn.Linear(latent_dim, self.hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(self.hidden, self.hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(self.hidden, n_groups),
        )
        self._optimizer = torch.optim.Adam(self.discriminator.parameters(), self.lr, betas=(0.5, 0.99))

    def forward(
        self, z_bio: Float[Tensor, "cell latent"], groups: Mapping[str, Int[Tensor, " cell"]]
    ) -> tuple[Tensor, Logs]:
        codes = groups[self.group_key]
        known = (codes >= 0).nonzero().squeeze(1)
        truth = codes[known]
        if len(torch.unique(truth)) < 2:
            return 0.0 * z_bio.sum(), {"accuracy": torch.ones(()), "n_pairs": torch.zeros(())}
        z = z_bio[known].float()
        if self.training and torch.is_grad_enabled():
            self._learn(z.detach(), truth)
        fixed = {name: value.detach() for name, value in self.discriminator.named_parameters()}
        logits = functional_call(self.discriminator, fixed, (z,))
        loss = 1 - _relative_entropy(logits, truth)
        accuracy = (logits.argmax(1) == truth).float().mean().detach()
        return loss, {"accuracy": accuracy, "n_pairs": torch.ones(())}

    def _learn(self, z: Tensor, truth: Tensor) -> None:
        """Steps of the discriminator alone."""
        optimizer = self._optimizer
        assert optimizer is not None, "connect() comes first"
        with torch.autocast(z.device.type, enabled=False):
            for _ in range(self.steps):
                optimizer.zero_grad(set_to_none=True)
                _relative_entropy(self.discriminator(z), truth).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def get_extra_state(self) -> dict[str, Any]:
        """State of the discriminator's optimizer."""
        return {} if self._optimizer is None else self._optimizer.state_dict()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take up a state of :meth:`get_extra_state`."""
        if self._optimizer is not None:
            self._optimizer.load_state_dict(state)


def _relative_entropy(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy over that of a guess among the groups that are there; each of them counts alike."""
    counts = torch.bincount(truth, minlength=logits.shape[1]).to(logits.dtype)
    present = counts > 0
    balance = torch.where(present, 1 / counts.clamp(min=1), torch.zeros_like(counts))
    among = logits.masked_fill(~present, -torch.inf)
    guess = torch.log(present.sum().to(logits.dtype))
    return cross_entropy(among, truth, weight=balance) / guess
