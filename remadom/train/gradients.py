"""How strongly each term of the loss pulls at the latent, read off the backward pass."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from remadom.types import Logs


class GradientMeter:
    """Norms of the gradients that flow through tapped tensors, by name."""

    def __init__(self) -> None:
        self._gradients: dict[str, list[Tensor]] = defaultdict(list)

    def clear(self) -> None:
        """Forget the last step."""
        self._gradients.clear()

    def tap(self, name: str, value: Tensor) -> Tensor:
        """The same tensor; its gradient through this use counts under ``name``."""
        if not value.requires_grad:
            return value
        tapped = value.view_as(value)
        tapped.register_hook(lambda gradient: self._gradients[name].append(gradient.detach().float()))  # type: ignore[no-untyped-call]
        return tapped

    def relative_to(self, base: str) -> Logs:
        """Norm of each gradient over that of ``base``; a loss scale cancels."""
        norms = {name: get_total_norm(gradients) for name, gradients in self._gradients.items()}
        if base not in norms:
            return {}
        unit = norms.pop(base).clamp(min=torch.finfo(torch.float32).tiny)
        return {name: norm / unit for name, norm in norms.items()}
